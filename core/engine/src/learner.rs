//! A model with everything that changes while it is trained.

use kernels::{Mode, Scratch, Threads, softmax_cross_entropy};
use model::{Graph, Parameters};
use serde::{Deserialize, Serialize};
use tensor::{Tensor, View};

use crate::executor::{Elsewhere, Nowhere, Pass};
use crate::{Arena, Executor, Layout, Optimiser, OptimiserConfig, Plans, Rewritten, orthogonality};

/// A graph, its parameters and their optimiser.
pub struct Learner {
    /// Has the memory, which it lends.
    executor: Executor,
    /// The same graph, with more of it fused, for evaluation mode.
    inference: Executor,
    parameters: Parameters,
    optimiser: Optimiser,
}

/// All that a [`Learner`] must keep to go on with the same bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearnerState {
    pub parameters: Parameters,
    pub optimiser: Vec<Tensor>,
    pub updates: u64,
}

/// A [`LearnerState`] that is borrowed; encoded the same.
#[derive(Serialize)]
pub struct LearnerStateRef<'a> {
    pub parameters: &'a Parameters,
    pub optimiser: &'a [Tensor],
    pub updates: u64,
}

/// A state that does not belong to the model it was given to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the saved state does not belong to model `{model}`: {what} differ")]
pub struct StateError {
    pub model: String,
    pub what: &'static str,
}

impl Learner {
    /// A learner for batches of up to `batch` records.
    ///
    /// # Errors
    /// [`StateError`] if `parameters` are not this graph's.
    pub fn new(
        graph: Graph,
        parameters: Parameters,
        optimiser: OptimiserConfig,
        batch: usize,
    ) -> Result<Self, StateError> {
        let mut learner = Learner::without_memory(graph, parameters, optimiser, batch)?;
        learner.take_memory(false);
        Ok(learner)
    }

    /// A learner that has no memory for passes yet ([`Learner::take_memory`]).
    ///
    /// # Errors
    /// [`StateError`] if `parameters` are not this graph's.
    pub fn without_memory(
        graph: Graph,
        parameters: Parameters,
        optimiser: OptimiserConfig,
        batch: usize,
    ) -> Result<Self, StateError> {
        Learner::rewritten(Rewritten::fused(&graph), parameters, optimiser, batch)
    }

    /// [`Learner::without_memory`] for a model that was rewritten already.
    ///
    /// # Errors
    /// [`StateError`] if `parameters` are not those of the model.
    pub fn rewritten(
        graphs: Rewritten,
        parameters: Parameters,
        optimiser: OptimiserConfig,
        batch: usize,
    ) -> Result<Self, StateError> {
        let (plans, timeline) = Plans::rewritten(graphs, batch, false);
        Learner::part(&plans, &timeline.lay_out(), parameters, optimiser)
    }

    /// A learner for a part of a longer run, planned by its caller in `layout`; it runs in memory that it is lent
    /// ([`Learner::run_in`]).
    ///
    /// # Errors
    /// [`StateError`] if `parameters` are not those of the planned graph.
    pub fn part(
        plans: &Plans,
        layout: &Layout,
        parameters: Parameters,
        optimiser: OptimiserConfig,
    ) -> Result<Self, StateError> {
        let executor = Executor::part_for_training(&plans.training, layout);
        if !parameters.fits(executor.graph()) {
            return Err(StateError { model: executor.graph().name().to_owned(), what: "its parameters" });
        }
        let inference = Executor::part_for_inference(&plans.inference, layout);
        let optimiser = Optimiser::new(optimiser, &parameters.params);
        Ok(Learner { executor, inference, parameters, optimiser })
    }

