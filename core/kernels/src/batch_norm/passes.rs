//! Both passes, with what a fused operator appends: `y = relu(norm(x) + skip)`.
//!
//! A block of channels is read from memory once: statistics first, then the output, while it is in the cache.

use std::ops::Range;

use super::BatchNorm2d;
use super::statistics::{Gradient, Moments, moments};
use crate::channels::{Layout, for_each_block};
use crate::simd::vectorised;
use crate::{Backward, Forward, Recompute, Scratch};

/// Numbers per channel in the forward pass: mean, variance, scale, bias.
pub(crate) const FORWARD: usize = 4;

/// Numbers per channel in the backward pass: `Σ g`, `Σ g·x̂`, and the [`Terms`].
pub(crate) const BACKWARD: usize = 6;

/// Mean and `1/√(var + eps)` of every channel, `[C, 2]`: what is saved.
pub(super) const SAVED: usize = 2;

/// Writes `y = (x − mean)/deviation · weight + bias [+ skip]`, with `relu` its positive part.
///
/// Inputs are `x` and, where something is added, `skip`. In training, the running statistics are updated unless they are frozen.
pub(crate) fn forward(norm: &BatchNorm2d, relu: bool, pass: Forward<'_>) {
    let (x, layout) = (pass.inputs[0].data, Layout::of(pass.inputs[0].shape));
    let skip = pass.inputs.get(1).map_or(&[][..], |skip| skip.data);
    let train = norm.learns(pass.mode);
    let (weight, bias) = (pass.params[0].data(), pass.params[1].data());
    let running = [pass.buffers[0].data(), pass.buffers[1].data()];
    let mut numbers = pass.threads.scratch(FORWARD * layout.channels);
    let read = |channels: Range<usize>, numbers: &mut [f32]| {
        for (c, numbers) in channels.zip(numbers.chunks_mut(FORWARD)) {
            let given = Moments { mean: running[0][c], variance: running[1][c] };
            let Moments { mean, variance } = if train { moments(x, layout, c) } else { given };
            let scale = Moments { mean, variance }.inverse_deviation(norm.eps) * weight[c];
            numbers.copy_from_slice(&[mean, variance, scale, bias[c]]);
        }
    };
    for_each_block(
        pass.threads,
        layout,
        &mut numbers,
        [pass.output.data],
        read,
        |n, channels, numbers, [y]| write(layout, n, channels, numbers, x, skip, relu, y),
    );
    let [running_mean, running_var] = pass.buffers else { return };
    for (c, (numbers, saved)) in numbers.chunks(FORWARD).zip(pass.saved.floats.chunks_mut(SAVED)).enumerate()
    {
        let used = Moments { mean: numbers[0], variance: numbers[1] };
        saved.copy_from_slice(&[used.mean, used.inverse_deviation(norm.eps)]);
        if train {
            let (mean, variance) = (&mut running_mean.data_mut()[c], &mut running_var.data_mut()[c]);
            used.update(layout.count(), norm.momentum, mean, variance);
        }
    }
}

/// What [`forward`] wrote, from the statistics it saved.
pub(crate) fn recompute(relu: bool, pass: Recompute<'_>) {
    let (x, layout) = (pass.inputs[0].data, Layout::of(pass.inputs[0].shape));
    let skip = pass.inputs.get(1).map_or(&[][..], |skip| skip.data);
    let (weight, bias) = (pass.params[0].data(), pass.params[1].data());
    let mut numbers = pass.threads.scratch(FORWARD * layout.channels);
    let read = |channels: Range<usize>, numbers: &mut [f32]| {
        for (c, numbers) in channels.zip(numbers.chunks_mut(FORWARD)) {
            let [mean, inverse] = [pass.saved.floats[SAVED * c], pass.saved.floats[SAVED * c + 1]];
            numbers.copy_from_slice(&[mean, 0.0, inverse * weight[c], bias[c]]);
        }
    };
    for_each_block(
        pass.threads,
        layout,
        &mut numbers,
        [pass.output.data],
        read,
        |n, channels, numbers, [y]| write(layout, n, channels, numbers, x, skip, relu, y),
    );
}

/// The output of some channels of one image.
#[allow(clippy::too_many_arguments)]
fn write(
    layout: Layout,
    image: usize,
    channels: Range<usize>,
    numbers: &[f32],
    x: &[f32],
    skip: &[f32],
    relu: bool,
    y: &mut [f32],
) {
    let at = layout.range(image, channels);
    let skip = skip.get(at.clone()).unwrap_or_default();
    normalise(layout.plane, numbers, &x[at], skip, relu, y);
}

/// Scratch memory of any pass.
pub(crate) fn scratch(channels: usize) -> Scratch {
    Scratch::shared([channels.saturating_mul(BACKWARD.max(FORWARD))])
}

