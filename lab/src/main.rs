//! Experiments, one subcommand each. They run the programs of this project as a user does, and report what came out.

mod privacy_table;
mod release_cost;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Experiments with asymflow
#[derive(Debug, Parser)]
#[command(
    name = "asymflow-lab",
    version,
    max_term_width = 100,
    after_help = "Exit status: 0 done, 1 something failed or was stopped, 2 wrong use."
)]
struct Arguments {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Debug, Subcommand)]
enum Experiment {
    PrivacyTable(privacy_table::Arguments),
    ReleaseCost(release_cost::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::terminal::note(&format!("error: {error:#}"));
            ExitCode::from(cli::usage::exit_status(&error))
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.experiment {
        Experiment::PrivacyTable(arguments) => privacy_table::run(&arguments),
        Experiment::ReleaseCost(arguments) => release_cost::run(&arguments),
    }
}
