//! `asymflow-lab privacy-table`: accuracy of the `delta` flow by ε and by the shape of what leaves.

mod experiment;
mod figures;
mod plot;
mod runner;
#[cfg(test)]
mod samples;
mod table;
mod verdict;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cli::terminal::note;

use experiment::{Epsilon, Experiment, Shape};
use figures::Finished;
use runner::{Outcome, Runner};

/// Train the delta flow at each ε and each shape of the residual; write a table and a plot
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Build the programs first: cargo build --release --bins\n\nThe same command goes on where it was stopped: finished cells are kept, an interrupted one is resumed."
)]
pub(crate) struct Arguments {
    /// Folder of the data set
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Format of the data set, as in RUN.toml
    #[arg(long, default_value = "cifar10")]
    format: String,
    /// Use only the first N training records
    #[arg(long, value_name = "N")]
    train_records: Option<usize>,
    /// Model, as in RUN.toml
    #[arg(long, default_value = "resnet20")]
    architecture: String,
    /// Epochs of each run, the first third for the trusted part alone
    #[arg(long, default_value_t = 15)]
    epochs: usize,
    /// Principal channels that stay
    #[arg(long, default_value_t = 4)]
    rank: usize,
    /// Privacy of each record; `none` is without noise
    #[arg(long, value_delimiter = ',', default_value = "2,8,32,none")]
    epsilons: Vec<Epsilon>,
    /// Shapes of the residual
    #[arg(long, value_delimiter = ',', default_value = "full,mean,pooled:4,pooled:8")]
    shapes: Vec<Shape>,
    /// Seeds of the public randomness: one run of every cell for each
    #[arg(long, value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// The program to run, with asymflow-enclave and asymflow-worker beside it [default: beside this one]
    #[arg(long, value_name = "FILE")]
    asymflow: Option<PathBuf>,
    /// Folder for runs, table.md, table.csv and plot.svg
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs what is missing, then writes and prints the table.
///
/// # Errors
/// Wrong use, before anything runs; afterwards if a cell failed or the command was stopped.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let experiment = experiment(arguments)?;
    let runner = Runner::new(arguments.asymflow.as_deref(), &arguments.out)?;
    let cells = experiment.cells();
    runner.write_configurations(&experiment, &cells)?;
    let mut finished = Vec::new();
    let mut failed = 0;
    let mut stopped = false;
    for (i, cell) in cells.iter().enumerate() {
        note(&format!("[{}/{}] {cell}", i + 1, cells.len()));
        match runner.run(cell)? {
            Outcome::Kept(figures) => {
                note("    finished before");
                finished.push(Finished { cell: cell.clone(), figures });
            }
            Outcome::Trained(figures) => {
                finished.push(Finished { cell: cell.clone(), figures });
                // So far, for those who look while it runs.
                report(&experiment, &runner, &arguments.out, &finished)?;
            }
            Outcome::Failed(why) => {
                failed += 1;
                note(&format!("error: {cell} failed: {why}"));
            }
            Outcome::Stopped => {
                stopped = true;
                break;
            }
        }
    }
    print!("{}", report(&experiment, &runner, &arguments.out, &finished)?);
    note(&format!("table.md, table.csv and plot.svg are in {}", arguments.out.display()));
    match (stopped, failed) {
        (true, _) => {
            bail!("stopped with {} of {} cells done; the same command goes on", finished.len(), cells.len())
        }
        (false, 0) => Ok(()),
        (false, failed) => bail!("{failed} of {} cells failed", cells.len()),
    }
}

fn experiment(arguments: &Arguments) -> Result<Experiment> {
    let data = arguments.data.as_ref().map(std::path::absolute).transpose().context("--data")?;
    let experiment = Experiment {
        architecture: arguments.architecture.clone(),
        format: arguments.format.clone(),
        data,
        train_records: arguments.train_records,
        epochs: arguments.epochs,
        rank: arguments.rank,
        epsilons: arguments.epsilons.clone(),
        shapes: arguments.shapes.clone(),
        seeds: arguments.seeds.clone(),
    };
    experiment.check()?;
    Ok(experiment)
}

/// Writes table.md, table.csv and plot.svg; returns the first as text.
fn report(experiment: &Experiment, runner: &Runner, out: &Path, finished: &[Finished]) -> Result<String> {
    let groups = verdict::groups(experiment, finished);
    let markdown = table::markdown(experiment, runner.version(), finished, &groups);
    write(out, "table.md", &markdown)?;
    write(out, "table.csv", &table::csv(finished))?;
    write(out, "plot.svg", &plot::svg(experiment, &groups)?)?;
    Ok(markdown)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
}
