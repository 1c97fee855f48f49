//! The buffers of one graph, as steps of a [`Timeline`].

use std::ops::Range;

use kernels::Scratch;
use model::{Graph, ValueId};

use crate::timeline::{Buffer, Layout, Timeline};
use crate::{fuse, orthogonality};

/// The buffers of a graph for batches of up to a fixed size; `P` is how each is named: by its [`Buffer`] while the
/// timeline is told, by its place in the arena after it was laid out.
#[derive(Clone, Debug)]
pub struct Plan<P = Buffer> {
    /// The model as it was given.
    pub(crate) graph: Graph,
    /// The model with chains of operators fused: what runs. Values and nodes below are its.
    pub(crate) fused: Graph,
    pub(crate) batch: usize,
    /// Output of every node, after the graph's input.
    pub(crate) values: Vec<P>,
    /// What every node's forward pass leaves for its backward pass: floats and indices.
    pub(crate) saved: Vec<[P; 2]>,
    /// Gradient of every value that gets one.
    pub(crate) grads: Vec<Option<P>>,
    /// Where the backward pass finds every value: where the forward pass left it, or where it was computed again.
    pub(crate) kept: Vec<P>,
    /// What is computed again before each node's backward step, in order.
    pub(crate) again: Vec<Vec<Again<P>>>,
    /// For a node that reads the same value twice: the gradient through its second input.
    pub(crate) twice: Vec<Option<P>>,
}

/// A node's output computed again.
#[derive(Clone, Debug)]
pub(crate) struct Again<P> {
    pub(crate) node: usize,
    pub(crate) inputs: Vec<P>,
    pub(crate) output: P,
}

/// A model's plans for training and for evaluation mode. Both have their input and their output in the same places, and
/// whichever runs has all of the memory.
#[derive(Clone, Debug)]
pub struct Plans {
    pub training: Plan,
    pub inference: Plan,
}

/// A model with its rewrites for one executor, which read the model's parameters.
#[derive(Clone, Debug)]
pub struct Rewritten {
    pub model: Graph,
    pub training: Graph,
    pub inference: Graph,
}

impl Rewritten {
    /// Chains of operators fused.
    pub fn fused(graph: &Graph) -> Self {
        Rewritten {
            model: graph.clone(),
            training: fuse::for_training(graph),
            inference: fuse::for_inference(graph),
        }
    }
}

impl Plans {
    /// The buffers of one step over `graph`: forward in evaluation mode, or forward, loss, backward.
    pub fn of(graph: &Graph, batch: usize, recompute: bool) -> (Self, Timeline) {
        Plans::rewritten(Rewritten::fused(graph), batch, recompute)
    }

    /// [`Plans::of`] for a model that was rewritten already.
    pub fn rewritten(graphs: Rewritten, batch: usize, recompute: bool) -> (Self, Timeline) {
        let mut timeline = Timeline::default();
        let mut plans = Plans::forward_of(graphs, batch, &mut timeline);
        plans.training.learn(recompute, &mut timeline);
        (plans, timeline)
    }

    /// The buffers of a forward pass in either mode, whose input is made in the step that `timeline` is at.
    pub fn forward(graph: &Graph, batch: usize, timeline: &mut Timeline) -> Self {
        Plans::forward_of(Rewritten::fused(graph), batch, timeline)
    }

    fn forward_of(graphs: Rewritten, batch: usize, timeline: &mut Timeline) -> Self {
        let Rewritten { model, training, inference } = graphs;
        let inference = Plan::forward_as(model.clone(), inference, batch, timeline);
        // What is written last in one mode is alive until it is read in the other.
        let ends = (inference.input(), Some(inference.output()));
        let training = Plan::forward_from(ends, model, training, batch, timeline);
        Plans { training, inference }
    }

    /// Scratch memory that any pass takes on so many threads.
    pub fn scratch(&self, threads: usize) -> Scratch {
        self.training.scratch(threads).or(self.inference.scratch(threads))
    }
}

impl Plan {
    /// The buffers of one training step over `graph`: forward, loss, backward.
    pub(crate) fn training(graph: Graph, batch: usize, recompute: bool) -> (Self, Timeline) {
        let fused = fuse::for_training(&graph);
        Plan::training_as(graph, fused, batch, recompute)
    }

