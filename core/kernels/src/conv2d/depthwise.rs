//! One input channel per group: direct loops over rows of padded planes.

use super::forward::Start;
use super::geometry::Geometry;
use crate::simd::vectorised;
use crate::{GradInput, Threads};

/// See [`super::forward::forward`]; here `weight` is `[groups·multiplier, 1, KH, KW]`.
pub(super) fn forward(
    threads: &Threads,
    geometry: &Geometry,
    x: &[f32],
    weight: &[f32],
    start: Start<'_>,
    y: &mut [f32],
) {
    let (taps, multiplier) = (geometry.taps(), geometry.outputs);
    let channels = geometry.groups * multiplier;
    threads.for_each_chunk(y, multiplier * geometry.output_plane(), |input, outputs| {
        let padded = Padded::new(threads, geometry, &x[input * geometry.input_plane()..]);
        for (m, y) in outputs.chunks_mut(geometry.output_plane()).enumerate() {
            let channel = (input * multiplier + m) % channels;
            match start {
                Start::Zero => y.fill(0.0),
                Start::Bias(bias) => y.fill(bias[channel]),
                Start::Keep => {}
            }
            let kernel = &weight[channel * taps..][..taps];
            forward_plane(geometry, &padded.data, kernel, y);
        }
    });
}

/// See [`super::backward_input::backward_input`].
pub(super) fn backward_input(
    threads: &Threads,
    geometry: &Geometry,
    dy: &[f32],
    weight: &[f32],
    dx: &mut GradInput<'_>,
) {
    let (taps, multiplier, plane) = (geometry.taps(), geometry.outputs, geometry.output_plane());
    let ([_, width], [_, w]) = (geometry.padded(), geometry.input);
    let [top, left, ..] = geometry.padding;
    let accumulate = dx.accumulate;
    threads.for_each_chunk(dx.data, geometry.input_plane(), |input, dx| {
        let mut padded = Padded::zeros(threads, geometry);
        for (m, dy) in dy[input * multiplier * plane..].chunks(plane).take(multiplier).enumerate() {
            let channel = input % geometry.groups * multiplier + m;
            let kernel = &weight[channel * taps..][..taps];
            backward_plane(geometry, &mut padded.data, kernel, dy);
        }
        for (to, from) in dx.chunks_mut(w).zip(padded.data[top * width..].chunks(width)) {
            let from = &from[left..left + w];
            if accumulate {
                to.iter_mut().zip(from).for_each(|(to, &x)| *to += x);
            } else {
                to.copy_from_slice(from);
            }
        }
    });
}

/// See [`super::backward_weight::backward_weight`].
pub(super) fn backward_weight(threads: &Threads, geometry: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let (taps, multiplier, plane) = (geometry.taps(), geometry.outputs, geometry.output_plane());
    let images = x.len() / (geometry.groups * geometry.input_plane());
    threads.for_each_chunk(dw, multiplier * taps, |group, dw| {
        dw.fill(0.0);
        for input in (0..images).map(|n| n * geometry.groups + group) {
            let padded = Padded::new(threads, geometry, &x[input * geometry.input_plane()..]);
            let planes = dy[input * multiplier * plane..].chunks(plane);
            for (dw, dy) in dw.chunks_mut(taps).zip(planes) {
                weight_plane(geometry, &padded.data, dw, dy);
            }
        }
    });
}

/// One padded plane in scratch memory.
struct Padded<'a> {
    data: crate::threads::ScratchGuard<'a>,
}

impl<'a> Padded<'a> {
    fn zeros(threads: &'a Threads, geometry: &Geometry) -> Self {
        let [height, width] = geometry.padded();
        let mut data = threads.scratch(height * width);
        data.fill(0.0);
        Padded { data }
    }

    fn new(threads: &'a Threads, geometry: &Geometry, plane: &[f32]) -> Self {
        let mut padded = Self::zeros(threads, geometry);
        super::columns::pad(geometry, &plane[..geometry.input_plane()], &mut padded.data);
        padded
    }
}

/// Calls `job(tap, output row, start of the first window's element)`.
#[inline(always)]
fn for_each_row(geometry: &Geometry, mut job: impl FnMut(usize, usize, usize)) {
    for y in 0..geometry.output[0] {
        for tap in 0..geometry.taps() {
            job(tap, y, geometry.tap(tap, y));
        }
    }
}

vectorised! {
    fn forward_plane<'a>(
        geometry: &'a Geometry,
        padded: &'a [f32],
        kernel: &'a [f32],
        out: &'a mut [f32],
    ) -> () {
        let (ow, stride) = (geometry.output[1], geometry.stride[1]);
        for_each_row(geometry, |tap, y, start| {
            let (to, from, weight) = (&mut out[y * ow..][..ow], &padded[start..], kernel[tap]);
            if stride == 1 {
                to.iter_mut().zip(from).for_each(|(y, &x)| *y += weight * x);
            } else {
                to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(y, &x)| *y += weight * x);
            }
        });
    }
}

vectorised! {
    fn backward_plane<'a>(
        geometry: &'a Geometry,
        padded: &'a mut [f32],
        kernel: &'a [f32],
        dy: &'a [f32],
    ) -> () {
        let (ow, stride) = (geometry.output[1], geometry.stride[1]);
        for_each_row(geometry, |tap, y, start| {
            let (to, from, weight) = (&mut padded[start..], &dy[y * ow..][..ow], kernel[tap]);
            if stride == 1 {
                to.iter_mut().zip(from).for_each(|(dx, &dy)| *dx += weight * dy);
            } else {
                to.iter_mut().step_by(stride).zip(from).for_each(|(dx, &dy)| *dx += weight * dy);
            }
        });
    }
}

vectorised! {
    fn weight_plane<'a>(
        geometry: &'a Geometry,
        padded: &'a [f32],
        dw: &'a mut [f32],
        dy: &'a [f32],
    ) -> () {
        const LANES: usize = 16;
        let (ow, stride) = (geometry.output[1], geometry.stride[1]);
        for (tap, dw) in dw.iter_mut().enumerate() {
            let mut lanes = [0.0f32; LANES];
            for y in 0..geometry.output[0] {
                let (dy, x) = (&dy[y * ow..][..ow], &padded[geometry.tap(tap, y)..]);
                for (i, dy) in dy.chunks(LANES).enumerate() {
                    let x = x[i * LANES * stride..].iter().step_by(stride);
                    for ((lane, &dy), &x) in lanes.iter_mut().zip(dy).zip(x) {
                        *lane += dy * x;
                    }
                }
            }
            *dw += lanes.iter().sum::<f32>();
        }
    }
}
