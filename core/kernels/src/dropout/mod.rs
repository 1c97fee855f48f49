//! Dropout.

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::{Backward, Forward, Operator};

/// Zeroes each element with `probability` in training and scales the rest by `1/(1 − probability)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    pub probability: f32,
}

impl Operator for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
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