/// Gradients of [`forward`], which saw the same inputs, mode and running statistics.
///
/// `g` is the output's gradient where a ReLU let it through; `dskip = g`,
/// `dx = weight/deviation · (g − Σg/n − x̂·Σ(g·x̂)/n)`, without the sums in evaluation.
pub(crate) fn backward(norm: &BatchNorm2d, relu: bool, pass: Backward<'_>) {
    let (x, layout) = (pass.inputs[0].data, Layout::of(pass.inputs[0].shape));
    let (dy, y) = (pass.grad_output.data, relu.then_some(pass.output.data));
    let train = norm.learns(pass.mode);
    let frozen = pass.grad_params.iter().all(|g| g.data().is_empty());
    let (weight, saved) = (pass.params[0].data(), &pass.saved.floats);
    let running = [pass.buffers[0].data(), pass.buffers[1].data()];
    let used = |c: usize| {
        let given = Moments { mean: running[0][c], variance: running[1][c] };
        if train {
            (saved[SAVED * c], saved[SAVED * c + 1])
        } else {
            (given.mean, given.inverse_deviation(norm.eps))
        }
    };
    let mut accumulate = [false; 2];
    let mut outputs = [&mut [][..], &mut []];
    for (i, gradient) in pass.grad_inputs.iter_mut().enumerate() {
        let Some(gradient) = gradient else { continue };
        accumulate[i] = gradient.accumulate;
        outputs[i] = &mut *gradient.data;
    }
    let mut numbers = pass.threads.scratch(BACKWARD * layout.channels);
    let read = |channels: Range<usize>, numbers: &mut [f32]| {
        for (c, numbers) in channels.zip(numbers.chunks_mut(BACKWARD)) {
            let (mean, inverse) = used(c);
            let gradient = Gradient { x, dy, relu: y };
            let [plain, weighted] = if train || !frozen { gradient.sums(layout, c, mean) } else { [0.0; 2] };
            let sums = [plain as f32, (weighted * f64::from(inverse)) as f32];
            let count = if train { layout.count() } else { 0 };
            let Terms { a, b, c, mean } = Terms::new(weight[c], mean, inverse, sums, count);
            numbers.copy_from_slice(&[sums[0], sums[1], a, b, c, mean]);
        }
    };
    for_each_block(pass.threads, layout, &mut numbers, outputs, read, |n, channels, terms, [dx, dskip]| {
        let at = layout.range(n, channels);
        let (x, dy, y) = (&x[at.clone()], &dy[at.clone()], y.map_or(&dy[at.clone()], |y| &y[at]));
        input_gradient(layout.plane, terms, x, dy, y, relu, dx, accumulate[0]);
        skip_gradient(dy, y, relu, dskip, accumulate[1]);
    });
    for (to, which) in pass.grad_params.iter_mut().zip([1, 0]) {
        to.data_mut().iter_mut().zip(numbers.chunks(BACKWARD)).for_each(|(to, sums)| *to = sums[which]);
    }
}

/// `dx = a·g + b·(x − mean) + c`.
struct Terms {
    a: f32,
    b: f32,
    c: f32,
    mean: f32,
}

impl Terms {
    /// `sums` are `Σ g` and `Σ g·x̂` over `count` elements; 0 where the statistics are constants (evaluation).
    fn new(weight: f32, mean: f32, inverse: f32, sums: [f32; 2], count: usize) -> Self {
        let a = weight * inverse;
        let share = if count > 0 { a / count as f32 } else { 0.0 };
        Terms { a, b: -share * inverse * sums[1], c: -share * sums[0], mean }
    }
}

vectorised! {
    /// Some channels of one image; an empty `skip` adds nothing.
    pub(crate) fn normalise<'a>(
        plane: usize,
        numbers: &'a [f32],
        x: &'a [f32],
        skip: &'a [f32],
        relu: bool,
        y: &'a mut [f32],
    ) -> () {
        // Below this, an element becomes this. A NaN stays one.
        let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
        let planes = y.chunks_mut(plane.max(1)).zip(x.chunks(plane.max(1)));
        for (i, ((y, x), numbers)) in planes.zip(numbers.chunks(FORWARD)).enumerate() {
            let (mean, scale, bias) = (numbers[0], numbers[2], numbers[3]);
            let positive = |y: f32| if y <= floor { floor } else { y };
            if skip.is_empty() {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = positive((x - mean) * scale + bias);
                }
            } else {
                for ((y, &x), &skip) in y.iter_mut().zip(x).zip(&skip[i * plane..]) {
                    *y = positive((x - mean) * scale + bias + skip);
                }
            }
        }
    }
}

/// `dy` where the ReLU, if there is one, let it through.
#[inline(always)]
fn masked(dy: f32, y: f32, relu: bool) -> f32 {
    if (y > 0.0) | !relu { dy } else { 0.0 }
}

vectorised! {
    /// Some channels of one image.
    pub(crate) fn input_gradient<'a>(
        plane: usize,
        numbers: &'a [f32],
        x: &'a [f32],
        dy: &'a [f32],
        y: &'a [f32],
        relu: bool,
        dx: &'a mut [f32],
        accumulate: bool,
    ) -> () {
        let plane = plane.max(1);
        for (i, (dx, numbers)) in dx.chunks_mut(plane).zip(numbers.chunks(BACKWARD)).enumerate() {
            let [_, _, a, b, c, mean] = *numbers else { return };
            let at = i * plane..i * plane + dx.len();
            let inputs = x[at.clone()].iter().zip(&dy[at.clone()]).zip(&y[at]);
            for (dx, ((&x, &dy), &y)) in dx.iter_mut().zip(inputs) {
                let g = a * masked(dy, y, relu) + b * (x - mean) + c;
                *dx = if accumulate { *dx + g } else { g };
            }
        }
    }
}

vectorised! {
    pub(crate) fn skip_gradient<'a>(
        dy: &'a [f32],
        y: &'a [f32],
        relu: bool,
        dskip: &'a mut [f32],
        accumulate: bool,
    ) -> () {
        for ((out, &dy), &y) in dskip.iter_mut().zip(dy).zip(y) {
            let g = masked(dy, y, relu);
            *out = if accumulate { *out + g } else { g };
        }
    }
}
