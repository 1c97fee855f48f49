//! Sum of two values of the same shape (a residual connection).

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::{Backward, Forward, Operator};

/// `a + b`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add;

impl Operator for Add {
    fn name(&self) -> &'static str {
        "add"
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
