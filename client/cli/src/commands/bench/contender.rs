//! One flow of a comparison: a run of its own, trained and asked in turns.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use data::Images;
use model::Graph;
use wire::accelerator::RecordSet;
use wire::owner::{Event, Request, Step, Summary};

use super::figures::{Course, Measured, Samples};
use crate::commands::{open, train};
use crate::config::{Config, Loaded, OnFailure, Release};
use crate::prepare::{self, DataSet, Model};
use crate::run_dir::RunDir;
use crate::session::{Session, unexpected};
use crate::summary::Report;
use crate::terminal::note;

/// Seconds a reply may take: those in which a flow is halted count, too.
const PATIENCE: f64 = 1e6;

/// How a stage is cut into turns; the first turn is not measured.
#[derive(Clone, Copy)]
pub(super) struct Turns {
    pub(super) measured: usize,
    /// Steps of a turn, the first of which is not measured.
    pub(super) steps: usize,
}

impl Turns {
    pub(super) fn all(self) -> usize {
        1 + self.measured
    }

    /// Steps of a stage.
    pub(super) fn all_steps(self) -> usize {
        self.all() * self.steps
    }
}

/// A flow that is measured.
pub(super) struct Contender {
    config: Config,
    run: RunDir,
    course: Course,
    session: Option<Session>,
    /// The last step, or the beginning of the stage, of which no step was seen yet.
    last: Option<Last>,
    /// By stage.
    stages: Vec<Samples>,
    summary: Option<Summary>,
    inference: Samples,
    began: Instant,
}

/// Where the trusted process was last seen.
enum Last {
    Stage { cpu: f64 },
    Step { cpu: f64, at: Instant },
}

impl Contender {
    /// A flow with a run directory in `folder`.
    ///
    /// # Errors
    /// Where the configuration does not fit the model.
    pub(super) fn new(mut loaded: Loaded, graph: &Graph, folder: &Path) -> Result<Self> {
        prepare::complete(&mut loaded, graph)?;
        let mut config = loaded.config;
        let all = config.train.epochs;
        let first = config.flow.stage1_epochs.filter(|_| config.flow.kind == "delta").unwrap_or(0);
        let epochs: Vec<usize> = [first, all - first].into_iter().filter(|&epochs| epochs > 0).collect();
        let releases = match (config.flow.kind.as_str(), config.privacy.release) {
            ("enclave" | "asymml", _) => 0,
            ("delta" | "dp-input", Release::PerStep) => all - first,
            ("delta" | "dp-input", Release::Once) => config.privacy.views as usize,
            _ => 1,
        };
        // The run is a short one, with a key of its own, that nobody goes on with.
        config.accelerator.timeout = PATIENCE;
        // Figures of a run that went on alone would be another flow's.
        config.accelerator.on_failure = OnFailure::Stop;
        config.trusted.key = None;
        config.train.checkpoint_steps = None;
        Ok(Contender {
            run: RunDir::at(&folder.join(&config.flow.kind))?,
            config,
            course: Course { epochs, records: 0, releases },
            session: None,
            last: None,
            stages: Vec::new(),
            summary: None,
            inference: Samples::default(),
            began: Instant::now(),
        })
    }

    pub(super) fn flow(&self) -> &str {
        &self.config.flow.kind
    }

    /// Number of stages.
    pub(super) fn stages(&self) -> usize {
        self.course.epochs.len()
    }

    /// Starts the processes, and halts them before the first step. The run has `epochs`, a stage in each if it has as many.
    pub(super) fn start(&mut self, model: &Model, data: &DataSet, epochs: usize) -> Result<()> {
        self.course.records = data.train.len();
        self.config.train.epochs = epochs;
        self.config.train.warmup_epochs = 0;
        if self.config.flow.kind == "delta" {
            self.config.flow.stage1_epochs = Some(self.stages() - 1);
        }
        self.run.begin()?;
        let copy = Model { graph: model.graph.clone(), parameters: model.parameters.clone() };
        let mut session = train::create(&self.run, &self.config, copy, &data.train.classes)?;
        // Without test records: they are for inference.
        session.send_records(RecordSet::Train, &data.train)?;
        session.pause();
        session.send(&Request::Train { profile: false }, &[])?;
        self.session = Some(session);
        Ok(())
    }

