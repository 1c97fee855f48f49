//! From a configuration to what the trusted process is told: data, model, and every default that depends on them.

use anyhow::{Context, Result};
use data::{Format, Images, Source, Split};
use engine::{Decay, OptimiserConfig, Schedule};
use model::norm::has_fresh_statistics;
use model::{Graph, Norm, Parameters, derive, zoo};
use tensor::Shape;
use wire::RunSpec;
use wire::spec::{self, Address, Protection};

use crate::config::{
    self, Config, ConfigError, Loaded, Normalise, Optimiser, parse_augment, parse_shape, parse_size,
};
use crate::{models, terminal};

/// Largest default side of a DCT block.
const LARGEST_BLOCK: usize = 16;
/// Part of the energy that stays in the `asymml` flow by default (the papers' Asym1).
const ENERGY: f64 = 0.97;
/// AdamW's constants, as PyTorch has them.
const ADAMW: (f32, f32, f32) = (0.9, 0.999, 1e-8);

/// A data set, read.
pub struct DataSet {
    pub train: Images,
    pub test: Images,
}

/// A model, ready to be trained.
pub struct Model {
    pub graph: Graph,
    pub parameters: Parameters,
}

/// Where the data is and how it is read.
///
/// # Errors
/// [`ConfigError`] for settings that do not apply to the format.
pub fn source(loaded: &Loaded) -> Result<Source, ConfigError> {
    let settings = &loaded.config.data;
    let format: Format = settings.format.parse().map_err(|e| loaded.fault("data.format", format!("{e}")))?;
    let mut source = Source::new(format, settings.path.clone().unwrap_or_default());
    (source.resize, source.crop) = (settings.resize, settings.crop);
    source.seed = settings.seed.unwrap_or(source.seed);
    if format == Format::Synthetic {
        let (train, test) = source.records;
        source.records = (settings.train_records.unwrap_or(train), settings.test_records.unwrap_or(test));
    } else {
        (source.limit_train, source.limit_test) = (settings.train_records, settings.test_records);
    }
    // Asked for its errors, with key and line.
    source.resized().map_err(|e| loaded.fault("data", e.to_string()))?;
    Ok(source)
}

/// Reads both splits.
///
/// # Errors
/// Whatever is wrong with the files, by name.
pub fn read_data(loaded: &Loaded) -> Result<DataSet> {
    let source = source(loaded)?;
    let about = |name| format!("{}: the {name} records", loaded.file.display());
    let read = |split, name| data::load(&source, split).with_context(|| about(name));
    Ok(DataSet { train: read(Split::Train, "training")?, test: read(Split::Test, "test")? })
}

/// Reads the test split.
///
/// # Errors
/// As [`read_data`].
pub fn read_test_data(loaded: &Loaded) -> Result<Images> {
    data::load(&source(loaded)?, Split::Test)
        .with_context(|| format!("{}: the test records", loaded.file.display()))
}

