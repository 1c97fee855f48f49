//! How training goes, on standard error: a bar in a terminal, a line per epoch elsewhere.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use wire::owner::{Epoch, Step};

use crate::terminal::{self, grouped, percent};

/// Weight of the newest step in the loss and accuracy that are shown.
const SMOOTHING: f64 = 0.05;

/// What people see while a run trains.
pub struct Progress {
    bar: Option<ProgressBar>,
    epochs: usize,
    stage: String,
    epsilon: Spent,
    shown: Option<(f64, f64)>,
    /// Records and time since the epoch began, or since training went on.
    records: usize,
    began: Instant,
}

/// What has been spent of the privacy budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spent {
    Nothing,
    Epsilon(f64),
    /// Something left without a guarantee.
    Unbounded,
}

impl Spent {
    /// ε as a number, where there is one.
    pub fn epsilon(self) -> Option<f64> {
        match self {
            Spent::Nothing => Some(0.0),
            Spent::Epsilon(epsilon) => Some(epsilon),
            Spent::Unbounded => None,
        }
    }

    fn text(self) -> String {
        match self {
            Spent::Nothing => "ε 0".into(),
            Spent::Epsilon(epsilon) => format!("ε {epsilon:.2}"),
            Spent::Unbounded => "ε none".into(),
        }
    }
}

impl Progress {
    /// Shows a run of `epochs` epochs.
    pub fn new(epochs: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = "{prefix} {bar:24} {pos}/{len} {msg} {eta}";
            let style =
                ProgressStyle::with_template(style).expect("the template is valid (seen at every run)");
            ProgressBar::no_length().with_style(style)
        });
        Progress {
            bar,
            epochs,
            stage: String::new(),
            epsilon: Spent::Nothing,
            shown: None,
            records: 0,
            began: Instant::now(),
        }
    }

    /// Name of the current stage.
    pub fn stage_name(&self) -> &str {
        &self.stage
    }

    /// What has been spent so far.
    pub fn spent(&self) -> Spent {
        self.epsilon
    }

    /// A stage begins.
    pub fn stage(&mut self, name: String, epochs: usize, steps_per_epoch: usize) {
        self.line(&format!("{name}: {epochs} × {steps_per_epoch} steps"));
        if let Some(bar) = &self.bar {
            bar.set_length((self.epochs * steps_per_epoch) as u64);
            bar.set_prefix(name.clone());
        }
        self.stage = name;
        self.restart();
    }

    /// What the worst record has spent; `None` where nothing is guaranteed.
    pub fn spend(&mut self, epsilon: Option<f64>) {
        self.epsilon = epsilon.map_or(Spent::Unbounded, Spent::Epsilon);
    }

    /// Messages of records left for the accelerator.
    pub fn released(&mut self, records: usize, total: usize, epsilon: Option<f64>) {
        self.spend(epsilon);
        let text = format!(
            "released {} of {} records, {}",
            grouped(records as u64),
            grouped(total as u64),
            self.epsilon.text()
        );
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None if records == total => self.line(&text),
            None => {}
        }
    }

    /// One step is done.
    pub fn step(&mut self, step: &Step) {
        self.records += step.records;
        let new = (f64::from(step.loss), step.correct as f64 / step.records.max(1) as f64);
        let mix = |old: f64, new: f64| old + SMOOTHING * (new - old);
        let shown = self.shown.map_or(new, |old| (mix(old.0, new.0), mix(old.1, new.1)));
        self.shown = Some(shown);
        if let Some(bar) = &self.bar {
            bar.set_position(step.steps_done as u64);
            let speed = self.speed();
            bar.set_message(format!(
                "loss {:.3} accuracy {} {speed:.0} images/s {}",
                shown.0,
                percent(shown.1),
                self.epsilon.text()
            ));
        }
    }

    /// An epoch is done.
    pub fn epoch(&mut self, epoch: &Epoch) {
        let mut text = format!(
            "epoch {}/{}  loss {:.4}  accuracy {}",
            epoch.epoch,
            self.epochs,
            epoch.train_loss,
            percent(epoch.train_accuracy)
        );
        if let Some(scores) = &epoch.test {
            text += &format!("  test {}", percent(scores.accuracy));
            if let Some(alone) = scores.accuracy_trusted_only {
                text += &format!(" (trusted part alone {})", percent(alone));
            }
        }
        text += &format!("  {:.0} images/s  {}", self.speed(), self.epsilon.text());
        self.line(&text);
        self.restart();
    }

    /// Something a person should read.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| terminal::note(text)),
            None => terminal::note(text),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn speed(&self) -> f64 {
        self.records as f64 / self.began.elapsed().as_secs_f64().max(1e-9)
    }

    fn restart(&mut self) {
        (self.records, self.began) = (0, Instant::now());
    }
}