    /// What runs the graph.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Takes the memory that passes need, with or without `recompute`, in place of what it had; what was computed is lost.
    pub fn take_memory(&mut self, recompute: bool) {
        // Given back before the new one is made.
        self.executor.swap_arena(&mut Arena::default());
        let (plans, timeline) = Plans::rewritten(self.graphs(), self.batch(), recompute);
        let layout = timeline.lay_out();
        self.move_to(&plans, &layout);
        self.executor.swap_arena(&mut layout.arena());
    }

    fn graphs(&self) -> Rewritten {
        let (training, inference) = (self.executor.runs().clone(), self.inference.runs().clone());
        Rewritten { model: self.graph().clone(), training, inference }
    }

    /// Takes the places of another layout, as a part of a longer run; see [`Learner::part`].
    pub fn move_to(&mut self, plans: &Plans, layout: &Layout) {
        self.executor.move_to(&plans.training, layout);
        self.inference.move_to(&plans.inference, layout);
    }

    /// Runs `work` in memory that several parts share; see [`Learner::part`].
    pub fn run_in<T>(&mut self, arena: &mut Arena, work: impl FnOnce(&mut Self) -> T) -> T {
        self.executor.swap_arena(arena);
        let result = work(self);
        self.executor.swap_arena(arena);
        result
    }

    /// Its numbers in profiles, where there are several graphs: in training, and in evaluation mode.
    pub fn set_parts(&mut self, [training, inference]: [u8; 2]) {
        self.executor.set_part(training);
        self.inference.set_part(inference);
    }

    pub fn graph(&self) -> &Graph {
        self.executor.graph()
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Largest number of records in one pass.
    pub fn batch(&self) -> usize {
        self.executor.batch()
    }

    /// Where the input of the next forward pass goes.
    pub fn input_mut(&mut self, records: usize) -> &mut [f32] {
        self.executor.input_mut(records)
    }

    /// Output `[records, …]` for what [`Learner::input_mut`] holds.
    pub fn forward(&mut self, pass: Pass, threads: &Threads) -> &[f32] {
        self.forward_with(&mut Nowhere, pass, threads)
    }

    /// [`Learner::forward`] where some nodes are computed elsewhere.
    pub fn forward_with(&mut self, elsewhere: &mut dyn Elsewhere, pass: Pass, threads: &Threads) -> &[f32] {
        self.executor.forward_with(elsewhere, &mut self.parameters, pass, threads)
    }

    /// The output of the last forward pass, `[records, …]`, until the next pass begins.
    pub fn output(&self, records: usize) -> View<'_> {
        let graph = self.executor.graph();
        View { shape: graph.shape(graph.output(), records), data: self.executor.output(records) }
    }

    /// Scratch memory that any step takes on so many threads; for [`Threads::reserve`].
    pub fn scratch(&self, threads: usize) -> Scratch {
        self.executor.scratch(threads).or(self.inference.scratch(threads))
    }

    /// Gradients of the last forward pass; see [`Executor::backward`].
    pub fn backward(
        &mut self,
        grad_output: &[f32],
        pass: Pass,
        want_input: bool,
        threads: &Threads,
    ) -> Option<&[f32]> {
        self.executor.backward(&self.parameters, grad_output, pass, want_input, threads)
    }

    /// [`Learner::backward`] of the gradient that lies at [`Executor::grad_output_place`].
    pub fn backward_in_place(&mut self, pass: Pass, want_input: bool, threads: &Threads) {
        self.executor.backward_in_place(&self.parameters, pass, want_input, threads);
    }

    /// [`Learner::backward`] where some nodes are computed elsewhere.
    pub fn backward_with(
        &mut self,
        elsewhere: &mut dyn Elsewhere,
        grad_output: &[f32],
        pass: Pass,
        want_input: bool,
        threads: &Threads,
    ) {
        self.executor.set_grad_output(grad_output, pass.records);
        self.executor.backward_with(elsewhere, &self.parameters, pass, want_input, threads);
    }

    /// The gradient of the input after a backward pass that was asked for it, `[records, C, H, W]`.
    pub fn grad_input(&self, records: usize) -> Option<&[f32]> {
        self.executor.grad_input(records)
    }

