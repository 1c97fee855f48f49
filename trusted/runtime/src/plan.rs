//! How a model would be split, before anything runs.

use accounting::information::information_bound_bits;
use model::{Graph, Parameters};
use wire::RunSpec;
use wire::owner::{Plan, PlannedLayer, PlannedRelease};
use wire::spec::Protection;

use crate::RunError;
use crate::flow::{Outsourced, Parts, Placement, SplitGraphs, TrustedGraphs};
use crate::messages::sigma;
use crate::run::Run;

/// Placement, cost and traffic of every node, the peak of trusted memory, and what each release could tell.
///
/// Multiply-adds and bytes are per record and forward pass.
///
/// # Errors
/// [`RunError`] as [`Run::create`], also where something unprotected would leave without permission.
pub fn plan(spec: &RunSpec) -> Result<Plan, RunError> {
    let parts = Parts::of(spec)?;
    let run = Run::create_unstored(spec.clone(), Parameters::init(&spec.graph, spec.train.seed))?;
    let mut layers = Vec::new();
    match &parts.trusted {
        Some(TrustedGraphs::Whole(graph)) => layers.extend(nodes("model", graph, Placement::Trusted)),
        Some(TrustedGraphs::Split(graphs)) => {
            let SplitGraphs { backbone, config, main, .. } = graphs.as_ref();
            layers.extend(nodes("backbone", backbone, Placement::Trusted));
            layers.push(split_layer(backbone, config, parts.outsourced.as_ref()));
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
    Ok(Plan { layers, peak_trusted_bytes: run.trusted_bytes(), releases })
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
    backbone: &Graph,
    config: &split::SplitConfig,
    outsourced: Option<&Outsourced>,
) -> PlannedLayer {
    let sample = backbone.shape(backbone.output(), 1).record();
    let (channels, pixels) = (sample.dims()[0] as u64, sample.dims()[1..].iter().product::<usize>() as u64);
    let rank = config.rank as u64;
    // Light SVD: two products with X per round and one deflation per principal channel; then Ûᵀ X and Û·up(low(·)).
    let decomposition = rank * (2 * config.iterations as u64 + 1) * channels * pixels;
    let recombination = 2 * rank * channels * pixels;
    let dct = 4 * rank * pixels * config.keep as u64;
    PlannedLayer {
        part: "split".to_owned(),
        name: "split".to_owned(),
        op: "svd+dct".to_owned(),
        placement: Placement::Trusted.name().to_owned(),
        rank: Some(config.rank),
        trusted_macs: decomposition + recombination + dct,
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
    if let (Protection::Epsilon(epsilon), Some(_)) = (spec.privacy.protection, outsourced.shape) {
        let sigma = sigma(epsilon, &spec.privacy)?;
        planned.epsilon = Some(epsilon);
        planned.sigma = Some(sigma);
        planned.information_bits = Some(information_bound_bits(numbers, spec.privacy.clip, sigma));
    }
    Ok(planned)
}
