//! What a run is: everything the enclave must know, resolved and without defaults.

use std::path::PathBuf;

pub use accounting::NoiseShare;
use engine::Precision;
use engine::{Augment, OptimiserConfig, Schedule};
use kernels::compact::Format;
use model::Graph;
use serde::{Deserialize, Serialize};

/// A whole run, as the client resolved it from RUN.toml.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The model as the user named it, before any flow rewrites it.
    pub graph: Graph,
    pub flow: Flow,
    pub privacy: Privacy,
    pub train: Train,
    pub threads: usize,
    /// Of the trusted side's products.
    pub precision: Precision,
    /// Largest peak of the trusted process the plan may have, in bytes.
    pub memory: Option<u64>,
    pub accelerator: Accelerator,
}

/// Where the nodes of the graph run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Flow {
    /// Everything on the accelerator.
    Plain,
    /// Everything in the enclave.
    Enclave,
    /// A split before every convolution that pays.
    Asymml(Asymml),
    /// One split, two flows.
    Delta(Delta),
    /// Everything on the accelerator, on images that were clipped and noised.
    DpInput,
}

impl Flow {
    /// The flow's name in RUN.toml.
    pub fn name(&self) -> &'static str {
        match self {
            Flow::Plain => "plain",
            Flow::Enclave => "enclave",
            Flow::Asymml(_) => "asymml",
            Flow::Delta(_) => "delta",
            Flow::DpInput => "dp-input",
        }
    }
}

/// The `asymml` flow (flows.md section 1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asymml {
    pub ranks: Ranks,
    /// Whether only half of the principal channels stay (the papers' Asym2).
    pub half: bool,
    /// How principal channels are found; `None`: for each layer the cheapest way.
    pub finding: Option<Finding>,
    /// How residuals cross, and how products and gradients do.
    pub residuals: Format,
    pub products: Format,
    /// Who computes what needs the gradients of outputs.
    pub backward: Side,
    /// Records in a piece of a batch; `None`: a quarter of it.
    pub piece: Option<usize>,
    /// Records that ranks and bases are found on.
    pub calibration: usize,
    /// How noise is shared out among layers, where there is some.
    pub noise: NoiseShare,
}

/// How many principal channels of each value stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ranks {
    /// As few as keep this part of the energy.
    Energy(f64),
    /// As in the authors' code.
    Authors,
    /// One number for each value that convolutions read, in order, but for the images; 0: no split.
    List(Vec<usize>),
}

/// How principal channels are found in the `asymml` flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    Light {
        iterations: usize,
    },
    Subspace {
        iterations: usize,
    },
    Shared,
    /// Slow, for tests.
    Exact,
}

/// Where something is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    Accelerator,
    Enclave,
}

/// The `delta` flow (flows.md section 2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// Principal channels kept in the enclave.
    pub rank: usize,
    pub decomposition: Decomposition,
    /// Side of a DCT block, and of its kept corner; both 1: no spatial split.
    pub block: usize,
    pub keep: usize,
    pub shape: ReleaseShape,
    /// Factor on the widths of the derived main model.
    pub width: f32,
    /// Epochs of stage 1 (backbone and main model alone).
    pub stage1_epochs: usize,
    /// Weight of `‖WWᵀ − I‖²` over the main model's convolutions; 0 is off.
    pub orthogonality: f32,
    /// Weight in [0, 1] of the main model's own loss in stage 2, beside that of the merged logits; it keeps the trusted
    /// part good alone.
    pub own_loss: f32,
}

/// How principal channels are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decomposition {
    /// Algorithm 1, so many alternations per channel.
    Light { iterations: usize },
    /// Exact SVD; slow, for tests.
    Exact,
}

/// The shape `S` in which a residual leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReleaseShape {
    /// `[C, H, W]`.
    Full,
    /// Mean over channels, `[1, H, W]`.
    Mean,
    /// Mean over channels, p×p averages, `[1, p, p]`.
    Pooled(usize),
}

/// What is promised, and what may leave without a promise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Privacy {
    pub protection: Protection,
    /// δ of the guarantee.
    pub delta: f64,
    /// L2 clipping norm of one record's residual, or image.
    pub clip: Clip,
    pub release: Release,
    pub labels: Labels,
    /// UNPROTECTED kinds let through by name.
    pub allow: Vec<String>,
}

/// Where the clipping norm comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Clip {
    /// Given by hand.
    Norm(f64),
    /// A private quantile of the training records' norms, charged to each of them.
    Quantile { quantile: f64, epsilon: f64 },
}

/// How often a training record's residual leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Release {
    /// So many views of each record, each once before the accelerator starts; 1 is the record itself.
    Views(u32),
    /// A fresh view of each record for every epoch.
    PerStep,
}

/// What the accelerator learns of labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Labels {
    /// They leave as they are: UNPROTECTED.
    Public,
    /// After randomised response with this ε.
    Randomised { epsilon: f64 },
    /// Not at all: it gets noised gradients of this clipping norm, which together cost this ε.
    Withheld { epsilon: f64, clip: f64 },
}

/// How strong the noise on releases is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Protection {
    /// Noise calibrated so that everything released about a record stays within this ε (replace-one neighbours).
    Epsilon(f64),
    /// No noise on residuals: they are UNPROTECTED and must be allowed by name.
    NoNoise,
    /// The flow releases nothing.
    NothingReleased,
}

/// How the model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Train {
    pub epochs: usize,
    pub batch_size: usize,
    pub schedule: Schedule,
    pub optimiser: OptimiserConfig,
    pub augment: Augment,
    /// Public normalisation of pixels in [0, 1], per channel.
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
    /// Seed of the public randomness.
    pub seed: u64,
    /// Steps between checkpoints; there is always one at the end of an epoch.
    pub checkpoint_steps: Option<usize>,
}

/// The accelerator and how it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accelerator {
    /// `None`: the flow or the command needs none.
    pub address: Option<Address>,
    pub threads: usize,
    /// A reply that takes longer is an error.
    pub timeout_seconds: f64,
    /// Whether the trusted part goes on alone when the accelerator is gone.
    pub on_failure: OnFailure,
}

/// What to do when the accelerator fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    /// Stop with an error; a run can be resumed.
    Stop,
    /// Go on with the trusted part alone, and say so.
    Degrade,
}

/// Where the accelerator listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    Unix(PathBuf),
    Tcp(String),
}