    /// [`Plan::training`] that runs `fused`, a rewrite of `graph`.
    pub(crate) fn training_as(graph: Graph, fused: Graph, batch: usize, recompute: bool) -> (Self, Timeline) {
        let mut timeline = Timeline::default();
        let mut plan = Plan::forward_as(graph, fused, batch, &mut timeline);
        plan.learn(recompute, &mut timeline);
        (plan, timeline)
    }

    /// The loss and the backward pass after a forward pass.
    fn learn(&mut self, recompute: bool, timeline: &mut Timeline) {
        timeline.step("loss");
        timeline.read(self.output());
        let grad_input = self.backward(recompute, timeline);
        timeline.step("end");
        timeline.read(self.output());
        grad_input.into_iter().for_each(|grad| timeline.read(grad));
    }

    /// The buffers of a forward pass over `fused`, a rewrite of `graph`; the input is made in the step that `timeline` is at.
    pub(crate) fn forward_as(graph: Graph, fused: Graph, batch: usize, timeline: &mut Timeline) -> Self {
        let input = timeline.make(fused.shape(ValueId::INPUT, batch.max(1)).len());
        Plan::forward_from((input, None), graph, fused, batch, timeline)
    }

    /// [`Plan::forward_as`] from an input, and where there is one into an output, that exist already.
    fn forward_from(
        (input, output): (Buffer, Option<Buffer>),
        graph: Graph,
        fused: Graph,
        batch: usize,
        timeline: &mut Timeline,
    ) -> Self {
        let batch = batch.max(1);
        let mut values = vec![input];
        let mut saved = Vec::new();
        for (n, node) in fused.nodes().iter().enumerate() {
            timeline.step(format!("{} {}, forward", graph.name(), node.name));
            node.inputs.iter().for_each(|v| timeline.read(values[v.0]));
            let kept = node.op.operator().saved_len(&fused.input_shapes(n, batch));
            saved.push([timeline.make(kept.floats), timeline.make_indices(kept.indices)]);
            let value = ValueId(n + 1);
            let existing = output.filter(|_| value == fused.output());
            existing.into_iter().for_each(|output| timeline.read(output));
            values.push(existing.unwrap_or_else(|| timeline.make(fused.shape(value, batch).len())));
        }
        let (grads, twice) = (vec![None; fused.values()], vec![None; fused.nodes().len()]);
        let again = vec![Vec::new(); fused.nodes().len()];
        Plan { kept: values.clone(), values, saved, grads, twice, again, graph, fused, batch }
    }

    /// The graph's input.
    pub fn input(&self) -> Buffer {
        self.values[ValueId::INPUT.0]
    }

    /// The graph's output.
    pub fn output(&self) -> Buffer {
        self.values[self.fused.output().0]
    }

    /// Adds the buffers of a backward pass; the output's gradient is made in the step that `timeline` is at.
    ///
    /// With `recompute`, outputs of cheap operators are given up in the forward pass where they can be computed again from
    /// what is kept. Returns the gradient of the input, if the output depends on it.
    pub fn backward(&mut self, recompute: bool, timeline: &mut Timeline) -> Option<Buffer> {
        let (graph, batch) = (&self.fused.clone(), self.batch);
        let mut given_up = if recompute { Recomputed::of(graph).values } else { vec![false; graph.values()] };
        let len = |value| graph.shape(value, batch).len();
        let output = graph.output();
        self.grads[output.0] = Some(timeline.make(len(output)));
        for (n, node) in graph.nodes().iter().enumerate().take(output.0).rev() {
            let Some(grad) = self.grads[n + 1] else { continue };
            let read = read_by_backward(graph, n);
            for v in &read {
                // Before the first step that reads it.
                if std::mem::take(&mut given_up[v.0]) {
                    self.kept[v.0] = self.compute_again(graph, n, *v, timeline);
                }
            }
            timeline.step(format!("{} {}, backward", graph.name(), node.name));
            timeline.read(grad);
            self.again[n].iter().for_each(|again| timeline.read(again.output));
            read.iter().for_each(|v| timeline.read(self.kept[v.0]));
            self.saved[n].iter().for_each(|&saved| timeline.read(saved));
            for (i, v) in node.inputs.iter().enumerate() {
                if node.inputs[..i].contains(v) {
                    self.twice[n] = Some(timeline.make(len(*v)));
                } else if let Some(grad) = self.grads[v.0] {
                    timeline.read(grad);
                } else {
                    self.grads[v.0] = Some(timeline.make(len(*v)));
                }
            }
        }
        self.grads[0]
    }

