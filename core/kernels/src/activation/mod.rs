//! ReLU, leaky ReLU and PReLU.

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::{Backward, Forward, Operator, ParamSpec};

/// `max(x, 0)`; derivative 0 at 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relu;

impl Operator for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        todo!()
    }

    fn forward(&self, _pass: Forward<'_>) {
        todo!()
    }

    fn backward(&self, _pass: Backward<'_>) {
        todo!()
    }
}

/// `x` where positive, else `slope · x`; derivative `slope` at 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeakyRelu {
    pub slope: f32,
}

impl Operator for LeakyRelu {
    fn name(&self) -> &'static str {
        "leaky_relu"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        todo!()
    }

    fn forward(&self, _pass: Forward<'_>) {
        todo!()
    }

    fn backward(&self, _pass: Backward<'_>) {
        todo!()
    }
}

/// Leaky ReLU with a trained slope, shared or per channel.
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
        todo!()
    }

    fn params(&self) -> Vec<ParamSpec> {
        vec![ParamSpec::new("weight", [self.parameters])]
    }

    fn forward(&self, _pass: Forward<'_>) {
        todo!()
    }

    fn backward(&self, _pass: Backward<'_>) {
        todo!()
    }
}
