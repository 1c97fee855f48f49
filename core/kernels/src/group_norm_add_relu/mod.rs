//! Group normalisation, residual connection and ReLU in one pass over memory.

use tensor::{Shape, ShapeError};

use crate::add::Add;
use crate::group_norm::{GroupNorm, passes};
use crate::{Backward, Forward, Operator, ParamSpec, Reads, Recompute, SavedLen, Scratch};

/// `y = relu(norm(x) + skip)`; of its three parts, the sum or the ReLU may be absent.
///
/// The same bits as [`GroupNorm`], [`Add`] and [`crate::activation::Relu`] one after the other. Made by a rewrite of a
/// graph, never part of a model.
///
/// Shapes: `x` and `skip` `[N, C, H, W]` → `[N, C, H, W]`; parameters are those of the norm.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNormAddRelu {
    /// The norm of the first input.
    pub norm: GroupNorm,
    /// Whether there is a second input to add.
    pub add: bool,
    /// Whether negative sums become 0.
    pub relu: bool,
}

impl Operator for GroupNormAddRelu {
    fn name(&self) -> &'static str {
        match (self.add, self.relu) {
            (false, false) => "group_norm",
            (false, true) => "group_norm+relu",
            (true, false) => "group_norm+add",
            (true, true) => "group_norm+add+relu",
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

    fn saved_len(&self, inputs: &[Shape]) -> SavedLen {
        self.norm.saved_len(inputs)
    }

    fn backward_reads(&self) -> Reads {
        Reads { inputs: [true, false], output: self.relu }
    }

    fn scratch(&self, inputs: &[Shape], _threads: usize) -> Scratch {
        passes::scratch(&self.norm, inputs)
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn recompute(&self, pass: Recompute<'_>) {
        passes::recompute(&self.norm, self.relu, pass);
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
