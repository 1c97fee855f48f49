//! One input channel per group: direct loops over rows of padded planes, by vectors ([`super::depthwise_rows`]) where
//! there is no dilation.

use super::depthwise_rows::{self as rows, Correlate, Scatter, WeightGradient};
use super::forward::{Ends, Start};
use super::geometry::Geometry;
use crate::pool::phases::Phases;
use crate::simd::{self, vectorised};
use crate::{GradInput, Scratch, Threads};

/// See [`super::forward::forward`]; here `weight` is `[groups·multiplier, 1, KH, KW]`.
pub(super) fn forward(
    threads: &Threads,
    geometry: &Geometry,
    x: &[f32],
    weight: &[f32],
    ends: Ends<'_>,
    y: &mut [f32],
) {
    let (taps, multiplier) = (geometry.taps(), geometry.outputs);
    let channels = geometry.groups * multiplier;
    let windows = (geometry.dilation == [1; 2]).then(|| rows::windows(geometry));
    threads.for_each_chunk(y, multiplier * geometry.output_plane(), |input, outputs| {
        let x = &x[input * geometry.input_plane()..][..geometry.input_plane()];
        let padded = match windows {
            Some(windows) => Padded::split(threads, windows, x),
            None => Padded::new(threads, geometry, x),
        };
        for (m, y) in outputs.chunks_mut(geometry.output_plane()).enumerate() {
            let channel = (input * multiplier + m) % channels;
            match ends.start {
                Start::Zero => y.fill(0.0),
                Start::Bias(bias) => y.fill(bias[channel]),
                Start::Keep => {}
            }
            let kernel = &weight[channel * taps..][..taps];
            match windows {
                Some(windows) => simd::dispatch(Correlate {
                    windows,
                    phases: &padded.data,
                    kernel,
                    turned: false,
                    y: &mut *y,
                }),
                None => forward_plane(geometry, &padded.data, kernel, y),
            }
            ends.finish.plane(input * multiplier + m, channels, y);
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
    if geometry.dilation == [1; 2] {
        return backward_input_rows(threads, geometry, dy, weight, dx);
    }
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

/// [`backward_input`] without dilation: where it can be, as a convolution of `dy`.
fn backward_input_rows(
    threads: &Threads,
    geometry: &Geometry,
    dy: &[f32],
    weight: &[f32],
    dx: &mut GradInput<'_>,
) {
    let (taps, multiplier, plane) = (geometry.taps(), geometry.outputs, geometry.output_plane());
    let (turned, straight) = (rows::turned(geometry), rows::windows(geometry));
    let accumulate = dx.accumulate;
    threads.for_each_chunk(dx.data, geometry.input_plane(), |input, dx| {
        let channel = input % geometry.groups * multiplier;
        let kernels = weight[channel * taps..].chunks(taps);
        let planes = dy[input * multiplier * plane..].chunks(plane).take(multiplier).zip(kernels);
        if let Some(windows) = turned {
            if !accumulate {
                dx.fill(0.0);
            }
            for (dy, kernel) in planes {
                let padded = Padded::split(threads, windows, dy);
                simd::dispatch(Correlate {
                    windows,
                    phases: &padded.data,
                    kernel,
                    turned: true,
                    y: &mut *dx,
                });
            }
        } else {
            let mut phases = threads.scratch(straight.len());
            phases.fill(0.0);
            for (dy, kernel) in planes {
                simd::dispatch(Scatter { windows: straight, dy, kernel, phases: &mut phases });
            }
            rows::join(straight, &phases, dx, accumulate);
        }
    });
}

/// See [`super::backward_weight::backward_weight`].
pub(super) fn backward_weight(threads: &Threads, geometry: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let (taps, multiplier, plane) = (geometry.taps(), geometry.outputs, geometry.output_plane());
    let images = x.len() / (geometry.groups * geometry.input_plane());
    let windows = (geometry.dilation == [1; 2]).then(|| rows::windows(geometry));
    threads.for_each_chunk(dw, multiplier * taps, |group, dw| {
        dw.fill(0.0);
        for input in (0..images).map(|n| n * geometry.groups + group) {
            let x = &x[input * geometry.input_plane()..][..geometry.input_plane()];
            let planes = dy[input * multiplier * plane..].chunks(plane);
            if let Some(windows) = windows {
                let padded = Padded::split(threads, windows, x);
                let mut scratch = threads.scratch(rows::padded_len(windows));
                for (dw, dy) in dw.chunks_mut(taps).zip(planes) {
                    let (phases, scratch) = (&padded.data[..], &mut scratch[..]);
                    simd::dispatch(WeightGradient { windows, phases, dy, dw, scratch });
                }
                continue;
            }
            let padded = Padded::new(threads, geometry, x);
            for (dw, dy) in dw.chunks_mut(taps).zip(planes) {
                weight_plane(geometry, &padded.data, dw, dy);
            }
        }
    });
}

/// What any pass takes.
pub(super) fn scratch(geometry: &Geometry) -> Scratch {
    let [height, width] = geometry.padded();
    let windows = rows::windows(geometry);
    let turned = rows::turned(geometry).map_or(0, Phases::len);
    Scratch::each([windows.len().max(turned).max(height * width), rows::padded_len(windows)])
}

/// One padded plane in scratch memory.
struct Padded<'a> {
    data: crate::threads::ScratchGuard<'a>,
}

impl<'a> Padded<'a> {
    /// Taken apart by column.
    fn split(threads: &'a Threads, windows: Phases, plane: &[f32]) -> Self {
        let mut data = threads.scratch(windows.len());
        rows::split(windows, plane, &mut data);
        Padded { data }
    }

    fn zeros(threads: &'a Threads, geometry: &Geometry) -> Self {
        let [height, width] = geometry.padded();
        let mut data = threads.scratch(height * width);
        data.fill(0.0);
        Padded { data }
    }

    fn new(threads: &'a Threads, geometry: &Geometry, plane: &[f32]) -> Self {
        let mut padded = Self::zeros(threads, geometry);
        pad(geometry, &plane[..geometry.input_plane()], &mut padded.data);
        padded
    }
}

/// Products summed side by side in the weight's gradient.
const LANES: usize = 16;

/// Calls `job(tap, start)` for each tap: where in a padded plane the tap of the first window of output row `y` lies.
#[inline(always)]
fn for_each_tap(geometry: &Geometry, y: usize, mut job: impl FnMut(usize, usize)) {
    let (width, [rows, columns]) = (geometry.padded()[1], geometry.kernel);
    for i in 0..rows {
        let row = (y * geometry.stride[0] + i * geometry.dilation[0]) * width;
        for j in 0..columns {
            job(i * columns + j, row + j * geometry.dilation[1]);
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
        for (y, out) in out.chunks_mut(ow).enumerate() {
            for_each_tap(geometry, y, |tap, start| {
                let (from, weight) = (&padded[start..], kernel[tap]);
                if stride == 1 {
                    out.iter_mut().zip(from).for_each(|(y, &x)| *y += weight * x);
                } else {
                    out.iter_mut().zip(from.iter().step_by(stride)).for_each(|(y, &x)| *y += weight * x);
                }
            });
        }
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
        for (y, dy) in dy.chunks(ow).take(geometry.output[0]).enumerate() {
            for_each_tap(geometry, y, |tap, start| {
                let (to, weight) = (&mut padded[start..], kernel[tap]);
                if stride == 1 {
                    to.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += weight * dy);
                } else {
                    to.iter_mut().step_by(stride).zip(dy).for_each(|(dx, &dy)| *dx += weight * dy);
                }
            });
        }
    }
}

vectorised! {
    fn weight_plane<'a>(
        geometry: &'a Geometry,
        padded: &'a [f32],
        dw: &'a mut [f32],
        dy: &'a [f32],
    ) -> () {
        let (ow, stride) = (geometry.output[1], geometry.stride[1]);
        for (y, dy) in dy.chunks(ow).take(geometry.output[0]).enumerate() {
            for_each_tap(geometry, y, |tap, start| {
                let (whole, rest) = if stride == 1 { dy.as_chunks::<LANES>() } else { (&[][..], dy) };
                let mut lanes = [0.0f32; LANES];
                for (dy, x) in whole.iter().zip(padded[start..].as_chunks::<LANES>().0) {
                    lanes.iter_mut().zip(dy.iter().zip(x)).for_each(|(lane, (dy, x))| *lane += dy * x);
                }
                let x = padded[start + whole.len() * LANES..].iter().step_by(stride);
                let tail: f32 = rest.iter().zip(x).map(|(dy, x)| dy * x).sum();
                dw[tap] += lanes.iter().sum::<f32>() + tail;
            });
        }
    }
}

/// Copies a plane into a padded one and zeroes the padding.
fn pad(geometry: &Geometry, from: &[f32], to: &mut [f32]) {
    let [_, width] = geometry.padded();
    let [top, left, ..] = geometry.padding;
    let [height, len] = geometry.input;
    to.fill(0.0);
    if len > 0 {
        let rows = to[top * width..].chunks_mut(width).zip(from.chunks(len)).take(height);
        rows.for_each(|(to, from)| to[left..left + len].copy_from_slice(from));
    }
}
