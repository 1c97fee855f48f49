use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use super::{Plane, infer_windows, window};
use crate::parts::Chunks;
use crate::simd::vectorised;
use crate::{Backward, Forward, Operator, Reads, SavedLen, check};

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

    fn backward_reads(&self) -> Reads {
        Reads::NOTHING
    }

    fn forward(&self, pass: Forward<'_>) {
        let (x, plane) = (pass.inputs[0].data, Plane::new(pass.inputs[0].shape, pass.output.shape));
        if pass.output.data.is_empty() {
            return;
        }
        let (len, images) = (plane.output_len(), pass.output.shape.dims()[0].max(1));
        let image = pass.output.data.len() / images;
        let indices = Chunks { data: &mut pass.saved.indices[..pass.output.data.len()], len: image };
        let outputs = Chunks { data: pass.output.data, len: image };
        pass.threads.for_each_part((outputs, indices), |n, (output, indices)| {
            let planes = output.chunks_mut(len).zip(indices.chunks_mut(len));
            let inputs = x[n * (x.len() / images)..].chunks(plane.input_len());
            planes.zip(inputs).for_each(|((out, indices), x)| maxima(self, plane, x, out, indices));
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

/// Outputs made at a time.
const LANES: usize = 8;

vectorised! {
    /// Maxima of one plane and where they are.
    fn maxima<'a>(
        op: &'a MaxPool2d,
        plane: Plane,
        x: &'a [f32],
        out: &'a mut [f32],
        indices: &'a mut [u32],
    ) -> () {
        let ([h, w], [_, ow]) = (plane.input, plane.output);
        for (oy, (out, indices)) in out.chunks_mut(ow).zip(indices.chunks_mut(ow)).enumerate() {
            let ys = window(oy, op.kernel[0], op.stride[0], op.padding[0], h);
            let rows = Rows { x: &x[ys.start * w..ys.end * w], width: w, first: ys.start * w };
            for (block, (out, indices)) in out.chunks_mut(LANES).zip(indices.chunks_mut(LANES)).enumerate() {
                let (best, index) = rows.maxima(op, block * LANES);
                out.copy_from_slice(&best[..out.len()]);
                indices.copy_from_slice(&index[..indices.len()]);
            }
        }
    }
}

/// The rows that the windows of one output row cover.
struct Rows<'a> {
    x: &'a [f32],
    width: usize,
    /// Position of the first element in the plane.
    first: usize,
}

impl Rows<'_> {
    /// Maxima of [`LANES`] windows from output `start` on. Windows beyond the end give something.
    ///
    /// Elements are compared in row-major order within every window, so the first of equal maxima stays.
    #[inline(always)]
    fn maxima(&self, op: &MaxPool2d, start: usize) -> ([f32; LANES], [u32; LANES]) {
        let column = |lane: usize| (start + lane) * op.stride[1];
        let mut best = [f32::NEG_INFINITY; LANES];
        let mut index: [u32; LANES] =
            std::array::from_fn(|lane| (self.first + column(lane).saturating_sub(op.padding[1])) as u32);
        for (y, row) in self.x.chunks(self.width).enumerate() {
            for j in 0..op.kernel[1] {
                let from = (start * op.stride[1] + j).wrapping_sub(op.padding[1]);
                let x = lanes(row, from, op.stride[1]);
                let position = (self.first + y * self.width).wrapping_add(from) as u32;
                for lane in 0..LANES {
                    let larger = (x[lane] > best[lane]) | x[lane].is_nan();
                    let position = position.wrapping_add((lane * op.stride[1]) as u32);
                    best[lane] = if larger { x[lane] } else { best[lane] };
                    index[lane] = if larger { position } else { index[lane] };
                }
            }
        }
        (best, index)
    }
}

/// Every `stride`-th element from `from` on (which may have wrapped below 0); −∞, which never wins, off the row.
#[inline(always)]
fn lanes(row: &[f32], from: usize, stride: usize) -> [f32; LANES] {
    let inside = row.get(from..).unwrap_or_default();
    match stride {
        1 if inside.len() >= LANES => std::array::from_fn(|lane| inside[lane]),
        2 if inside.len() >= 2 * LANES - 1 => {
            let pairs: &[f32; 2 * LANES - 1] = inside.first_chunk().expect("the length was compared");
            std::array::from_fn(|lane| pairs[2 * lane])
        }
        _ => std::array::from_fn(|lane| {
            row.get(from.wrapping_add(lane * stride)).copied().unwrap_or(f32::NEG_INFINITY)
        }),
    }
}
