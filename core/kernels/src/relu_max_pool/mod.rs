//! ReLU and max pooling in one pass over memory.

use tensor::{Shape, ShapeError};

use crate::pool::{MaxPool2d, max};
use crate::{Backward, Forward, Operator, Reads, SavedLen, Scratch};

/// `y = max_pool(relu(x))`, made as `relu(max_pool(x))`: the same bits, and the same gradients, as
/// [`crate::activation::Relu`] and [`MaxPool2d`] one after the other.
///
/// Made by a rewrite of a graph, never part of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ReluMaxPool(pub MaxPool2d);

impl Operator for ReluMaxPool {
    fn name(&self) -> &'static str {
        "relu+max_pool2d"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        self.0.infer(inputs)
    }

    fn saved_len(&self, inputs: &[Shape]) -> SavedLen {
        self.0.saved_len(inputs)
    }

    fn backward_reads(&self) -> Reads {
        Reads::OUTPUT
    }

    fn scratch(&self, inputs: &[Shape], threads: usize) -> Scratch {
        self.0.scratch(inputs, threads)
    }

    fn forward(&self, pass: Forward<'_>) {
        max::forward(&self.0, true, pass);
    }

    fn backward(&self, pass: Backward<'_>) {
        max::backward(&self.0, true, pass);
    }
}

#[cfg(test)]
mod tests;
