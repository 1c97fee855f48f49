//! Which values are split, and how.

use kernels::{Fused, Op};
use model::{Graph, Node, ValueId};
use serde::{Deserialize, Serialize};
use split::Finding;

/// The splits of a model, in the order in which their values are made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Placements {
    pub(crate) splits: Vec<Split>,
}

/// A value that is split, with all convolutions that read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Split {
    pub(crate) finding: Finding,
    pub(crate) rank: usize,
    /// Names of the convolutions.
    pub(crate) convs: Vec<String>,
}

/// A value that could be split.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) value: ValueId,
    /// `[C, H, W]`.
    pub(crate) shape: [usize; 3],
    /// The convolutions that read it, as nodes of the graph.
    pub(crate) convs: Vec<usize>,
}

/// Every value that convolutions read, but for the images themselves, in order.
pub(crate) fn candidates(graph: &Graph) -> Vec<Candidate> {
    let candidate = |value: ValueId| {
        let is_conv = |&n: &usize| matches!(graph.nodes()[n].op, Op::Conv2d(_));
        let convs: Vec<usize> = graph.consumers(value).filter(is_conv).collect();
        let shape = graph.shape(value, 1).record();
        let shape = shape.dims().try_into().ok().filter(|_| !convs.is_empty())?;
        Some(Candidate { value, shape, convs })
    };
    (1..graph.values()).map(ValueId).filter_map(candidate).collect()
}

/// Name of the convolution of a node, which may be fused with what follows it.
pub(crate) fn conv_name(node: &Node) -> Option<&str> {
    match &node.op {
        Op::Conv2d(_) => Some(&node.name),
        // The first part has its whole name.
        Op::Fused(Fused::ConvNormRelu(_)) => node.name.split('+').next(),
        _ => None,
    }
}

impl Placements {
    /// The split that a convolution takes part in, and its number among the split's convolutions.
    pub(crate) fn of(&self, conv: &str) -> Option<(usize, usize)> {
        let found =
            |(i, split): (usize, &Split)| Some((i, split.convs.iter().position(|name| name == conv)?));
        self.splits.iter().enumerate().find_map(found)
    }
}
