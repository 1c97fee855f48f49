//! What an `asymml` run would do, layer by layer.

use kernels::compact::Format;
use kernels::conv2d::Conv2d;
use kernels::{Op, Operator};
use model::{Graph, ValueId};
use split::entropy::{after_batch_norm, after_convolution, after_pointwise};
use tensor::Shape;
use wire::owner::{EnergyCost, PlannedLayer};
use wire::spec::{Asymml, Ranks};

use super::calibrate::{Choice, choices};
use super::cost::Cost;
use super::placements::{Placements, Split};
use crate::RunError;
use crate::flow::Placement;
use crate::run::Run;
use split::Finding;

/// Energies that the cost is told for.
const ENERGIES: [f64; 9] = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99];

/// The plan of an `asymml` run.
pub(crate) struct Planned {
    pub(crate) layers: Vec<PlannedLayer>,
    pub(crate) placements: Placements,
    pub(crate) costs: Vec<EnergyCost>,
}

/// Chooses on the run's records, and says what was chosen.
pub(crate) fn planned(run: &mut Run, asymml: &Asymml) -> Result<Planned, RunError> {
    let chosen = choices(run, asymml, asymml.calibration)?;
    let graph = &run.spec.graph;
    let name = |&n: &usize| graph.nodes()[n].name.clone();
    let splits = chosen.iter().filter_map(|choice| {
        let (finding, rank) = choice.split?;
        Some(Split { finding, rank, convs: choice.candidate.convs.iter().map(name).collect() })
    });
    let placements = Placements { splits: splits.collect() };
    let layers = (0..graph.nodes().len()).map(|n| layer(graph, n, &chosen, asymml)).collect();
    let costs = costs(graph, &chosen, asymml)?;
    Ok(Planned { layers, placements, costs })
}

fn layer(graph: &Graph, n: usize, chosen: &[Choice], asymml: &Asymml) -> PlannedLayer {
    let node = &graph.nodes()[n];
    let operator = node.op.operator();
    let macs = operator.macs(&graph.input_shapes(n, 1));
    let mut layer = PlannedLayer {
        part: "model".to_owned(),
        name: node.name.clone(),
        op: operator.name().to_owned(),
        placement: Placement::Trusted.name().to_owned(),
        trusted_macs: macs,
        ..PlannedLayer::default()
    };
    let choice = chosen.iter().find(|choice| choice.candidate.convs.contains(&n));
    let (Some(choice), Op::Conv2d(conv)) = (choice, &node.op) else { return layer };
    layer.entropy = choice.moments.as_ref().map(|moments| moments.entropy());
    layer.entropy_bound = bound(graph, choice.candidate.value, chosen);
    let Some((finding, rank)) = choice.split else { return layer };
    let ([c, h, w], first) = (choice.candidate.shape, choice.candidate.convs[0] == n);
    let narrow = Conv2d { in_channels: rank, groups: 1, ..conv.clone() };
    let split = split::ChannelSplit::new(finding, rank, Shape::from([c, h, w]));
    let splitting = split.map_or(0, |split| if first { split.macs() } else { 0 });
    layer.placement = "split".to_owned();
    layer.method = Some(method(finding).to_owned());
    layer.rank = Some(rank);
    layer.energy = choice.kept();
    layer.trusted_macs = narrow.macs(&[Shape::from([rank, h, w]).batched(1)]) + splitting;
    layer.untrusted_macs = macs;
    layer.cost = choice.parted.map(|parted| parted.total() / choice.whole.total());
    // The residual leaves once for all convolutions that read it.
    layer.bytes_out = if first { asymml.residuals.encoded_len(c, h * w) as u64 } else { 0 };
    layer.bytes_in = encoded(asymml.products, graph.shape(ValueId(n + 1), 1));
    layer
}

fn encoded(format: Format, shape: Shape) -> u64 {
    match shape.dims() {
        &[_, k, h, w] => format.encoded_len(k, h * w) as u64,
        _ => 0,
    }
}

fn method(finding: Finding) -> &'static str {
    match finding {
        Finding::Light { .. } => "light",
        Finding::Subspace { .. } => "subspace",
        Finding::Shared => "shared",
        Finding::Exact => "exact",
    }
}

/// The bound on a value's entropy that follows from that of the last split before it; `None` where two paths meet.
fn bound(graph: &Graph, value: ValueId, chosen: &[Choice]) -> Option<f64> {
    let node = &graph.nodes()[value.node()?];
    let before = *node.inputs.first()?;
    let known = |value: ValueId| {
        let choice = chosen.iter().find(|choice| choice.candidate.value == value);
        choice.and_then(|choice| choice.moments.as_ref()).map(|moments| moments.entropy())
    };
    match &node.op {
        Op::Conv2d(conv) if conv.kernel == [1, 1] => Some(after_pointwise(known(before)?)),
        Op::Conv2d(conv) => Some(after_convolution(known(before)?, conv.kernel, conv.out_channels)),
        Op::BatchNorm2d(_) => Some(after_batch_norm(bound(graph, before, chosen)?)),
        // No bound is proved for these; what is known of what they read is told.
        Op::Relu(_) | Op::LeakyRelu(_) | Op::Prelu(_) | Op::MaxPool2d(_) | Op::AvgPool2d(_) => {
            bound(graph, before, chosen)
        }
        _ => None,
    }
}

/// The trusted cost of all convolutions by energy, as a share of their cost in the enclave.
fn costs(graph: &Graph, chosen: &[Choice], asymml: &Asymml) -> Result<Vec<EnergyCost>, RunError> {
    if chosen.iter().any(|choice| choice.moments.is_none()) {
        return Ok(Vec::new());
    }
    let convs = |choice: &Choice| -> Vec<Conv2d> {
        let conv = |&n: &usize| match &graph.nodes()[n].op {
            Op::Conv2d(conv) => Some(conv.clone()),
            _ => None,
        };
        choice.candidate.convs.iter().filter_map(conv).collect()
    };
    let outside: f64 = (0..graph.nodes().len())
        .filter(|n| !chosen.iter().any(|choice| choice.candidate.convs.contains(n)))
        .map(|n| match &graph.nodes()[n].op {
            Op::Conv2d(conv) => conv.cost(graph.input_shapes(n, 1)[0]),
            _ => 0.0,
        })
        .sum();
    let whole: f64 = outside + chosen.iter().map(|choice| choice.whole.total()).sum::<f64>();
    let mut costs = Vec::new();
    for energy in ENERGIES {
        let mut cost = outside;
        for choice in chosen {
            let wanted = Asymml { ranks: Ranks::Energy(energy), ..asymml.clone() };
            let moments = choice.moments.as_ref();
            let possible = super::calibrate::possible(&wanted, None, moments, &choice.candidate);
            let priced = possible.into_iter().filter_map(|(finding, rank)| {
                Cost::parted(&convs(choice), choice.candidate.shape, finding, rank).ok()
            });
            cost += priced.map(|cost| cost.total()).fold(choice.whole.total(), f64::min);
        }
        costs.push(EnergyCost { energy, cost: cost / whole.max(1.0) });
    }
    Ok(costs)
}
