//! Batch normalisation over `[N, C, H, W]`.

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::{Backward, Forward, Operator, ParamSpec};

/// Batch normalisation with affine parameters and running statistics, as PyTorch's `BatchNorm2d`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm2d {
    pub channels: usize,
    pub eps: f32,
    /// Weight of the new batch in the running statistics (PyTorch's convention).
    pub momentum: f32,
}

impl BatchNorm2d {
    /// PyTorch's defaults: eps 1e-5, momentum 0.1.
    pub fn new(channels: usize) -> Self {
        BatchNorm2d { channels, eps: 1e-5, momentum: 0.1 }
    }
}

impl Operator for BatchNorm2d {
    fn name(&self) -> &'static str {
        "batch_norm2d"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        todo!()
    }

    fn params(&self) -> Vec<ParamSpec> {
        ["weight", "bias"].map(|name| ParamSpec::new(name, [self.channels])).to_vec()
    }

    fn buffers(&self) -> Vec<ParamSpec> {
        ["running_mean", "running_var"].map(|name| ParamSpec::new(name, [self.channels])).to_vec()
    }

    fn forward(&self, _pass: Forward<'_>) {
        todo!()
    }

    fn backward(&self, _pass: Backward<'_>) {
        todo!()
    }
}
