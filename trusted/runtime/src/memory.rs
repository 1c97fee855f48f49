//! How much memory the trusted side holds at most, told before anything runs.

use engine::timeline::Peak;
use engine::{OptimiserConfig, Plans, Timeline};
use kernels::Scratch;
use ledger::Kind;
use model::Graph;
use wire::RunSpec;
use wire::accelerator::RecordSet;
use wire::owner::PlannedMemory;

use crate::flow::{Parts, TrustedGraphs};
use crate::messages;
use crate::run::Run;
use crate::split_model::SplitPlan;
use crate::{RunError, asymml};

/// Records held, by set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) train: usize,
    pub(crate) test: usize,
}

/// What the trusted side holds at most.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MemoryPlan {
    /// What is held, and its bytes; where things follow one another, the largest.
    parts: Vec<(&'static str, u64)>,
    /// Where most activations and gradients are alive.
    peak_step: String,
    /// Whether cheap activations are computed again instead of kept.
    pub(crate) recompute: bool,
    /// Scratch memory of any step.
    pub(crate) scratch: Scratch,
}

/// Bytes of a number.
const NUMBER: u64 = 4;

impl MemoryPlan {
    /// The plan for a run: with all activations kept, or if that is more than `[trusted] memory` grants, with cheap ones
    /// computed again.
    ///
    /// # Errors
    /// [`RunError::Request`], which names the layer at the peak and the largest batch that would fit, if that is too much
    /// as well.
    pub(crate) fn fitting(spec: &RunSpec, parts: &Parts, held: Held) -> Result<Self, RunError> {
        let batch = spec.train.batch_size;
        let plan = |batch, recompute| MemoryPlan::of(spec, parts, held, (batch, recompute));
        let kept = plan(batch, false);
        let Some(limit) = spec.memory.filter(|limit| kept.bytes() > *limit) else { return Ok(kept) };
        let again = plan(batch, true);
        if again.bytes() <= limit {
            return Ok(again);
        }
        let fits = |batch: usize| plan(batch, true).bytes() <= limit;
        Err(RunError::Request(format!(
            "[trusted] memory grants {}, but batch_size = {batch} needs {}, even with cheap activations computed again; \
             most is alive at `{}`; {}",
            mebibytes(limit),
            mebibytes(again.bytes()),
            again.peak_step,
            match largest(batch, fits) {
                Some(batch) => format!("batch_size = {batch} would fit"),
                None => format!(
                    "no batch_size would fit: 1 needs {}; raise `memory`, or take fewer records or a smaller model",
                    mebibytes(plan(1, true).bytes())
                ),
            }
        )))
    }

    /// The plan for batches of up to `batch`.
    fn of(spec: &RunSpec, parts: &Parts, held: Held, (batch, recompute): (usize, bool)) -> Self {
        let Step { activations, peak, scratch } = Step::of(parts, (batch, spec.threads), recompute);
        let trusted: Vec<&Graph> = match &parts.trusted {
            Some(TrustedGraphs::Whole(graph)) => vec![graph],
            Some(TrustedGraphs::Split(graphs)) => vec![&graphs.backbone, &graphs.main],
            Some(TrustedGraphs::Layered(graphs)) => vec![&graphs.placing.graphs.model],
            None => Vec::new(),
        };
        let sum = |of: &dyn Fn(&Graph) -> u64| trusted.iter().map(|graph| of(graph)).sum::<u64>();
        let optimiser = spec.train.optimiser.copies() as u64;
        let outsourced = parts.outsourced.as_ref().map(|outsourced| &outsourced.graph);
        let remote = outsourced.map_or(0, |graph| trained_state(graph, &spec.train.optimiser));
        let parameters = sum(&state);
        let checkpoint = parameters + optimiser * sum(&trained) + remote;
        let exchanged = match &parts.trusted {
            Some(TrustedGraphs::Layered(graphs)) => asymml::session::held(graphs, batch),
            _ => 0,
        };
        let classes = spec.graph.classes() as u64;
        let record = spec.graph.input().len() as u64 + 2;
        let (train, test) = (held.train as u64, held.test as u64);
        let message = parts.outsourced.as_ref().map_or(0, |outsourced| outsourced.input.message_len() as u64);
        // Normalised images that are noised, a batch at a time, and one of them with its noise.
        let noised = parts.outsourced.as_ref().filter(|outsourced| outsourced.kind == Kind::NoisedInputs);
        let images = noised.map_or(0, |o| (batch as u64 + 1) * NUMBER * o.input.numbers() as u64);
        let together = (messages::CHUNK as u64).min(train.max(test));
        let transient = [
            // Encoded and sealed, or sealed and decoded; the first also with the request that began the run.
            2 * checkpoint,
            3 * state(&spec.graph),
            // The accelerator's model, drawn and encoded; its state while a new one comes in, which takes a piece more
            // while it grows.
            2 * outsourced.map_or(0, state),
            2 * remote,
            // Messages made, stored and sent; in evaluation beside the logits of both parts.
            together * (3 * message + MESSAGE) + images + test * 2 * classes * NUMBER,
            // The test records' logits of both parts, their sum's gradient, and labels; the reply they came in.
            test * (4 * classes + 2) * NUMBER,
            // A data set's root is found from its labels; a clipping norm from the norms of all records.
            train * 2 * NUMBER,
        ];
        let parts = vec![
            ("parameters", parameters + state(&spec.graph)),
            ("gradients of parameters", sum(&trained)),
            ("optimiser", optimiser * sum(&trained)),
            ("activations and their gradients", activations),
            ("scratch", scratch.bytes(spec.threads) as u64),
            ("records", (train + test) * record + train * NUMBER),
            ("accelerator's state", remote),
            ("residuals, products and gradients under way", exchanged),
            ("checkpoints, messages and scores", transient.into_iter().max().unwrap_or(0)),
            ("everything else", OTHER + batch as u64 * (4 * classes + 2) * NUMBER + nodes(spec) * NODE),
        ];
        MemoryPlan { parts, peak_step: peak.step, recompute, scratch }
    }