/// Builds the model for images of `shape`, and its parameters.
///
/// # Errors
/// [`ConfigError`] for a model that does not fit the data; files that cannot be read or imported.
pub fn build_model(loaded: &Loaded, shape: [usize; 3], data_classes: usize) -> Result<Model> {
    let settings = &loaded.config.model;
    let classes = settings.classes.unwrap_or(data_classes);
    if classes < data_classes {
        let problem = format!("is {classes}, but the data has {data_classes} classes");
        return Err(loaded.fault("model.classes", problem).into());
    }
    let model = match (&settings.architecture, &settings.onnx) {
        (_, Some(path)) => {
            let (model, warnings) = models::read_onnx(path)?;
            warnings.iter().for_each(|text| terminal::note(&format!("warning: {text}")));
            model
        }
        (Some(name), None) => {
            let graph = zoo::build(name, Shape::from(shape), classes)
                .map_err(|e| loaded.fault("model.architecture", e.to_string()))?;
            let parameters = Parameters::init(&graph, loaded.config.train.seed);
            Model { graph, parameters }
        }
        (None, None) => return Err(loaded.fault("model", "needs `architecture` or `onnx`").into()),
    };
    if model.graph.input() != Shape::from(shape) {
        let problem = format!("takes images {}, the data has {}", model.graph.input(), Shape::from(shape));
        return Err(loaded.fault("model.onnx", problem).into());
    }
    if model.graph.classes() < data_classes {
        let problem = format!("has {} outputs, the data {data_classes} classes", model.graph.classes());
        return Err(loaded.fault("model.onnx", problem).into());
    }
    let norm = match settings.norm {
        config::Norm::Batch => Norm::Batch,
        config::Norm::Group => Norm::Group,
        config::Norm::Frozen => Norm::Frozen,
    };
    let model = models::with_norm(model, norm, settings.weights.as_deref())?;
    if norm == Norm::Frozen && has_fresh_statistics(&model.graph, &model.parameters) {
        terminal::note(
            "warning: model.norm: `frozen` statistics of a model that was never trained are means of 0 and variances of 1: \
             its norms do nothing but scale; give trained `weights`, or use `group`",
        );
    }
    Ok(model)
}

/// Fills in every default that depends on the data, the model or this machine.
///
/// # Errors
/// [`ConfigError`] where a setting does not fit them.
pub fn complete(loaded: &mut Loaded, graph: &Graph) -> Result<(), ConfigError> {
    let channels = graph.input().dims()[0];
    let threads = default_threads(&loaded.config);
    let config = &mut loaded.config;
    config.model.classes = Some(graph.classes());
    config.accelerator.threads.get_or_insert(threads);
    let format = config.data.format.clone();
    let normalise = config.data.normalise.get_or_insert_with(|| published(&format, channels)).clone();
    let (rate, decay) = match config.train.optimiser {
        Optimiser::Sgd => (0.1, 5e-4),
        Optimiser::AdamW => (1e-3, 0.01),
    };
    config.train.learning_rate.get_or_insert(rate);
    config.train.weight_decay.get_or_insert(decay);
    if normalise.mean.len() != channels || normalise.std.len() != channels {
        let problem =
            format!("needs {channels} numbers in `mean` and in `std`: the images have {channels} channels");
        return Err(loaded.fault("data.normalise", problem));
    }
    if loaded.config.flow.kind == "delta" { complete_delta(loaded, graph) } else { Ok(()) }
}

fn complete_delta(loaded: &mut Loaded, graph: &Graph) -> Result<(), ConfigError> {
    let at = derive::split_point(graph).map_err(|e| loaded.fault("model", e.to_string()))?;
    let map = graph.shape(at, 1).record();
    let &[channels, height, width] = map.dims() else {
        return Err(loaded.fault("model", format!("splits at {map}, which is no image")));
    };
    let epochs = loaded.config.train.epochs;
    let flow = &mut loaded.config.flow;
    flow.stage1_epochs.get_or_insert(epochs.div_ceil(3).min(epochs - 1));
    let block = *flow.dct_block.get_or_insert_with(|| default_block(height, width));
    flow.dct_keep.get_or_insert(block.div_ceil(2));
    let rank = flow.rank;
    if rank > channels {
        let problem = format!("is {rank}, but the split has only {channels} channels ({map})");
        return Err(loaded.fault("flow.rank", problem));
    }
    if !height.is_multiple_of(block) || !width.is_multiple_of(block) {
        let problem = format!("{block} does not divide both sides of the split map, {height}×{width}");
        return Err(loaded.fault("flow.dct_block", problem));
    }
    match parse_shape(&loaded.config.flow.shape) {
        Some(spec::ReleaseShape::Pooled(p)) if !height.is_multiple_of(p) || !width.is_multiple_of(p) => {
            let problem = format!("{p} does not divide both sides of the split map, {height}×{width}");
            Err(loaded.fault("flow.shape", problem))
        }
        _ => Ok(()),
    }
}

