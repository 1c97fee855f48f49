//! Runs the cells with `asymflow train`, one after the other.
//!
//! Of each cell, the folder has `CELL.toml`, `CELL/` (its run directory), `CELL.log` (standard error) and, once it is
//! finished, `CELL.json` (what `--json` printed).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use cli::config::{Config, Loaded};
use cli::terminal::{note, percent, seconds};
use cli::usage::Usage;
use rustix::process::{Pid, Signal, kill_process};

use super::experiment::{Cell, Experiment};
use super::figures::Figures;

/// Runs cells in one folder.
pub(super) struct Runner {
    program: PathBuf,
    version: String,
    folder: PathBuf,
    current: Arc<Mutex<Current>>,
}

/// How a cell ended.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// It was finished before.
    Kept(Figures),
    Trained(Figures),
    /// Why, in words.
    Failed(String),
    /// By Ctrl-C or SIGTERM; the run has a checkpoint.
    Stopped,
}

/// What a signal acts on.
#[derive(Default)]
struct Current {
    stop: bool,
    child: Option<Child>,
}

impl Runner {
    /// A runner of `program` (default: `asymflow` beside this one) in `folder`, which is made. From now on Ctrl-C stops
    /// the run at its next step.
    ///
    /// # Errors
    /// If there is no such program, or the folder cannot be made.
    pub(super) fn new(program: Option<&Path>, folder: &Path) -> Result<Self> {
        let runner = Self::quiet(program, folder)?;
        let current = Arc::clone(&runner.current);
        ctrlc::set_handler(move || interrupt(&current)).context("Ctrl-C cannot be caught")?;
        Ok(runner)
    }

    /// A runner that leaves signals alone.
    fn quiet(program: Option<&Path>, folder: &Path) -> Result<Self> {
        let program = match program {
            Some(path) => std::path::absolute(path)?,
            None => cli::processes::sibling("asymflow")?,
        };
        let version = version(&program)?;
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let folder = fs::canonicalize(folder)?;
        Ok(Runner { program, version, folder, current: Arc::default() })
    }

