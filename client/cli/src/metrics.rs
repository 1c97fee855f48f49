//! `metrics.jsonl` and the TensorBoard event file: what a run's curves are drawn from.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use wire::owner::{Epoch, Step};

use crate::tensorboard::EventWriter;

const FILE: &str = "metrics.jsonl";
/// Steps that one row stands for.
const WINDOW: usize = 10;

/// Writes both files.
pub struct Metrics {
    rows: File,
    events: EventWriter,
    window: Window,
    epoch_began: Instant,
    /// Epochs that have a row.
    epochs: usize,
}

/// The mean over the last few steps.
struct Window {
    began: Instant,
    records: usize,
    correct: usize,
    loss: f64,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Row<'a> {
    Step {
        step: usize,
        epoch: usize,
        stage: &'a str,
        loss: f64,
        accuracy: f64,
        rate: f32,
        images_per_second: f64,
        epsilon: Option<f64>,
    },
    Epoch {
        step: usize,
        epoch: usize,
        stage: &'a str,
        train_loss: f64,
        train_accuracy: f64,
        test_loss: Option<f64>,
        test_accuracy: Option<f64>,
        test_accuracy_trusted_only: Option<f64>,
        epsilon: Option<f64>,
        seconds: f64,
    },
}

impl Metrics {
    /// Goes on after `steps_done` steps; rows beyond them, which will be done again, are cut.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn open(folder: &Path, steps_done: usize) -> io::Result<Self> {
        let path = folder.join(FILE);
        cut(&path, steps_done)?;
        let rows = File::options().create(true).append(true).open(path)?;
        let events = EventWriter::create(folder, steps_done)?;
        let epochs = epochs(&fs::read_to_string(folder.join(FILE))?);
        Ok(Metrics { rows, events, window: Window::new(), epoch_began: Instant::now(), epochs })
    }

    /// Notes one step; writes a row for every ten.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn step(&mut self, step: &Step, stage: &str, epsilon: Option<f64>) -> io::Result<()> {
        self.window.add(step);
        if !step.steps_done.is_multiple_of(WINDOW) {
            return Ok(());
        }
        let window = std::mem::replace(&mut self.window, Window::new());
        let (loss, accuracy, images_per_second) = window.means();
        let at = step.steps_done;
        self.row(&Row::Step {
            step: at,
            epoch: step.epoch,
            stage,
            loss,
            accuracy,
            rate: step.rate,
            images_per_second,
            epsilon,
        })?;
        let mut scalars = vec![
            ("train/loss", loss),
            ("train/accuracy", accuracy),
            ("train/rate", f64::from(step.rate)),
            ("images_per_second", images_per_second),
        ];
        scalars.extend(epsilon.map(|epsilon| ("epsilon", epsilon)));
        self.events.scalars(at, &scalars)
    }

    /// Writes the row of an epoch, unless it is there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn epoch(&mut self, epoch: &Epoch, stage: &str, epsilon: Option<f64>) -> io::Result<()> {
        if epoch.epoch <= self.epochs {
            return Ok(());
        }
        self.epochs = epoch.epoch;
        let seconds = self.epoch_began.elapsed().as_secs_f64();
        self.epoch_began = Instant::now();
        let test = epoch.test.as_ref();
        let trusted_only = test.and_then(|scores| scores.accuracy_trusted_only);
        self.row(&Row::Epoch {
            step: epoch.steps_done,
            epoch: epoch.epoch,
            stage,
            train_loss: epoch.train_loss,
            train_accuracy: epoch.train_accuracy,
            test_loss: test.map(|scores| scores.loss),
            test_accuracy: test.map(|scores| scores.accuracy),
            test_accuracy_trusted_only: trusted_only,
            epsilon,
            seconds,
        })?;
        let mut scalars =
            vec![("epoch/train_loss", epoch.train_loss), ("epoch/train_accuracy", epoch.train_accuracy)];
        if let Some(scores) = test {
            scalars.extend([("epoch/test_loss", scores.loss), ("epoch/test_accuracy", scores.accuracy)]);
        }
        scalars.extend(trusted_only.map(|accuracy| ("epoch/test_accuracy_trusted_only", accuracy)));
        self.events.scalars(epoch.steps_done, &scalars)
    }

    fn row(&mut self, row: &Row<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(row)?;
        line.push(b'\n');
        self.rows.write_all(&line)
    }
}

