//! `asymflow audit`.

mod conditions;
mod images;
mod table;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use ledger::audit::{Audit, Claims, DatasetReport, KindReport, MechanismReport, Summary};
use ledger::{Digest, Kind};
use serde::Serialize;

use crate::config::{Clip, Config, Labels, Loaded};
use crate::run_dir::RunDir;
use crate::terminal;
use crate::usage::Usage;

/// Most records that one picture shows.
const MOST_IMAGES: i64 = 256;

/// Recompute from a run's files what left, what it cost, and whether the files agree
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  asymflow audit runs/quickstart-1\n  asymflow audit runs/quickstart-1 --json --paper\n  asymflow audit runs/quickstart-1 --images 8 --images-dir pictures\n\nOnly --images starts the trusted process; everything else reads ledger, boundary.jsonl, config.toml and summary.json.\nThe exit status is 1 if any of them disagree."
)]
pub(super) struct Arguments {
    /// The run directory
    #[arg(value_name = "RUN_DIR")]
    run: PathBuf,
    /// Show the papers' ε of the same noise as well; it is not a guarantee
    #[arg(long)]
    paper: bool,
    /// Draw the first N training records: image, what stays, residual, and what the accelerator saw
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_IMAGES))]
    images: Option<u16>,
    /// Folder of the picture, which shows private records [default: the run directory]
    #[arg(long, value_name = "DIR", requires = "images")]
    images_dir: Option<PathBuf>,
}

/// The fields of `--json`.
#[derive(Serialize)]
struct Output<'a> {
    flow: &'a str,
    /// Per record, replace-one neighbours; nothing where nothing is guaranteed.
    epsilon: Option<f64>,
    delta: f64,
    /// Against an all-zero record: the papers' reading, beside `epsilon` only.
    epsilon_zero_record: Option<f64>,
    kinds: &'a [KindReport],
    datasets: &'a [DatasetReport],
    mechanisms: Vec<Mechanism<'a>>,
    not_covered: Vec<String>,
    conditions: Vec<String>,
    consistent: bool,
    disagreements: &'a [String],
    notes: &'a [String],
    ledger_entries: u64,
    ledger_head: Digest,
    images: Option<PathBuf>,
}

/// A mechanism, with the papers' ε where it was asked for.
#[derive(Serialize)]
struct Mechanism<'a> {
    #[serde(flatten)]
    report: &'a MechanismReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    epsilon_of_the_papers_not_a_guarantee: Option<f64>,
}

pub(super) fn run(arguments: &Arguments, json: bool) -> Result<()> {
    let run = RunDir::existing(&arguments.run)?;
    let loaded = run
        .config()
        .map_err(|error| anyhow!("{error:#}; restore the config.toml that the run began with"))?;
    if arguments.images.is_some() && loaded.config.flow.kind != "delta" {
        let flow = &loaded.config.flow.kind;
        bail!(Usage::new(format!(
            "--images: flow `{flow}` splits nothing; there is something to show for `delta`"
        )));
    }
    let found = Found::read(&run, &loaded.config, arguments.paper)?;
    terminal::note(found.table(&loaded.config, &run).trim_end());
    let images = match arguments.images {
        Some(_) if !found.disagreements.is_empty() => {
            terminal::note("no picture is drawn: the files disagree");
            None
        }
        Some(count) => Some(draw(arguments, &run, &loaded, count.into())?),
        None => None,
    };
    if json {
        terminal::print_json(&found.output(&loaded.config, images))?;
    }
    match found.disagreements.len() {
        0 => Ok(()),
        1 => bail!("the files of {} disagree; see above", run.path().display()),
        n => bail!("the files of {} disagree in {n} places; see above", run.path().display()),
    }
}

/// What the files amount to.
struct Found {
    audit: Audit,
    /// The audit's, and files that do not read.
    disagreements: Vec<String>,
    /// Share of the training records in one batch, where the papers' ε was asked for.
    rate: Option<f64>,
}