    /// What `asymflow --version` prints.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Writes the RUN.toml of every cell that has none.
    ///
    /// # Errors
    /// [`Usage`] if a cell has one that means something else: its results would not be comparable.
    pub(super) fn write_configurations(&self, experiment: &Experiment, cells: &[Cell]) -> Result<()> {
        for cell in cells {
            let path = self.path(cell, ".toml");
            let text = experiment.toml(cell);
            if !path.exists() {
                store(&path, &text)?;
            } else if meaning(&fs::read_to_string(&path)?, &path) != meaning(&text, &path) {
                bail!(Usage::new(format!(
                    "{} was made with other settings; choose another folder with --out",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// Runs a cell, goes on with it, or takes it as it is.
    ///
    /// # Errors
    /// If the files of the folder cannot be used. That a run fails is an [`Outcome`].
    pub(super) fn run(&self, cell: &Cell) -> Result<Outcome> {
        let json = self.path(cell, ".json");
        if let Some(figures) =
            fs::read_to_string(&json).ok().and_then(|text| serde_json::from_str(&text).ok())
        {
            return Ok(Outcome::Kept(figures));
        }
        let began = Instant::now();
        let Some(ended) = self.train(cell)? else { return Ok(Outcome::Stopped) };
        if !ended.status.success() {
            return Ok(if self.current().stop { Outcome::Stopped } else { Outcome::Failed(ended.why()) });
        }
        match serde_json::from_str::<Figures>(&ended.stdout) {
            Ok(figures) => {
                store(&json, &ended.stdout)?;
                note(&format!(
                    "    merged {}, trusted part alone {}, in {}",
                    percent(figures.accuracy),
                    percent(figures.accuracy_trusted_only),
                    seconds(began.elapsed().as_secs_f64())
                ));
                Ok(Outcome::Trained(figures))
            }
            Err(error) => Ok(Outcome::Failed(format!("its figures cannot be read: {error}"))),
        }
    }

    /// Runs `asymflow train` to its end; nothing if it was not started because of a signal.
    fn train(&self, cell: &Cell) -> Result<Option<Ended>> {
        let log_path = self.path(cell, ".log");
        let log = OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.with_context(|| format!("{}", log_path.display()))?;
        let log_before = log.metadata()?.len();
        let mut command = Command::new(&self.program);
        command.arg("train").arg(self.path(cell, ".toml")).arg("--out").arg(self.path(cell, ""));
        // `--resume` also starts a run that never began.
        command.args(["--resume", "--json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // A group of its own: Ctrl-C reaches this program, which passes it on once.
        command.process_group(0);
        let Some(mut output) = self.start(&mut command)? else { return Ok(None) };
        let mut stdout = String::new();
        let read = output.read_to_string(&mut stdout);
        let child = self.current().child.take();
        let status = child.expect("only this function takes the child").wait()?;
        read.context("what asymflow printed")?;
        let log = fs::read(&log_path)?;
        let log = String::from_utf8_lossy(log.get(log_before as usize..).unwrap_or_default()).into_owned();
        Ok(Some(Ended { status, stdout, log }))
    }

    /// Starts a command and returns its standard output, unless a signal came first.
    fn start(&self, command: &mut Command) -> Result<Option<impl Read + use<>>> {
        let mut current = self.current();
        if current.stop {
            return Ok(None);
        }
        let mut child =
            command.spawn().with_context(|| format!("{} cannot be started", self.program.display()))?;
        let output = child.stdout.take();
        current.child = Some(child);
        Ok(output)
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        lock(&self.current)
    }

    fn path(&self, cell: &Cell, ending: &str) -> PathBuf {
        self.folder.join(format!("{cell}{ending}"))
    }
}

/// A command that has ended.
struct Ended {
    status: ExitStatus,
    stdout: String,
    log: String,
}

impl Ended {
    /// Its own error, or how it ended.
    fn why(&self) -> String {
        let error = self.log.lines().rev().find_map(|line| line.strip_prefix("error: "));
        error.map_or_else(
            || format!("asymflow ended without an error of its own ({})", self.status),
            str::to_owned,
        )
    }
}

/// Asks the current run to stop at its next step; the second time, at once.
fn interrupt(current: &Mutex<Current>) {
    let mut current = lock(current);
    if !current.stop {
        note("stopping; a second Ctrl-C ends at once");
    }
    current.stop = true;
    let child = current.child.as_ref().and_then(|child| Pid::from_raw(child.id() as i32));
    if let Some(pid) = child {
        // It may have ended by itself, which is as good.
        let _ = kill_process(pid, Signal::TERM);
    }
}

fn lock(current: &Mutex<Current>) -> MutexGuard<'_, Current> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a RUN.toml says, whatever its comments and layout; nothing if it is not one.
fn meaning(text: &str, path: &Path) -> Option<Config> {
    Loaded::parse(text, path).ok().map(|loaded| loaded.config)
}

fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|e| Usage::new(format!("{} cannot be started: {e}", program.display())))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Writes a file in one step: it is there whole or not at all.
fn store(path: &Path, text: &str) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let part = path.with_added_extension("part");
        let mut file = File::create(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(part, path)
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::OnceLock;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::super::samples;
    use super::*;

    /// Stands for `asymflow`: says what it was asked, then trains, fails or waits by the shape in its RUN.toml.
    const PROGRAM: &str = r#"#!/bin/sh
[ "$1" = --version ] && echo "asymflow test" && exit
echo "$@" >> "$4.calls"
grep -q '"mean"' "$2" && echo "epoch 1" >&2 && echo "error: no luck" >&2 && exit 1
grep -q '"pooled:2"' "$2" && exit 3
if grep -q '"pooled:4"' "$2"; then
    trap 'exit 1' TERM
    touch "$4.waits"
    while :; do sleep 0.02; done
fi
echo '{"accuracy":0.6,"accuracy_trusted_only":0.5,"test_records":2000,"bytes_out_per_image":1.5,"bytes_in_per_image":2,
"trusted_cpu_seconds_per_image":1e-3,"untrusted_cpu_seconds_per_image":1e-4,"peak_trusted_bytes":7,"epsilon":8.0,"more":1}'
"#;

    /// The program, written once: a file that is open for writing in any thread cannot be started.
    fn program() -> PathBuf {
        static FOLDER: OnceLock<TempDir> = OnceLock::new();
        let folder = FOLDER.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("asymflow");
            fs::write(&path, PROGRAM).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            folder
        });
        folder.path().join("asymflow")
    }

    fn setting(shapes: &str) -> (TempDir, Runner, Vec<Cell>) {
        let folder = tempfile::tempdir().unwrap();
        let runner = Runner::quiet(Some(&program()), &folder.path().join("out")).unwrap();
        let experiment = samples::experiment("8", shapes, "0");
        let cells = experiment.cells();
        runner.write_configurations(&experiment, &cells).unwrap();
        (folder, runner, cells)
    }

    fn calls(runner: &Runner, cell: &Cell) -> usize {
        fs::read_to_string(runner.path(cell, ".calls")).map_or(0, |text| text.lines().count())
    }

    #[test]
    fn finished_cells_are_not_run_again() {
        let (_folder, runner, cells) = setting("full");
        let Outcome::Trained(figures) = runner.run(&cells[0]).unwrap() else { panic!("it trains") };
        assert_eq!((figures.accuracy, figures.test_records, figures.epsilon), (0.6, 2000, Some(8.0)));
        assert_eq!(runner.run(&cells[0]).unwrap(), Outcome::Kept(figures.clone()));
        assert_eq!(calls(&runner, &cells[0]), 1);
        assert_eq!(runner.version(), "asymflow test");
        let asked = fs::read_to_string(runner.path(&cells[0], ".calls")).unwrap();
        assert!(asked.starts_with("train /") && asked.trim_end().ends_with("--resume --json"), "{asked}");
        // Figures that are damaged are asked for again.
        fs::write(runner.path(&cells[0], ".json"), "{").unwrap();
        assert_eq!(runner.run(&cells[0]).unwrap(), Outcome::Trained(figures));
    }

    #[test]
    fn a_failed_cell_says_why_and_is_tried_again() {
        let (_folder, runner, cells) = setting("mean,pooled:2");
        assert_eq!(runner.run(&cells[0]).unwrap(), Outcome::Failed("no luck".into()));
        // The error of the first attempt is not that of the second.
        fs::write(runner.path(&cells[1], ".log"), "error: old\n").unwrap();
        let Outcome::Failed(why) = runner.run(&cells[1]).unwrap() else { panic!("it fails") };
        assert!(why.contains("exit status: 3"), "{why}");
        assert!(!runner.path(&cells[0], ".json").exists());
        runner.run(&cells[0]).unwrap();
        assert_eq!(calls(&runner, &cells[0]), 2);
    }

    #[test]
    fn a_signal_reaches_the_run_and_stops_the_rest() {
        let (_folder, runner, cells) = setting("pooled:4,full");
        let current = Arc::clone(&runner.current);
        let waits = runner.path(&cells[0], ".waits");
        let signal = std::thread::spawn(move || {
            while !waits.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            interrupt(&current);
        });
        assert_eq!(runner.run(&cells[0]).unwrap(), Outcome::Stopped);
        signal.join().unwrap();
        assert_eq!(runner.run(&cells[1]).unwrap(), Outcome::Stopped);
        assert_eq!(calls(&runner, &cells[1]), 0);
    }

    #[test]
    fn other_settings_need_another_folder() {
        let (_folder, runner, cells) = setting("full");
        let experiment = samples::experiment("8", "full", "0");
        let path = runner.path(&cells[0], ".toml");
        fs::write(&path, format!("# by hand\n{}", fs::read_to_string(&path).unwrap())).unwrap();
        runner.write_configurations(&experiment, &cells).unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with("# by hand"));
        let other = Experiment { epochs: 3, ..experiment };
        let error = runner.write_configurations(&other, &cells).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("--out"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_wrong_use() {
        let folder = tempfile::tempdir().unwrap();
        let error = Runner::quiet(Some(Path::new("/nowhere/asymflow")), folder.path()).err().unwrap();
        assert_eq!(cli::usage::exit_status(&error), 2);
    }
}
