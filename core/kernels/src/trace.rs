//! Where time goes: stretches of work by a clock that is given from outside, for profiles.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// What is done. A part is a graph, by its place in the order in which its owner lists them, first all as they run in
/// training, then all as they run in inference; a node is one of its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Work {
    /// A whole training step.
    Step,
    /// Logits of the accelerator: waiting for them, and reading them.
    Wait,
    /// Records become the model's input.
    Assemble,
    Forward {
        part: u8,
        node: u32,
    },
    /// Gradients of one node, after what was not kept for them was computed again.
    Backward {
        part: u8,
        node: u32,
    },
    /// The optimiser's step.
    Update {
        part: u8,
    },
    /// The backbone's output into main part and residual.
    Split,
    SplitBackward,
    /// Logits of both parts together, the loss and its gradient.
    MergeAndLoss,
    /// Residuals into messages: clipping, noise, signs.
    Release,
}

/// One stretch of work, in seconds by the clock.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    pub work: Work,
    pub begin: f64,
    pub end: f64,
}

/// Collects spans, in the order in which they end.
pub(crate) struct Trace {
    pub(crate) clock: fn() -> f64,
    spans: Mutex<Vec<Span>>,
}

impl Trace {
    pub(crate) fn new(clock: fn() -> f64) -> Self {
        Trace { clock, spans: Mutex::default() }
    }

    pub(crate) fn end(&self, work: Work, begin: f64) {
        let end = (self.clock)();
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).push(Span { work, begin, end });
    }

    pub(crate) fn take(&self) -> Vec<Span> {
        std::mem::take(&mut *self.spans.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
