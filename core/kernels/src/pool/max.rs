use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use super::{Plane, infer_windows, window};
use crate::{Backward, Forward, Operator, SavedLen, check};

/// Maximum over each window; of equal maxima, the first in row-major order gets the gradient.
///
/// Padding never wins; a NaN does. At most half of the kernel may be padding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxPool2d {
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Rows above and below, columns left and right.
    pub padding: [usize; 2],
}

impl Operator for MaxPool2d {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let output = infer_windows("max_pool2d", inputs, self.kernel, self.stride, self.padding)?;
        let plane = Plane::new(inputs[0], output).input_len();
        let fits = u32::try_from(plane).is_ok();
        check::attribute("max_pool2d", plane, fits, "positions in an image must fit 32 bits")?;
        Ok(output)
    }

    /// Position `h·W + w` of each maximum.
    fn saved_len(&self, inputs: &[Shape]) -> SavedLen {
        SavedLen { floats: 0, indices: self.infer(inputs).map_or(0, |output| output.len()) }
    }

    fn forward(&self, pass: Forward<'_>) {
        let (x, plane) = (pass.inputs[0].data, Plane::new(pass.inputs[0].shape, pass.output.shape));
        if pass.output.data.is_empty() {
            return;
        }
        let (len, images) = (plane.output_len(), pass.output.shape.dims()[0].max(1));
        let image = pass.output.data.len() / images;
        let indices = pass.saved.indices[..pass.output.data.len()].chunks_mut(image);
        let parts = pass.output.data.chunks_mut(image).zip(indices).enumerate().collect();
        pass.threads.for_each_item(parts, |(n, (output, indices))| {
            let planes = output.chunks_mut(len).zip(indices.chunks_mut(len));
            let inputs = x[n * (x.len() / images)..].chunks(plane.input_len());
            planes.zip(inputs).for_each(|((out, indices), x)| self.plane(plane, x, out, indices));
        });
    }

    fn backward(&self, pass: Backward<'_>) {
        let Some(grad) = &mut pass.grad_inputs[0] else { return };
        let plane = Plane::new(pass.inputs[0].shape, pass.output.shape);
        let (dy, accumulate) = (pass.grad_output.data, grad.accumulate);
        let indices = &pass.saved.indices;
        pass.threads.for_each_chunk(grad.data, plane.input_len(), |p, dx| {
            if !accumulate {
                dx.fill(0.0);
            }
            let at = p * plane.output_len()..(p + 1) * plane.output_len();
            for (&dy, &index) in dy[at.clone()].iter().zip(&indices[at]) {
                dx[index as usize] += dy;
            }
        });
    }
}

impl MaxPool2d {
    fn plane(&self, plane: Plane, x: &[f32], out: &mut [f32], indices: &mut [u32]) {
        let ([h, w], [_, ow]) = (plane.input, plane.output);
        let rows = out.chunks_mut(ow).zip(indices.chunks_mut(ow));
        for (oy, (out, indices)) in rows.enumerate() {
            let ys = window(oy, self.kernel[0], self.stride[0], self.padding[0], h);
            for (ox, (out, index)) in out.iter_mut().zip(indices).enumerate() {
                let xs = window(ox, self.kernel[1], self.stride[1], self.padding[1], w);
                let mut best = (f32::NEG_INFINITY, ys.start * w + xs.start);
                for y in ys.clone() {
                    for (i, &v) in x[y * w..][xs.clone()].iter().enumerate() {
                        if v > best.0 || v.is_nan() {
                            best = (v, y * w + xs.start + i);
                        }
                    }
                }
                *out = best.0;
                *index = best.1 as u32;
            }
        }
    }
}
