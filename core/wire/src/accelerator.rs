//! Jobs for the accelerator and its replies.
//!
//! Everything the accelerator gets is in these messages: a model, its public schedule, and one message per record. It
//! trains on its own from there and streams logits back.

use engine::{Augment, InputForm, OptimiserConfig, Schedule};
use model::Graph;
use serde::{Deserialize, Serialize};

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
    /// Ends the session → [`Reply::Done`].
    Finish,
}

impl Job {
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
    /// The job is finished; processor seconds the session has used so far.
    Done {
        cpu_seconds: f64,
    },
    /// The job could not be done; why, in a sentence.
    Failed {
        why: String,
    },
}
