//! Forward and backward passes over a whole graph, in memory allocated once.

mod elsewhere;
mod inputs;
#[cfg(test)]
mod tests;

use std::ops::Range;

use kernels::trace::Work;
use kernels::{Backward, Forward, Fused, Mode, Op, Recompute, Saved, SavedMut, Scratch, Threads};
use model::{Graph, Parameters, ValueId};
use tensor::{Tensor, View, ViewMut};

pub use self::elsewhere::{Elsewhere, Nowhere};
use self::inputs::{Inputs, cut};
use crate::fuse;
use crate::plan::Plan;
use crate::random::{Purpose, Stream};
use crate::timeline::{Arena, Layout, Timeline};

/// Runs one graph for batches of up to a fixed size; every buffer has its place in one arena, planned on construction.
pub struct Executor {
    plan: Plan<Range<usize>>,
    arena: Arena,
    /// Empty if made for inference.
    grad_params: Vec<Tensor>,
    /// Which values have a gradient in the backward pass that runs.
    written: Vec<bool>,
    /// Its number in profiles.
    part: u8,
}

/// What a forward pass ran on, which its backward pass must know.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Records in the batch.
    pub records: usize,
    pub mode: Mode,
}

impl Executor {
    /// An executor for inference and for training.
    pub fn for_training(graph: Graph, batch: usize) -> Self {
        Executor::for_training_within(graph, batch, false)
    }

    /// An executor for inference and for training; with `recompute`, in less memory and more time, with the same bits.
    pub fn for_training_within(graph: Graph, batch: usize, recompute: bool) -> Self {
        let (plan, timeline) = Plan::training(graph, batch, recompute);
        Executor::in_own_arena(&plan, &timeline.lay_out()).with_gradients()
    }

    /// [`Executor::for_training`] that runs `fused`, a rewrite of `model`.
    #[cfg(test)]
    pub(crate) fn training_as(model: Graph, fused: Graph, batch: usize) -> Self {
        let (plan, timeline) = Plan::training_as(model, fused, batch, false);
        Executor::in_own_arena(&plan, &timeline.lay_out()).with_gradients()
    }

    /// An executor without gradients, for evaluation mode.
    pub fn for_inference(graph: Graph, batch: usize) -> Self {
        let fused = fuse::for_inference(&graph);
        Executor::inference_as(graph, fused, batch)
    }

    /// [`Executor::for_inference`] that runs `fused`, a rewrite of `model`.
    pub fn inference_as(model: Graph, fused: Graph, batch: usize) -> Self {
        let mut timeline = Timeline::default();
        let plan = Plan::forward_as(model, fused, batch, &mut timeline);
        timeline.step("end");
        timeline.read(plan.output());
        Executor::in_own_arena(&plan, &timeline.lay_out())
    }

    /// An executor for a part of a longer run, planned by its caller in `layout`; without memory until it is given some
    /// ([`Executor::swap_arena`]).
    pub(crate) fn part_for_training(plan: &Plan, layout: &Layout) -> Self {
        Executor::new(plan, layout).with_gradients()
    }

    /// [`Executor::part_for_training`] without gradients, for evaluation mode.
    pub(crate) fn part_for_inference(plan: &Plan, layout: &Layout) -> Self {
        Executor::new(plan, layout)
    }

    /// Takes the places of another layout, as a part of a longer run; see [`Executor::part_for_training`].
    pub(crate) fn move_to(&mut self, plan: &Plan, layout: &Layout) {
        self.plan = plan.placed(layout);
    }

    fn in_own_arena(plan: &Plan, layout: &Layout) -> Self {
        Executor { arena: layout.arena(), ..Executor::new(plan, layout) }
    }

    fn new(plan: &Plan, layout: &Layout) -> Self {
        let written = vec![false; plan.fused.values()];
        Executor {
            plan: plan.placed(layout),
            arena: Arena::default(),
            grad_params: Vec::new(),
            written,
            part: 0,
        }
    }

    fn with_gradients(mut self) -> Self {
        let specs = self.plan.fused.param_specs();
        self.grad_params = specs.into_iter().map(|(_, shape)| Tensor::zeros(shape)).collect();
        self
    }

    /// Gives it a number in profiles, where there are several; 0 otherwise.
    pub fn set_part(&mut self, part: u8) {
        self.part = part;
    }