/// The largest even divisor of both sides, up to [`LARGEST_BLOCK`]; 1, which is no spatial split, if there is none.
fn default_block(height: usize, width: usize) -> usize {
    let divides = |n: &usize| height.is_multiple_of(*n) && width.is_multiple_of(*n);
    (2..=LARGEST_BLOCK).rev().step_by(2).find(divides).unwrap_or(1)
}

/// Processors that the trusted side leaves.
fn default_threads(config: &Config) -> usize {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let taken = if config.flow.is_outsourced() { 0 } else { config.trusted.threads };
    all.saturating_sub(taken).max(1)
}

/// Published normalisation constants of a format; public, whatever the records are.
pub fn published(format: &str, channels: usize) -> Normalise {
    let (mean, std) = match (format, channels) {
        ("cifar10", 3) => (vec![0.4914, 0.4822, 0.4465], vec![0.2470, 0.2435, 0.2616]),
        ("cifar100", 3) => (vec![0.5071, 0.4865, 0.4409], vec![0.2673, 0.2564, 0.2762]),
        ("imagefolder", 3) => (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]),
        ("idx", 1) => (vec![0.1307], vec![0.3081]),
        _ => (vec![0.5; channels], vec![0.25; channels]),
    };
    Normalise { mean, std }
}

/// What the trusted process is told, from a configuration that [`complete`] has filled in.
pub fn run_spec(config: &Config, graph: Graph, address: Option<Address>) -> RunSpec {
    RunSpec {
        graph,
        flow: flow_spec(config),
        privacy: privacy_spec(config),
        train: train_spec(config),
        threads: config.trusted.threads,
        precision: config.trusted.precision,
        memory: config.trusted.memory.as_deref().and_then(parse_size),
        accelerator: accelerator_spec(config, address),
    }
}

/// The accelerator part of a [`RunSpec`].
pub fn accelerator_spec(config: &Config, address: Option<Address>) -> spec::Accelerator {
    let settings = &config.accelerator;
    spec::Accelerator {
        address,
        threads: settings.threads.unwrap_or(1),
        timeout_seconds: settings.timeout,
        on_failure: match settings.on_failure {
            config::OnFailure::Stop => spec::OnFailure::Stop,
            config::OnFailure::Degrade => spec::OnFailure::Degrade,
        },
    }
}

fn flow_spec(config: &Config) -> spec::Flow {
    let flow = &config.flow;
    let decomposition = match flow.decomposition {
        Some(config::Decomposition::Exact) => spec::Decomposition::Exact,
        _ => spec::Decomposition::Light { iterations: flow.iterations },
    };
    match flow.kind.as_str() {
        "plain" => spec::Flow::Plain,
        "enclave" => spec::Flow::Enclave,
        "asymml" => spec::Flow::Asymml(asymml_spec(flow)),
        "dp-input" => spec::Flow::DpInput,
        _ => spec::Flow::Delta(spec::Delta {
            rank: flow.rank,
            decomposition,
            block: flow.dct_block.unwrap_or(1),
            keep: flow.dct_keep.unwrap_or(1),
            shape: parse_shape(&flow.shape).unwrap_or(spec::ReleaseShape::Full),
            width: flow.main_width,
            stage1_epochs: flow.stage1_epochs.unwrap_or(0),
            orthogonality: flow.orthogonality,
            own_loss: flow.own_loss,
        }),
    }
}

fn asymml_spec(flow: &config::Flow) -> spec::Asymml {
    let iterations = flow.iterations;
    spec::Asymml {
        ranks: match (&flow.ranks, flow.energy) {
            (Some(config::Ranks::Named(config::NamedRanks::Authors)), _) => spec::Ranks::Authors,
            (Some(config::Ranks::List(ranks)), _) => spec::Ranks::List(ranks.clone()),
            (None, energy) => spec::Ranks::Energy(energy.unwrap_or(ENERGY)),
        },
        half: flow.leak == Some(config::Leak::Half),
        finding: flow.decomposition.map(|decomposition| match decomposition {
            config::Decomposition::Light => spec::Finding::Light { iterations },
            config::Decomposition::Subspace => spec::Finding::Subspace { iterations },
            config::Decomposition::Shared => spec::Finding::Shared,
            config::Decomposition::Exact => spec::Finding::Exact,
        }),
        residuals: flow.residuals,
        products: flow.products,
        backward: match flow.backward {
            config::Side::Accelerator => spec::Side::Accelerator,
            config::Side::Enclave => spec::Side::Enclave,
        },
        piece: flow.micro_batch,
        calibration: flow.calibration,
        noise: flow.noise_share,
    }
}

