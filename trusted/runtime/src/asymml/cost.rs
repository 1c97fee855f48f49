//! What a convolution costs the trusted side, whole or split (flows.md, section 1): an estimate by which splits are chosen.

use kernels::conv2d::Conv2d;
use kernels::{Operator, ParamSpec};
use split::{ChannelSplit, Finding, SplitError};
use tensor::Shape;

/// Time for one record, in multiply-adds of a product whose operands are in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    /// Convolutions.
    pub(crate) products: f64,
    /// Principal channels found, projected, and taken off.
    pub(crate) split: f64,
    /// Kernels multiplied by a record's basis; a shared one is used by all records of a step.
    pub(crate) kernels: f64,
    /// Passes over memory that the split adds.
    pub(crate) memory: f64,
}

/// Multiply-adds in the time of a byte to or from memory: 90 billion a second beside 13 GB/s, as measured on one core.
const BYTE: f64 = 7.0;

/// Multiply-adds of a product in the time of one of the light method's, which are vectors times matrices.
const VECTORS: f64 = 3.0;

impl Cost {
    /// All in the enclave.
    pub(crate) fn whole(convs: &[Conv2d], [c, h, w]: [usize; 3]) -> Self {
        let input = Shape::from([c, h, w]).batched(1);
        Cost { products: convs.iter().map(|conv| conv.cost(input)).sum(), ..Cost::default() }
    }

    /// Split, with numbers that cross in two bytes.
    pub(crate) fn parted(
        convs: &[Conv2d],
        [c, h, w]: [usize; 3],
        finding: Finding,
        rank: usize,
    ) -> Result<Self, SplitError> {
        let split = ChannelSplit::new(finding, rank, Shape::from([c, h, w]))?;
        let low = Shape::from([rank, h, w]).batched(1);
        let narrow = |conv: &Conv2d| Conv2d { in_channels: rank, groups: 1, ..conv.clone() };
        let weights =
            |conv: &Conv2d| conv.params().first().map_or(0, |weight: &ParamSpec| weight.shape.len());
        let made =
            |conv: &Conv2d| conv.infer(&[Shape::from([c, h, w]).batched(1)]).map_or(0, |made| made.len());
        let found = split.macs() - (2 * rank * c * h * w) as u64;
        let vectors = if matches!(finding, Finding::Light { .. }) { VECTORS } else { 1.0 };
        let each = if finding == Finding::Shared { 0.0 } else { rank as f64 };
        Ok(Cost {
            products: convs.iter().map(|conv| narrow(conv).cost(low)).sum(),
            split: vectors * found as f64 + (2 * rank * c * h * w) as f64,
            kernels: each * convs.iter().map(weights).sum::<usize>() as f64,
            // X is read and its residual written; products are read, and put where the convolution adds to them.
            memory: BYTE * (6 * c * h * w + 10 * convs.iter().map(made).sum::<usize>()) as f64,
        })
    }

    pub(crate) fn total(&self) -> f64 {
        self.products + self.split + self.kernels + self.memory
    }
}
