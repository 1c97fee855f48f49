//! `asymflow train`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;
use wire::accelerator::RecordSet;
use wire::owner::{Event, Request, Summary};

use super::{accelerator_address, opened};
use crate::config::{Config, Loaded};
use crate::metrics::Metrics;
use crate::prepare::{self, DataSet, Model};
use crate::profile::Profiler;
use crate::progress::Progress;
use crate::run_dir::RunDir;
use crate::session::{Session, unexpected};
use crate::summary::Report;
use crate::terminal;
use crate::usage::Usage;

/// Train a model as a RUN.toml says
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  asymflow train examples/quickstart.toml\n  asymflow train run.toml --out runs/first --json\n  asymflow train run.toml --out runs/first --resume\n\nCtrl-C stops at the next step with a checkpoint, and the exit status is 1."
)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(value_name = "RUN.toml")]
    config: PathBuf,
    /// Run directory [default: the next free runs/NAME-N]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with a run [default: the latest runs/NAME-N]; it is started if it never began
    #[arg(long)]
    resume: bool,
    /// Show where the trusted side's time goes, by node and pass, and write a trace for Perfetto [default: profile.json in the
    /// run directory]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    profile: Option<Option<PathBuf>>,
}

pub(super) fn run(arguments: &Arguments, json: bool) -> Result<()> {
    let loaded = Loaded::read(&arguments.config)?;
    if arguments.profile.is_some() && loaded.config.flow.kind == "asymml" {
        let text = "--profile cannot name split convolutions yet; profile the flow `enclave` with this model, or leave it out";
        bail!(Usage::new(text));
    }
    let run = run_directory(arguments)?;
    let held_run = run.holds_run();
    let mut profiler = profiler(arguments, &run);
    let profile = profiler.as_mut();
    let outcome = if arguments.resume && held_run {
        resume(&run, &loaded, profile)
    } else {
        start(&run, loaded, profile)
    };
    if let (Some(profiler), Ok(Outcome::Trained(_) | Outcome::Stopped { .. })) = (&profiler, &outcome) {
        terminal::note(&profiler.finish()?);
    }
    match outcome {
        Ok(Outcome::Trained(report)) => finish(&run, &report, json),
        Ok(Outcome::FinishedBefore) => finished_before(&run, json),
        Ok(Outcome::Stopped { steps_done }) => stopped(arguments, &run, steps_done, json),
        Err(error) => {
            if run.holds_run() && (arguments.resume || !held_run) {
                terminal::note(&how_to_resume(arguments, &run));
            }
            Err(error)
        }
    }
}

enum Outcome {
    Trained(Box<Report>),
    FinishedBefore,
    Stopped { steps_done: usize },
}

fn run_directory(arguments: &Arguments) -> Result<RunDir> {
    let stem = arguments.config.file_stem().and_then(|stem| stem.to_str()).unwrap_or("run");
    match (&arguments.out, arguments.resume) {
        (Some(path), _) if path.is_file() => {
            bail!(Usage::new(format!("{} is a file, not a folder", path.display())))
        }
        (Some(path), _) => RunDir::at(path),
        (None, true) => RunDir::latest(stem),
        (None, false) => RunDir::next(stem),
    }
}

fn profiler(arguments: &Arguments, run: &RunDir) -> Option<Profiler> {
    let file = arguments.profile.as_ref()?;
    Some(Profiler::new(&file.clone().unwrap_or_else(|| run.path().join("profile.json"))))
}

fn start(run: &RunDir, mut loaded: Loaded, profiler: Option<&mut Profiler>) -> Result<Outcome> {
    let data = prepare::read_data(&loaded)?;
    let model = prepare::build_model(&loaded, data.train.shape, data.train.classes.len())?;
    prepare::complete(&mut loaded, &model.graph)?;
    let config = loaded.config;
    run.begin()?;
    match create(run, &config, model, &data.train.classes) {
        Ok(session) => train(run, session, &config, &data, 0, profiler),
        Err(error) => {
            run.abandon();
            Err(error)
        }
    }
}

/// Starts the processes of a new run in `run`, which [`RunDir::begin`] has made.
pub(super) fn create(run: &RunDir, config: &Config, model: Model, classes: &[String]) -> Result<Session> {
    let mut session = Session::start()?;
    let address = accelerator_address(&session, config)?;
    let body = wire::body::from_parameters(&model.parameters);
    let request = Request::Create {
        version: wire::VERSION,
        directory: run.path().to_path_buf(),
        key: run.key(config),
        spec: Box::new(prepare::run_spec(config, model.graph, address)),
    };
    session.send(&request, &[&body])?;
    opened(&mut session)?;
    run.began(config, classes)?;
    Ok(session)
}

fn resume(run: &RunDir, asked: &Loaded, profiler: Option<&mut Profiler>) -> Result<Outcome> {
    let stored = run.config()?;
    let data = prepare::read_data(&stored)?;
    // The run goes on as it began; only where the accelerator is may have changed.
    let config = Config { accelerator: asked.config.accelerator.clone(), ..stored.config.clone() };
    let mut session = Session::start()?;
    let address = accelerator_address(&session, &config)?;
    session.send(&run.open_request(&config, prepare::accelerator_spec(&stored.config, address)), &[])?;
    let (spec, steps_done) = opened(&mut session)?;
    let mut asked = asked.clone();
    prepare::complete(&mut asked, &spec.graph)?;
    for key in differences(&asked.config, &stored.config) {
        terminal::note(&format!(
            "note: {} now says another {key}; the run goes on as it began",
            asked.file.display()
        ));
    }
    // Without a summary the command ended after the last step, but before it could say so.
    let steps = engine::batches::steps(data.train.len(), config.train.batch_size) * config.train.epochs;
    if steps_done >= steps && run.summary().is_some() {
        session.close();
        return Ok(Outcome::FinishedBefore);
    }
    let input = spec.graph.input();
    if input != tensor::Shape::from(data.train.shape) {
        bail!(
            "the data has changed: its images are {}, the run began with {input}",
            tensor::Shape::from(data.train.shape)
        );
    }
    terminal::note(&format!("going on after {steps_done} steps"));
    train(run, session, &config, &data, steps_done, profiler)
}