impl Found {
    fn read(run: &RunDir, config: &Config, paper: bool) -> Result<Self> {
        let (summary, unreadable) = match summary(&run.path().join("summary.json"))? {
            Ok(summary) => (summary, None),
            Err(why) => {
                let text =
                    format!("summary.json: {why}; restore the file, or remove it and finish the run anew");
                (None, Some(text))
            }
        };
        // A run that is still going charges first and logs then: read the other way round, every receipt has its entry.
        let boundary = bytes_of(&run.path().join("boundary.jsonl"))?;
        let ledger = bytes_of(&run.path().join("ledger"))?;
        let audit = ledger::audit::check(&ledger, &boundary, &claims(config, summary));
        let own = audit.disagreements.iter().map(ToString::to_string);
        let disagreements = own.chain(unreadable).collect();
        let rate = paper.then(|| sampling_rate(config, &audit.datasets)).flatten();
        Ok(Found { audit, disagreements, rate })
    }

    fn papers(&self, mechanism: &MechanismReport) -> Option<f64> {
        mechanism.epsilon_of_the_papers(self.rate?, self.audit.delta)
    }

    fn output<'a>(&'a self, config: &'a Config, images: Option<PathBuf>) -> Output<'a> {
        let mechanism = |report: &'a MechanismReport| Mechanism {
            report,
            epsilon_of_the_papers_not_a_guarantee: self.papers(report),
        };
        Output {
            flow: &config.flow.kind,
            epsilon: self.audit.epsilon,
            delta: self.audit.delta,
            epsilon_zero_record: self.audit.epsilon_zero_record,
            kinds: &self.audit.kinds,
            datasets: &self.audit.datasets,
            mechanisms: self.audit.mechanisms.iter().map(mechanism).collect(),
            not_covered: conditions::not_covered(&self.audit),
            conditions: conditions::conditions(config, &self.audit),
            consistent: self.disagreements.is_empty(),
            disagreements: &self.disagreements,
            notes: &self.audit.notes,
            ledger_entries: self.audit.ledger_head.sequence,
            ledger_head: self.audit.ledger_head.hash,
            images,
        }
    }
}

fn claims(config: &Config, summary: Option<Summary>) -> Claims {
    let privacy = &config.privacy;
    Claims {
        flow: config.flow.kind.clone(),
        delta: privacy.delta,
        budget: budget(config),
        clip: match privacy.clip {
            Clip::Norm(norm) => Some(norm),
            Clip::Quantile(_) => None,
        },
        allow: privacy.allow.iter().filter_map(|name| Kind::from_name(name)).collect(),
        summary,
    }
}

/// The most that any record may spend; without an ε for what leaves of records, that of what leaves in place of labels.
fn budget(config: &Config) -> Option<f64> {
    let privacy = &config.privacy;
    let records = privacy.epsilon.filter(|_| config.flow.releases());
    records.or(privacy.label_epsilon.filter(|_| privacy.labels != Labels::Public))
}

/// summary.json; `None` where there is none yet, a sentence where it does not read.
fn summary(path: &Path) -> Result<Result<Option<Summary>, String>> {
    let bytes = bytes_of(path)?;
    if bytes.is_empty() && !path.exists() {
        return Ok(Ok(None));
    }
    Ok(serde_json::from_slice(&bytes).map(Some).map_err(|error| error.to_string()))
}

/// A file's content; nothing if it is not there.
fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        bytes => bytes.with_context(|| format!("{} cannot be read", path.display())),
    }
}

/// The papers' sampling rate: the share of the training records in one batch.
fn sampling_rate(config: &Config, datasets: &[DatasetReport]) -> Option<f64> {
    let trained = |data: &&DatasetReport| data.purposes.iter().any(|purpose| purpose.starts_with("training"));
    let records = datasets.iter().find(trained)?.records;
    Some((config.train.batch_size as f64 / records as f64).min(1.0))
}

fn draw(arguments: &Arguments, run: &RunDir, loaded: &Loaded, count: usize) -> Result<PathBuf> {
    let folder = arguments.images_dir.as_deref().unwrap_or(run.path());
    let (path, missing) = images::draw(run, loaded, count, folder)?;
    terminal::note(&format!(
        "wrote {}: image, what stays, residual, what the accelerator saw; it shows private records",
        path.display()
    ));
    if missing > 0 {
        terminal::note(&format!(
            "note: of {missing} of these records nothing was released (or the data has changed since): their last panel is empty"
        ));
    }
    Ok(path)
}
