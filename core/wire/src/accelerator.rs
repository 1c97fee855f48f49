//! Jobs for the accelerator and its replies.
//!
//! Everything the accelerator gets is in these messages. Either it holds a model, its public schedule, and one message per
//! record, trains on its own from there and streams logits back; or it holds convolutions of a model whose rest stays in the
//! enclave ([`crate::layers`]), and is sent what they are to be applied to.

use engine::{Augment, InputForm, OptimiserConfig, Schedule};
use model::Graph;
use serde::{Deserialize, Serialize};

use crate::layers::Outsourcing;

/// A set of records the accelerator holds messages of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RecordSet {
    Train,
    Test,
}

/// A model to hold and train, with its public schedule. The body holds its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    pub graph: Graph,
    pub input: InputForm,
    pub optimiser: OptimiserConfig,
    pub schedule: Schedule,
    pub augment: Augment,
    /// Seed of the public randomness: order, augmentation, dropout.
    pub seed: u64,
    /// Epoch of the run in which the schedule's epoch 0 lies.
    pub first_epoch: usize,
    pub batch_size: usize,
    pub train_records: usize,
    pub test_records: usize,
    /// Messages kept per training record; epoch `first_epoch + e` is trained on the one at place `e % views`.
    pub views: usize,
    pub threads: usize,
}

/// What the enclave asks for. The body of each is given in brackets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Job {
    /// First message of a session → [`Reply::Ready`].
    Hello { version: u32 },
    /// \[parameters; nothing where [`Job::Restore`] follows] → [`Reply::Done`].
    Load(Box<Load>),
    /// \[messages of `count` records from `first`, then, if `labels`, one u16 each] → [`Reply::Done`]. Puts them at place
    /// `view`, over what is there.
    Store { set: RecordSet, view: usize, first: usize, count: usize, labels: bool },
    /// Trains `steps` steps on stored records → one [`Reply::Logits`] per step, from before its update, then
    /// [`Reply::State`] if `snapshot`, then [`Reply::Done`].
    Train { epoch: usize, first_step: usize, steps: usize, quiet: bool, snapshot: bool },
    /// Logits of one step of training without its update → [`Reply::Logits`], [`Reply::Done`].
    Forward { epoch: usize, step: usize },
    /// \[gradient of each record's own loss with respect to its logits in the last [`Job::Forward`], `count × classes`
    /// numbers] The update of that step, by their mean → [`Reply::Done`].
    Backward,
    /// \[a state, as [`Reply::State`] gave it] → [`Reply::Done`].
    Restore { updates: u64 },
    /// → [`Reply::State`], [`Reply::Done`].
    Snapshot,
    /// Logits of stored records in evaluation mode → [`Reply::Logits`], [`Reply::Done`].
    Predict { set: RecordSet, first: usize, count: usize },
    /// \[messages] Logits of records that are not kept → [`Reply::Logits`], [`Reply::Done`].
    Answer { count: usize },
    /// Offers shared memory for bodies → [`Reply::Done`] if the session can have it; then its descriptor is sent along with one
    /// byte → [`Reply::Done`]. The enclave's bodies go into the first `outward` bytes after the header, the accelerator's into
    /// the rest.
    Share { outward: u64 },
    /// \[weights of all convolutions] → [`Reply::Done`].
    Outsource(Box<Outsourcing>),
    /// \[residuals of `records` records] → [`Reply::Products`], [`Reply::Done`].
    Convolve { layer: usize, slot: usize, records: usize },
    /// \[gradients of the products of one convolution] To be asked of all convolutions of a layer, from the last to the first;
    /// that of the first → [`Reply::InputGradients`]. Adds to the weights' gradients → [`Reply::Done`].
    Differentiate { layer: usize, conv: usize, slot: usize, records: usize },
    /// → [`Reply::WeightGradients`], [`Reply::Done`]. They begin at zero again.
    WeightGradients { layer: usize },
    /// \[weights of all convolutions of a layer] → [`Reply::Done`].
    Weights { layer: usize },
    /// Ends the session → [`Reply::Done`].
    Finish,
}

impl Job {
    /// Whether it is about the convolutions of a [`Job::Outsource`].
    pub fn is_of_layers(&self) -> bool {
        matches!(
            self,
            Job::Convolve { .. }
                | Job::Differentiate { .. }
                | Job::WeightGradients { .. }
                | Job::Weights { .. }
        )
    }

    /// The job's name in the boundary log.
    pub fn name(&self) -> &'static str {
        match self {
            Job::Hello { .. } => "hello",
            Job::Load(_) => "load",
            Job::Store { .. } => "store",
            Job::Train { .. } => "train",
            Job::Forward { .. } => "forward",
            Job::Backward => "backward",
            Job::Restore { .. } => "restore",
            Job::Snapshot => "snapshot",
            Job::Predict { .. } => "predict",
            Job::Answer { .. } => "answer",
            Job::Share { .. } => "share",
            Job::Outsource(_) => "outsource",
            Job::Convolve { .. } => "convolve",
            Job::Differentiate { .. } => "differentiate",
            Job::WeightGradients { .. } => "weight-gradients",
            Job::Weights { .. } => "weights",
            Job::Finish => "finish",
        }
    }
}

/// What the accelerator answers. Everything in it is untrusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Ready {
        version: u32,
        device: String,
    },
    /// \[`count × classes` numbers].
    Logits {
        step: usize,
        count: usize,
    },
    /// \[parameters, buffers, optimiser state].
    State {
        updates: u64,
    },
    /// \[for each convolution of the layer, what it makes of `records` records].
    Products {
        layer: usize,
        slot: usize,
        records: usize,
    },
    /// \[gradients of a layer's input].
    InputGradients {
        layer: usize,
        slot: usize,
        records: usize,
    },
    /// \[sums over all pieces since they were last asked for, 4 bytes per number].
    WeightGradients {
        layer: usize,
    },
    /// The job is finished; processor seconds the session has used so far, and seconds in which it had a job.
    Done {
        cpu_seconds: f64,
        busy_seconds: f64,
    },
    /// The job could not be done; why, in a sentence.
    Failed {
        why: String,
    },
}
