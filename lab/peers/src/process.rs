//! A peer's process.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::protocol::{Reply, Request};

/// A running peer; it ends when this is dropped.
pub(crate) struct Process {
    child: Child,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    pub(crate) version: String,
}

/// Which program a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// This one.
    Own,
    /// `pytorch.py` under this interpreter, with activations in this memory format.
    PyTorch { layout: &'static str, keeps_pages: bool },
}

impl Process {
    /// Starts a peer with so many threads.
    ///
    /// # Errors
    /// If it cannot be started, or ends before it says its version.
    pub(crate) fn start(name: &str, program: &Program, python: &Path, threads: usize) -> Result<Self> {
        let mut command = command(name, program, python, threads)?;
        // Of its own group: Ctrl-C is for the benchmark, which keeps what is done.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child =
            command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let requests = child.stdin.take();
        let replies = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut process = Process { child, requests, replies, version: String::new() };
        match process.receive()? {
            Reply::Hello { version } => process.version = version,
            other => bail!("it began with {other:?}"),
        }
        Ok(process)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// If the process has ended.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Reply> {
        let requests = self.requests.as_mut().context("no standard input")?;
        writeln!(requests, "{}", serde_json::to_string(request)?).context("the process has ended")?;
        requests.flush().context("the process has ended")?;
        self.receive()
    }

    fn receive(&mut self) -> Result<Reply> {
        let mut line = String::new();
        if self.replies.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            bail!("the process ended ({status}); its own message, if any, is above");
        }
        serde_json::from_str(&line).with_context(|| format!("an answer that is none: {}", line.trim_end()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends when its standard input does; one that is busy is not waited for.
        drop(self.requests.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(name: &str, program: &Program, python: &Path, threads: usize) -> Result<Command> {
    let threads = threads.to_string();
    let mut command = match program {
        Program::Own => {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["serve", name, "--threads", &threads]);
            command
        }
        Program::PyTorch { layout, keeps_pages } => {
            let mut command = Command::new(python);
            command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/pytorch.py")).args([&threads, *layout]);
            if *keeps_pages {
                command.env("MALLOC_MMAP_THRESHOLD_", KEPT).env("MALLOC_TRIM_THRESHOLD_", KEPT);
            }
            command
        }
    };
    // rayon's global pool, which candle and Burn use.
    command.env("RAYON_NUM_THREADS", &threads);
    Ok(command)
}

/// Freed memory that the C library keeps instead of returning it to the system, in bytes.
const KEPT: &str = "8589934592";
