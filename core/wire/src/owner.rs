//! Requests of the data owner's client to its enclave, and the enclave's events.
//!
//! This link carries private data in the clear: it exists only inside one machine (an inherited socket) or, later,
//! inside an attested session.

use std::path::PathBuf;

use engine::Precision;
use engine::trace::Span;
use model::Graph;
use serde::{Deserialize, Serialize};

use crate::accelerator::RecordSet;
use crate::spec::{Accelerator, RunSpec};

/// What the client asks for. The body of each is given in brackets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// \[parameters of the graph] Starts a run in an empty run directory → [`Event::Opened`].
    Create { version: u32, directory: PathBuf, key: PathBuf, spec: Box<RunSpec> },
    /// Opens an existing run directory → [`Event::Opened`]. `accelerator` replaces the stored one.
    Open { version: u32, directory: PathBuf, key: PathBuf, accelerator: Accelerator },
    /// \[`count` records of C·H·W bytes, then one u16 label each]; no answer.
    Records { set: RecordSet, count: usize, total: usize },
    /// \[parameters of the graph, then any number of records of C·H·W bytes, to measure energy on] → [`Event::Plan`]. Needs
    /// no directory. `records`: how many a run would hold, for training and for tests.
    Plan { version: u32, spec: Box<RunSpec>, records: [usize; 2] },
    /// Trains until the end or until [`Request::Stop`] → many events, then [`Event::Trained`] or [`Event::Stopped`]; with
    /// `profile`, [`Event::Profile`] among them.
    Train { profile: bool },
    /// → [`Event::Evaluated`].
    Evaluate,
    /// \[`count` records of C·H·W bytes] → [`Event::Predictions`].
    Infer { count: usize },
    /// → one [`Event::Part`] per part of the trained model, then [`Event::Finished`].
    Export,
    /// Stops training at the next step, with a checkpoint.
    Stop,
    /// Shows the first `count` training records as the accelerator saw them → [`Event::Pictures`]. Needs all training
    /// records, by which their charge is found; charges nothing and sends nothing to the accelerator.
    Pictures { count: usize },
}

/// What the enclave reports. The body of each is given in brackets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The run is open. `steps_done` counts the steps already in its last checkpoint.
    Opened {
        spec: Box<RunSpec>,
        steps_done: usize,
    },
    Plan(Plan),
    /// Something a person should read.
    Note {
        text: String,
    },
    /// A stage begins: 1 is the trusted part alone, 2 is both parts; flows of one stage have only that one.
    Stage {
        name: String,
        epochs: usize,
        steps_per_epoch: usize,
        /// Processor seconds of the trusted process so far, from the operating system.
        trusted_cpu_seconds: f64,
    },
    /// The accelerator has its model. Once a session, before any message.
    Connected {
        /// Processor seconds of the trusted process that this took.
        trusted_cpu_seconds: f64,
    },
    /// Messages of records left for the accelerator.
    Released {
        set: RecordSet,
        records: usize,
        total: usize,
        epsilon: Option<f64>,
    },
    /// What the worst record has spent after steps that are each charged.
    Spent {
        epsilon: Option<f64>,
    },
    Step(Step),
    Epoch(Epoch),
    Profile(Profile),
    /// A checkpoint is on disk.
    Checkpoint {
        steps_done: usize,
    },
    Trained(Summary),
    /// Stopped as asked; `train --resume` goes on from here.
    Stopped {
        steps_done: usize,
    },
    Evaluated(Summary),
    /// \[`count × classes` merged logits].
    Predictions {
        count: usize,
        classes: usize,
        degraded: Option<String>,
        epsilon: Option<f64>,
    },
    /// \[parameters] One trained graph.
    Part {
        name: String,
        graph: Box<Graph>,
    },
    Finished,
    /// The request failed; whose fault, and a sentence.
    Failed {
        kind: FailureKind,
        message: String,
    },
    /// \[for each record its main part and its residual, H·W numbers each; then the message of each released record, one
    /// bit per number] Private: for the owner alone.
    Pictures(Pictures),
}

/// What [`Event::Pictures`] shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pictures {
    /// Height and width of main part and residual, both as means over the channels of the split map.
    pub map: [usize; 2],
    /// Channels, height and width of the bits that leave.
    pub bits: [usize; 3],
    /// By record: whether its message was made for the accelerator.
    pub released: Vec<bool>,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The configuration or the request.
    Request,
    /// A release the privacy rules refuse.
    Privacy,
    /// The accelerator: dead, late, or answering wrongly.
    Accelerator,
    /// Files of the run directory.
    Storage,
}

