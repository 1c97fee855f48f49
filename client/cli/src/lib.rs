//! The `asymflow` command.
//!
//! It reads the configuration and the data, starts the trusted process and, where asked, an accelerator on this machine,
//! and shows what they report. It computes nothing private itself.

pub mod commands;
pub mod config;
pub mod interrupt;
pub mod metrics;
pub mod models;
pub mod prepare;
pub mod processes;
pub mod profile;
pub mod progress;
pub mod run_dir;
pub mod session;
pub mod summary;
pub mod tensorboard;
pub mod terminal;
pub mod usage;

use std::process::ExitCode;

use clap::Parser;

/// Runs the command line; no panic leaves it.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
        terminal::note(&format!("error: a fault in asymflow itself{place}; please report it"));
    }));
    std::panic::catch_unwind(checked_main).unwrap_or(ExitCode::FAILURE)
}

fn checked_main() -> ExitCode {
    let arguments = match commands::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help asked for, or a wrong use explained; standard error may be closed.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let done = interrupt::install().map_err(anyhow::Error::from).and_then(|()| commands::run(arguments));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::note(&format!("error: {error:#}"));
            ExitCode::from(usage::exit_status(&error))
        }
    }
}