fn train(
    run: &RunDir,
    mut session: Session,
    config: &Config,
    data: &DataSet,
    steps_done: usize,
    profiler: Option<&mut Profiler>,
) -> Result<Outcome> {
    session.make_stoppable();
    session.send_records(RecordSet::Train, &data.train)?;
    session.send_records(RecordSet::Test, &data.test)?;
    let mut metrics = Metrics::open(run.path(), steps_done).context("metrics of the run")?;
    let mut progress = Progress::new(config.train.epochs);
    let began = Instant::now();
    session.send(&Request::Train { profile: profiler.is_some() }, &[])?;
    let followed = follow(&mut session, &mut metrics, &mut progress, profiler);
    progress.finish();
    let (images, end) = followed?;
    session.close();
    let seconds = began.elapsed().as_secs_f64();
    Ok(match end {
        End::Trained(summary) => Outcome::Trained(Box::new(Report::new(
            *summary,
            images,
            seconds,
            run.path().display().to_string(),
        ))),
        End::Stopped { steps_done } => Outcome::Stopped { steps_done },
    })
}

enum End {
    Trained(Box<Summary>),
    Stopped { steps_done: usize },
}

/// Follows training to its end; returns the records it processed.
fn follow(
    session: &mut Session,
    metrics: &mut Metrics,
    progress: &mut Progress,
    mut profiler: Option<&mut Profiler>,
) -> Result<(u64, End)> {
    let mut images = 0;
    let mut told = false;
    loop {
        let (event, _) = session.receive()?;
        if session.interrupted() && !told {
            told = true;
            progress.line("stopping at the next step; Ctrl-C again ends at once");
        }
        match event {
            Event::Note { text } => progress.line(&text),
            Event::Stage { name, epochs, steps_per_epoch, .. } => {
                progress.stage(name, epochs, steps_per_epoch)
            }
            Event::Connected { .. } => {}
            Event::Released { records, total, epsilon, .. } => progress.released(records, total, epsilon),
            Event::Spent { epsilon } => progress.spend(epsilon),
            Event::Step(step) => {
                images += step.records as u64;
                progress.step(&step);
                metrics.step(&step, progress.stage_name(), progress.spent().epsilon())?;
            }
            Event::Epoch(epoch) => {
                progress.epoch(&epoch);
                metrics.epoch(&epoch, progress.stage_name(), progress.spent().epsilon())?;
            }
            Event::Profile(profile) => {
                if let Some(profiler) = &mut profiler {
                    profiler.add(profile);
                }
            }
            Event::Checkpoint { .. } => {}
            Event::Trained(summary) => return Ok((images, End::Trained(Box::new(summary)))),
            Event::Stopped { steps_done } => return Ok((images, End::Stopped { steps_done })),
            other => return Err(unexpected("an event of training", &other).into()),
        }
    }
}

fn finish(run: &RunDir, report: &Report, json: bool) -> Result<()> {
    run.write_summary(report)?;
    terminal::note(report.table().trim_end());
    if json {
        terminal::print_json(report)?;
    }
    Ok(())
}

fn finished_before(run: &RunDir, json: bool) -> Result<()> {
    terminal::note(&format!("{} is finished; there is nothing to resume", run.path().display()));
    match run.summary() {
        Some(summary) if json => Ok(terminal::print_json(&summary)?),
        None if json => Ok(terminal::print_json(&json!({ "finished": true }))?),
        _ => Ok(()),
    }
}

fn stopped(arguments: &Arguments, run: &RunDir, steps_done: usize, json: bool) -> Result<()> {
    if json {
        terminal::print_json(
            &json!({ "stopped": true, "steps_done": steps_done, "run_directory": run.path() }),
        )?;
    }
    terminal::note(&how_to_resume(arguments, run));
    bail!("stopped after {steps_done} steps, as asked; a checkpoint is in {}", run.path().display())
}

fn how_to_resume(arguments: &Arguments, run: &RunDir) -> String {
    let config = arguments.config.display();
    format!("to go on: asymflow train {config} --out {} --resume", run.path().display())
}

/// Keys whose values differ, apart from those of the accelerator.
fn differences(asked: &Config, stored: &Config) -> Vec<String> {
    let tables = [asked, stored].map(|config| toml::Table::try_from(config).unwrap_or_default());
    let [asked, stored] = &tables;
    let mut found = Vec::new();
    for (section, value) in asked.iter().filter(|(section, _)| *section != "accelerator") {
        let keys = value.as_table().into_iter().flatten();
        found.extend(
            keys.filter(|(key, value)| stored[section].get(key) != Some(value))
                .map(|(key, _)| format!("{section}.{key}")),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn differences_name_keys() {
        let text = "[model]\narchitecture = \"cnn-small\"\n[data]\nformat = \"synthetic\"\n[flow]\nkind = \"enclave\"\n";
        let config = |more: &str| Loaded::parse(&format!("{text}{more}"), Path::new("R")).unwrap().config;
        let stored = config("");
        assert!(differences(&config(""), &stored).is_empty());
        assert_eq!(
            differences(&config("rank = 3\n[train]\nepochs = 7\n[accelerator]\ntimeout = 1.0\n"), &stored),
            ["flow.rank", "train.epochs"]
        );
    }
}
