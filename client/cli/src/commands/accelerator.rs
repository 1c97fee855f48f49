//! `asymflow accelerator`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::processes::sibling;

/// Run the untrusted accelerator process on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: asymflow accelerator --listen unix:/tmp/accelerator.sock")]
pub(super) struct Arguments {
    /// Where to listen: unix:PATH or tcp:HOST:PORT
    #[arg(long, value_name = "ADDR")]
    listen: String,
    /// Device that does the work
    #[arg(long, default_value = "cpu")]
    device: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let program = sibling("asymflow-worker")?;
    let mut command = Command::new(&program);
    command.args(["--listen", &arguments.listen, "--device", &arguments.device]);
    // Only returns if the program could not be started.
    Err(command.exec()).with_context(|| format!("cannot start {}", program.display()))
}
