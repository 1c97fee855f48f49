use std::path::{Path, PathBuf};

use engine::Precision;
use serde::{Deserialize, Serialize};
use wire::layers::Format;
use wire::spec::NoiseShare;

/// A whole RUN.toml. `None` stands for a default that depends on something else and is filled in when the run starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub model: Model,
    pub data: Data,
    pub flow: Flow,
    #[serde(default)]
    pub privacy: Privacy,
    #[serde(default)]
    pub train: Train,
    #[serde(default)]
    pub trusted: Trusted,
    #[serde(default)]
    pub accelerator: Accelerator,
}

/// `[model]`: an architecture by name, or an ONNX file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    pub architecture: Option<String>,
    pub onnx: Option<PathBuf>,
    /// safetensors file with PyTorch's names; default: fresh parameters, or those of the ONNX file.
    pub weights: Option<PathBuf>,
    /// Default: as many as the data has.
    pub classes: Option<usize>,
    pub norm: Norm,
}

/// What stands in the place of every batch norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// Batch norm itself.
    #[default]
    Batch,
    /// Group norm with the same weights: records do not couple.
    Group,
    /// Batch norm by its running statistics, also in training: for pre-trained models.
    Frozen,
}

/// `[data]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub format: String,
    /// Needed by every format but `synthetic`.
    pub path: Option<PathBuf>,
    /// `flip`, and `cropN` for a crop padded by N pixels.
    #[serde(default)]
    pub augment: Vec<String>,
    /// Default: the published numbers of the format.
    pub normalise: Option<Normalise>,
    pub resize: Option<usize>,
    pub crop: Option<usize>,
    /// At most so many records are used; of `synthetic`, so many are drawn.
    pub train_records: Option<usize>,
    pub test_records: Option<usize>,
    /// Seed of `synthetic`; 0 by default.
    pub seed: Option<u64>,
}

/// Public constants by channel, for pixels in [0, 1].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalise {
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

/// `[flow]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    pub kind: String,
    pub preset: Option<String>,
    /// Principal channels kept by the trusted side.
    #[serde(default = "rank")]
    pub rank: usize,
    /// Default: `light` with `delta`, with `asymml` for each layer the cheapest.
    pub decomposition: Option<Decomposition>,
    /// `asymml`: part of the energy of each layer's input that stays; 0.97 if neither this nor `ranks` is given.
    pub energy: Option<f64>,
    /// `asymml`: principal channels that stay, by hand.
    pub ranks: Option<Ranks>,
    /// `asymml`: `half` keeps half of the principal channels.
    pub leak: Option<Leak>,
    /// `asymml`: how residuals cross, and how products and gradients do.
    #[serde(default)]
    pub residuals: Format,
    #[serde(default)]
    pub products: Format,
    /// `asymml`: who computes the gradients of convolutions.
    #[serde(default)]
    pub backward: Side,
    /// `asymml`: records in a piece of a batch; default: a quarter of it.
    pub micro_batch: Option<usize>,
    /// `asymml` with noise: how it is shared out among layers, `equal` or `least-error`.
    #[serde(default)]
    pub noise_share: NoiseShare,
    /// `asymml`: records that ranks and bases are found on.
    #[serde(default = "calibration")]
    pub calibration: usize,
    /// Alternations per channel of the light decomposition, or of the subspace.
    #[serde(default = "iterations")]
    pub iterations: usize,
    /// Default: the largest even divisor of both sides of the split map, up to 16.
    pub dct_block: Option<usize>,
    /// Default: half of `dct_block`.
    pub dct_keep: Option<usize>,
    /// `full`, `mean` or `pooled:P`.
    #[serde(default = "shape")]
    pub shape: String,
    /// Factor on the widths of the main model.
    #[serde(default = "one")]
    pub main_width: f32,
    /// Epochs of the trusted part alone; default: the first third.
    pub stage1_epochs: Option<usize>,
    /// Weight of the orthogonality penalty on the main model; 0 is off.
    #[serde(default)]
    pub orthogonality: f32,
    /// Weight of the main model's own loss in stage 2, beside that of the merged logits; 0 is off.
    #[serde(default = "half")]
    pub own_loss: f32,
}

