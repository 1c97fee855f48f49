//! `asymflow evaluate`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use data::Images;
use wire::accelerator::RecordSet;
use wire::owner::{Event, Request};

use super::{answer, must_exist, open, train};
use crate::config::Loaded;
use crate::prepare;
use crate::run_dir::RunDir;
use crate::session::{Session, unexpected};
use crate::summary::Report;
use crate::terminal;

/// Measure a model on the test records, with and without the untrusted part
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  asymflow evaluate runs/quickstart-1 --json\n  asymflow evaluate pretrained.toml"
)]
pub(super) struct Arguments {
    /// A run directory, or a configuration, whose model is taken as it is, without training
    #[arg(value_name = "RUN_DIR|RUN.toml")]
    subject: PathBuf,
}

pub(super) fn run(arguments: &Arguments, json: bool) -> Result<()> {
    must_exist(&arguments.subject)?;
    if !arguments.subject.is_dir() {
        return untrained(&arguments.subject, json);
    }
    let run = RunDir::existing(&arguments.subject)?;
    let loaded = run.config()?;
    let test = prepare::read_test_data(&loaded)?;
    let mut session = Session::start()?;
    open(&mut session, &run, &loaded.config)?;
    measure(session, &test, run.path().display().to_string(), json)
}

/// Flows whose model answers without training.
const UNTRAINED: [&str; 2] = ["enclave", "asymml"];

/// Measures the model that a configuration names.
fn untrained(file: &Path, json: bool) -> Result<()> {
    let mut loaded = Loaded::read(file)?;
    let kind = loaded.config.flow.kind.as_str();
    if !UNTRAINED.contains(&kind) {
        let known = UNTRAINED.join(" and ");
        let problem =
            format!("`{kind}` has parts that must be trained first; without training there are {known}");
        return Err(loaded.fault("flow.kind", problem).into());
    }
    // Nothing is learnt, so nothing that training would send has to be allowed.
    loaded.config.train.epochs = 0;
    let test = prepare::read_test_data(&loaded)?;
    let model = prepare::build_model(&loaded, test.shape, test.classes.len())?;
    prepare::complete(&mut loaded, &model.graph)?;
    let folder = tempfile::tempdir().context("a temporary run directory")?;
    let run = RunDir::at(&folder.path().join("run"))?;
    run.begin()?;
    let session = train::create(&run, &loaded.config, model, &test.classes)?;
    measure(session, &test, file.display().to_string(), json)
}

fn measure(mut session: Session, test: &Images, subject: String, json: bool) -> Result<()> {
    session.send_records(RecordSet::Test, test)?;
    let began = Instant::now();
    session.send(&Request::Evaluate, &[])?;
    let summary = match answer(&mut session)?.0 {
        Event::Evaluated(summary) => summary,
        other => return Err(unexpected("`evaluated`", &other).into()),
    };
    session.close();
    let seconds = began.elapsed().as_secs_f64();
    let report = Report::new(summary, test.len() as u64, seconds, subject);
    terminal::note(report.table().trim_end());
    if json {
        terminal::print_json(&report)?;
    }
    Ok(())
}
