//! What a release costs beside a training step, measured in one run.

use accounting::gaussian;
use anyhow::{Context, Result, anyhow};
use engine::{Learner, OptimiserConfig, Pass};
use kernels::{Mode, Threads};
use ledger::{Digest, Ledger, RecordSet};
use mechanism::{
    BitRelease, BitReleaseConfig, Budget, LedgerStore, LedgerWriter, NoiseKey, RecordRelease, ReleaseShape,
    StoreError,
};
use model::{Parameters, zoo};
use split::{AsymmetricSplit, Method, SplitConfig, SplitOutput};
use tensor::{Shape, View};

/// Processor time of releasing a batch, beside the trusted side's training step on the same batch
///
/// The step is that of `delta` in stage 2: backbone in evaluation mode, split, main model forward and backward, update.
/// The release is the charge (without the disk's delay), clipping, signs. One thread, medians of interleaved repetitions.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  cargo run --release -p asymflow-lab -- release-cost --architecture resnet20"
)]
pub(crate) struct Arguments {
    /// Model on 32×32 colour images
    #[arg(long, value_name = "NAME", default_value = "resnet20")]
    architecture: String,
    /// Principal channels that stay
    #[arg(long, value_name = "R", default_value_t = 4)]
    rank: usize,
    /// Records in a batch
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    /// Repetitions, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 15)]
    repetitions: usize,
}

const SHAPES: [ReleaseShape; 4] =
    [ReleaseShape::Full, ReleaseShape::Mean, ReleaseShape::Pooled(8), ReleaseShape::Pooled(4)];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut step = Step::new(arguments)?;
    let mut releases = SHAPES.map(|shape| Release::new(shape, step.residual_shape()));
    let mut seconds = vec![Vec::new(); 1 + SHAPES.len()];
    for repetition in 0..=arguments.repetitions {
        let mut took = vec![timed(|| step.run())?];
        for release in &mut releases {
            took.push(timed(|| release.run(&step.residual, arguments.batch))?);
        }
        // The first round fills caches.
        if repetition > 0 {
            seconds.iter_mut().zip(took).for_each(|(all, one)| all.push(one));
        }
    }
    let medians: Vec<f64> = seconds.into_iter().map(median).collect();
    let [channels, height, width] = step.residual_shape();
    println!(
        "{} with {}×{}×{} residuals, batch {}: trusted training step {:.2} ms",
        arguments.architecture,
        channels,
        height,
        width,
        arguments.batch,
        1e3 * medians[0]
    );
    for (shape, release) in SHAPES.iter().zip(&medians[1..]) {
        println!(
            "  release {shape:<9} {:7.3} ms, {:5.2} % of the step",
            1e3 * release,
            100.0 * release / medians[0]
        );
    }
    Ok(())
}

/// The trusted side's step on one batch of noise.
struct Step {
    backbone: Learner,
    split: AsymmetricSplit,
    main: Learner,
    principal: Vec<f32>,
    basis: Vec<f32>,
    residual: Vec<f32>,
    images: Vec<f32>,
    labels: Vec<u32>,
    threads: Threads,
}

impl Step {
    fn new(arguments: &Arguments) -> Result<Self> {
        let classes = 10;
        let graph = zoo::build(&arguments.architecture, Shape::from([3, 32, 32]), classes)?;
        let at = model::derive::split_point(&graph)?;
        let backbone = model::derive::backbone(&graph, at)?;
        let sample = backbone.shape(backbone.output(), 1).record();
        let config =
            SplitConfig { rank: arguments.rank, method: Method::Light, iterations: 2, block: 16, keep: 8 };
        let split = AsymmetricSplit::new(config, sample)?;
        let main = model::derive::main_model(&graph, at, split.main_shape(), arguments.rank, 1.0)?;
        let learner = |graph: model::Graph| {
            let optimiser = OptimiserConfig::Sgd { momentum: 0.9, weight_decay: 5e-4, nesterov: false };
            let parameters = Parameters::init(&graph, 0);
            Learner::new(graph, parameters, optimiser, arguments.batch).context("a learner")
        };
        let batch = arguments.batch;
        let mut stream = engine::random::Stream::new(0, engine::random::Purpose::Order, 0, 0);
        let pixels = batch * graph.input().len();
        Ok(Step {
            principal: vec![0.0; batch * split.principal_shape().len()],
            basis: vec![0.0; batch * split.basis_shape().len()],
            residual: vec![0.0; batch * sample.len()],
            images: (0..pixels).map(|_| stream.below(1000) as f32 / 500.0 - 1.0).collect(),
            labels: (0..batch).map(|_| stream.below(classes as u32)).collect(),
            main: learner(main)?,
            threads: Threads::new(1),
            backbone: learner(backbone)?,
            split,
        })
    }

    fn residual_shape(&self) -> [usize; 3] {
        let dims = self.split.sample_shape();
        dims.dims().try_into().expect("a split has channels, height and width")
    }

    fn run(&mut self) -> Result<()> {
        let batch = self.labels.len();
        self.backbone.input_mut(batch).copy_from_slice(&self.images);
        self.backbone.predict(batch, &self.threads);
        let x: View<'_> = self.backbone.output(batch);
        let output = SplitOutput {
            principal: &mut self.principal,
            basis: &mut self.basis,
            main: Some(self.main.input_mut(batch)),
            residual: Some(&mut self.residual),
        };
        self.split.forward(x, output, &self.threads)?;
        let pass = Pass { records: batch, mode: Mode::Train { seed: 0 } };
        self.main.train_step(&self.labels, pass, 1e-3, &self.threads);
        Ok(())
    }
}

/// Releases of one shape at ε = 8.
struct Release {
    mechanism: BitRelease,
    ledger: LedgerWriter,
    next: u64,
}

struct Nowhere;

impl LedgerStore for Nowhere {
    fn append_durably(&mut self, _: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Release {
    fn new(shape: ReleaseShape, residual: [usize; 3]) -> Self {
        let sigma = gaussian::sigma(8.0, 1e-5, 4.0).expect("in range");
        let config = BitReleaseConfig { clip: 2.0, sigma, shape, residual, function: Digest([0; 32]) };
        let mechanism = BitRelease::new(config, NoiseKey::new([1; 32])).expect("shapes that divide 32");
        let budget = Budget::new(f64::INFINITY, 1e-5).expect("a budget");
        Release { mechanism, ledger: LedgerWriter::new(Ledger::empty(), budget, Box::new(Nowhere)), next: 0 }
    }

    fn run(&mut self, residual: &[f32], batch: usize) -> Result<()> {
        let records = self.next..self.next + batch as u64;
        self.next = records.end;
        let all = RecordSet::range(records.clone());
        let charge = self.mechanism.charge(Digest([1; 32]), all, 0, "a measurement");
        let receipt = self.ledger.charge(charge)?;
        let sent = self.mechanism.release(&receipt, records, residual)?;
        if sent.len() == batch { Ok(()) } else { Err(anyhow!("{} of {batch} records left", sent.len())) }
    }
}

/// Processor seconds that `work` takes in this process.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let began = cpu_seconds();
    work()?;
    Ok(cpu_seconds() - began)
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