/// How principal channels are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decomposition {
    Light,
    Subspace,
    Shared,
    Exact,
}

/// Ranks given by hand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"authors\", or one number for each split, such as [4, 16, 16, 32]")]
pub enum Ranks {
    Named(NamedRanks),
    /// One for each value that convolutions read, in the model's order, but for the images; 0: no split.
    List(Vec<usize>),
}

/// Ranks by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedRanks {
    /// Those of the authors' code.
    Authors,
}

/// How much more leaves than the ranks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leak {
    /// Half of the principal channels (Asym2).
    Half,
}

/// Where gradients of convolutions are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    #[default]
    Accelerator,
    Enclave,
}

/// `[privacy]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Privacy {
    pub epsilon: Option<f64>,
    /// 0.0 for no noise at all; nothing else.
    pub noise: Option<f64>,
    pub delta: f64,
    /// L2 clipping norm of one record's residual, or image.
    pub clip: Clip,
    /// How often a training record's residual leaves.
    pub release: Release,
    /// Views of each record that leave, with `release = "once"`; 1 is the record itself.
    pub views: u32,
    pub labels: Labels,
    /// ε of what leaves in place of labels, with `labels = "randomised"` or `"withheld"`; a part of `epsilon`.
    pub label_epsilon: Option<f64>,
    /// L2 clipping norm of one record's gradient, with `labels = "withheld"`.
    pub gradient_clip: f64,
    /// Kinds of unprotected messages let through by name.
    pub allow: Vec<String>,
}

/// Where the clipping norm comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or { quantile = 0.5, epsilon = 0.1 }")]
pub enum Clip {
    /// Given by hand.
    Norm(f64),
    /// A private quantile of the training records' norms, which costs each of them this ε, a part of `epsilon`.
    Quantile(Quantile),
}

/// `clip = { quantile = 0.5, epsilon = 0.1 }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantile {
    pub quantile: f64,
    pub epsilon: f64,
}

/// How often a training record's residual leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Release {
    /// Each of `views` views once, before the accelerator starts.
    #[default]
    Once,
    /// A fresh augmented view of each record for every epoch.
    PerStep,
}

/// What the accelerator learns of labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    #[default]
    Public,
    Randomised,
    Withheld,
}

/// `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    pub epochs: usize,
    pub batch_size: usize,
    /// Default: 0.1 with `sgd`, 0.001 with `adamw`.
    pub learning_rate: Option<f64>,
    pub optimiser: Optimiser,
    pub momentum: f32,
    pub nesterov: bool,
    /// Default: 5e-4 with `sgd`, 0.01 with `adamw`.
    pub weight_decay: Option<f32>,
    pub schedule: Schedule,
    /// Where the cosine ends.
    pub min_rate: f64,
    /// Epochs at which the step schedule multiplies by `gamma`.
    pub milestones: Vec<usize>,
    pub gamma: f64,
    pub warmup_epochs: usize,
    /// Seed of the public randomness: initial parameters, order, augmentation, dropout.
    pub seed: u64,
    /// Steps between checkpoints; there is always one after an epoch.
    pub checkpoint_steps: Option<usize>,
}

/// Update rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimiser {
    #[default]
    Sgd,
    AdamW,
}

/// How the learning rate falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    #[default]
    Cosine,
    Step,
    Constant,
}

/// `[trusted]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trusted {
    #[serde(rename = "where")]
    pub place: String,
    /// Largest peak the plan may have, such as `128 MiB`.
    pub memory: Option<String>,
    pub threads: usize,
    /// Of the operands of convolutions and linear layers.
    pub precision: Precision,
    /// File of the job key; default: `job.key` in the run directory.
    pub key: Option<PathBuf>,
}

