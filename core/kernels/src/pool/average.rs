use std::ops::Range;

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use super::phases::{Phases, load, load_mut, load_some, store_some};
use super::{Attributes, Plane, infer_windows};
use crate::simd::{self, vectorised};
use crate::{Backward, Forward, Operator, Reads, Scratch, check};
use pulp::{Simd, WithSimd};

/// Mean over each window.
///
/// At most half of the kernel may be padding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AvgPool2d {
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Rows above and below, columns left and right.
    pub padding: [usize; 2],
    /// Whether a window's padding counts as elements (zeros).
    pub count_include_pad: bool,
}

impl Operator for AvgPool2d {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        infer_windows("avg_pool2d", inputs, self.attributes())
    }

    fn backward_reads(&self) -> Reads {
        Reads::NOTHING
    }

    fn scratch(&self, inputs: &[Shape], _threads: usize) -> Scratch {
        let len = |output| {
            let plane = Plane::new(inputs[0], output);
            Phases::new(self.attributes(), plane).len() + plane.output_len()
        };
        Scratch::each(self.infer(inputs).map(len))
    }

    fn forward(&self, pass: Forward<'_>) {
        let plane = Plane::new(pass.inputs[0].shape, pass.output.shape);
        if plane.output[1] < WIDE {
            return forward(self, pass);
        }
        let (x, phases) = (pass.inputs[0].data, Phases::new(self.attributes(), plane));
        pass.threads.for_each_chunk(pass.output.data, plane.together() * plane.output_len(), |part, out| {
            let mut scratch = pass.threads.scratch(phases.len() + plane.output_len());
            let (scratch, shares) = scratch.split_at_mut(phases.len());
            self.shares(plane, shares);
            let inputs = x[part * plane.together() * plane.input_len()..].chunks(plane.input_len());
            for (out, x) in out.chunks_mut(plane.output_len()).zip(inputs) {
                simd::dispatch(Means { phases, x, shares, scratch: &mut *scratch, out });
            }
        });
    }

    fn backward(&self, pass: Backward<'_>) {
        let plane = Plane::new(pass.inputs[0].shape, pass.output.shape);
        if plane.output[1] < WIDE {
            return backward(self, pass);
        }
        let Some(grad) = &mut pass.grad_inputs[0] else { return };
        let (dy, phases) = (pass.grad_output.data, Phases::new(self.attributes(), plane));
        let accumulate = grad.accumulate;
        pass.threads.for_each_chunk(grad.data, plane.together() * plane.input_len(), |part, dx| {
            let mut scratch = pass.threads.scratch(phases.len() + plane.output_len());
            let (scratch, shares) = scratch.split_at_mut(phases.len());
            self.shares(plane, shares);
            let outputs = dy[part * plane.together() * plane.output_len()..].chunks(plane.output_len());
            for (dx, dy) in dx.chunks_mut(plane.input_len()).zip(outputs) {
                let scratch = &mut *scratch;
                simd::dispatch(Spread { phases, dy, shares, scratch, dx, accumulate });
            }
        });
    }
}

impl AvgPool2d {
    fn attributes(&self) -> Attributes {
        Attributes { kernel: self.kernel, stride: self.stride, padding: self.padding }
    }

    /// `1/divisor` of every window of a plane.
    fn shares(&self, plane: Plane, shares: &mut [f32]) {
        for_each_window(self, plane, |o, _, _, share| shares[o] = share);
    }
}

/// Windows side by side from which a loop over them is faster than one window after the other.
const WIDE: usize = 4;

/// Means of one plane.
struct Means<'a> {
    phases: Phases,
    x: &'a [f32],
    shares: &'a [f32],
    scratch: &'a mut [f32],
    out: &'a mut [f32],
}

impl WithSimd for Means<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Means { phases, x, shares, scratch, out } = self;
        phases.split(x, 0.0, scratch);
        let [height, width] = phases.output();
        for (y, start) in (0..height).flat_map(|y| (0..width).step_by(S::F32_LANES).map(move |x| (y, x))) {
            let to = y * width + start..y * width + width.min(start + S::F32_LANES);
            let mut sum = simd.splat_f32s(0.0);
            for (at, _) in phases.elements(y, start) {
                sum = simd.add_f32s(sum, load::<S>(scratch, at));
            }
            let share = load_some(simd, &shares[to.clone()]);
            store_some(simd, &mut out[to], simd.mul_f32s(sum, share));
        }
    }
}

