use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use super::{factor, leak};
use crate::simd::vectorised;
use crate::{Backward, Forward, Operator, ParamSpec, Reads, check, sums};

/// Leaky ReLU with a trained slope, shared or per channel; derivative `slope` at 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prelu {
    /// 1 (shared) or the number of channels.
    pub parameters: usize,
}

impl Operator for Prelu {
    fn name(&self) -> &'static str {
        "prelu"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let input = check::one("prelu", inputs)?;
        let channels = input.dims().get(1).copied().unwrap_or(1);
        if self.parameters != 1 && self.parameters != channels {
            return Err(ShapeError::Channels { what: "prelu", expected: self.parameters, found: channels });
        }
        Shape::try_new(&[self.parameters])?;
        Ok(input)
    }

    fn params(&self) -> Vec<ParamSpec> {
        vec![check::param("weight", &[self.parameters])]
    }

    fn backward_reads(&self) -> Reads {
        Reads::INPUTS
    }

    fn forward(&self, pass: Forward<'_>) {
        let (x, weight) = (pass.inputs[0].data, pass.params[0].data());
        let plane = plane(pass.inputs[0].shape);
        pass.threads.for_each_chunk(pass.output.data, plane, |p, out| {
            forward_plane(&x[p * plane..][..out.len()], weight[p % weight.len()], out);
        });
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn backward(&self, pass: Backward<'_>) {
        let (x, dy, weight) = (pass.inputs[0].data, pass.grad_output.data, pass.params[0].data());
        let plane = plane(pass.inputs[0].shape);
        if let Some(grad) = &mut pass.grad_inputs[0] {
            let accumulate = grad.accumulate;
            pass.threads.for_each_chunk(grad.data, plane, |p, out| {
                let at = p * plane..p * plane + out.len();
                let slope = weight[p % weight.len()];
                backward_plane(&x[at.clone()], &dy[at], slope, out, accumulate);
            });
        }
        let Some(dw) = pass.grad_params.first_mut().map(|dw| dw.data_mut()) else { return };
        let slopes = dw.len();
        pass.threads.for_each_chunk(dw, 1, |slope, dw| {
            let planes = x.chunks(plane.max(1)).zip(dy.chunks(plane.max(1)));
            let sum: f64 = planes.skip(slope).step_by(slopes).map(|(x, dy)| negative_sum(x, dy)).sum();
            dw[0] = sum as f32;
        });
    }
}

/// Elements that follow each other in one channel.
fn plane(shape: Shape) -> usize {
    shape.dims().iter().skip(2).product()
}

/// `Σ x·dy` over elements with `x ≤ 0`: the slope's gradient.
fn negative_sum(x: &[f32], dy: &[f32]) -> f64 {
    let blocks = x.chunks(sums::BLOCK).zip(dy.chunks(sums::BLOCK));
    blocks.map(|(x, dy)| sums::block_sum(x, dy, |x: f32, dy: f32| dy * if x > 0.0 { 0.0 } else { x })).sum()
}

vectorised! {
    fn forward_plane<'a>(
        x: &'a [f32],
        slope: f32,
        out: &'a mut [f32],
    ) -> () {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = leak(x, slope);
        }
    }
}

vectorised! {
    fn backward_plane<'a>(
        x: &'a [f32],
        dy: &'a [f32],
        slope: f32,
        out: &'a mut [f32],
        accumulate: bool,
    ) -> () {
        for ((out, &x), &dy) in out.iter_mut().zip(x).zip(dy) {
            let g = dy * factor(x, slope);
            *out = if accumulate { *out + g } else { g };
        }
    }
}