    /// One turn of training.
    pub(super) fn train(&mut self, turns: Turns, measured: bool) -> Result<()> {
        let mut session = self.session.take().context("training has ended")?;
        session.resume();
        let mut steps = 0;
        while steps < turns.steps {
            match session.receive()?.0 {
                Event::Step(step) => {
                    self.step(&step, measured && steps > 0);
                    steps += 1;
                }
                Event::Stage { trusted_cpu_seconds, .. } => {
                    self.stages.push(Samples::default());
                    self.last = Some(Last::Stage { cpu: trusted_cpu_seconds });
                }
                Event::Connected { trusted_cpu_seconds } => self.connected(trusted_cpu_seconds),
                Event::Note { text } => note(&format!("{}: {text}", self.flow())),
                Event::Released { .. } | Event::Spent { .. } | Event::Epoch(_) | Event::Checkpoint { .. } => {
                }
                other => return Err(unexpected("a step", &other).into()),
            }
        }
        session.pause();
        self.session = Some(session);
        Ok(())
    }

    /// A session begins once, however many records follow: it counts apart.
    fn connected(&mut self, seconds: f64) {
        if let (Some(stage), Some(Last::Stage { cpu })) = (self.stages.last_mut(), &mut self.last) {
            stage.sessions.push(seconds);
            *cpu += seconds;
        }
    }

    fn step(&mut self, step: &Step, measured: bool) {
        let (cpu, at) = (step.trusted_cpu_seconds, Instant::now());
        let Some(stage) = self.stages.last_mut() else { return };
        match self.last {
            Some(Last::Stage { cpu: began }) => stage.first = cpu - began,
            Some(Last::Step { cpu: before, at: seen }) if measured => {
                stage.push(cpu - before, at.duration_since(seen).as_secs_f64(), step.records);
            }
            _ => {}
        }
        self.last = Some(Last::Step { cpu, at });
    }

    /// Lets the run come to its end.
    pub(super) fn end_training(&mut self) -> Result<()> {
        let mut session = self.session.take().context("training has ended")?;
        session.resume();
        loop {
            match session.receive()?.0 {
                Event::Trained(summary) => {
                    self.run.write_summary(&summary)?;
                    self.summary = Some(summary);
                    break;
                }
                Event::Epoch(_) | Event::Checkpoint { .. } | Event::Spent { .. } => {}
                other => return Err(unexpected("`trained`", &other).into()),
            }
        }
        session.close();
        Ok(())
    }

    /// One turn of inference: all test records, in new processes, on a copy of the run as it was trained.
    ///
    /// In the run itself their messages would be stored already, and not be made again.
    pub(super) fn infer(&mut self, test: &Images, measured: bool) -> Result<()> {
        let folder = tempfile::Builder::new().prefix("asymflow-bench-").tempdir()?;
        copy(self.run.path(), folder.path())?;
        let mut session = Session::start()?;
        open(&mut session, &RunDir::at(folder.path())?, &self.config)?;
        session.send_records(RecordSet::Test, test)?;
        let began = Instant::now();
        session.send(&Request::Evaluate, &[])?;
        let mut connected = None;
        let evaluated = loop {
            match session.receive()?.0 {
                Event::Evaluated(summary) => break summary,
                Event::Connected { trusted_cpu_seconds } => connected = Some(trusted_cpu_seconds),
                Event::Released { .. } | Event::Spent { .. } => {}
                Event::Note { text } => note(&format!("{}: {text}", self.flow())),
                other => return Err(unexpected("`evaluated`", &other).into()),
            }
        };
        let seconds = began.elapsed().as_secs_f64();
        session.close();
        if measured {
            let of_records = evaluated.trusted_cpu_seconds - connected.unwrap_or(0.0);
            self.inference.push(of_records, seconds, test.len());
            self.inference.sessions.extend(connected);
        }
        // Quality after so few steps says little, but it is the run's.
        self.summary.as_mut().context("training has not ended")?.scores = evaluated.scores;
        Ok(())
    }

    /// What came out.
    pub(super) fn figures(self) -> Result<Measured> {
        let summary = self.summary.context("training has not ended")?;
        let report = Report::new(summary, 0, self.began.elapsed().as_secs_f64(), String::new());
        Ok(Measured::new(report, &self.course, &self.stages, &self.inference))
    }
}

/// Copies the files of a run.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let copied = std::fs::copy(entry.path(), to.join(entry.file_name()));
        copied.with_context(|| entry.path().display().to_string())?;
    }
    Ok(())
}