fn privacy_spec(config: &Config) -> spec::Privacy {
    let privacy = &config.privacy;
    let protection = match (config.flow.releases(), privacy.epsilon) {
        (true, Some(epsilon)) => Protection::Epsilon(epsilon),
        (true, None) => Protection::NoNoise,
        (false, _) => Protection::NothingReleased,
    };
    spec::Privacy {
        protection,
        delta: privacy.delta,
        clip: match privacy.clip {
            config::Clip::Norm(norm) => spec::Clip::Norm(norm),
            config::Clip::Quantile(config::Quantile { quantile, epsilon }) => {
                spec::Clip::Quantile { quantile, epsilon }
            }
        },
        release: match privacy.release {
            config::Release::Once => spec::Release::Views(privacy.views),
            config::Release::PerStep => spec::Release::PerStep,
        },
        labels: labels_spec(privacy),
        allow: privacy.allow.clone(),
    }
}

fn labels_spec(privacy: &config::Privacy) -> spec::Labels {
    // Checked when the file was read: labels that are not public come with their ε.
    match (privacy.labels, privacy.label_epsilon) {
        (config::Labels::Randomised, Some(epsilon)) => spec::Labels::Randomised { epsilon },
        (config::Labels::Withheld, Some(epsilon)) => {
            spec::Labels::Withheld { epsilon, clip: privacy.gradient_clip }
        }
        _ => spec::Labels::Public,
    }
}