impl Window {
    fn new() -> Self {
        Window { began: Instant::now(), records: 0, correct: 0, loss: 0.0 }
    }

    fn add(&mut self, step: &Step) {
        self.records += step.records;
        self.correct += step.correct;
        self.loss += f64::from(step.loss) * step.records as f64;
    }

    /// Loss, accuracy, and images per second.
    fn means(&self) -> (f64, f64, f64) {
        let records = self.records.max(1) as f64;
        let seconds = self.began.elapsed().as_secs_f64().max(1e-9);
        (self.loss / records, self.correct as f64 / records, self.records as f64 / seconds)
    }
}

/// Keeps the whole rows up to `steps_done`.
fn cut(path: &Path, steps_done: usize) -> io::Result<()> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let kept: String = text.split_inclusive('\n').filter(|line| is_kept(line, steps_done)).collect();
    if kept == text {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(kept.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// The last epoch that has a row; 0 if none has.
fn epochs(text: &str) -> usize {
    let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok();
    let epoch = |row: serde_json::Value| (row["kind"] == "epoch").then(|| row["epoch"].as_u64())?;
    text.lines().filter_map(row).filter_map(epoch).max().unwrap_or(0) as usize
}

fn is_kept(line: &str, steps_done: usize) -> bool {
    let step = serde_json::from_str::<serde_json::Value>(line).ok().and_then(|row| row["step"].as_u64());
    line.ends_with('\n') && step.is_some_and(|step| step <= steps_done as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(steps_done: usize) -> Step {
        let (records, correct) = (4, 3);
        Step { steps_done, epoch: 0, records, loss: 0.5, correct, rate: 0.1, trusted_cpu_seconds: 0.0 }
    }

    fn rows(folder: &Path) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(folder.join(FILE)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn one_row_for_ten_steps_and_one_per_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(folder.path(), 0).unwrap();
        (1..=20).for_each(|n| metrics.step(&step(n), "both parts", Some(2.0)).unwrap());
        let epoch = Epoch { steps_done: 20, epoch: 1, train_loss: 0.5, train_accuracy: 0.75, test: None };
        metrics.epoch(&epoch, "both parts", None).unwrap();
        // Told again when the run goes on, it is not written twice, and the next one is.
        metrics.epoch(&epoch, "both parts", None).unwrap();
        let mut metrics = Metrics::open(folder.path(), 20).unwrap();
        metrics.epoch(&epoch, "both parts", None).unwrap();
        let rows = rows(folder.path());
        assert_eq!(rows.len(), 3);
        assert_eq!((&rows[0]["kind"], &rows[0]["step"]), (&"step".into(), &10.into()));
        assert_eq!((rows[0]["loss"].as_f64(), rows[0]["accuracy"].as_f64()), (Some(0.5), Some(0.75)));
        assert_eq!((&rows[2]["kind"], &rows[2]["epsilon"]), (&"epoch".into(), &serde_json::Value::Null));
    }

    #[test]
    fn rows_that_will_be_done_again_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(folder.path(), 0).unwrap();
        (1..=50).for_each(|n| metrics.step(&step(n), "", None).unwrap());
        let path = folder.path().join(FILE);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"kind\":\"step\",\"st");
        fs::write(&path, text).unwrap();
        drop(metrics);
        let mut metrics = Metrics::open(folder.path(), 30).unwrap();
        (31..=40).for_each(|n| metrics.step(&step(n), "", None).unwrap());
        let steps: Vec<_> = rows(folder.path()).iter().map(|row| row["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [10, 20, 30, 40]);
    }
}