    pub fn graph(&self) -> &Graph {
        &self.plan.graph
    }

    /// The rewrite of the graph that runs.
    pub fn runs(&self) -> &Graph {
        &self.plan.fused
    }

    /// Largest number of records a pass may have.
    pub fn batch(&self) -> usize {
        self.plan.batch
    }

    /// Exchanges this executor's memory for another of the same layout: between parts that run one after the other, it
    /// travels.
    pub fn swap_arena(&mut self, arena: &mut Arena) {
        std::mem::swap(&mut self.arena, arena);
    }

    /// Lends this executor's memory to another of the same layout, or takes it back.
    pub(crate) fn exchange_arena(&mut self, other: &mut Executor) {
        self.swap_arena(&mut other.arena);
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        let grads: usize = self.grad_params.iter().map(|g| g.shape().len()).sum();
        self.arena.bytes() + 4 * grads
    }

    /// Scratch memory that any pass takes on so many threads.
    pub fn scratch(&self, threads: usize) -> Scratch {
        self.plan.scratch(threads)
    }

    /// Where the input of the next pass goes: `[records, C, H, W]`. The pass uses it up.
    ///
    /// # Panics
    /// If `records` exceeds [`Executor::batch`].
    pub fn input_mut(&mut self, records: usize) -> &mut [f32] {
        let place = self.input_place(records);
        &mut self.arena.floats[place]
    }

    /// Where the input of the next pass lies in the arena.
    ///
    /// # Panics
    /// If `records` exceeds [`Executor::batch`].
    pub fn input_place(&self, records: usize) -> Range<usize> {
        assert!(records <= self.plan.batch, "a pass has at most {} records, not {records}", self.plan.batch);
        self.place(ValueId::INPUT, records)
    }

    /// Runs the graph on what [`Executor::input_mut`] holds; returns the output `[records, …]`.
    ///
    /// In [`Mode::Train`] the buffers of `parameters` (running statistics) are updated; the seed is the step's, and is
    /// made unique per node here.
    pub fn forward(&mut self, parameters: &mut Parameters, pass: Pass, threads: &Threads) -> &[f32] {
        self.forward_with(&mut Nowhere, parameters, pass, threads)
    }

    /// [`Executor::forward`] where some nodes are computed elsewhere.
    pub fn forward_with(
        &mut self,
        elsewhere: &mut dyn Elsewhere,
        parameters: &mut Parameters,
        pass: Pass,
        threads: &Threads,
    ) -> &[f32] {
        for n in 0..self.plan.fused.nodes().len() {
            let work = Work::Forward { part: self.part, node: n as u32 };
            threads.span(work, || self.forward_node(n, elsewhere, parameters, pass, threads));
        }
        self.output(pass.records)
    }

    /// The output of the last forward pass, `[records, …]`, until the next pass begins.
    pub fn output(&self, records: usize) -> &[f32] {
        &self.arena.floats[self.output_place(records)]
    }

    /// Where the output of the last forward pass lies in the arena.
    pub fn output_place(&self, records: usize) -> Range<usize> {
        self.place(self.plan.fused.output(), records)
    }

    fn forward_node(
        &mut self,
        n: usize,
        elsewhere: &mut dyn Elsewhere,
        parameters: &mut Parameters,
        pass: Pass,
        threads: &Threads,
    ) {
        let node = &self.plan.fused.nodes()[n];
        let inputs = Inputs::of(&self.plan.fused, n, pass.records);
        let [first, second] = inputs.places(|i| Some(self.place(node.inputs[i], pass.records)));
        let output = ValueId(n + 1);
        let [saved_floats, saved_indices] = self.plan.saved[n].clone();
        let places = [first, second, self.place(output, pass.records), saved_floats];
        let [first, second, data, floats] = disjoint(&mut self.arena.floats, places);
        let args = Forward {
            inputs: &inputs.views([first, second])[..inputs.count],
            params: &parameters.params[node.params.clone()],
            buffers: &mut parameters.buffers[node.buffers.clone()],
            output: ViewMut { shape: self.plan.fused.shape(output, pass.records), data },
            saved: SavedMut { floats, indices: &mut self.arena.indices[saved_indices] },
            mode: node_mode(pass.mode, node.origin),
            threads,
        };
        match &node.op {
            Op::Fused(Fused::Placed(placed)) => elsewhere.forward(placed.place, args),
            op => op.operator().forward(args),
        }
    }

