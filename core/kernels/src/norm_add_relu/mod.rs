//! Batch normalisation, residual connection and ReLU in one pass over memory.

use tensor::{Shape, ShapeError};

use crate::add::Add;
use crate::batch_norm::{BatchNorm2d, passes};
use crate::{Backward, Forward, Operator, ParamSpec, Reads, Recompute, SavedLen, Scratch};

/// `y = relu(norm(x) + skip)`; of its three parts, the sum or the ReLU may be absent.
///
/// The same bits as [`BatchNorm2d`], [`Add`] and [`crate::activation::Relu`] one after the other. Made by a rewrite of
/// a graph, never part of a model.
///
/// Shapes: `x` and `skip` `[N, C, H, W]` → `[N, C, H, W]`; parameters and buffers are those of the norm.
#[derive(Clone, Debug, PartialEq)]
pub struct NormAddRelu {
    /// The norm of the first input.
    pub norm: BatchNorm2d,
    /// Whether there is a second input to add.
    pub add: bool,
    /// Whether negative sums become 0.
    pub relu: bool,
}

impl Operator for NormAddRelu {
    fn name(&self) -> &'static str {
        match (self.add, self.relu) {
            (false, false) => "batch_norm2d",
            (false, true) => "batch_norm2d+relu",
            (true, false) => "batch_norm2d+add",
            (true, true) => "batch_norm2d+add+relu",
        }
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        match *inputs {
            [x, skip] if self.add => Add.infer(&[self.norm.infer(&[x])?, skip]),
            _ => self.norm.infer(inputs),
        }
    }

    fn params(&self) -> Vec<ParamSpec> {
        self.norm.params()
    }

    fn buffers(&self) -> Vec<ParamSpec> {
        self.norm.buffers()
    }

    fn saved_len(&self, inputs: &[Shape]) -> SavedLen {
        self.norm.saved_len(inputs)
    }

    fn backward_reads(&self) -> Reads {
        Reads { inputs: [true, false], output: self.relu }
    }

    fn scratch(&self, _inputs: &[Shape], _threads: usize) -> Scratch {
        passes::scratch(self.norm.channels)
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn recompute(&self, pass: Recompute<'_>) {
        passes::recompute(self.relu, pass);
    }

    fn forward(&self, pass: Forward<'_>) {
        passes::forward(&self.norm, self.relu, pass);
    }

    fn backward(&self, pass: Backward<'_>) {
        passes::backward(&self.norm, self.relu, pass);
    }
}

#[cfg(test)]
mod tests;
