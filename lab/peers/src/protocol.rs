//! What the benchmark and its peers say to each other: one JSON object per line.

use model::Graph;
use serde::{Deserialize, Serialize};

/// What is asked of a peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Builds a case and runs it once, unmeasured → [`Reply::Ready`] or [`Reply::Unsupported`].
    Prepare(Box<Case>),
    /// Runs the case once → [`Reply::Took`].
    Run,
}

/// What a peer answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// The first line of every peer, unasked.
    Hello {
        version: String,
    },
    /// The first run's [`Case`] figure, by which all peers are known to compute the same.
    Ready {
        figure: f64,
    },
    Unsupported {
        reason: String,
    },
    /// Seconds by the clock, and of this process's processor time.
    Took {
        wall: f64,
        cpu: f64,
    },
}

/// Something to measure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Case {
    /// Such as `conv-64-64-32-3`.
    pub(crate) name: String,
    /// A whole model, or one convolution.
    pub(crate) graph: Graph,
    pub(crate) batch: usize,
    pub(crate) pass: Pass,
}

/// What one repetition does. The figure is that of the first run, on the weights and inputs of [`crate::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pass {
    /// One operator. Figure: mean of |y|.
    Forward,
    /// One operator, then dx and dw for a given dy. Figure: mean of |dw|.
    ForwardBackward,
    /// A model in evaluation mode, without gradients. Figure: mean of |logits|.
    Inference,
    /// Forward, softmax cross-entropy, backward, SGD with momentum. Figure: the loss.
    Training,
}

impl Pass {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::ForwardBackward => "forward+backward",
            Pass::Inference => "inference",
            Pass::Training => "training",
        }
    }

    /// Products of the size of the forward pass: one forward, one for each gradient.
    pub(crate) fn products(self) -> u64 {
        match self {
            Pass::Forward | Pass::Inference => 1,
            Pass::ForwardBackward | Pass::Training => 3,
        }
    }
}

impl Case {
    /// `conv-64-64-32-3/forward`.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.name, self.pass.name())
    }

    /// Floating-point operations of one run by the definition of its products: two for each multiply-add. What an algorithm
    /// saves (Winograd) counts for it. The first layer's input gradient, which training leaves out, is not subtracted.
    pub(crate) fn operations(&self) -> f64 {
        (2 * self.graph.macs() * self.batch as u64 * self.pass.products()) as f64
    }

    /// Whether every peer must find the same figure: not where dropout draws its own numbers.
    pub(crate) fn has_figure(&self) -> bool {
        let drops = self.graph.nodes().iter().any(|node| matches!(node.op, kernels::Op::Dropout(_)));
        self.pass != Pass::Training || !drops
    }
}