/// Gives each element its windows' shares of one plane's gradient.
struct Spread<'a> {
    phases: Phases,
    dy: &'a [f32],
    shares: &'a [f32],
    scratch: &'a mut [f32],
    dx: &'a mut [f32],
    accumulate: bool,
}

impl WithSimd for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Spread { phases, dy, shares, scratch, dx, accumulate } = self;
        scratch.fill(0.0);
        let [height, width] = phases.output();
        for (y, start) in (0..height).flat_map(|y| (0..width).step_by(S::F32_LANES).map(move |x| (y, x))) {
            let from = y * width + start..y * width + width.min(start + S::F32_LANES);
            let dy = load_some(simd, &dy[from.clone()]);
            let part = simd.mul_f32s(dy, load_some(simd, &shares[from]));
            for (at, _) in phases.elements(y, start) {
                let to = load_mut::<S>(scratch, at);
                *to = simd.add_f32s(*to, part);
            }
        }
        phases.join(scratch, dx, accumulate);
    }
}

/// Mean over windows chosen so that the output has a fixed size.
///
/// Output `i` of `n` covers inputs `⌊i·len/n⌋ .. ⌈(i+1)·len/n⌉`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdaptiveAvgPool2d {
    /// Output height and width.
    pub output: [usize; 2],
}

impl Operator for AdaptiveAvgPool2d {
    fn name(&self) -> &'static str {
        "adaptive_avg_pool2d"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let what = "adaptive_avg_pool2d";
        let [n, c, h, w] = check::one(what, inputs)?.nchw(what)?;
        for (output, len) in self.output.into_iter().zip([h, w]) {
            check::attribute(what, output, output > 0, "an output has at least one element")?;
            check::attribute(what, len, len > 0, "an empty image has no mean")?;
            let fits = output.checked_add(1).and_then(|o| o.checked_mul(len)).is_some();
            check::attribute(what, output, fits, "window positions overflow")?;
        }
        Shape::try_new(&[n, c, self.output[0], self.output[1]])
    }

    fn backward_reads(&self) -> Reads {
        Reads::NOTHING
    }

    fn forward(&self, pass: Forward<'_>) {
        if self.output != [1, 1] {
            return forward(self, pass);
        }
        let (x, plane) =
            (pass.inputs[0].data, Plane::new(pass.inputs[0].shape, pass.output.shape).input_len());
        pass.threads.for_each_chunk(pass.output.data, TOGETHER, |part, out| {
            means(&x[part * TOGETHER * plane..][..out.len() * plane], plane, out);
        });
    }

    fn backward(&self, pass: Backward<'_>) {
        if self.output != [1, 1] {
            return backward(self, pass);
        }
        let Some(grad) = &mut pass.grad_inputs[0] else { return };
        let (dy, plane) =
            (pass.grad_output.data, Plane::new(pass.inputs[0].shape, pass.output.shape).input_len());
        let accumulate = grad.accumulate;
        pass.threads.for_each_chunk(grad.data, TOGETHER * plane, |part, dx| {
            spread(&dy[part * TOGETHER..][..dx.len() / plane], plane, accumulate, dx);
        });
    }
}

/// Planes whose means are taken in one job.
const TOGETHER: usize = 256;

vectorised! {
    /// The mean of each plane.
    fn means<'a>(x: &'a [f32], plane: usize, out: &'a mut [f32]) -> () {
        const LANES: usize = 16;
        let share = 1.0 / plane as f32;
        for (out, x) in out.iter_mut().zip(x.chunks_exact(plane)) {
            let (whole, rest) = x.as_chunks::<LANES>();
            let mut lanes = [0.0f32; LANES];
            for x in whole {
                for l in 0..LANES {
                    lanes[l] += x[l];
                }
            }
            for (lane, &x) in lanes.iter_mut().zip(rest) {
                *lane += x;
            }
            let mut width = LANES;
            while width > 1 {
                width /= 2;
                for l in 0..width {
                    lanes[l] += lanes[l + width];
                }
            }
            *out = lanes[0] * share;
        }
    }
}

