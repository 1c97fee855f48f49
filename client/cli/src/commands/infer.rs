//! `asymflow infer`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use tensor::Shape;
use wire::layers::Format;
use wire::owner::{Event, Request};

use super::{must_exist, open, opened};
use crate::config::{self, Config, Loaded, Model, NamedRanks, Normalise, Ranks};
use crate::run_dir::RunDir;
use crate::session::{Session, unexpected};
use crate::usage::Usage;
use crate::{models, prepare, terminal};

/// Bytes of pixels in one request.
const MOST: usize = 64 << 20;

/// Predict the classes of image files
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  asymflow infer runs/quickstart-1 cat.jpg dog.png\n  asymflow infer resnet18.onnx cat.jpg --resize 256 --json\n  asymflow infer vgg16.onnx cat.jpg --flow asymml --energy 0.97 --allow plain-residuals"
)]
pub(super) struct Arguments {
    /// A run directory, or an ONNX file, which runs on the trusted side alone unless `--flow` says otherwise
    #[arg(value_name = "RUN_DIR|MODEL.onnx")]
    model: PathBuf,
    /// JPEG or PNG files
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// Pixels of the shorter side before the centre is cut out [default: as in training; for ONNX as few as it takes]
    #[arg(long)]
    resize: Option<usize>,
    /// Means by channel of an ONNX model's inputs, for pixels in [0, 1] [default: ImageNet's, or MNIST's for one channel]
    #[arg(long, value_delimiter = ',', requires = "std")]
    mean: Option<Vec<f32>>,
    /// Standard deviations by channel of an ONNX model's inputs
    #[arg(long, value_delimiter = ',', requires = "mean")]
    std: Option<Vec<f32>>,
    /// Where the layers of an ONNX model run [default: enclave]
    #[arg(long, value_parser = ["enclave", "asymml"])]
    flow: Option<String>,
    /// With `--flow asymml`: part of the energy of each convolution's input that stays on the trusted side, measured on the
    /// images themselves [default: 0.97]
    #[arg(long, requires = "flow", conflicts_with = "ranks")]
    energy: Option<f64>,
    /// With `--flow asymml`: principal channels that stay, `authors` or one number for each split, with commas
    #[arg(long, requires = "flow")]
    ranks: Option<String>,
    /// With `--flow asymml`: how residuals and products cross, `f32`, `bf16` or `int8` [default: f32]
    #[arg(long, requires = "flow", value_parser = ["f32", "bf16", "int8"])]
    residuals: Option<String>,
    /// Unprotected kinds of messages to let through, by name
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    allow: Vec<String>,
    /// With `--flow asymml`: `spawn:cpu`, `unix:PATH` or `tcp:HOST:PORT` [default: spawn:cpu]
    #[arg(long, requires = "flow")]
    accelerator: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    flow: String,
    degraded: bool,
    /// Why the trusted part answered alone, if it did.
    degraded_reason: Option<String>,
    /// What this cost the records, if it released anything.
    epsilon: Option<f64>,
    predictions: Vec<Prediction>,
}

#[derive(Serialize)]
struct Prediction {
    file: PathBuf,
    class: String,
    probability: f64,
    logits: Vec<f32>,
}

pub(super) fn run(arguments: &Arguments, json: bool) -> Result<()> {
    must_exist(&arguments.model)?;
    arguments.images.iter().try_for_each(|file| must_exist(file))?;
    let answer = if arguments.model.is_dir() { with_run(arguments)? } else { with_onnx(arguments)? };
    answer.predictions.iter().for_each(|p| {
        terminal::note(&format!("{}: {} ({})", p.file.display(), p.class, terminal::percent(p.probability)));
    });
    if let Some(why) = &answer.degraded_reason {
        terminal::note(&format!("DEGRADED: the trusted part answered alone: {why}"));
    }
    if json {
        terminal::print_json(&answer)?;
    }
    Ok(())
}

fn with_run(arguments: &Arguments) -> Result<Answer> {
    if arguments.mean.is_some() {
        bail!(Usage::new("--mean and --std are for ONNX files; a run keeps those it was trained with"));
    }
    if arguments.flow.is_some() || !arguments.allow.is_empty() {
        bail!(Usage::new("--flow and --allow are for ONNX files; a run keeps its flow and its permissions"));
    }
    let run = RunDir::existing(&arguments.model)?;
    let loaded = run.config()?;
    let resize = match arguments.resize {
        Some(resize) => Some(resize),
        None => prepare::source(&loaded)?.resized()?,
    };
    let mut session = Session::start()?;
    let spec = open(&mut session, &run, &loaded.config)?;
    let shape = image_shape(spec.graph.input())?;
    predict(session, arguments, loaded.config.flow.kind, shape, resize, &run.classes()?)
}

fn with_onnx(arguments: &Arguments) -> Result<Answer> {
    // What is said of training does not matter here.
    let (prepare::Model { graph, parameters }, _) = models::read_onnx(&arguments.model)?;
    let shape = image_shape(graph.input())?;
    let mut loaded = Loaded::built(configured(arguments, shape[0])?);
    prepare::complete(&mut loaded, &graph)?;
    let folder = tempfile::tempdir().context("a temporary run directory")?;
    let run = RunDir::at(&folder.path().join("run"))?;
    run.make()?;
    let mut session = Session::start()?;
    let config = &loaded.config;
    let address = super::accelerator_address(&session, config)?;
    let request = Request::Create {
        version: wire::VERSION,
        directory: run.path().to_path_buf(),
        key: run.key(config),
        spec: Box::new(prepare::run_spec(config, graph, address)),
    };
    session.send(&request, &[&wire::body::from_parameters(&parameters)])?;
    opened(&mut session)?;
    predict(session, arguments, config.flow.kind.clone(), shape, arguments.resize, &[])
}

