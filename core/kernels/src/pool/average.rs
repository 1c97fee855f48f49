use std::ops::Range;

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use super::{Plane, infer_windows, window};
use crate::{Backward, Forward, Operator, Reads, check};

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
        infer_windows("avg_pool2d", inputs, self.kernel, self.stride, self.padding)
    }

    fn backward_reads(&self) -> Reads {
        Reads::NOTHING
    }

    fn forward(&self, pass: Forward<'_>) {
        forward(self, pass);
    }

    fn backward(&self, pass: Backward<'_>) {
        backward(self, pass);
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
        forward(self, pass);
    }

    fn backward(&self, pass: Backward<'_>) {
        backward(self, pass);
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
        window(position, self.kernel[axis], self.stride[axis], self.padding[axis], plane.input[axis])
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
