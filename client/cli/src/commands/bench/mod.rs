//! `asymflow bench`: flows side by side, in turns.

mod contender;
mod figures;

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::Serialize;

use self::contender::{Contender, Turns};
use self::figures::Measured;
use crate::config::Loaded;
use crate::prepare::{self, DataSet, Model};
use crate::terminal;
use crate::usage::Usage;

/// Measured steps of one turn; the step before them, in which the processes wake up, is left out.
const STEPS_PER_TURN: usize = 4;
/// Measured turns of inference.
const INFERENCES: usize = 3;

/// Measure flows side by side on the same model and data
///
/// Every flow trains in a trusted process and an accelerator process of its own, as `train` does, on the first records of the
/// data: a stage for each of its stages, an epoch each. The flows take turns of a few steps; those that wait are halted. Then
/// they take turns to evaluate the test records. First turns are left out, and medians count; what is done once a session,
/// before the first record, is a row of its own. Nothing is kept.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: asymflow bench run.toml --flows enclave,delta\n\nWhat a flow releases needs `epsilon`, or `noise` and `allow`, in RUN.toml, as in training.\nSections that a flow does not need are fine."
)]
pub(super) struct Arguments {
    /// The configuration; `flow.kind` is taken from --flows
    #[arg(value_name = "RUN.toml")]
    config: PathBuf,
    /// Flows; ratios are to the first
    #[arg(long, value_name = "FLOWS", value_delimiter = ',', required = true)]
    flows: Vec<String>,
    /// Measured training steps of each stage, in turns of four
    #[arg(long, value_name = "N", default_value_t = 20)]
    steps: usize,
    /// Threads of the trusted side [default: as RUN.toml says]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer {
    model: String,
    threads: usize,
    flows: Vec<Measured>,
}

pub(super) fn run(arguments: &Arguments, json: bool) -> Result<()> {
    check(arguments)?;
    let mut loaded = Loaded::read(&arguments.config)?;
    if let Some(threads) = arguments.threads {
        loaded.config.trusted.threads = threads;
    }
    check_accelerator(&loaded, &arguments.flows)?;
    // Before anything is read.
    arguments.flows.iter().try_for_each(|flow| loaded.with_flow(flow).map(|_| ()))?;
    let turns = Turns { measured: arguments.steps.div_ceil(STEPS_PER_TURN), steps: 1 + STEPS_PER_TURN };
    let (data, model) = read(&mut loaded, turns)?;
    let folder = tempfile::Builder::new().prefix("asymflow-bench-").tempdir()?;
    let mut contenders = arguments
        .flows
        .iter()
        .map(|flow| Contender::new(loaded.with_flow(flow)?, &model.graph, folder.path()))
        .collect::<Result<Vec<_>>>()?;
    train(&mut contenders, &model, &data, turns)?;
    infer(&mut contenders, &data)?;
    let answer = Answer {
        model: model.graph.name().to_owned(),
        threads: loaded.config.trusted.threads,
        flows: contenders.into_iter().map(Contender::figures).collect::<Result<_>>()?,
    };
    terminal::note(figures::table(&answer.model, answer.threads, &answer.flows).trim_end());
    if json {
        terminal::print_json(&answer)?;
    }
    Ok(())
}

fn check(arguments: &Arguments) -> Result<()> {
    if arguments.steps == 0 {
        bail!(Usage::new("--steps must be at least 1"));
    }
    let mut flows = arguments.flows.clone();
    flows.sort_unstable();
    flows.dedup();
    if flows.len() < arguments.flows.len() {
        bail!(Usage::new("--flows names a flow twice"));
    }
    Ok(())
}

/// An accelerator that is not started here serves one session at a time, and the flows' sessions are open together.
fn check_accelerator(loaded: &Loaded, flows: &[String]) -> Result<()> {
    let address = &loaded.config.accelerator.address;
    let sharing = flows.iter().filter(|flow| *flow != "enclave").count();
    if sharing > 1 && !address.starts_with("spawn:") {
        bail!(loaded.fault(
            "accelerator.address",
            format!("`{address}` is one accelerator for {sharing} flows; use `spawn:cpu`, which starts one for each")
        ));
    }
    Ok(())
}

/// The records and the model of all flows.
fn read(loaded: &mut Loaded, turns: Turns) -> Result<(DataSet, Model)> {
    let batch = loaded.config.train.batch_size;
    let needed = turns.all_steps() * batch;
    let settings = &mut loaded.config.data;
    settings.train_records = Some(settings.train_records.unwrap_or(needed).min(needed));
    settings.test_records = Some(settings.test_records.unwrap_or(needed).min(needed));
    let data = prepare::read_data(loaded)?;
    if data.train.len() < needed || data.test.is_empty() {
        bail!(Usage::new(format!(
            "there are {} training and {} test records; {} steps of {batch} records need {needed} and some test records; \
             lower --steps or train.batch_size",
            data.train.len(),
            data.test.len(),
            turns.all_steps(),
        )));
    }
    let model = prepare::build_model(loaded, data.train.shape, data.train.classes.len())?;
    Ok((data, model))
}

/// Every flow trains an epoch per stage; where one has two stages, so has every other flow two epochs beside them.
fn train(contenders: &mut [Contender], model: &Model, data: &DataSet, turns: Turns) -> Result<()> {
    let epochs = contenders.iter().map(Contender::stages).max().unwrap_or(1);
    for contender in &mut *contenders {
        contender.start(model, data, epochs)?;
    }
    for turn in 0..epochs * turns.all() {
        terminal::note(&format!("training, turn {} of {}", turn + 1, epochs * turns.all()));
        for contender in &mut *contenders {
            contender.train(turns, turn % turns.all() > 0)?;
        }
    }
    contenders.iter_mut().try_for_each(Contender::end_training)
}

fn infer(contenders: &mut [Contender], data: &DataSet) -> Result<()> {
    for turn in 0..=INFERENCES {
        terminal::note(&format!("inference, turn {} of {}", turn + 1, 1 + INFERENCES));
        for contender in &mut *contenders {
            contender.infer(&data.test, turn > 0)?;
        }
    }
    Ok(())
}
