//! Where a model is split: ranks from what is asked for, and what records say about energy and cost.

use std::sync::Arc;

use engine::{Elsewhere, Executor, Pass};
use kernels::{Backward, Forward, Fused, Mode, Op, Operator, Placed, Reads, Threads};
use model::{Graph, Node, ValueId};
use split::{Finding, Moments, SharedBasis};
use tensor::{Shape, ShapeError};
use wire::accelerator::RecordSet;
use wire::spec::{self, Asymml, Ranks};

use super::cost::Cost;
use super::placements::{Candidate, Placements, Split, candidates};
use super::session::Settled;
use crate::RunError;
use crate::flow::request;
use crate::records::Chosen;
use crate::run::Run;
use crate::trusted_model::TrustedModel;

/// Ranks of VGG-16 in the authors' code: of what each convolution and its activation make. The last is read by no
/// convolution.
const AUTHORS_VGG16: [usize; 12] = [4, 16, 16, 32, 32, 32, 32, 32, 32, 32, 32, 32];

/// The largest rank in the authors' code, which elsewhere begins with 2 and doubles with every convolution.
const AUTHORS_LARGEST: usize = 32;

/// Rounds of a decomposition for each record that calibration chooses.
const ROUNDS: usize = 2;

/// What calibration found out about a candidate, and what was chosen for it.
pub(crate) struct Choice {
    pub(crate) candidate: Candidate,
    pub(crate) moments: Option<Moments>,
    /// `None`: its convolutions stay in the enclave.
    pub(crate) split: Option<(Finding, usize)>,
    /// Multiply-adds' worth of time, for one record: all in the enclave, and split as chosen.
    pub(crate) whole: Cost,
    pub(crate) parted: Option<Cost>,
}

impl Choice {
    /// Energy that stays, as the mean over calibration records.
    pub(crate) fn kept(&self) -> Option<f64> {
        let (moments, (finding, rank)) = (self.moments.as_ref()?, self.split?);
        Some(match finding {
            Finding::Shared => moments.shared().kept(rank),
            _ => moments.per_record().kept(rank),
        })
    }
}

/// Splits the model of a run: chooses for every candidate, by its calibration records.
pub(crate) fn settle(run: &mut Run, asymml: &Asymml) -> Result<Settled, RunError> {
    let choices = choices(run, asymml, asymml.calibration)?;
    let graph = &run.spec.graph;
    let mut settled = Settled { placements: Placements::default(), bases: Vec::new() };
    for choice in &choices {
        let Some((finding, rank)) = choice.split else { continue };
        let basis = match (&choice.moments, finding) {
            (Some(moments), Finding::Shared) => moments.shared_basis(rank).state(),
            (None, Finding::Shared) => SharedBasis::new(choice.candidate.shape[0], rank).state(),
            _ => Vec::new(),
        };
        let convs = choice.candidate.convs.iter().map(|&n| graph.nodes()[n].name.clone()).collect();
        settled.placements.splits.push(Split { finding, rank, convs });
        settled.bases.push(basis);
    }
    Ok(settled)
}

