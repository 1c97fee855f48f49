//! How a model would be split, before anything runs.

use accounting::information::information_bound_bits;
use engine::Draw;
use model::{Graph, Parameters};
use split::channels::singular_values;
use split::spectrum::channel_entropy;
use wire::RunSpec;
use wire::accelerator::RecordSet;
use wire::owner::{Plan, PlannedLayer, PlannedRelease};
use wire::spec::{Asymml, Clip, Flow, Protection};

use crate::calibration::Calibration;
use crate::flow::{Outsourced, Parts, Placement, SplitGraphs, TrustedGraphs, instructions};
use crate::memory::{Held, MemoryPlan};
use crate::run::Run;
use crate::trusted_model::TrustedModel;
use crate::{RunError, asymml};

/// Placement, cost and traffic of every node, the peak of trusted memory, and what each release could tell.
///
/// Multiply-adds and bytes are per record and forward pass. Energy and entropy of the split are means over the records in
/// `pixels` (`[n, C, H, W]` bytes), under these parameters; without records they are left out. `[train, test]` is how many
/// records a run would hold.
///
/// # Errors
/// [`RunError`] as [`Run::create`], also where something unprotected would leave without permission.
pub fn plan(
    spec: &RunSpec,
    initial: Parameters,
    pixels: &[u8],
    [train, test]: [usize; 2],
) -> Result<Plan, RunError> {
    if let Flow::Asymml(asymml) = &spec.flow {
        return plan_layers(spec, asymml, initial, pixels, [train, test]);
    }
    let parts = Parts::of(spec)?;
    let memory = MemoryPlan::fitting(spec, &parts, Held { train, test })?;
    // Measured record by record: a plan takes little memory itself.
    let mut single = spec.clone();
    single.train.batch_size = 1;
    let mut run = Run::create_unstored(single, initial)?;
    let kept = run.measure_split(pixels)?;
    let mut layers = Vec::new();
    match &parts.trusted {
        Some(TrustedGraphs::Whole(graph)) => layers.extend(nodes("model", graph, Placement::Trusted)),
        Some(TrustedGraphs::Layered(_)) => unreachable!("planned by itself"),
        Some(TrustedGraphs::Split(graphs)) => {
            let SplitGraphs { backbone, split, config, main, .. } = graphs.as_ref();
            layers.extend(nodes("backbone", backbone, Placement::Trusted));
            layers.push(PlannedLayer {
                energy: kept.map(|kept| kept.energy),
                entropy: kept.map(|kept| kept.entropy),
                ..split_layer(split, config, parts.outsourced.as_ref())
            });
            layers.extend(nodes("main", main, Placement::Trusted));
        }
        None => {}
    }
    if let Some(outsourced) = &parts.outsourced {
        let part = if parts.trusted.is_some() { "residual" } else { "model" };
        let mut remote = nodes(part, &outsourced.graph, Placement::Untrusted);
        if let Some(last) = remote.last_mut() {
            last.bytes_in = 4 * outsourced.graph.classes() as u64;
        }
        if let (Some(first), None) = (remote.first_mut(), &parts.trusted) {
            first.bytes_out = outsourced.input.message_len() as u64;
        }
        layers.extend(remote);
    }
    let releases = parts.outsourced.iter().map(|o| release(spec, o)).collect::<Result<_, _>>()?;
    Ok(Plan { layers, releases, ..whole_plan(spec, &memory) })
}

/// A plan of a memory plan, without layers.
fn whole_plan(spec: &RunSpec, memory: &MemoryPlan) -> Plan {
    Plan {
        precision: spec.precision,
        instructions: instructions(spec.precision).to_owned(),
        peak_trusted_bytes: memory.bytes(),
        memory: memory.told(),
        peak_step: memory.peak_step().to_owned(),
        recompute: memory.recompute,
        ..Plan::default()
    }
}

/// [`plan`] of an `asymml` run, which chooses on `pixels`.
fn plan_layers(
    spec: &RunSpec,
    asymml: &Asymml,
    initial: Parameters,
    pixels: &[u8],
    [train, test]: [usize; 2],
) -> Result<Plan, RunError> {
    let mut small = spec.clone();
    small.train.batch_size = small.train.batch_size.min(MEASURED_AT_ONCE);
    small.memory = None;
    let mut run = Run::create_unstored(small, initial)?;
    let count = pixels.len() / run.pixels.message_len().max(1);
    let count = count.min(asymml.calibration);
    let mut body = pixels[..count * run.pixels.message_len()].to_vec();
    body.resize(body.len() + 2 * count, 0);
    run.add_records(RecordSet::Train, count, &body)?;
    let planned = asymml::plan::planned(&mut run, asymml)?;
    let parts = Parts::placed(spec, asymml, &planned.placements)?;
    let memory = MemoryPlan::fitting(spec, &parts, Held { train, test })?;
    let (layers, energy_costs) = (planned.layers, planned.costs);
    Ok(Plan { layers, energy_costs, ..whole_plan(spec, &memory) })
}

