//! The run: every case on every peer, repetitions in turn.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kernels::Threads;

use crate::process::{Process, Program};
use crate::protocol::{Case, Reply, Request};
use crate::{cases, peak, peers, report};

/// Between two repetitions of a peer with one thread, and with more: helpers of the last peer that wait for work in a loop,
/// OpenMP's for 200 ms by default, fall asleep and leave their cores to the next.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];
/// Repetitions of a peer that has used up its time.
const FEWEST: usize = 3;
/// Largest relative difference between a peer's figure and ours: sums in another order, through a whole model.
const AGREEMENT: f64 = 1e-3;

/// Peers by name, in the order of the tables. Ours comes first.
const PEERS: &[(&str, Program)] = &[
    ("asymflow", Program::Own),
    ("pytorch-nhwc", Program::PyTorch { layout: "nhwc", keeps_pages: false }),
    ("pytorch-nchw", Program::PyTorch { layout: "nchw", keeps_pages: false }),
    ("pytorch-nhwc-kept", Program::PyTorch { layout: "nhwc", keeps_pages: true }),
    ("candle", Program::Own),
    ("burn", Program::Own),
    ("tract", Program::Own),
];

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cargo run --release --manifest-path lab/peers/Cargo.toml -- --python venv/bin/python --out lab-out/peers"
)]
pub(crate) struct Arguments {
    /// Python with PyTorch
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: PathBuf,
    /// Folder for table.md, table.csv and chart.svg
    #[arg(long, value_name = "DIR", default_value = "lab-out/peers")]
    out: PathBuf,
    /// Peers beside asymflow: pytorch-nhwc, pytorch-nchw, pytorch-nhwc-kept (freed memory stays with the process), candle, burn, tract
    /// [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    peers: Vec<String>,
    /// Parts of the names of cases, such as `conv`, `resnet18-cifar`, `training` [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    cases: Vec<String>,
    /// Threads of each peer
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Most repetitions of a case
    #[arg(long, value_name = "N", default_value_t = 15)]
    repetitions: usize,
    /// Time after which a peer takes no more turns in a case, but for its first three
    #[arg(long, value_name = "S", default_value_t = 20.0)]
    seconds: f64,
    /// A quick look: one thread, three repetitions, convolutions and ResNet-18-CIFAR
    #[arg(long, conflicts_with_all = ["threads", "repetitions", "cases"])]
    quick: bool,
}

/// All that was measured so far.
#[derive(Default)]
pub(crate) struct Results {
    /// Version of each peer that runs, in the order of the tables; why the others do not.
    pub(crate) peers: Vec<(&'static str, String)>,
    pub(crate) missing: Vec<(&'static str, String)>,
    pub(crate) cases: Vec<Measured>,
    pub(crate) command: String,
}

/// One case with one number of threads.
pub(crate) struct Measured {
    pub(crate) case: Case,
    pub(crate) threads: usize,
    /// By peer.
    pub(crate) runs: BTreeMap<&'static str, Runs>,
    /// Operations per second of processor time at most, measured between the repetitions.
    pub(crate) peak: Vec<f64>,
}

/// The repetitions of one peer.
#[derive(Default)]
pub(crate) struct Runs {
    pub(crate) wall: Vec<f64>,
    pub(crate) cpu: Vec<f64>,
    pub(crate) figure: Option<f64>,
    /// Why there are none, or fewer.
    pub(crate) failed: Option<String>,
}

/// Runs everything that is asked for.
///
/// # Errors
/// For names that are not known, or a folder that cannot be written.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("stopping after this repetition; Ctrl-C again ends at once");
    })?;
    let settings = Settings::of(arguments)?;
    let mut results =
        Results { command: std::env::args().skip(1).collect::<Vec<_>>().join(" "), ..Results::default() };
    for &threads in &settings.threads {
        let mut round = Round::start(&settings, threads, &mut results)?;
        for case in &settings.cases {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let measured = round.measure(case, &stop);
            eprintln!("{}", report::line(&measured, &results));
            results.cases.push(measured);
            report::write(&arguments.out, &results)?;
        }
    }
    eprintln!("{}", arguments.out.join("table.md").display());
    if stop.load(Ordering::SeqCst) { bail!("stopped, as asked; what was done is kept") } else { Ok(()) }
}

struct Settings {
    python: PathBuf,
    peers: Vec<&'static (&'static str, Program)>,
    cases: Vec<Case>,
    threads: Vec<usize>,
    repetitions: usize,
    seconds: f64,
}

impl Settings {
    fn of(arguments: &Arguments) -> Result<Self> {
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let (cases, threads, repetitions) = if arguments.quick {
            (names(&["conv", "resnet18-cifar"]), vec![1], FEWEST)
        } else {
            (arguments.cases.clone(), arguments.threads.clone(), arguments.repetitions)
        };
        for name in &arguments.peers {
            let known: Vec<&str> = PEERS.iter().map(|(name, _)| *name).collect();
            if !known.contains(&name.as_str()) {
                bail!("no peer is called `{name}`; known are {}", known.join(", "));
            }
        }
        let wanted = |name: &str| {
            name == PEERS[0].0 || arguments.peers.is_empty() || arguments.peers.iter().any(|p| p == name)
        };
        Ok(Settings {
            python: arguments.python.clone(),
            peers: PEERS.iter().filter(|(name, _)| wanted(name)).collect(),
            cases: cases::chosen(&cases)?,
            threads,
            repetitions: repetitions.max(1),
            seconds: arguments.seconds,
        })
    }
}

/// All peers, running with one number of threads.
struct Round<'a> {
    settings: &'a Settings,
    threads: usize,
    peers: Vec<(&'static str, &'static Program, Option<Process>)>,
    pool: Threads,
}