/// What is chosen for every candidate, on at most so many of the run's records.
pub(crate) fn choices(run: &mut Run, asymml: &Asymml, records: usize) -> Result<Vec<Choice>, RunError> {
    let candidates = candidates(&run.spec.graph);
    let given = given_ranks(&run.spec.graph, asymml, &candidates)?;
    let moments = measure(run, &candidates, records)?;
    if matches!(asymml.ranks, Ranks::Energy(_)) && moments.is_none() {
        return Err(RunError::Request(
            "ranks by `energy` need records to be found on; there are none".to_owned(),
        ));
    }
    let mut moments: Vec<Option<Moments>> = match moments {
        Some(moments) => moments.into_iter().map(Some).collect(),
        None => candidates.iter().map(|_| None).collect(),
    };
    let graph = &run.spec.graph;
    let choice = |(i, candidate): (usize, Candidate)| {
        let convs = candidate.convs.iter().map(|&n| match &graph.nodes()[n].op {
            Op::Conv2d(conv) => conv.clone(),
            _ => unreachable!("candidates are read by convolutions"),
        });
        let convs: Vec<_> = convs.collect();
        let moments = moments[i].take();
        let whole = Cost::whole(&convs, candidate.shape);
        let possible = possible(asymml, given.as_ref().map(|ranks| ranks[i]), moments.as_ref(), &candidate);
        let priced = possible.into_iter().map(|(finding, rank)| {
            Ok(((finding, rank), Cost::parted(&convs, candidate.shape, finding, rank)?))
        });
        let mut priced = priced.collect::<Result<Vec<_>, split::SplitError>>().map_err(request)?;
        priced.sort_by(|(_, a), (_, b)| a.total().total_cmp(&b.total()));
        let best = priced.into_iter().next();
        // Ranks that were given are kept; else a split has to pay.
        let best = best.filter(|(_, cost)| given.is_some() || cost.total() < whole.total());
        let (split, parted) = best.unzip();
        Ok(Choice { candidate, moments, split, whole, parted })
    };
    candidates.into_iter().enumerate().map(choice).collect()
}

/// Ways to split a candidate: a rank for each way to find principal channels that is allowed.
pub(crate) fn possible(
    asymml: &Asymml,
    given: Option<usize>,
    moments: Option<&Moments>,
    candidate: &Candidate,
) -> Vec<(Finding, usize)> {
    let findings = match asymml.finding {
        Some(spec::Finding::Light { iterations }) => vec![Finding::Light { iterations }],
        Some(spec::Finding::Subspace { iterations }) => vec![Finding::Subspace { iterations }],
        Some(spec::Finding::Shared) => vec![Finding::Shared],
        Some(spec::Finding::Exact) => vec![Finding::Exact],
        None => vec![
            Finding::Shared,
            Finding::Subspace { iterations: ROUNDS },
            Finding::Light { iterations: ROUNDS },
        ],
    };
    let [c, h, w] = candidate.shape;
    let rank = |finding: Finding| {
        let found = match (&asymml.ranks, moments) {
            (Ranks::Energy(energy), Some(moments)) => match finding {
                Finding::Shared => moments.shared().rank_for(*energy),
                _ => moments.per_record().rank_for(*energy),
            },
            _ => given.unwrap_or(0),
        };
        let kept = if asymml.half { found.div_ceil(2) } else { found };
        // With all channels nothing would be left to send.
        (kept > 0 && kept < c).then(|| (finding, kept.min(c.min(h * w))))
    };
    findings.into_iter().filter_map(rank).collect()
}

/// The ranks that were given for each candidate, 0 for no split; `None` if they follow from energy.
fn given_ranks(
    graph: &Graph,
    asymml: &Asymml,
    candidates: &[Candidate],
) -> Result<Option<Vec<usize>>, RunError> {
    let clamp = |(rank, candidate): (usize, &Candidate)| rank.min(candidate.shape[0] - 1);
    match &asymml.ranks {
        Ranks::Energy(_) => Ok(None),
        Ranks::Authors => {
            let vgg = graph.name().starts_with("vgg16") && candidates.len() == AUTHORS_VGG16.len();
            let doubling = (1..).map(|i| (1usize << i.min(10)).min(AUTHORS_LARGEST));
            let ranks: Box<dyn Iterator<Item = usize>> =
                if vgg { Box::new(AUTHORS_VGG16.into_iter()) } else { Box::new(doubling) };
            Ok(Some(ranks.zip(candidates).map(clamp).collect()))
        }
        Ranks::List(ranks) if ranks.len() != candidates.len() => {
            let read = |candidate: &Candidate| graph.nodes()[candidate.convs[0]].name.clone();
            let names: Vec<String> = candidates.iter().map(read).collect();
            Err(RunError::Request(format!(
                "flow.ranks has {} numbers, but `{}` has {} inputs of convolutions that can be split: those of {}",
                ranks.len(),
                graph.name(),
                names.len(),
                names.join(", ")
            )))
        }
        Ranks::List(ranks) => {
            for (rank, candidate) in ranks.iter().zip(candidates) {
                let [c, h, w] = candidate.shape;
                if *rank > c.min(h * w) {
                    return Err(RunError::Request(format!(
                        "flow.ranks has {rank} for the input of `{}`, whose rank is at most {}",
                        graph.nodes()[candidate.convs[0]].name,
                        c.min(h * w)
                    )));
                }
            }
            Ok(Some(ranks.clone()))
        }
    }
}

