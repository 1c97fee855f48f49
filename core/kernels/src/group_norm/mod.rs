//! Group normalisation over `[N, C, H, W]`.

pub(crate) mod passes;

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::{Backward, Forward, Operator, ParamSpec, Reads, Recompute, SavedLen, Scratch, check};

/// Most groups that [`GroupNorm::for_channels`] makes (Wu & He 2018).
const MOST_GROUPS: usize = 32;

/// Group normalisation with affine parameters per channel, as PyTorch's `GroupNorm`.
///
/// `y = (x − mean)/√(var + eps) · weight + bias` with mean and biased variance of each group of neighbouring channels of
/// each record: no record's output depends on another's, in training as in evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupNorm {
    /// Groups, each of the same number of channels.
    pub groups: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl GroupNorm {
    /// PyTorch's default eps, 1e-5.
    pub fn new(groups: usize, channels: usize) -> Self {
        GroupNorm { groups, channels, eps: 1e-5 }
    }

    /// As many groups as divide the channels, up to 32, with at least two channels in each: of one channel alone the norm
    /// would forget how large it is. One group where nothing else divides.
    pub fn for_channels(channels: usize) -> Self {
        let most = MOST_GROUPS.min(channels / 2).max(1);
        let groups = (1..=most).rev().find(|groups| channels.is_multiple_of(*groups)).unwrap_or(1);
        GroupNorm::new(groups, channels)
    }
}

impl Operator for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let input = check::one("group_norm", inputs)?;
        let [_, found, ..] = input.nchw("group_norm")?;
        if found != self.channels {
            return Err(ShapeError::Channels { what: "group_norm", expected: self.channels, found });
        }
        check::attribute("group_norm channels", found, found > 0, "there must be one")?;
        let divides = self.groups > 0 && found.is_multiple_of(self.groups);
        check::attribute("group_norm groups", self.groups, divides, "they must divide the channels")?;
        let eps = self.eps.is_finite() && self.eps >= 0.0;
        check::attribute("group_norm eps", 0, eps, "it must be finite and not negative")?;
        Ok(input)
    }

    fn params(&self) -> Vec<ParamSpec> {
        ["weight", "bias"].map(|name| check::param(name, &[self.channels])).to_vec()
    }

    /// Mean and `1/√(var + eps)` of every record's groups.
    fn saved_len(&self, inputs: &[Shape]) -> SavedLen {
        passes::saved_len(self, inputs)
    }

    fn backward_reads(&self) -> Reads {
        Reads::INPUTS
    }

    fn scratch(&self, inputs: &[Shape], _threads: usize) -> Scratch {
        passes::scratch(self, inputs)
    }

    fn forward(&self, pass: Forward<'_>) {
        passes::forward(self, false, pass);
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn recompute(&self, pass: Recompute<'_>) {
        passes::recompute(self, false, pass);
    }

    fn backward(&self, pass: Backward<'_>) {
        passes::backward(self, false, pass);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;