/// A configuration for a model that is not trained; its data section is only there to be complete.
fn configured(arguments: &Arguments, channels: usize) -> Result<Config> {
    let flow = arguments.flow.as_deref().unwrap_or("enclave");
    let mut config = Config::new(Model { onnx: Some(arguments.model.clone()), ..Model::default() }, flow);
    let published = prepare::published(if channels == 1 { "idx" } else { "imagefolder" }, channels);
    config.data.normalise = Some(match (&arguments.mean, &arguments.std) {
        (Some(mean), Some(std)) => Normalise { mean: mean.clone(), std: std.clone() },
        _ => published,
    });
    config.train.epochs = NO_TRAINING;
    config.train.batch_size = PIECE;
    config.privacy.allow.clone_from(&arguments.allow);
    if flow == "asymml" {
        config.privacy.noise = Some(0.0);
        config.flow.energy = arguments.energy;
        config.flow.ranks = arguments.ranks.as_deref().map(ranks).transpose()?;
        let format = match arguments.residuals.as_deref() {
            Some("bf16") => Format::Bf16,
            Some("int8") => Format::Int8,
            _ => Format::F32,
        };
        config.flow.residuals = format;
        // Products have no scale that holds for all of them before they are made.
        config.flow.products = if format == Format::F32 { Format::F32 } else { Format::Bf16 };
    }
    if let Some(address) = &arguments.accelerator {
        config.accelerator.address.clone_from(address);
    }
    config::check_untrained(&config).map_err(Usage::new)?;
    Ok(config)
}

/// Nothing is learnt, so nothing that training would send has to be allowed.
const NO_TRAINING: usize = 0;

/// Images that are computed at once.
const PIECE: usize = 8;

fn ranks(text: &str) -> Result<Ranks> {
    if text == "authors" {
        return Ok(Ranks::Named(NamedRanks::Authors));
    }
    let numbers: Result<Vec<usize>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    let numbers =
        numbers.map_err(|_| Usage::new(format!("--ranks: `{text}` is neither `authors` nor numbers")))?;
    Ok(Ranks::List(numbers))
}

fn predict(
    mut session: Session,
    arguments: &Arguments,
    flow: String,
    shape: [usize; 3],
    resize: Option<usize>,
    names: &[String],
) -> Result<Answer> {
    let mut answer =
        Answer { flow, degraded: false, degraded_reason: None, epsilon: None, predictions: Vec::new() };
    let per_request = (MOST / shape.iter().product::<usize>().max(1)).max(1);
    for files in arguments.images.chunks(per_request) {
        ask(&mut session, files, shape, resize, names, &mut answer)?;
    }
    answer.degraded = answer.degraded_reason.is_some();
    session.close();
    Ok(answer)
}

fn ask(
    session: &mut Session,
    files: &[PathBuf],
    shape: [usize; 3],
    resize: Option<usize>,
    names: &[String],
    answer: &mut Answer,
) -> Result<()> {
    let mut pixels = Vec::new();
    for file in files {
        pixels.extend(data::decode_image(file, shape, resize)?);
    }
    session.send(&Request::Infer { count: files.len() }, &[&pixels])?;
    let (classes, degraded, epsilon, body) = match super::answer(session)? {
        (Event::Predictions { count, classes, degraded, epsilon }, body) if count == files.len() => {
            (classes, degraded, epsilon, body)
        }
        (other, _) => return Err(unexpected("`predictions`", &other).into()),
    };
    let logits = wire::body::to_f32(&body, files.len().saturating_mul(classes))?;
    let rows = logits.chunks_exact(classes.max(1));
    answer.predictions.extend(files.iter().zip(rows).map(|(file, row)| prediction(file, row, names)));
    answer.epsilon = epsilon.or(answer.epsilon);
    answer.degraded_reason = degraded.or(answer.degraded_reason.take());
    Ok(())
}

/// The most probable class of one image, by name where there are names.
fn prediction(file: &Path, logits: &[f32], names: &[String]) -> Prediction {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0);
    let largest = logits.get(best).copied().map_or(0.0, f64::from);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    Prediction {
        file: file.to_path_buf(),
        class: names.get(best).cloned().unwrap_or_else(|| best.to_string()),
        probability: 1.0 / sum.max(1.0),
        logits: logits.to_vec(),
    }
}

fn image_shape(shape: Shape) -> Result<[usize; 3]> {
    shape
        .dims()
        .try_into()
        .map_err(|_| anyhow!("the model takes records of shape {shape}, not images [C, H, W]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_logit_wins() {
        let names = ["cat".to_owned(), "dog".to_owned()];
        let found = prediction(Path::new("a.png"), &[0.0, 3f32.ln()], &names);
        assert_eq!(found.class, "dog");
        assert!((found.probability - 0.75).abs() < 1e-6);
        assert_eq!(prediction(Path::new("a.png"), &[900.0, -900.0, 1.0], &[]).class, "0");
        assert_eq!(prediction(Path::new("a.png"), &[900.0, -900.0, 1.0], &[]).probability, 1.0);
    }
}
