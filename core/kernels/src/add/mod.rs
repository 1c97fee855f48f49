//! Sum of two values of the same shape (a residual connection).

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::{Backward, Forward, Operator, Reads, elementwise};

/// `a + b`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add;

impl Operator for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        match *inputs {
            [a, b] if a == b => Ok(a),
            [a, b] => Err(ShapeError::Mismatch { what: "add", expected: a, found: b }),
            _ => Err(ShapeError::Inputs { what: "add", expected: 2, found: inputs.len() }),
        }
    }

    fn backward_reads(&self) -> Reads {
        Reads::NOTHING
    }

    fn forward(&self, pass: Forward<'_>) {
        let [a, b] = [pass.inputs[0].data, pass.inputs[1].data];
        elementwise::map2(pass.threads, a, b, pass.output.data, |a, b| a + b);
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn backward(&self, pass: Backward<'_>) {
        for grad in pass.grad_inputs.iter_mut().flatten() {
            elementwise::pass_on(pass.threads, grad, pass.grad_output.data);
        }
    }
}

#[cfg(test)]
mod tests;