    /// Gradients of the parameters after [`Executor::backward`]; none if the executor was made for inference.
    pub fn grad_params(&self) -> &[Tensor] {
        &self.grad_params
    }

    /// The graph, and the gradients of its parameters to add to.
    pub fn graph_and_gradients(&mut self) -> (&Graph, &mut [Tensor]) {
        (&self.plan.graph, &mut self.grad_params)
    }

    /// Where the output's gradient lies in the arena, `[records, …]`.
    ///
    /// # Panics
    /// If the executor was made for inference.
    pub fn grad_output_place(&self, records: usize) -> Range<usize> {
        self.grad_place(self.plan.fused.output(), records).expect("made for training")
    }

    /// Where the input's gradient lies in the arena after a backward pass that was asked for it, `[records, C, H, W]`.
    pub fn grad_input_place(&self, records: usize) -> Option<Range<usize>> {
        self.grad_place(ValueId::INPUT, records)
    }

    /// The output of the last forward pass, and where its gradient goes; both `[records, …]`.
    ///
    /// # Panics
    /// If the executor was made for inference.
    pub fn output_and_gradient(&mut self, records: usize) -> (&[f32], &mut [f32]) {
        let places = [self.output_place(records), self.grad_output_place(records)];
        let [output, gradient] = disjoint(&mut self.arena.floats, places);
        (output, gradient)
    }

    /// Propagates `grad_output` (shape of the output) back through the last forward pass, which was `pass`.
    ///
    /// Overwrites every parameter gradient; returns the gradient of the input `[records, C, H, W]` if asked for.
    ///
    /// # Panics
    /// If the executor was made for inference.
    pub fn backward(
        &mut self,
        parameters: &Parameters,
        grad_output: &[f32],
        pass: Pass,
        want_input: bool,
        threads: &Threads,
    ) -> Option<&[f32]> {
        self.set_grad_output(grad_output, pass.records);
        self.backward_in_place(parameters, pass, want_input, threads);
        self.grad_input(pass.records).filter(|_| want_input)
    }

    /// The gradient of the input after a backward pass that was asked for it, `[records, C, H, W]`.
    pub fn grad_input(&self, records: usize) -> Option<&[f32]> {
        Some(&self.arena.floats[self.grad_input_place(records)?])
    }

    /// Puts a gradient where [`Executor::backward_in_place`] finds it.
    pub fn set_grad_output(&mut self, grad_output: &[f32], records: usize) {
        let place = self.grad_output_place(records);
        self.arena.floats[place].copy_from_slice(grad_output);
    }

    /// [`Executor::backward`] of the gradient that lies at [`Executor::grad_output_place`].
    pub fn backward_in_place(
        &mut self,
        parameters: &Parameters,
        pass: Pass,
        want_input: bool,
        threads: &Threads,
    ) {
        self.backward_with(&mut Nowhere, parameters, pass, want_input, threads);
    }

    /// [`Executor::backward_in_place`] where some nodes are computed elsewhere.
    pub fn backward_with(
        &mut self,
        elsewhere: &mut dyn Elsewhere,
        parameters: &Parameters,
        pass: Pass,
        want_input: bool,
        threads: &Threads,
    ) {
        let output = self.plan.fused.output();
        self.written.fill(false);
        self.written[output.0] = true;
        for n in (0..output.0).rev() {
            if self.written[n + 1] {
                let begin = threads.span_begin();
                for i in 0..self.plan.again[n].len() {
                    self.compute_again(n, i, parameters, pass, threads);
                }
                self.backward_node(n, elsewhere, parameters, pass, want_input, threads);
                threads.span_end(Work::Backward { part: self.part, node: n as u32 }, begin);
            }
        }
    }

    fn compute_again(&mut self, n: usize, i: usize, parameters: &Parameters, pass: Pass, threads: &Threads) {
        let again = &self.plan.again[n][i];
        let node = &self.plan.fused.nodes()[again.node];
        let inputs = Inputs::of(&self.plan.fused, again.node, pass.records);
        let [first, second] = inputs.places(|i| cut(Some(&again.inputs[i]), inputs.shapes[i]));
        let shape = self.plan.fused.shape(ValueId(again.node + 1), pass.records);
        let [saved_floats, saved_indices] = self.plan.saved[again.node].clone();
        let places = [first, second, cut(Some(&again.output), shape).unwrap_or_default(), saved_floats];
        let [first, second, data, floats] = disjoint(&mut self.arena.floats, places);
        node.op.operator().recompute(Recompute {
            inputs: &inputs.views([first, second])[..inputs.count],
            params: &parameters.params[node.params.clone()],
            output: ViewMut { shape, data },
            saved: Saved { floats, indices: &self.arena.indices[saved_indices] },
            mode: node_mode(pass.mode, node.origin),
            threads,
        });
    }

