//! `asymflow infer`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use tensor::Shape;
use wire::owner::{Event, Request};

use super::{must_exist, open, opened};
use crate::config::{Config, Loaded, Model, Normalise};
use crate::run_dir::RunDir;
use crate::session::{Session, unexpected};
use crate::usage::Usage;
use crate::{models, prepare, terminal};

/// Bytes of pixels in one request.
const MOST: usize = 64 << 20;

/// Predict the classes of image files
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  asymflow infer runs/quickstart-1 cat.jpg dog.png\n  asymflow infer resnet18.onnx cat.jpg --resize 256 --json"
)]
pub(super) struct Arguments {
    /// A run directory, or an ONNX file, which runs on the trusted side alone
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
    let mut loaded = Loaded::built(alone(arguments, shape[0]));
    prepare::complete(&mut loaded, &graph)?;
    let folder = tempfile::tempdir().context("a temporary run directory")?;
    let run = RunDir::at(&folder.path().join("run"))?;
    run.make()?;
    let mut session = Session::start()?;
    let request = Request::Create {
        version: wire::VERSION,
        directory: run.path().to_path_buf(),
        key: run.key(&loaded.config),
        spec: Box::new(prepare::run_spec(&loaded.config, graph, None)),
    };
    session.send(&request, &[&wire::body::from_parameters(&parameters)])?;
    opened(&mut session)?;
    predict(session, arguments, "enclave".into(), shape, arguments.resize, &[])
}

/// A configuration for a model that runs on the trusted side alone; its data section is only there to be complete.
fn alone(arguments: &Arguments, channels: usize) -> Config {
    let mut config =
        Config::new(Model { onnx: Some(arguments.model.clone()), ..Model::default() }, "enclave");
    let published = prepare::published(if channels == 1 { "idx" } else { "imagefolder" }, channels);
    config.data.normalise = Some(match (&arguments.mean, &arguments.std) {
        (Some(mean), Some(std)) => Normalise { mean: mean.clone(), std: std.clone() },
        _ => published,
    });
    config
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
