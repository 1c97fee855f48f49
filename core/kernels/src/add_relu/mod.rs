//! Residual connection and ReLU in one pass over memory.

use tensor::{Shape, ShapeError};

use crate::add::Add;
use crate::{Backward, Forward, Operator, Reads, elementwise};

/// `y = relu(a + b)`, the same bits as [`Add`] and [`crate::activation::Relu`] one after the other.
///
/// Made by a rewrite of a graph, never part of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct AddRelu;

impl Operator for AddRelu {
    fn name(&self) -> &'static str {
        "add+relu"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        Add.infer(inputs)
    }

    fn backward_reads(&self) -> Reads {
        Reads::OUTPUT
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn forward(&self, pass: Forward<'_>) {
        let [a, b] = [pass.inputs[0].data, pass.inputs[1].data];
        elementwise::map2(pass.threads, a, b, pass.output.data, |a, b| {
            let sum = a + b;
            if sum <= 0.0 { 0.0 } else { sum }
        });
    }

    fn backward(&self, pass: Backward<'_>) {
        let (y, dy) = (pass.output.data, pass.grad_output.data);
        for grad in pass.grad_inputs.iter_mut().flatten() {
            elementwise::gradient(pass.threads, grad, y, dy, |y, dy| if y > 0.0 { dy } else { 0.0 });
        }
    }
}

#[cfg(test)]
mod tests;