vectorised! {
    /// Gives each element of a plane its share of the mean's gradient.
    fn spread<'a>(dy: &'a [f32], plane: usize, accumulate: bool, dx: &'a mut [f32]) -> () {
        let share = 1.0 / plane as f32;
        for (dx, &dy) in dx.chunks_exact_mut(plane).zip(dy) {
            let part = dy * share;
            if accumulate {
                dx.iter_mut().for_each(|dx| *dx += part);
            } else {
                dx.iter_mut().for_each(|dx| *dx = part);
            }
        }
    }
}

/// How an average chooses its windows.
trait Windows: Sync {
    /// Elements along `axis` of the window at `position`.
    fn window(&self, plane: Plane, axis: usize, position: usize) -> Range<usize>;

    /// What a window with this many elements is divided by.
    fn divisor(&self, elements: usize) -> usize;
}

impl Windows for AvgPool2d {
    #[inline(always)]
    fn window(&self, plane: Plane, axis: usize, position: usize) -> Range<usize> {
        let start = position * self.stride[axis];
        let inside = |end: usize| end.saturating_sub(self.padding[axis]).min(plane.input[axis]);
        inside(start)..inside(start + self.kernel[axis])
    }

    #[inline(always)]
    fn divisor(&self, elements: usize) -> usize {
        // Without ceiling mode no window reaches beyond the padding.
        if self.count_include_pad { self.kernel[0] * self.kernel[1] } else { elements }
    }
}

impl Windows for AdaptiveAvgPool2d {
    #[inline(always)]
    fn window(&self, plane: Plane, axis: usize, position: usize) -> Range<usize> {
        let (len, output) = (plane.input[axis], plane.output[axis]);
        position * len / output..((position + 1) * len).div_ceil(output)
    }

    #[inline(always)]
    fn divisor(&self, elements: usize) -> usize {
        elements
    }
}

fn forward(windows: &impl Windows, pass: Forward<'_>) {
    let (x, plane) = (pass.inputs[0].data, Plane::new(pass.inputs[0].shape, pass.output.shape));
    pass.threads.for_each_chunk(pass.output.data, plane.output_len(), |p, out| {
        let x = &x[p * plane.input_len()..];
        for_each_window(windows, plane, |o, ys, xs, share| {
            let sum: f32 = ys.map(|y| x[y * plane.input[1]..][xs.clone()].iter().sum::<f32>()).sum();
            out[o] = sum * share;
        });
    });
}

fn backward(windows: &impl Windows, pass: Backward<'_>) {
    let Some(grad) = &mut pass.grad_inputs[0] else { return };
    let plane = Plane::new(pass.inputs[0].shape, pass.output.shape);
    let (dy, accumulate) = (pass.grad_output.data, grad.accumulate);
    pass.threads.for_each_chunk(grad.data, plane.input_len(), |p, dx| {
        if !accumulate {
            dx.fill(0.0);
        }
        let dy = &dy[p * plane.output_len()..];
        for_each_window(windows, plane, |o, ys, xs, share| {
            let g = dy[o] * share;
            for y in ys {
                dx[y * plane.input[1]..][xs.clone()].iter_mut().for_each(|dx| *dx += g);
            }
        });
    });
}

/// Calls `job(output index, rows, columns, 1/divisor)` for each window of a plane.
#[inline(always)]
fn for_each_window(
    windows: &impl Windows,
    plane: Plane,
    mut job: impl FnMut(usize, Range<usize>, Range<usize>, f32),
) {
    for oy in 0..plane.output[0] {
        let ys = windows.window(plane, 0, oy);
        for ox in 0..plane.output[1] {
            let xs = windows.window(plane, 1, ox);
            let share = 1.0 / windows.divisor(ys.len() * xs.len()) as f32;
            job(oy * plane.output[1] + ox, ys.clone(), xs, share);
        }
    }
}