    /// The gradients of the last backward pass, to add to.
    pub fn gradients_mut(&mut self) -> &mut [Tensor] {
        self.executor.graph_and_gradients().1
    }

    /// Adds the gradient of `weight · Σ ‖W Wᵀ − I‖²` over all convolutions to the last gradients.
    pub fn regularise_orthogonality(&mut self, weight: f32, threads: &Threads) {
        let (graph, grads) = self.executor.graph_and_gradients();
        orthogonality::add_gradient(graph, &self.parameters.params, grads, weight, threads);
    }

    /// One optimiser step with the gradients of the last backward pass.
    pub fn update(&mut self, rate: f32) {
        self.optimiser.step(&mut self.parameters.params, self.executor.grad_params(), rate);
    }

    /// Forward, softmax cross-entropy on the model's own logits, backward, update: one step of an ordinary classifier.
    ///
    /// Returns the logits `[records, K]` from before the update and the mean loss in nats.
    pub fn train_step(&mut self, labels: &[u32], pass: Pass, rate: f32, threads: &Threads) -> (&[f32], f32) {
        let classes = self.graph().classes();
        self.forward(pass, threads);
        let (logits, grad) = self.executor.output_and_gradient(pass.records);
        let loss = softmax_cross_entropy::loss_and_gradient(logits, labels, classes, grad);
        self.backward_in_place(pass, false, threads);
        self.update(rate);
        (self.executor.output(pass.records), loss)
    }

    /// Output in evaluation mode for what [`Learner::input_mut`] holds: the bits of [`Learner::forward`], sooner, and nothing
    /// that a backward pass could use.
    pub fn predict(&mut self, records: usize, threads: &Threads) -> &[f32] {
        self.predict_with(&mut Nowhere, records, threads)
    }

    /// [`Learner::predict`] where some nodes are computed elsewhere.
    pub fn predict_with(
        &mut self,
        elsewhere: &mut dyn Elsewhere,
        records: usize,
        threads: &Threads,
    ) -> &[f32] {
        self.executor.exchange_arena(&mut self.inference);
        let pass = Pass { records, mode: Mode::Eval };
        self.inference.forward_with(elsewhere, &mut self.parameters, pass, threads);
        self.executor.exchange_arena(&mut self.inference);
        // Its place is the same in both.
        self.executor.output(records)
    }

    /// A copy of everything that training changes.
    pub fn state(&self) -> LearnerState {
        LearnerState {
            parameters: self.parameters.clone(),
            optimiser: self.optimiser.state().to_vec(),
            updates: self.optimiser.steps(),
        }
    }

    /// Everything that training changes, without what runs it.
    pub fn into_state(self) -> LearnerState {
        let updates = self.optimiser.steps();
        LearnerState { parameters: self.parameters, optimiser: self.optimiser.into_state(), updates }
    }

    /// Everything that training changes.
    pub fn state_ref(&self) -> LearnerStateRef<'_> {
        LearnerStateRef {
            parameters: &self.parameters,
            optimiser: self.optimiser.state(),
            updates: self.optimiser.steps(),
        }
    }

    /// Replaces everything that training changes.
    ///
    /// # Errors
    /// [`StateError`] if the state belongs to another model or optimiser; nothing is changed then.
    pub fn restore(&mut self, state: LearnerState, optimiser: &OptimiserConfig) -> Result<(), StateError> {
        let wrong = |what| StateError { model: self.executor.graph().name().to_owned(), what };
        if !state.parameters.fits(self.executor.graph()) {
            return Err(wrong("its parameters"));
        }
        self.optimiser =
            Optimiser::restored(optimiser.clone(), &state.parameters.params, state.optimiser, state.updates)
                .ok_or_else(|| wrong("the optimiser's buffers"))?;
        self.parameters = state.parameters;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
