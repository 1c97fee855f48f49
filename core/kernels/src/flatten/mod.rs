//! `[N, …] → [N, F]`.

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::{Backward, Forward, Operator};

/// Joins all axes but the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flatten;

impl Operator for Flatten {
    fn name(&self) -> &'static str {
        "flatten"
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
