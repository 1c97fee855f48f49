//! Fully connected layer.

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::{Backward, Forward, Operator, ParamSpec};

/// `y = x·Wᵀ + b` over the last axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linear {
    pub in_features: usize,
    pub out_features: usize,
    pub bias: bool,
}

impl Operator for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        todo!()
    }

    fn params(&self) -> Vec<ParamSpec> {
        let weight = ParamSpec::new("weight", [self.out_features, self.in_features]);
        let bias = self.bias.then(|| ParamSpec::new("bias", [self.out_features]));
        std::iter::once(weight).chain(bias).collect()
    }

    fn forward(&self, _pass: Forward<'_>) {
        todo!()
    }

    fn backward(&self, _pass: Backward<'_>) {
        todo!()
    }
}
