//! Both passes, with what a fused operator appends: `y = relu(norm(x) + skip)`.
//!
//! Threads divide the records. A group of one record is read from memory once: statistics first, then the output, while it
//! is in the cache; so it is with gradients.

use std::ops::Range;

use tensor::Shape;

use super::GroupNorm;
use crate::batch_norm::passes::{BACKWARD, FORWARD, input_gradient, normalise, skip_gradient};
use crate::batch_norm::statistics::{Gradient, moments};
use crate::channels::Layout;
use crate::parts::Chunks;
use crate::{Backward, Forward, Recompute, SavedLen, Scratch};

/// Mean and `1/√(var + eps)` of a group.
const SAVED: usize = 2;

/// `Σ g` and `Σ g·x̂` of a record's channel.
const SUMS: usize = 2;

/// Where the groups of a tensor `[N, C, …]` lie.
#[derive(Clone, Copy)]
struct Groups {
    layout: Layout,
    groups: usize,
    /// Channels of a group.
    channels: usize,
}

impl Groups {
    fn of(norm: &GroupNorm, shape: Shape) -> Self {
        let groups = norm.groups.max(1);
        Groups { layout: Layout::of(shape), groups, channels: norm.channels / groups }
    }

    /// Elements of a group.
    fn len(self) -> usize {
        self.channels * self.layout.plane
    }

    /// Channels of a group.
    fn channels(self, group: usize) -> Range<usize> {
        group * self.channels..(group + 1) * self.channels
    }

    /// Every record's groups, as channels of one record.
    fn as_channels(self) -> Layout {
        Layout { images: 1, channels: self.layout.images * self.groups, plane: self.len() }
    }

    /// Every record's channels, as channels of one record.
    fn one_by_one(self) -> Layout {
        Layout { images: 1, channels: self.layout.images * self.layout.channels, plane: self.layout.plane }
    }
}

pub(crate) fn saved_len(norm: &GroupNorm, inputs: &[Shape]) -> SavedLen {
    let images = inputs.first().map_or(0, |shape| Layout::of(*shape).images);
    SavedLen { floats: images.saturating_mul(norm.groups).saturating_mul(SAVED), indices: 0 }
}

/// Scratch memory of any pass: the sums of all channels of all records, and one group's numbers.
pub(crate) fn scratch(norm: &GroupNorm, inputs: &[Shape]) -> Scratch {
    let images = inputs.first().map_or(0, |shape| Layout::of(*shape).images);
    let sums = images.saturating_mul(norm.channels).saturating_mul(SUMS);
    let group = (norm.channels / norm.groups.max(1)).saturating_mul(BACKWARD.max(FORWARD));
    Scratch::shared([sums]).and(Scratch::each([group]))
}

/// Writes `y = (x − mean)/deviation · weight + bias [+ skip]`, with `relu` its positive part.
///
/// Inputs are `x` and, where something is added, `skip`.
pub(crate) fn forward(norm: &GroupNorm, relu: bool, pass: Forward<'_>) {
    let (x, groups) = (pass.inputs[0].data, Groups::of(norm, pass.inputs[0].shape));
    let skip = pass.inputs.get(1).map_or(&[][..], |skip| skip.data);
    let params = [pass.params[0].data(), pass.params[1].data()];
    let saved = Chunks { data: pass.saved.floats, len: SAVED * groups.groups };
    let outputs = Chunks { data: pass.output.data, len: groups.layout.image() };
    pass.threads.for_each_part((outputs, saved), |n, (y, saved)| {
        let mut numbers = pass.threads.scratch(FORWARD * groups.channels);
        for (group, saved) in saved.chunks_mut(SAVED).take(groups.groups).enumerate() {
            let found = moments(x, groups.as_channels(), n * groups.groups + group);
            saved.copy_from_slice(&[found.mean, found.inverse_deviation(norm.eps)]);
            write((groups, n, group), saved, params, &mut numbers, (x, skip), relu, y);
        }
    });
}

/// What [`forward`] wrote, from the statistics it saved.
pub(crate) fn recompute(norm: &GroupNorm, relu: bool, pass: Recompute<'_>) {
    let (x, groups) = (pass.inputs[0].data, Groups::of(norm, pass.inputs[0].shape));
    let skip = pass.inputs.get(1).map_or(&[][..], |skip| skip.data);
    let params = [pass.params[0].data(), pass.params[1].data()];
    let outputs = Chunks { data: pass.output.data, len: groups.layout.image() };
    pass.threads.for_each_part(outputs, |n, y| {
        let mut numbers = pass.threads.scratch(FORWARD * groups.channels);
        for group in 0..groups.groups {
            let saved = &pass.saved.floats[SAVED * (n * groups.groups + group)..][..SAVED];
            write((groups, n, group), saved, params, &mut numbers, (x, skip), relu, y);
        }
    });
}

