//! One module per command.

mod accelerator;
mod audit;
mod bench;
mod evaluate;
mod export;
mod infer;
mod plan;
mod train;

use std::path::Path;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use wire::RunSpec;
use wire::owner::Event;
use wire::spec::Address;

use crate::config::Config;
use crate::prepare;
use crate::run_dir::RunDir;
use crate::session::{Session, SessionError, unexpected};
use crate::terminal;

/// Private training of convolutional networks on hardware that is not trusted
#[derive(Debug, Parser)]
#[command(
    name = "asymflow",
    version,
    max_term_width = 100,
    after_help = "Example: asymflow train examples/quickstart.toml\n\nExit status: 0 done, 1 failed or stopped, 2 wrong use."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Arguments),
    Evaluate(evaluate::Arguments),
    Infer(infer::Arguments),
    Plan(plan::Arguments),
    Audit(audit::Arguments),
    Export(export::Arguments),
    Bench(bench::Arguments),
    Accelerator(accelerator::Arguments),
}

/// Runs one command.
///
/// # Errors
/// Whatever went wrong, for [`crate::usage::exit_status`] and for people.
pub fn run(arguments: Arguments) -> Result<()> {
    let json = arguments.json;
    match arguments.command {
        Command::Train(arguments) => train::run(&arguments, json),
        Command::Evaluate(arguments) => evaluate::run(&arguments, json),
        Command::Infer(arguments) => infer::run(&arguments, json),
        Command::Plan(arguments) => plan::run(&arguments, json),
        Command::Audit(arguments) => audit::run(&arguments, json),
        Command::Export(arguments) => export::run(&arguments, json),
        Command::Bench(arguments) => bench::run(&arguments, json),
        Command::Accelerator(arguments) => accelerator::run(&arguments),
    }
}

/// Waits for [`Event::Opened`]: the specification, and the steps done.
fn opened(session: &mut Session) -> Result<(Box<RunSpec>, usize), SessionError> {
    loop {
        match session.receive()?.0 {
            Event::Opened { spec, steps_done } => return Ok((spec, steps_done)),
            Event::Note { text } => terminal::note(&text),
            other => return Err(unexpected("`opened`", &other)),
        }
    }
}

/// Opens a trained run, with its accelerator if its flow uses one.
fn open(session: &mut Session, run: &RunDir, config: &Config) -> Result<Box<RunSpec>> {
    let address = accelerator_address(session, config)?;
    session.send(&run.open_request(config, prepare::accelerator_spec(config, address)), &[])?;
    let (spec, steps_done) = opened(session)?;
    if run.summary().is_none() {
        terminal::note(&format!(
            "note: this run is not finished; its model is that after {steps_done} steps"
        ));
    }
    Ok(spec)
}

/// The accelerator's address; none for a flow that has no use for one.
fn accelerator_address(session: &Session, config: &Config) -> Result<Option<Address>, SessionError> {
    if config.flow.kind == "enclave" {
        return Ok(None);
    }
    session.accelerator(&config.accelerator.address).map(Some)
}

/// Waits for an answer and its body, passing notes on to people.
fn answer(session: &mut Session) -> Result<(Event, Vec<u8>), SessionError> {
    loop {
        match session.receive()? {
            (Event::Note { text }, _) => terminal::note(&text),
            // Progress of work that has no bar.
            (
                Event::Connected { .. }
                | Event::Released { .. }
                | Event::Spent { .. }
                | Event::Checkpoint { .. },
                _,
            ) => {}
            answer => return Ok(answer),
        }
    }
}

/// Refuses a file that is not there, before anything starts.
fn must_exist(path: &Path) -> Result<()> {
    if !path.exists() {
        bail!(crate::usage::Usage::new(format!("{} does not exist", path.display())));
    }
    Ok(())
}
