//! ReLU, leaky ReLU and PReLU.

mod prelu;

pub use prelu::Prelu;

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::{Backward, Forward, Operator, Reads, check, elementwise};

/// `max(x, 0)`; derivative 0 at 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relu;

impl Operator for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        check::one("relu", inputs)
    }

    fn backward_reads(&self) -> Reads {
        Reads::OUTPUT
    }

    fn forward(&self, pass: Forward<'_>) {
        // This way round, a NaN stays one and is noticed.
        elementwise::map(
            pass.threads,
            pass.inputs[0].data,
            pass.output.data,
            |x| if x <= 0.0 { 0.0 } else { x },
        );
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn backward(&self, pass: Backward<'_>) {
        let Some(grad) = &mut pass.grad_inputs[0] else { return };
        elementwise::gradient(pass.threads, grad, pass.output.data, pass.grad_output.data, |y, dy| {
            if y > 0.0 { dy } else { 0.0 }
        });
    }
}

/// `x` where positive, else `slope · x`; derivative `slope` at 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeakyRelu {
    /// Factor of the negative side.
    pub slope: f32,
}

impl Operator for LeakyRelu {
    fn name(&self) -> &'static str {
        "leaky_relu"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        check::attribute("leaky_relu slope", 0, self.slope.is_finite(), "it must be finite")?;
        check::one("leaky_relu", inputs)
    }

    fn backward_reads(&self) -> Reads {
        Reads::INPUTS
    }

    fn forward(&self, pass: Forward<'_>) {
        let slope = self.slope;
        elementwise::map(pass.threads, pass.inputs[0].data, pass.output.data, |x| leak(x, slope));
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn backward(&self, pass: Backward<'_>) {
        let Some(grad) = &mut pass.grad_inputs[0] else { return };
        let slope = self.slope;
        elementwise::gradient(pass.threads, grad, pass.inputs[0].data, pass.grad_output.data, |x, dy| {
            dy * factor(x, slope)
        });
    }
}

#[inline(always)]
fn leak(x: f32, slope: f32) -> f32 {
    x * factor(x, slope)
}

/// The derivative. A choice of two constants: where one branch multiplied and the other did not, the compiler made it a
/// jump, and the time told the signs.
#[inline(always)]
fn factor(x: f32, slope: f32) -> f32 {
    if x > 0.0 { 1.0 } else { slope }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;