/// Second moments of every candidate over the first records of the run, in evaluation mode; `None` without records.
fn measure(
    run: &mut Run,
    candidates: &[Candidate],
    records: usize,
) -> Result<Option<Vec<Moments>>, RunError> {
    let sets = [RecordSet::Train, RecordSet::Test];
    let Some(set) = sets.into_iter().find(|set| run.data.get(*set).len() > 0) else { return Ok(None) };
    let count = run.data.get(set).len().min(records);
    let Some(TrustedModel::Whole(model)) = &run.trusted else {
        return Err(RunError::Request("a model is calibrated before it is split".to_owned()));
    };
    let (graph, mut parameters) = (model.graph().clone(), model.parameters().clone());
    let batch = run.spec.train.batch_size.min(count).min(PIECE);
    let place = |n: usize| candidates.iter().position(|candidate| candidate.value.0 == n + 1);
    let mut executor = Executor::inference_as(graph.clone(), tapped(&graph, place)?, batch);
    let new = |candidate: &Candidate| Moments::new(Shape::from(candidate.shape));
    let mut taps = Taps { moments: candidates.iter().map(new).collect() };
    for first in (0..count).step_by(batch) {
        let records = batch.min(count - first);
        let chosen = (first..first + records).map(Chosen::plain);
        run.data.get(set).fill(&run.pixels, chosen, executor.input_mut(records));
        let pass = Pass { records, mode: Mode::Eval };
        executor.forward_with(&mut taps, &mut parameters, pass, &run.threads);
    }
    Ok(Some(taps.moments))
}

/// Records that are calibrated at once.
const PIECE: usize = 8;

/// The model with a node that only looks, at this place, after every node that is given one.
pub(crate) fn tapped(graph: &Graph, place: impl Fn(usize) -> Option<usize>) -> Result<Graph, RunError> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut now = vec![ValueId::INPUT; graph.values()];
    for (n, node) in graph.nodes().iter().enumerate() {
        let mut node = node.clone();
        node.inputs.iter_mut().for_each(|v| *v = now[v.0]);
        let (params, buffers) = (node.params.end, node.buffers.end);
        nodes.push(node);
        now[n + 1] = ValueId(nodes.len());
        if let Some(place) = place(n) {
            nodes.push(Node {
                name: format!("tap {place}"),
                op: Op::Fused(Fused::Placed(Placed { place, op: Arc::new(Tap) })),
                inputs: vec![now[n + 1]],
                params: params..params,
                buffers: buffers..buffers,
                origin: n,
            });
        }
    }
    graph.rewritten(nodes, now[graph.output().0]).map_err(request)
}

/// Makes one number of each record, which nobody reads.
struct Tap;

impl Operator for Tap {
    fn name(&self) -> &'static str {
        "tap"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        Ok(Shape::from([inputs[0].dims()[0], 1]))
    }

    fn backward_reads(&self) -> Reads {
        Reads::NOTHING
    }

    fn forward(&self, _: Forward<'_>) {
        unreachable!("placed elsewhere");
    }

    fn backward(&self, _: Backward<'_>) {
        unreachable!("placed elsewhere");
    }
}

struct Taps {
    moments: Vec<Moments>,
}

impl Elsewhere for Taps {
    fn forward(&mut self, place: usize, pass: Forward<'_>) {
        let threads: &Threads = pass.threads;
        self.moments[place].add(threads, pass.inputs[0].data);
    }

    fn backward(&mut self, _: usize, _: Backward<'_>) {
        unreachable!("calibration has no backward pass");
    }
}