fn train_spec(config: &Config) -> spec::Train {
    let train = &config.train;
    let weight_decay = train.weight_decay.unwrap_or(0.0);
    let optimiser = match train.optimiser {
        Optimiser::Sgd => {
            OptimiserConfig::Sgd { momentum: train.momentum, weight_decay, nesterov: train.nesterov }
        }
        Optimiser::AdamW => {
            let (beta1, beta2, eps) = ADAMW;
            OptimiserConfig::AdamW { beta1, beta2, eps, weight_decay }
        }
    };
    let decay = match train.schedule {
        config::Schedule::Cosine => Decay::Cosine { min: train.min_rate },
        config::Schedule::Step => Decay::Step { milestones: train.milestones.clone(), gamma: train.gamma },
        config::Schedule::Constant => Decay::Constant,
    };
    let schedule = Schedule {
        base: train.learning_rate.unwrap_or(0.1),
        epochs: train.epochs,
        warmup_epochs: train.warmup_epochs,
        decay,
    };
    let normalise = config.data.normalise.clone().unwrap_or(Normalise { mean: vec![], std: vec![] });
    spec::Train {
        epochs: train.epochs,
        batch_size: train.batch_size,
        schedule,
        optimiser,
        augment: parse_augment(&config.data.augment).unwrap_or_default(),
        mean: normalise.mean,
        std: normalise.std,
        seed: train.seed,
        checkpoint_steps: train.checkpoint_steps,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn loaded(more: &str) -> Loaded {
        let text = format!(
            "[model]\narchitecture = \"cnn-small\"\n[data]\nformat = \"synthetic\"\n[privacy]\nnoise = 0.0\n[flow]\nkind = \"delta\"\n{more}"
        );
        Loaded::parse(&text, Path::new("RUN.toml")).unwrap()
    }

    fn completed(more: &str) -> Result<Loaded, String> {
        let mut loaded = loaded(more);
        let graph = build_model(&loaded, [3, 32, 32], 10).unwrap().graph;
        complete(&mut loaded, &graph).map(|()| loaded).map_err(|e| e.to_string())
    }

    #[test]
    fn blocks_divide_both_sides() {
        for (sides, block) in
            [((32, 32), 16), ((28, 28), 14), ((56, 28), 14), ((7, 7), 1), ((6, 4), 2), ((15, 30), 1)]
        {
            assert_eq!(default_block(sides.0, sides.1), block, "{sides:?}");
        }
    }

    #[test]
    fn defaults_come_from_the_model() {
        let config = completed("[train]\nepochs = 4\n").unwrap().config;
        assert_eq!(
            (config.flow.dct_block, config.flow.dct_keep, config.flow.stage1_epochs),
            (Some(16), Some(8), Some(2))
        );
        assert_eq!((config.train.learning_rate, config.train.weight_decay), (Some(0.1), Some(5e-4)));
        assert_eq!(config.model.classes, Some(10));
        assert_eq!(config.data.normalise, Some(Normalise { mean: vec![0.5; 3], std: vec![0.25; 3] }));
        assert_eq!(completed("[train]\nepochs = 1\n").unwrap().config.flow.stage1_epochs, Some(0));
    }

    #[test]
    fn what_does_not_fit_the_model_names_the_key() {
        for (more, expected) in [
            ("rank = 33", ":9: flow.rank: is 33, but the split has only 32 channels"),
            ("dct_block = 5", ":9: flow.dct_block: 5 does not divide both sides"),
            ("shape = \"pooled:5\"", ":9: flow.shape: 5 does not divide both sides"),
        ] {
            let found = completed(more).unwrap_err();
            assert!(found.starts_with(&format!("RUN.toml{expected}")), "{found}");
        }
        let few = build_model(&loaded("[model.x]\n".replace("[model.x]\n", "").as_str()), [3, 32, 32], 0);
        assert!(few.is_err(), "a classifier without classes");
    }

    #[test]
    fn the_model_has_the_norm_that_was_asked_for() {
        let build = |norm: &str| {
            let mut loaded = loaded("");
            loaded.config.model.norm = norm.parse::<toml::Value>().unwrap().try_into().unwrap();
            build_model(&loaded, [3, 32, 32], 10).unwrap()
        };
        let names = |model: &Model| {
            let norms = model.graph.nodes().iter().filter(|node| node.name.starts_with("bn"));
            norms.map(|node| node.op.operator().name()).collect::<Vec<_>>()
        };
        for (norm, name) in [("batch", "batch_norm2d"), ("group", "group_norm"), ("frozen", "frozen_norm2d")]
        {
            let model = build(&format!("\"{norm}\""));
            assert_eq!(names(&model), [name; 4]);
            assert!(model.parameters.fits(&model.graph), "{norm}");
        }
    }

    #[test]
    fn normalisation_has_one_number_per_channel() {
        let wrong = completed("[data.normalise]\nmean = [0.1]\nstd = [0.2]\n").unwrap_err();
        assert!(wrong.contains("data.normalise: needs 3 numbers"), "{wrong}");
    }

    #[test]
    fn the_specification_says_what_the_file_said() {
        let loaded = completed("shape = \"mean\"\n[train]\noptimiser = \"adamw\"\nschedule = \"step\"\nmilestones = [2]\n[accelerator]\ntimeout = 3.5\n").unwrap();
        let graph = build_model(&loaded, [3, 32, 32], 10).unwrap().graph;
        let spec = run_spec(&loaded.config, graph, None);
        assert!(
            matches!(spec.flow, spec::Flow::Delta(ref d) if d.shape == spec::ReleaseShape::Mean && d.rank == 8)
        );
        assert_eq!(spec.privacy.protection, Protection::NoNoise);
        assert!(
            matches!(spec.train.optimiser, OptimiserConfig::AdamW { weight_decay, .. } if weight_decay == 0.01)
        );
        assert_eq!(spec.train.schedule.decay, Decay::Step { milestones: vec![2], gamma: 0.1 });
        assert_eq!(spec.accelerator.timeout_seconds, 3.5);
    }
}
