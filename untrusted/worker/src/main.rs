//! `asymflow-worker`: the untrusted accelerator process.

use std::io::Read;
use std::path::PathBuf;

use anyhow::{Result, bail};
use asymflow_worker::listen::{Connection, ListenAddress, Listener, Recording, receive_descriptor};
use asymflow_worker::{CpuDevice, serve};
use clap::Parser;
use rustix::time::{ClockId, clock_gettime};

/// Untrusted accelerator: trains and runs the part of a model that an enclave sends it.
#[derive(Parser)]
#[command(version, after_help = "Example: asymflow-worker --listen unix:/tmp/accelerator.sock")]
struct Arguments {
    /// Where to listen: unix:PATH or tcp:HOST:PORT
    #[arg(long, value_name = "ADDR")]
    listen: ListenAddress,
    /// Device that runs the jobs
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Serve one session, then exit
    #[arg(long)]
    once: bool,
    /// Exit when standard input closes, so that no worker outlives who started it
    #[arg(long)]
    stdin_guard: bool,
    /// Append every byte received to this file
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

fn main() -> std::process::ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("asymflow-worker: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.device != "cpu" {
        bail!("device `{}` is not available in this build; available: cpu", arguments.device);
    }
    let listener = Listener::bind(&arguments.listen)?;
    if arguments.stdin_guard {
        exit_when_stdin_closes(&arguments.listen);
    }
    loop {
        let Connection { reader, writer, descriptors } = listener.accept()?;
        // A recording is of what comes through the socket, so everything has to.
        let descriptors = descriptors.filter(|_| arguments.record.is_none());
        let reader: Box<dyn Read> = match &arguments.record {
            Some(path) => Box::new(Recording::new(reader, path)?),
            None => reader,
        };
        let mut receive = descriptors.map(|socket| move || receive_descriptor(&socket));
        let descriptors = receive.as_mut().map(|receive| receive as &mut dyn FnMut() -> _);
        let served = serve(reader, writer, &mut CpuDevice::default(), cpu_seconds, descriptors);
        match (arguments.once, served) {
            (true, served) => return Ok(served?),
            (false, Err(error)) => eprintln!("asymflow-worker: session ended: {error}"),
            (false, Ok(())) => {}
        }
    }
}

fn exit_when_stdin_closes(address: &ListenAddress) {
    let address = address.clone();
    std::thread::spawn(move || {
        let mut buffer = [0u8; 64];
        while std::io::stdin().read(&mut buffer).is_ok_and(|n| n > 0) {}
        if let ListenAddress::Unix(path) = &address {
            let _ = std::fs::remove_file(path);
            // Whoever started this made a folder for the socket; it goes only if it is empty.
            let _ = path.parent().map(std::fs::remove_dir);
        }
        std::process::exit(0);
    });
}

/// Processor time of this process so far.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