    fn backward_node(
        &mut self,
        n: usize,
        elsewhere: &mut dyn Elsewhere,
        parameters: &Parameters,
        pass: Pass,
        want_input: bool,
        threads: &Threads,
    ) {
        let node = &self.plan.fused.nodes()[n];
        let (operator, records) = (node.op.operator(), pass.records);
        let (inputs, reads) = (Inputs::of(&self.plan.fused, n, records), operator.backward_reads());
        let kept = |v: ValueId| cut(Some(&self.plan.kept[v.0]), self.plan.fused.shape(v, records));
        let value = |v, read: bool| kept(v).filter(|_| read);
        let wanted = |v: ValueId| want_input || v != ValueId::INPUT;
        let [first, second] = inputs.places(|i| value(node.inputs[i], inputs.read(reads.inputs, i)));
        let mut grads =
            inputs.places(|i| self.grad_place(node.inputs[i], records).filter(|_| wanted(node.inputs[i])));
        if inputs.same && wanted(node.inputs[0]) {
            grads[1] = cut(self.plan.twice[n].as_ref(), inputs.shapes[1]).unwrap_or_default();
        }
        let output = ValueId(n + 1);
        let [saved_floats, saved_indices] = self.plan.saved[n].clone();
        let places = [
            first,
            second,
            value(output, reads.output).unwrap_or_default(),
            self.grad_place(output, records).expect("the plan is for training"),
            saved_floats,
            grads[0].clone(),
            grads[1].clone(),
        ];
        let [first, second, data, grad, floats, grad_first, grad_second] =
            disjoint(&mut self.arena.floats, places);
        let shape = self.plan.fused.shape(output, records);
        let views = inputs.views([first, second]);
        let mut grad_inputs = inputs.grads([grad_first, grad_second], node, &self.written, want_input);
        let args = Backward {
            inputs: &views[..inputs.count],
            params: &parameters.params[node.params.clone()],
            buffers: &parameters.buffers[node.buffers.clone()],
            output: View { shape, data },
            grad_output: View { shape, data: grad },
            saved: Saved { floats, indices: &self.arena.indices[saved_indices] },
            grad_inputs: &mut grad_inputs[..inputs.count],
            grad_params: &mut self.grad_params[node.params.clone()],
            mode: node_mode(pass.mode, node.origin),
            threads,
        };
        match &node.op {
            Op::Fused(Fused::Placed(placed)) => elsewhere.backward(placed.place, args),
            _ => operator.backward(args),
        }
        if inputs.same && wanted(node.inputs[0]) {
            let [sum, second] = disjoint(&mut self.arena.floats, grads);
            sum.iter_mut().zip(second).for_each(|(sum, g)| *sum += *g);
        }
        node.inputs.iter().filter(|v| wanted(**v)).for_each(|v| self.written[v.0] = true);
    }

    fn place(&self, value: ValueId, records: usize) -> Range<usize> {
        cut(Some(&self.plan.values[value.0]), self.plan.fused.shape(value, records)).unwrap_or_default()
    }

    fn grad_place(&self, value: ValueId, records: usize) -> Option<Range<usize>> {
        cut(self.plan.grads[value.0].as_ref(), self.plan.fused.shape(value, records))
    }
}

/// Several buffers of an arena at once.
fn disjoint<const N: usize>(arena: &mut [f32], places: [Range<usize>; N]) -> [&mut [f32]; N] {
    arena.get_disjoint_mut(places).expect("buffers that are used together are alive together")
}

/// The step's mode with a seed of its own for node `n` of the model.
fn node_mode(mode: Mode, n: usize) -> Mode {
    match mode {
        Mode::Train { seed } => {
            Mode::Train { seed: Stream::new(seed, Purpose::Dropout, n as u64, 0).next_u64() }
        }
        Mode::Eval => Mode::Eval,
    }
}
