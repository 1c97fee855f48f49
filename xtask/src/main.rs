//! Project tasks: `cargo xtask check`, `tcb`, `threat-model`, `golden`, `fuzz`, `quickstart`.

mod boundary;
mod tcb;
mod threat_model;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: cargo xtask TASK

  check        dependency rule between zones, trusted/tcb.txt, table of THREAT_MODEL.md, fmt, clippy, docs
  tcb          write trusted/tcb.txt, the list of every crate linked into the enclave
  threat-model write the table of messages in THREAT_MODEL.md from the one in code
  golden       pick the golden set that the project carries from the full reference vectors
  fuzz [SECS]  run every fuzz target for SECS seconds (10), if cargo-fuzz is installed
  quickstart   build the three binaries and train examples/quickstart.toml";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["check"] => check(),
        ["tcb"] => tcb::write(&root()),
        ["threat-model"] => threat_model::write(&root()),
        ["golden"] => cargo(&["run", "--quiet", "--package", "asymflow-vectors", "--example", "golden"], &[]),
        ["fuzz"] => fuzz("10"),
        ["fuzz", seconds] => fuzz(seconds),
        ["quickstart"] => quickstart(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<()> {
    step("boundary", || boundary::check(&root()))?;
    step("tcb", || tcb::check(&root()))?;
    step("threat model", || threat_model::check(&root()))?;
    step("fmt", || cargo(&["fmt", "--all", "--check"], &[]))?;
    let clippy = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    step("clippy", || cargo(&clippy, &[]))?;
    let doc = ["doc", "--quiet", "--workspace", "--no-deps"];
    step("doc", || cargo(&doc, &[("RUSTDOCFLAGS", "-D warnings")]))
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    work().with_context(|| name.to_owned())?;
    eprintln!("{name}: good ({:.1} s)", began.elapsed().as_secs_f64());
    Ok(())
}

fn quickstart() -> Result<()> {
    let packages = ["-p", "asymflow", "-p", "asymflow-enclave", "-p", "asymflow-worker"];
    cargo(&[&["build", "--release", "--bins"], packages.as_slice()].concat(), &[])?;
    let out = root().join("runs/quickstart");
    // Only its own last run: the folder is this task's, and every quickstart starts from nothing.
    if out.join("config.toml").is_file() || out.join(".starting").is_file() {
        std::fs::remove_dir_all(&out).with_context(|| format!("{}", out.display()))?;
    }
    let began = Instant::now();
    let mut command = Command::new(target_directory()?.join("release/asymflow"));
    command.args(["train", "examples/quickstart.toml", "--out", "runs/quickstart"]).current_dir(root());
    run(&mut command)?;
    eprintln!("quickstart: {:.0} s after the build", began.elapsed().as_secs_f64());
    Ok(())
}

fn fuzz(seconds: &str) -> Result<()> {
    let seconds: u32 = seconds.parse().context("seconds per fuzz target")?;
    let installed = Command::new("cargo").args(["fuzz", "--version"]).output()?.status.success();
    if !installed {
        eprintln!(
            "skipped: cargo-fuzz is not installed (`cargo install cargo-fuzz`, and a nightly toolchain)"
        );
        return Ok(());
    }
    let targets = root().join("fuzz/fuzz_targets");
    for entry in std::fs::read_dir(&targets).with_context(|| format!("{}", targets.display()))? {
        let path = entry?.path();
        let Some(target) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        let limit = format!("-max_total_time={seconds}");
        cargo(&["+nightly", "fuzz", "run", target, "--", &limit], &[])?;
    }
    Ok(())
}

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

fn target_directory() -> Result<PathBuf> {
    Ok(boundary::metadata(&root())?.target_directory.into_std_path_buf())
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let mut command = Command::new("cargo");
    run(command.args(arguments).envs(environment.iter().copied()).current_dir(root()))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