impl<'a> Round<'a> {
    fn start(settings: &'a Settings, threads: usize, results: &mut Results) -> Result<Self> {
        let mut peers = Vec::new();
        for (name, program) in settings.peers.iter().copied() {
            if *program == Program::Own && !peers::is_built(name) {
                note_missing(results, name, "this program was built without it".to_owned());
                continue;
            }
            match Process::start(name, program, &settings.python, threads) {
                Ok(process) => {
                    if !results.peers.iter().any(|(known, _)| known == name) {
                        results.peers.push((*name, process.version.clone()));
                    }
                    peers.push((*name, program, Some(process)));
                }
                Err(error) => note_missing(results, name, format!("{error:#}")),
            }
        }
        if peers.first().is_none_or(|(name, ..)| *name != PEERS[0].0) {
            bail!("asymflow itself does not start");
        }
        Ok(Round { settings, threads, peers, pool: Threads::new(threads) })
    }

    fn measure(&mut self, case: &Case, stop: &AtomicBool) -> Measured {
        let mut runs: BTreeMap<&'static str, Runs> = BTreeMap::new();
        for i in 0..self.peers.len() {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let prepared = self.prepare(i, case);
            runs.insert(self.peers[i].0, prepared);
        }
        compare_figures(case, &mut runs);
        let mut peak = Vec::new();
        for _ in 0..self.settings.repetitions {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            peak.push(peak::operations_per_cpu_second(&self.pool));
            for (name, _, process) in &mut self.peers {
                let Some(runs) = runs.get_mut(name).filter(|runs| runs.goes_on(self.settings.seconds)) else {
                    continue;
                };
                std::thread::sleep(PAUSES[usize::from(self.threads > 1)]);
                if let Err(error) = repeat(process, runs) {
                    *process = None;
                    runs.failed = Some(format!("{error:#}"));
                }
            }
        }
        Measured { case: case.clone(), threads: self.threads, runs, peak }
    }

    /// Prepares one peer, which is started again if it has ended in an earlier case.
    fn prepare(&mut self, peer: usize, case: &Case) -> Runs {
        let (name, program, process) = &mut self.peers[peer];
        let ask = |process: &mut Option<Process>| -> Result<Reply> {
            if process.is_none() {
                *process = Some(Process::start(name, program, &self.settings.python, self.threads)?);
            }
            process.as_mut().context("it has ended")?.ask(&Request::Prepare(Box::new(case.clone())))
        };
        match ask(process) {
            Ok(Reply::Ready { figure }) => Runs { figure: Some(figure), ..Runs::default() },
            Ok(Reply::Unsupported { reason }) => Runs { failed: Some(reason), ..Runs::default() },
            Ok(other) => Runs { failed: Some(format!("it answered {other:?}")), ..Runs::default() },
            Err(error) => {
                *process = None;
                Runs { failed: Some(format!("{error:#}")), ..Runs::default() }
            }
        }
    }
}

impl Runs {
    fn goes_on(&self, seconds: f64) -> bool {
        self.failed.is_none() && (self.wall.len() < FEWEST || self.wall.iter().sum::<f64>() < seconds)
    }
}

fn repeat(process: &mut Option<Process>, runs: &mut Runs) -> Result<()> {
    match process.as_mut().context("it has ended")?.ask(&Request::Run)? {
        Reply::Took { wall, cpu } => {
            runs.wall.push(wall);
            runs.cpu.push(cpu);
            Ok(())
        }
        other => bail!("it answered {other:?}"),
    }
}

/// A peer that computes something else is not compared.
fn compare_figures(case: &Case, runs: &mut BTreeMap<&'static str, Runs>) {
    let own = runs.get(PEERS[0].0).and_then(|runs| runs.figure);
    let Some(own) = own.filter(|_| case.has_figure()) else { return };
    let agrees = |figure: f64| (figure - own).abs() <= AGREEMENT * own.abs();
    for runs in runs.values_mut() {
        if let Some(figure) = runs.figure.filter(|&figure| !agrees(figure)) {
            runs.failed = Some(format!("it computes something else: {figure:e}, not {own:e}"));
        }
    }
}

fn note_missing(results: &mut Results, name: &'static str, why: String) {
    if !results.missing.iter().any(|(known, _)| *known == name) {
        eprintln!("without {name}: {why}");
        results.missing.push((name, why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_that_compute_something_else_are_not_compared() {
        let case = cases::chosen(&["conv-64-64-32-3/forward+".to_owned()]).unwrap().remove(0);
        let runs = |figures: [f64; 4]| -> BTreeMap<&'static str, Runs> {
            let names = [PEERS[0].0, "near", "far", "nan"];
            let run = |figure| Runs { figure: Some(figure), ..Runs::default() };
            names.into_iter().zip(figures.map(run)).collect()
        };
        let mut all = runs([2.0, 2.001, 2.01, f64::NAN]);
        compare_figures(&case, &mut all);
        let failed: Vec<&str> =
            all.iter().filter(|(_, r)| r.failed.is_some()).map(|(name, _)| *name).collect();
        assert_eq!(failed, ["far", "nan"]);
        assert!(!all["far"].goes_on(1.0) && all["near"].goes_on(1.0));
    }

    #[test]
    fn slow_peers_take_fewer_turns() {
        let runs = |wall: &[f64]| Runs { wall: wall.to_vec(), ..Runs::default() };
        assert!(runs(&[9.0, 9.0]).goes_on(1.0), "but for the first three");
        assert!(!runs(&[9.0; 3]).goes_on(1.0));
        assert!(runs(&[0.1; 8]).goes_on(1.0));
    }
}
