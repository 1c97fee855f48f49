//! `asymflow export`.

use std::path::PathBuf;

use anyhow::Result;
use wire::owner::{Event, Request};

use super::{answer, open};
use crate::models::{self, Part};
use crate::run_dir::RunDir;
use crate::session::{Session, unexpected};
use crate::terminal;

/// Write a trained model to a file other programs read
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  asymflow export runs/enclave-1 --onnx model.onnx\n  asymflow export runs/delta-1 --safetensors model.safetensors"
)]
#[command(group = clap::ArgGroup::new("format").required(true).multiple(true))]
pub(super) struct Arguments {
    /// The run directory
    #[arg(value_name = "RUN_DIR")]
    run: PathBuf,
    /// Write ONNX; a model of several parts becomes a file for each, FILE-PART.onnx
    #[arg(long, value_name = "FILE", group = "format")]
    onnx: Option<PathBuf>,
    /// Write safetensors with PyTorch's names; of a model of several parts, each name begins with its part's
    #[arg(long, value_name = "FILE", group = "format")]
    safetensors: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, json: bool) -> Result<()> {
    let run = RunDir::existing(&arguments.run)?;
    let loaded = run.config()?;
    let mut session = Session::start()?;
    open(&mut session, &run, &loaded.config)?;
    session.send(&Request::Export, &[])?;
    let mut parts = Vec::new();
    while let Some(part) = next_part(&mut session)? {
        parts.push(part);
    }
    session.close();
    let mut files = Vec::new();
    if let Some(path) = &arguments.onnx {
        files.extend(models::write_onnx(&parts, path)?);
    }
    if let Some(path) = &arguments.safetensors {
        models::write_safetensors(&parts, path)?;
        files.push(path.clone());
    }
    files.iter().for_each(|file| terminal::note(&format!("wrote {}", file.display())));
    if json {
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        terminal::print_json(&serde_json::json!({ "files": files, "parts": names }))?;
    }
    Ok(())
}

fn next_part(session: &mut Session) -> Result<Option<Part>> {
    match answer(session)? {
        (Event::Part { name, graph }, body) => {
            let (parameters, _) = wire::body::take_parameters(&body, &graph)?;
            Ok(Some(Part { name, graph: *graph, parameters }))
        }
        (Event::Finished, _) => Ok(None),
        (other, _) => Err(unexpected("`part`", &other).into()),
    }
}