/// `[accelerator]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Accelerator {
    /// `spawn:cpu`, `unix:PATH` or `tcp:HOST:PORT`.
    pub address: String,
    /// Default: the processors the trusted side leaves.
    pub threads: Option<usize>,
    /// Seconds after which a reply is late.
    pub timeout: f64,
    pub on_failure: OnFailure,
}

/// What to do when the accelerator fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    #[default]
    Stop,
    Degrade,
}

impl Config {
    /// A configuration without a file: the defaults of RUN.toml, and no data.
    pub fn new(model: Model, flow: &str) -> Self {
        Config {
            model,
            data: Data::default(),
            flow: Flow::new(flow),
            privacy: Privacy::default(),
            train: Train::default(),
            trusted: Trusted::default(),
            accelerator: Accelerator::default(),
        }
    }

    /// Makes relative paths absolute, seen from `folder`.
    pub(super) fn anchor(&mut self, folder: &Path) {
        let paths =
            [&mut self.model.onnx, &mut self.model.weights, &mut self.data.path, &mut self.trusted.key];
        for path in paths.into_iter().flatten() {
            *path = folder.join(&*path);
        }
        if let Some(path) = self.accelerator.address.strip_prefix("unix:") {
            self.accelerator.address = format!("unix:{}", folder.join(path).display());
        }
    }
}

impl Flow {
    /// A flow with the defaults of RUN.toml.
    pub fn new(kind: &str) -> Self {
        Flow {
            kind: kind.to_owned(),
            preset: None,
            rank: rank(),
            decomposition: None,
            energy: None,
            ranks: None,
            leak: None,
            residuals: Format::default(),
            products: Format::default(),
            backward: Side::default(),
            micro_batch: None,
            noise_share: NoiseShare::default(),
            calibration: calibration(),
            iterations: iterations(),
            dct_block: None,
            dct_keep: None,
            shape: shape(),
            main_width: one(),
            stage1_epochs: None,
            orthogonality: 0.0,
            own_loss: half(),
        }
    }

    /// Whether the whole model runs on the accelerator.
    pub fn is_outsourced(&self) -> bool {
        matches!(self.kind.as_str(), "plain" | "dp-input")
    }

    /// Whether records leave as released messages.
    pub fn releases(&self) -> bool {
        matches!(self.kind.as_str(), "asymml" | "delta" | "dp-input")
    }
}

impl Default for Privacy {
    fn default() -> Self {
        Privacy {
            epsilon: None,
            noise: None,
            delta: 1e-5,
            clip: Clip::Norm(2.0),
            release: Release::Once,
            views: 1,
            labels: Labels::Public,
            label_epsilon: None,
            gradient_clip: 1.0,
            allow: vec![],
        }
    }
}

impl Default for Train {
    fn default() -> Self {
        Train {
            epochs: 30,
            batch_size: 128,
            learning_rate: None,
            optimiser: Optimiser::Sgd,
            momentum: 0.9,
            nesterov: false,
            weight_decay: None,
            schedule: Schedule::Cosine,
            min_rate: 0.0,
            milestones: vec![],
            gamma: 0.1,
            warmup_epochs: 0,
            seed: 0,
            checkpoint_steps: None,
        }
    }
}

impl Default for Trusted {
    fn default() -> Self {
        Trusted {
            place: "this-machine".into(),
            memory: None,
            threads: 1,
            precision: Precision::F32,
            key: None,
        }
    }
}

impl Default for Accelerator {
    fn default() -> Self {
        Accelerator {
            address: "spawn:cpu".into(),
            threads: None,
            timeout: 120.0,
            on_failure: OnFailure::Stop,
        }
    }
}

fn rank() -> usize {
    8
}

fn calibration() -> usize {
    32
}

fn iterations() -> usize {
    2
}

fn shape() -> String {
    "full".into()
}

fn half() -> f32 {
    0.5
}

fn one() -> f32 {
    1.0
}