    /// Steps that compute `value` again, from what is kept, before node `before` goes backward.
    fn compute_again(
        &mut self,
        graph: &Graph,
        before: usize,
        value: ValueId,
        timeline: &mut Timeline,
    ) -> Buffer {
        let n = value.node().expect("the input is never given up");
        let node = &graph.nodes()[n];
        let needed = needed_by_backward(graph);
        let inputs: Vec<Buffer> = node
            .inputs
            .iter()
            .map(|&v| match needed[v.0] {
                true => self.kept[v.0],
                false => self.compute_again(graph, before, v, timeline),
            })
            .collect();
        timeline.step(format!("{} {}, forward again", graph.name(), node.name));
        inputs.iter().for_each(|&input| timeline.read(input));
        self.saved[n].iter().for_each(|&saved| timeline.read(saved));
        let output = timeline.make(graph.shape(value, self.batch).len());
        self.again[before].push(Again { node: n, inputs, output });
        output
    }

    /// Every buffer's place.
    pub(crate) fn placed(&self, layout: &Layout) -> Plan<Range<usize>> {
        let place = |buffer: &Buffer| layout.place(*buffer);
        let optional = |buffers: &[Option<Buffer>]| buffers.iter().map(|b| b.as_ref().map(place)).collect();
        Plan {
            graph: self.graph.clone(),
            fused: self.fused.clone(),
            batch: self.batch,
            values: self.values.iter().map(place).collect(),
            saved: self.saved.iter().map(|saved| saved.each_ref().map(place)).collect(),
            kept: self.kept.iter().map(place).collect(),
            again: self
                .again
                .iter()
                .map(|steps| steps.iter().map(|again| again.placed(layout)).collect())
                .collect(),
            grads: optional(&self.grads),
            twice: optional(&self.twice),
        }
    }
}

impl<P> Plan<P> {
    /// Largest number of records in a pass.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Scratch memory that any pass takes on so many threads.
    pub fn scratch(&self, threads: usize) -> Scratch {
        let of_node = |n: usize| {
            let inputs = self.fused.input_shapes(n, self.batch);
            self.fused.nodes()[n].op.operator().scratch(&inputs, threads)
        };
        let passes = (0..self.fused.nodes().len()).map(of_node).fold(Scratch::NONE, Scratch::or);
        passes.or(orthogonality::scratch(&self.fused))
    }
}

impl Again<Buffer> {
    fn placed(&self, layout: &Layout) -> Again<Range<usize>> {
        let inputs = self.inputs.iter().map(|input| layout.place(*input)).collect();
        Again { node: self.node, inputs, output: layout.place(self.output) }
    }
}

/// The values that node `n`'s backward step reads.
fn read_by_backward(graph: &Graph, n: usize) -> Vec<ValueId> {
    let node = &graph.nodes()[n];
    let reads = node.op.operator().backward_reads();
    let inputs = node.inputs.iter().zip(reads.inputs).filter(|(_, read)| *read).map(|(v, _)| *v);
    inputs.chain(reads.output.then_some(ValueId(n + 1))).collect()
}

/// Whether some backward step reads each value.
fn needed_by_backward(graph: &Graph) -> Vec<bool> {
    let mut needed = vec![false; graph.values()];
    let nodes = 0..graph.output().0;
    nodes.flat_map(|n| read_by_backward(graph, n)).for_each(|v| needed[v.0] = true);
    needed
}

/// Which values are computed again instead of kept.
struct Recomputed {
    /// Whether each value is one.
    values: Vec<bool>,
}

impl Recomputed {
    /// Every output of a cheap operator that follows, through cheap operators, from values that are kept anyway.
    fn of(graph: &Graph) -> Self {
        let needed = needed_by_backward(graph);
        let mut recomputed = Recomputed { values: vec![false; graph.values()] };
        for v in (1..graph.output().0).filter(|&v| needed[v]) {
            recomputed.values[v] = recomputed.follows(graph, &needed, ValueId(v));
        }
        recomputed
    }

    fn follows(&self, graph: &Graph, needed: &[bool], value: ValueId) -> bool {
        let Some(n) = value.node() else { return false };
        let node = &graph.nodes()[n];
        let available = |v: &ValueId| match needed[v.0] {
            true => !self.values[v.0],
            false => self.follows(graph, needed, *v),
        };
        node.op.operator().is_cheap() && node.inputs.iter().all(available)
    }
}