/// One training step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Steps done in the run, this one included.
    pub steps_done: usize,
    pub epoch: usize,
    pub records: usize,
    /// Mean loss of the batch in nats, and the number of its records classified rightly, from before the update.
    pub loss: f32,
    pub correct: usize,
    pub rate: f32,
    /// Processor seconds of the trusted process so far, from the operating system.
    pub trusted_cpu_seconds: f64,
}

/// Where the trusted side's time goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Profile {
    /// Name and graph of each part, before the first spans; nodes are counted in the graphs as they run.
    Graphs(Vec<(String, Graph)>),
    /// All of one step, with its number of records; or of what was done since the last one.
    Spans { step: Option<usize>, spans: Vec<Span> },
}

/// One finished epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    pub steps_done: usize,
    /// Epochs done, this one included.
    pub epoch: usize,
    pub train_loss: f64,
    pub train_accuracy: f64,
    /// On the test records, where there are any.
    pub test: Option<Scores>,
}

/// Quality on a set of records, as fractions in [0, 1].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub records: usize,
    pub loss: f64,
    pub accuracy: f64,
    /// `None` where there is no trusted part.
    pub accuracy_trusted_only: Option<f64>,
}

/// What a run came to: the fields of `--json` and `summary.json` that the enclave knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub flow: String,
    pub model: String,
    pub epochs: usize,
    pub scores: Option<Scores>,
    /// Processor seconds of the trusted process, from the operating system, and of the accelerator's session.
    pub trusted_cpu_seconds: f64,
    pub untrusted_cpu_seconds: f64,
    /// Seconds in which the accelerator had a job, where it computes layer by layer.
    pub untrusted_busy_seconds: f64,
    /// Training records processed (records × epochs), or records evaluated.
    pub images: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
    /// Precision of the trusted side's products, and the instructions that made them.
    pub precision: Precision,
    pub instructions: String,
    /// What the plan says the trusted side holds at most.
    pub peak_trusted_bytes: u64,
    /// The largest resident memory of the trusted process, program and libraries included, from the operating system.
    pub resident_trusted_bytes: u64,
    /// Per record, replace-one; `None` where nothing is guaranteed.
    pub epsilon: Option<f64>,
    pub delta: Option<f64>,
    pub not_covered: Vec<String>,
    pub conditions: Vec<String>,
    /// Why the trusted part answered alone, if it did.
    pub degraded: Option<String>,
}

/// How a model would be split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub layers: Vec<PlannedLayer>,
    /// Precision of the trusted side's products, and the instructions that would make them here.
    pub precision: Precision,
    pub instructions: String,
    /// Bytes that the trusted side holds at most while training.
    pub peak_trusted_bytes: u64,
    /// What they are made of.
    pub memory: Vec<PlannedMemory>,
    /// Where most activations and gradients are alive, such as `resnet18 layer1.0.conv1, backward`.
    pub peak_step: String,
    /// Whether cheap activations are computed again, to fit the budget.
    pub recompute: bool,
    /// Of the `asymml` flow: what the trusted side's convolutions would cost, by energy.
    pub energy_costs: Vec<EnergyCost>,
    /// Noise multiplier-free description of each release, and the information bound in bits per record.
    pub releases: Vec<PlannedRelease>,
}

/// Cost at one energy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EnergyCost {
    /// Part of each layer's energy that stays.
    pub energy: f64,
    /// Estimated time of all convolutions on the trusted side, as a share of that without splits.
    pub cost: f64,
}

/// A part of the memory that the trusted side holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlannedMemory {
    pub name: String,
    pub bytes: u64,
}

/// One node of the rewritten graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlannedLayer {
    /// Part of the model (`model`, `backbone`, `split`, `main`, `residual`, `merge`) and PyTorch's module path.
    pub part: String,
    pub name: String,
    pub op: String,
    pub placement: String,
    /// How principal channels are found, where there is a choice.
    pub method: Option<String>,
    pub rank: Option<usize>,
    pub energy: Option<f64>,
    pub entropy: Option<f64>,
    /// What the entropy of the last layer lets expect of this one's.
    pub entropy_bound: Option<f64>,
    /// Estimated time on the trusted side, as a share of that of the whole layer there.
    pub cost: Option<f64>,
    pub trusted_macs: u64,
    pub untrusted_macs: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
}

/// One kind of release of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlannedRelease {
    pub kind: String,
    pub class: String,
    pub numbers: usize,
    pub bytes: usize,
    pub epsilon: Option<f64>,
    pub sigma: Option<f64>,
    /// Most a message can tell, in bits (privacy.md, "How much can leave at all").
    pub information_bits: Option<f64>,
}