/// The output of one group of a record, whose output is `y`.
fn write(
    (groups, image, group): (Groups, usize, usize),
    saved: &[f32],
    [weight, bias]: [&[f32]; 2],
    numbers: &mut [f32],
    (x, skip): (&[f32], &[f32]),
    relu: bool,
    y: &mut [f32],
) {
    for (c, numbers) in groups.channels(group).zip(numbers.chunks_mut(FORWARD)) {
        numbers.copy_from_slice(&[saved[0], 0.0, saved[1] * weight[c], bias[c]]);
    }
    let at = groups.layout.range(image, groups.channels(group));
    let skip = skip.get(at.clone()).unwrap_or_default();
    let here = groups.layout.range(0, groups.channels(group));
    normalise(groups.layout.plane, numbers, &x[at], skip, relu, &mut y[here]);
}

/// Gradients of [`forward`], which saw the same inputs.
///
/// `g` is the output's gradient where a ReLU let it through; `dskip = g`, and with `m` elements in a group
/// `dx = (weight·g − Σ(weight·g)/m − x̂·Σ(weight·g·x̂)/m)/deviation`.
pub(crate) fn backward(norm: &GroupNorm, relu: bool, pass: Backward<'_>) {
    let (x, groups) = (pass.inputs[0].data, Groups::of(norm, pass.inputs[0].shape));
    let (dy, y) = (pass.grad_output.data, relu.then_some(pass.output.data));
    let (weight, saved) = (pass.params[0].data(), pass.saved.floats);
    let (images, channels) = (groups.layout.images, groups.layout.channels);
    let mut accumulate = [false; 2];
    let mut outputs = [None, None];
    for (i, gradient) in pass.grad_inputs.iter_mut().enumerate() {
        let Some(gradient) = gradient else { continue };
        accumulate[i] = gradient.accumulate;
        outputs[i] = Some(Chunks { data: &mut *gradient.data, len: groups.layout.image() });
    }
    let mut sums = pass.threads.scratch(SUMS * images * channels);
    let all_sums = Chunks { data: &mut sums[..], len: SUMS * channels };
    pass.threads.for_each_part((outputs, all_sums), |n, ([mut dx, mut dskip], sums)| {
        let mut numbers = pass.threads.scratch(BACKWARD * groups.channels);
        for group in 0..groups.groups {
            let of_group = &saved[SAVED * (n * groups.groups + group)..];
            let (mean, inverse) = (of_group[0], of_group[1]);
            let mut whole = [0.0f64; 2];
            for c in groups.channels(group) {
                let gradient = Gradient { x, dy, relu: y };
                let [plain, weighted] = gradient.sums(groups.one_by_one(), n * channels + c, mean);
                let found = [plain, weighted * f64::from(inverse)];
                whole.iter_mut().zip(found).for_each(|(sum, s)| *sum += f64::from(weight[c]) * s);
                sums[SUMS * c..][..SUMS].copy_from_slice(&found.map(|s| s as f32));
            }
            let share = whole.map(|sum| (sum / groups.len().max(1) as f64) as f32 * inverse);
            for (c, numbers) in groups.channels(group).zip(numbers.chunks_mut(BACKWARD)) {
                let terms = [weight[c] * inverse, -share[1] * inverse, -share[0], mean];
                numbers[BACKWARD - terms.len()..].copy_from_slice(&terms);
            }
            let at = groups.layout.range(n, groups.channels(group));
            let here = groups.layout.range(0, groups.channels(group));
            let (x, dy, y) = (&x[at.clone()], &dy[at.clone()], y.map_or(&dy[at.clone()], |y| &y[at]));
            if let Some(dx) = &mut dx {
                let dx = &mut dx[here.clone()];
                input_gradient(groups.layout.plane, &numbers, x, dy, y, relu, dx, accumulate[0]);
            }
            if let Some(dskip) = &mut dskip {
                skip_gradient(dy, y, relu, &mut dskip[here], accumulate[1]);
            }
        }
    });
    for (to, which) in pass.grad_params.iter_mut().zip([1, 0]) {
        for (c, to) in to.data_mut().iter_mut().enumerate() {
            let of_records = (0..images).map(|n| f64::from(sums[SUMS * (n * channels + c) + which]));
            *to = of_records.sum::<f64>() as f32;
        }
    }
}