    /// Bytes in all.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The plan as the owner is told it.
    pub(crate) fn told(&self) -> Vec<PlannedMemory> {
        let held = self.parts.iter().filter(|(_, bytes)| *bytes > 0);
        held.map(|(name, bytes)| PlannedMemory { name: (*name).to_owned(), bytes: *bytes }).collect()
    }

    pub(crate) fn peak_step(&self) -> &str {
        &self.peak_step
    }
}

/// Of a message, beside its bytes: its receipt, and where it is.
const MESSAGE: u64 = 512;

/// Of a node, in all graphs that are made of it: names, shapes, places.
const NODE: u64 = 8 << 10;

/// Buffers of links and files, the thread pool, what was asked for.
const OTHER: u64 = 256 << 10;

fn nodes(spec: &RunSpec) -> u64 {
    spec.graph.nodes().len() as u64
}

/// Bytes of a graph's trained parameters.
fn trained(graph: &Graph) -> u64 {
    NUMBER * graph.param_count() as u64
}

/// Bytes of a graph's parameters and running statistics.
fn state(graph: &Graph) -> u64 {
    let buffers: usize = graph.buffer_specs().iter().map(|(_, shape)| shape.len()).sum();
    trained(graph) + NUMBER * buffers as u64
}

/// Bytes of all that training changes: parameters, running statistics, and what the optimiser keeps.
pub(crate) fn trained_state(graph: &Graph, optimiser: &OptimiserConfig) -> u64 {
    state(graph) + optimiser.copies() as u64 * trained(graph)
}

/// What one step takes.
struct Step {
    activations: u64,
    peak: Peak,
    scratch: Scratch,
}

impl Step {
    fn of(parts: &Parts, (batch, threads): (usize, usize), recompute: bool) -> Self {
        let (timeline, scratch) = match &parts.trusted {
            Some(TrustedGraphs::Whole(graph)) => {
                let (plans, timeline) = Plans::of(graph, batch, recompute);
                (timeline, plans.scratch(threads))
            }
            Some(TrustedGraphs::Layered(graphs)) => {
                let (plans, timeline) = Plans::rewritten(graphs.placing.graphs.clone(), batch, recompute);
                (timeline, plans.scratch(threads))
            }
            Some(TrustedGraphs::Split(graphs)) => {
                let plan = SplitPlan::of(graphs, batch, recompute);
                let scratch = plan.scratch(&graphs.split, threads);
                (plan.timeline, scratch)
            }
            None => (Timeline::default(), Scratch::NONE),
        };
        Step { activations: timeline.lay_out().bytes() as u64, peak: timeline.peak(), scratch }
    }
}

impl Run {
    /// Plans for `count` more records of a set.
    ///
    /// # Errors
    /// As [`MemoryPlan::fitting`].
    pub(crate) fn make_room(&mut self, set: RecordSet, count: usize) -> Result<(), RunError> {
        let [mut train, mut test] = [RecordSet::Train, RecordSet::Test].map(|set| self.data.get(set).len());
        let grown = if set == RecordSet::Train { &mut train } else { &mut test };
        *grown = grown.saturating_add(count);
        self.memory = MemoryPlan::fitting(&self.spec, &self.parts, Held { train, test })?;
        Ok(())
    }

    /// Takes the memory that was planned for steps, unless it has it.
    pub(crate) fn take_memory(&mut self) {
        if let (Some(graphs), Some(model)) = (&self.parts.trusted, &mut self.trusted)
            && self.taken != Some(self.memory.recompute)
        {
            model.take_memory(graphs, self.memory.recompute);
            self.threads.reserve(&self.memory.scratch);
            self.taken = Some(self.memory.recompute);
        }
    }
}

/// The largest number from 1 to `most` that fits, if what is smaller needs less.
fn largest(most: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut fit, mut too_large) = (0, most.max(1));
    while too_large - fit > 1 {
        let middle = fit + (too_large - fit) / 2;
        if fits(middle) { fit = middle } else { too_large = middle }
    }
    (fit > 0).then_some(fit)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}
