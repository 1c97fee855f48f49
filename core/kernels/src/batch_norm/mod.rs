//! Batch normalisation over `[N, C, H, W]`.

pub(crate) mod passes;
pub(crate) mod statistics;

pub(crate) use self::statistics::inverse_deviation;

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::{Backward, Forward, Mode, Operator, ParamSpec, Reads, Recompute, SavedLen, Scratch, check};

/// Batch normalisation with affine parameters and running statistics, as PyTorch's `BatchNorm2d`.
///
/// In training, `y = (x − mean)/√(var + eps) · weight + bias` with the batch's mean and biased variance per channel; the
/// running variance takes the unbiased one. In evaluation, or frozen, the running statistics stand in for the batch's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm2d {
    /// Channels of the input.
    pub channels: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Weight of the new batch in the running statistics (PyTorch's convention).
    pub momentum: f32,
    /// Whether the running statistics stand in for the batch's in training too, and stay as they are: then no record's
    /// output depends on another's.
    pub frozen: bool,
}

impl BatchNorm2d {
    /// Whether this pass takes its statistics from the batch.
    pub(crate) fn learns(&self, mode: Mode) -> bool {
        matches!(mode, Mode::Train { .. }) && !self.frozen
    }

    /// PyTorch's defaults: eps 1e-5, momentum 0.1.
    pub fn new(channels: usize) -> Self {
        BatchNorm2d { channels, eps: 1e-5, momentum: 0.1, frozen: false }
    }
}

impl Operator for BatchNorm2d {
    fn name(&self) -> &'static str {
        if self.frozen { "frozen_norm2d" } else { "batch_norm2d" }
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let input = check::one("batch_norm2d", inputs)?;
        let [_, found, ..] = input.nchw("batch_norm2d")?;
        if found != self.channels {
            return Err(ShapeError::Channels { what: "batch_norm2d", expected: self.channels, found });
        }
        check::attribute("batch_norm2d channels", found, found > 0, "there must be one")?;
        let eps = self.eps.is_finite() && self.eps >= 0.0;
        check::attribute("batch_norm2d eps", 0, eps, "it must be finite and not negative")?;
        let momentum = (0.0..=1.0).contains(&self.momentum);
        check::attribute("batch_norm2d momentum", 0, momentum, "it must be from 0 to 1")?;
        Ok(input)
    }

    fn params(&self) -> Vec<ParamSpec> {
        ["weight", "bias"].map(|name| check::param(name, &[self.channels])).to_vec()
    }

    fn buffers(&self) -> Vec<ParamSpec> {
        ["running_mean", "running_var"].map(|name| check::param(name, &[self.channels])).to_vec()
    }

    /// Mean and `1/√(var + eps)` of the batch, per channel.
    fn saved_len(&self, _inputs: &[Shape]) -> SavedLen {
        SavedLen { floats: self.channels.saturating_mul(passes::SAVED), indices: 0 }
    }

    fn backward_reads(&self) -> Reads {
        Reads::INPUTS
    }

    fn scratch(&self, _inputs: &[Shape], _threads: usize) -> Scratch {
        passes::scratch(self.channels)
    }

    fn forward(&self, pass: Forward<'_>) {
        passes::forward(self, false, pass);
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn recompute(&self, pass: Recompute<'_>) {
        passes::recompute(false, pass);
    }

    fn backward(&self, pass: Backward<'_>) {
        passes::backward(self, false, pass);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;
