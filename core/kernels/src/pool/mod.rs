//! Max, average and adaptive average pooling.

mod average;
pub(crate) mod max;
pub(crate) mod phases;

pub use average::{AdaptiveAvgPool2d, AvgPool2d};
pub use max::MaxPool2d;

use tensor::{Shape, ShapeError};

use crate::check;

/// Windows of a fixed size.
#[derive(Clone, Copy)]
pub(crate) struct Attributes {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Rows above, columns left.
    pub padding: [usize; 2],
}

/// One image plane and where the windows of its output are.
#[derive(Clone, Copy)]
pub(crate) struct Plane {
    pub input: [usize; 2],
    pub output: [usize; 2],
}

impl Plane {
    fn new(input: Shape, output: Shape) -> Self {
        let last = |shape: Shape| match *shape.dims() {
            [.., h, w] => [h, w],
            _ => [0, 0],
        };
        Plane { input: last(input), output: last(output) }
    }

    fn input_len(&self) -> usize {
        self.input[0] * self.input[1]
    }

    fn output_len(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Planes that make a part for one thread.
    fn together(&self) -> usize {
        (crate::elementwise::PART / self.input_len().max(1)).max(1)
    }
}

/// Output shape of windows of a fixed size, one attribute set for both axes.
fn infer_windows(
    what: &'static str,
    inputs: &[Shape],
    Attributes { kernel, stride, padding }: Attributes,
) -> Result<Shape, ShapeError> {
    let [n, c, h, w] = check::one(what, inputs)?.nchw(what)?;
    let mut output = [n, c, 0, 0];
    for (axis, len) in [h, w].into_iter().enumerate() {
        // With this, no window lies wholly in the padding.
        let allowed = padding[axis] <= kernel[axis] / 2;
        check::attribute(what, padding[axis], allowed, "padding is at most half of the kernel")?;
        check::attribute(what, len, len > 0, "an empty image has no windows")?;
        let steps = [kernel[axis], stride[axis], 1];
        output[2 + axis] = check::positions(what, len, steps, [padding[axis]; 2])?;
    }
    Shape::try_new(&output)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;
