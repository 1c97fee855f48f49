//! The client's files of a run directory.
//!
//! Beside them lie those of the trusted process: sealed checkpoints, the ledger and the boundary log.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use wire::owner::Request;

use crate::config::{Config, Loaded};
use crate::usage::Usage;

const CONFIG: &str = "config.toml";
const CLASSES: &str = "classes.json";
const SUMMARY: &str = "summary.json";
const KEY: &str = "job.key";
/// There from before the trusted process writes its first file until the run can be resumed.
const STARTING: &str = ".starting";

/// A folder with everything of one run.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// The run directory at `path`, which must hold a run.
    ///
    /// # Errors
    /// If it does not.
    pub fn existing(path: &Path) -> Result<Self> {
        let run = Self::at(path)?;
        if !run.holds_run() {
            let what = if path.exists() { "holds no run (no config.toml)" } else { "does not exist" };
            return Err(Usage::new(format!("{} {what}", path.display())).into());
        }
        Ok(run)
    }

    /// The run directory at `path`, whatever is there.
    ///
    /// # Errors
    /// If the path is empty.
    pub fn at(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).with_context(|| format!("{}", path.display()))?;
        Ok(RunDir { path })
    }

    /// The first free `runs/STEM-N`.
    ///
    /// # Errors
    /// As [`RunDir::at`].
    pub fn next(stem: &str) -> Result<Self> {
        Self::at(&Path::new("runs").join(format!("{stem}-{}", last_number(stem) + 1)))
    }

    /// The latest `runs/STEM-N`.
    ///
    /// # Errors
    /// If there is none.
    pub fn latest(stem: &str) -> Result<Self> {
        match last_number(stem) {
            0 => {
                Err(Usage::new(format!("there is no run `runs/{stem}-N` to resume; name it with --out"))
                    .into())
            }
            n => Self::at(&Path::new("runs").join(format!("{stem}-{n}"))),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a run that can be opened.
    pub fn holds_run(&self) -> bool {
        self.path.join(CONFIG).is_file() && !self.path.join(STARTING).exists()
    }

    /// Removes everything; last what says that it may be removed, so that clearing can be cut short as well.
    fn clear(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                _ if entry.file_name() == STARTING => {}
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        fs::remove_file(self.path.join(STARTING))
    }

    /// Makes the folder for a new run.
    ///
    /// What a start that was cut short has left is removed: nothing had left the trusted process by then.
    ///
    /// # Errors
    /// If there is something else in it already.
    pub fn begin(&self) -> Result<()> {
        if self.path.join(STARTING).exists() {
            self.clear().with_context(|| self.about("cannot be cleared"))?;
        }
        let occupied = match fs::read_dir(&self.path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) => return Err(e).with_context(|| self.about("cannot be read")),
        };
        if occupied {
            let advice =
                if self.holds_run() { "holds a run; go on with it by --resume, or" } else { "is not empty;" };
            let text = format!("{} {advice} choose another folder with --out", self.path.display());
            return Err(Usage::new(text).into());
        }
        self.make()?;
        // Not through a file of another name, which would be left alone if this were cut short.
        fs::File::create(self.path.join(STARTING)).with_context(|| self.about("cannot be written"))?;
        Ok(())
    }

    /// Removes the folder of a run that could not be started.
    pub fn abandon(&self) {
        if self.path.join(STARTING).exists() {
            // What stays behind is removed by the next start.
            let _ = fs::remove_dir_all(&self.path);
        }
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.path).with_context(|| self.about("cannot be made"))
    }

    /// Stores what the run is, once the trusted process has stored its part; from now on it can be resumed.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn began(&self, config: &Config, classes: &[String]) -> Result<()> {
        self.write(CLASSES, &serde_json::to_vec(classes)?)?;
        self.write(CONFIG, toml::to_string(config)?.as_bytes())?;
        fs::remove_file(self.path.join(STARTING)).with_context(|| self.about("cannot be written"))
    }

    /// The configuration the run was started with.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn config(&self) -> Result<Loaded> {
        Ok(Loaded::read(&self.path.join(CONFIG))?)
    }

    /// Names of the classes.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn classes(&self) -> Result<Vec<String>> {
        let path = self.path.join(CLASSES);
        let text = fs::read(&path).with_context(|| format!("{}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Stores the summary of the finished run.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_summary(&self, summary: &impl serde::Serialize) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(summary)?;
        text.push(b'\n');
        self.write(SUMMARY, &text)
    }

    /// Stored summary of the finished run, if there is one.
    pub fn summary(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&fs::read(self.path.join(SUMMARY)).ok()?).ok()
    }

    /// The request that opens this run.
    pub fn open_request(&self, config: &Config, accelerator: wire::spec::Accelerator) -> Request {
        Request::Open {
            version: wire::VERSION,
            directory: self.path.clone(),
            key: self.key(config),
            accelerator,
        }
    }

    /// File of the job key.
    pub fn key(&self, config: &Config) -> PathBuf {
        config.trusted.key.clone().unwrap_or_else(|| self.path.join(KEY))
    }

    /// Writes a file in one step: after a crash it is there whole, or as it was.
    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let store = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            std::io::Write::write_all(&mut file, content)?;
            file.as_file().sync_all()?;
            file.persist(self.path.join(name))?;
            fs::File::open(&self.path)?.sync_all()
        };
        store().with_context(|| format!("{} cannot be written", self.path.join(name).display()))
    }

    fn about(&self, what: &str) -> String {
        format!("{} {what}", self.path.display())
    }
}

/// The largest N of all `runs/STEM-N`; 0 if there is none.
fn last_number(stem: &str) -> usize {
    let number = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_prefix(stem)?.strip_prefix('-')?.parse().ok()
    };
    let entries = fs::read_dir("runs").into_iter().flatten().flatten();
    entries.filter_map(number).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let text = "[model]\narchitecture = \"cnn-small\"\n[data]\nformat = \"synthetic\"\n[flow]\nkind = \"plain\"\n";
        Loaded::parse(text, Path::new("RUN.toml")).unwrap().config
    }

    #[test]
    fn a_run_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::at(&folder.path().join("a")).unwrap();
        run.begin().unwrap();
        run.began(&config(), &["x".to_owned()]).unwrap();
        assert!(run.holds_run());
        let again = run.begin().unwrap_err();
        assert!(again.to_string().contains("--resume") && again.is::<Usage>());
        run.abandon();
        assert_eq!(run.classes().unwrap(), ["x"]);
        assert_eq!(RunDir::existing(run.path()).unwrap().config().unwrap().config, config());
    }

    #[test]
    fn a_start_that_was_cut_short_begins_again() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::at(&folder.path().join("a")).unwrap();
        run.begin().unwrap();
        fs::write(run.path().join("job.sealed"), b"half").unwrap();
        assert!(!run.holds_run() && RunDir::existing(run.path()).is_err());
        run.begin().unwrap();
        assert!(!run.path().join("job.sealed").exists());
        fs::create_dir(run.path().join("folder")).unwrap();
        run.begin().unwrap();
        assert!(run.path().join(STARTING).exists() && !run.path().join("folder").exists());
        run.abandon();
        assert!(!run.path().exists());
    }

    #[test]
    fn foreign_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), b"...").unwrap();
        assert!(RunDir::at(folder.path()).unwrap().begin().unwrap_err().to_string().contains("not empty"));
        assert!(folder.path().join("thesis.tex").exists());
    }
}
