//! The trusted side of the `asymml` flow: the whole model, of whose convolutions a part is computed elsewhere.

use engine::{Learner, OptimiserConfig, Pass};
use kernels::Threads;
use kernels::trace::Work;
use model::Parameters;

use super::layers::Layers;
use super::rewrite::Placing;
use crate::RunError;
use crate::flow::{LayeredGraphs, request};

/// The model with its parameters and optimiser, and the places at which its convolutions are split.
pub(crate) struct LayeredModel {
    pub(crate) learner: Learner,
    pub(crate) layers: Layers,
}

impl LayeredModel {
    /// The model for batches of up to `batch`, without memory for passes and without an accelerator.
    pub(crate) fn new(
        graphs: &LayeredGraphs,
        parameters: Parameters,
        optimiser: &OptimiserConfig,
        batch: usize,
    ) -> Result<Self, RunError> {
        let Placing { graphs: rewritten, places, layers } = graphs.placing.clone();
        let mut learner =
            Learner::rewritten(rewritten, parameters, optimiser.clone(), batch).map_err(request)?;
        learner.set_parts([0, 1]);
        Ok(LayeredModel { learner, layers: Layers::new(places, layers, graphs.settings) })
    }

    /// Logits `[records, K]`, in training.
    pub(crate) fn forward(&mut self, pass: Pass, threads: &Threads) -> Result<&[f32], RunError> {
        self.learner.forward_with(&mut self.layers, pass, threads);
        self.layers.check()?;
        Ok(self.learner.output(pass.records).data)
    }

    /// Logits `[records, K]`, in evaluation mode.
    pub(crate) fn predict(&mut self, records: usize, threads: &Threads) -> Result<&[f32], RunError> {
        self.learner.predict_with(&mut self.layers, records, threads);
        self.layers.check()?;
        Ok(self.learner.output(records).data)
    }

    /// Gradients for the last forward pass, which was `pass`, and one update, of which the accelerator learns.
    pub(crate) fn learn(
        &mut self,
        grad_logits: &[f32],
        pass: Pass,
        rate: f32,
        threads: &Threads,
    ) -> Result<(), RunError> {
        self.learner.backward_with(&mut self.layers, grad_logits, pass, false, threads);
        self.layers.check()?;
        self.layers.add_weight_gradients(self.learner.gradients_mut())?;
        threads.span(Work::Update { part: 0 }, || self.learner.update(rate));
        self.layers.weights_changed();
        self.layers.send_weights(&self.learner.parameters().params)
    }
}