/// Records that a plan measures at once.
const MEASURED_AT_ONCE: usize = 8;

/// What the split keeps, as means over records.
#[derive(Clone, Copy)]
struct Kept {
    /// `1 − ‖X_res‖²/‖X‖²`, channels and space together.
    energy: f64,
    /// SVD-channel entropy, in bits.
    entropy: f64,
}

impl Run {
    /// `None` without records or without a split.
    fn measure_split(&mut self, pixels: &[u8]) -> Result<Option<Kept>, RunError> {
        self.take_memory();
        let count = pixels.len() / self.pixels.message_len().max(1);
        let Some(model @ TrustedModel::Split(_)) = &mut self.trusted else { return Ok(None) };
        if count == 0 {
            return Ok(None);
        }
        let (mut energy, mut entropy) = (0.0, 0.0);
        for record in pixels.chunks_exact(self.pixels.message_len()) {
            self.pixels.fill(record, Draw::default(), model.input_mut(1));
            let residual = squared_norm(model.residuals(1, &self.threads)?);
            let TrustedModel::Split(split) = &*model else { return Ok(None) };
            let sample = split.sample();
            let channels = sample.shape.dims()[1];
            entropy +=
                channel_entropy(&singular_values(sample.data, [channels, sample.data.len() / channels]));
            let whole = squared_norm(sample.data);
            energy += if whole > 0.0 { 1.0 - residual / whole } else { 1.0 };
        }
        Ok(Some(Kept { energy: energy / count as f64, entropy: entropy / count as f64 }))
    }
}

fn squared_norm(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

fn nodes(part: &str, graph: &Graph, placement: Placement) -> Vec<PlannedLayer> {
    let layer = |n: usize| {
        let node = &graph.nodes()[n];
        let operator = node.op.operator();
        let macs = operator.macs(&graph.input_shapes(n, 1));
        let (trusted_macs, untrusted_macs) = match placement {
            Placement::Trusted => (macs, 0),
            Placement::Untrusted => (0, macs),
        };
        PlannedLayer {
            part: part.to_owned(),
            name: node.name.clone(),
            op: operator.name().to_owned(),
            placement: placement.name().to_owned(),
            trusted_macs,
            untrusted_macs,
            ..PlannedLayer::default()
        }
    };
    (0..graph.nodes().len()).map(layer).collect()
}

fn split_layer(
    split: &split::AsymmetricSplit,
    config: &split::SplitConfig,
    outsourced: Option<&Outsourced>,
) -> PlannedLayer {
    PlannedLayer {
        part: "split".to_owned(),
        name: "split".to_owned(),
        op: "svd+dct".to_owned(),
        placement: Placement::Trusted.name().to_owned(),
        rank: Some(config.rank),
        trusted_macs: split.macs(),
        bytes_out: outsourced.map_or(0, |o| o.input.message_len() as u64),
        ..PlannedLayer::default()
    }
}

fn release(spec: &RunSpec, outsourced: &Outsourced) -> Result<PlannedRelease, RunError> {
    let numbers = outsourced.input.numbers();
    let mut planned = PlannedRelease {
        kind: outsourced.kind.name().to_owned(),
        class: outsourced.kind.class().name().to_owned(),
        numbers,
        bytes: outsourced.input.message_len(),
        ..PlannedRelease::default()
    };
    let calibration = Calibration::of(spec, outsourced)?;
    if let (Protection::Epsilon(epsilon), Some(multiplier)) = (spec.privacy.protection, calibration.residual)
    {
        planned.epsilon = Some(epsilon);
        // A clipping norm that is still to be found scales both; what a message can tell depends on their ratio alone.
        let clip = match spec.privacy.clip {
            Clip::Norm(norm) => norm,
            Clip::Quantile { .. } => 1.0,
        };
        planned.sigma = matches!(spec.privacy.clip, Clip::Norm(_)).then_some(multiplier * 2.0 * clip);
        planned.information_bits = Some(information_bound_bits(numbers, clip, multiplier * 2.0 * clip));
    }
    Ok(planned)
}
