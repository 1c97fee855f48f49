//! `asymflow evaluate`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use wire::accelerator::RecordSet;
use wire::owner::{Event, Request};

use super::{answer, open};
use crate::prepare;
use crate::run_dir::RunDir;
use crate::session::{Session, unexpected};
use crate::summary::Report;
use crate::terminal;

/// Measure a trained model on the test records, with and without the untrusted part
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: asymflow evaluate runs/quickstart-1 --json")]
pub(super) struct Arguments {
    /// The run directory
    #[arg(value_name = "RUN_DIR")]
    run: PathBuf,
}

pub(super) fn run(arguments: &Arguments, json: bool) -> Result<()> {
    let run = RunDir::existing(&arguments.run)?;
    let loaded = run.config()?;
    let test = prepare::read_test_data(&loaded)?;
    let mut session = Session::start()?;
    open(&mut session, &run, &loaded.config)?;
    session.send_records(RecordSet::Test, &test)?;
    let began = Instant::now();
    session.send(&Request::Evaluate, &[])?;
    let summary = match answer(&mut session)?.0 {
        Event::Evaluated(summary) => summary,
        other => return Err(unexpected("`evaluated`", &other).into()),
    };
    session.close();
    let seconds = began.elapsed().as_secs_f64();
    let report = Report::new(summary, test.len() as u64, seconds, run.path().display().to_string());
    terminal::note(report.table().trim_end());
    if json {
        terminal::print_json(&report)?;
    }
    Ok(())
}
