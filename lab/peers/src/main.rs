//! asymflow's kernels and whole steps beside those of other libraries: one command, one run, one machine.
//!
//! Every peer is a process of its own that answers the same lines ([`protocol`]), so that a missing or failing one does
//! not stop the rest. Their repetitions take turns (A B C A B C …), and medians count.

mod bench;
mod cases;
mod peak;
mod peers;
mod process;
mod protocol;
mod report;
mod values;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// asymflow beside PyTorch, candle, Burn and tract
#[derive(Debug, Parser)]
#[command(name = "asymflow-peers", max_term_width = 100, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    serve: Option<Serve>,
    #[command(flatten)]
    bench: bench::Arguments,
}

#[derive(Debug, Subcommand)]
enum Serve {
    /// Answers as one peer on standard input and output; started by the benchmark
    #[command(hide = true)]
    Serve {
        peer: String,
        #[arg(long)]
        threads: usize,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done: Result<()> = match arguments.serve {
        Some(Serve::Serve { peer, threads }) => peers::serve(&peer, threads),
        None => bench::run(&arguments.bench),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
