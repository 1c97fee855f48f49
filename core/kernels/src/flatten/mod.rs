//! `[N, …] → [N, F]`.

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::{Backward, Forward, Operator, Reads, check, elementwise};

/// Joins all axes but the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flatten;

impl Operator for Flatten {
    fn name(&self) -> &'static str {
        "flatten"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let input = check::one("flatten", inputs)?;
        match *input.dims() {
            [] => Err(ShapeError::Rank { what: "flatten", expected: 2, found: input }),
            [n, ..] => Shape::try_new(&[n, input.record_len()]),
        }
    }

    fn backward_reads(&self) -> Reads {
        Reads::NOTHING
    }

    fn forward(&self, pass: Forward<'_>) {
        elementwise::map(pass.threads, pass.inputs[0].data, pass.output.data, |x| x);
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn backward(&self, pass: Backward<'_>) {
        if let Some(grad) = &mut pass.grad_inputs[0] {
            elementwise::pass_on(pass.threads, grad, pass.grad_output.data);
        }
    }
}

#[cfg(test)]
mod tests;
