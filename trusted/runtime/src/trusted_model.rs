//! The part of the model that the enclave computes.

use engine::{Learner, LearnerState, LearnerStateRef, OptimiserConfig, Pass, StateError};
use kernels::Threads;
use kernels::trace::Work;
use ledger::Digest;
use model::{Graph, Parameters};

use crate::RunError;
use crate::asymml::model::LayeredModel;
use crate::flow::{TrustedGraphs, request};
use crate::split_model::SplitModel;

/// The trusted graphs with their parameters and optimisers.
pub(crate) enum TrustedModel {
    Whole(Box<Learner>),
    Split(Box<SplitModel>),
    Layered(Box<LayeredModel>),
}

impl TrustedModel {
    /// A trusted part for batches of up to `batch`, with parameters of the same names taken from `initial`. It
    /// has no memory for passes yet ([`TrustedModel::take_memory`]).
    pub(crate) fn new(
        graphs: &TrustedGraphs,
        initial: &InitialParameters,
        optimiser: &OptimiserConfig,
        batch: usize,
    ) -> Result<Self, RunError> {
        match graphs {
            TrustedGraphs::Whole(graph) => {
                let parameters = initial.of(graph);
                let learner = Learner::without_memory(graph.clone(), parameters, optimiser.clone(), batch);
                let mut learner = learner.map_err(request)?;
                learner.set_parts([0, 1]);
                Ok(TrustedModel::Whole(Box::new(learner)))
            }
            TrustedGraphs::Split(graphs) => {
                let model = SplitModel::new(graphs, initial, optimiser, batch)?;
                Ok(TrustedModel::Split(Box::new(model)))
            }
            TrustedGraphs::Layered(graphs) => {
                let parameters = initial.of(&graphs.placing.graphs.model);
                let model = LayeredModel::new(graphs, parameters, optimiser, batch)?;
                Ok(TrustedModel::Layered(Box::new(model)))
            }
        }
    }

    /// Takes the memory that its passes need, in place of what it had; with `recompute`, less memory for more time.
    pub(crate) fn take_memory(&mut self, graphs: &TrustedGraphs, recompute: bool) {
        match (self, graphs) {
            (TrustedModel::Split(model), TrustedGraphs::Split(graphs)) => {
                model.take_memory(graphs, recompute)
            }
            (TrustedModel::Whole(model), _) => model.take_memory(recompute),
            (TrustedModel::Layered(model), _) => model.learner.take_memory(recompute),
            (TrustedModel::Split(_), _) => unreachable!("a flow keeps its graphs"),
        }
    }

    /// Where the images of the next pass go.
    pub(crate) fn input_mut(&mut self, records: usize) -> &mut [f32] {
        match self {
            TrustedModel::Whole(model) => model.input_mut(records),
            TrustedModel::Layered(model) => model.learner.input_mut(records),
            TrustedModel::Split(model) => model.input_mut(records),
        }
    }

    /// Stops training the backbone: from here on it runs in evaluation mode, so that no statistic couples two records.
    pub(crate) fn freeze_backbone(&mut self) {
        if let TrustedModel::Split(model) = self {
            model.freeze_backbone();
        }
    }

    /// Logits `[records, K]` of the trusted part alone, in training.
    pub(crate) fn forward(&mut self, pass: Pass, threads: &Threads) -> Result<&[f32], RunError> {
        match self {
            TrustedModel::Whole(model) => Ok(model.forward(pass, threads)),
            TrustedModel::Split(model) => model.forward(pass, threads),
            TrustedModel::Layered(model) => model.forward(pass, threads),
        }
    }

    /// Logits `[records, K]` of the trusted part alone, in evaluation mode.
    pub(crate) fn predict(&mut self, records: usize, threads: &Threads) -> Result<&[f32], RunError> {
        match self {
            TrustedModel::Whole(model) => Ok(model.predict(records, threads)),
            TrustedModel::Split(model) => model.predict(records, threads),
            TrustedModel::Layered(model) => model.predict(records, threads),
        }
    }

    /// Gradients for the last forward pass, which was `pass`, and one update.
    pub(crate) fn learn(
        &mut self,
        grad_logits: &[f32],
        pass: Pass,
        rate: f32,
        threads: &Threads,
    ) -> Result<(), RunError> {
        match self {
            TrustedModel::Whole(model) => {
                model.backward(grad_logits, pass, false, threads);
                threads.span(Work::Update { part: 0 }, || model.update(rate));
                Ok(())
            }
            TrustedModel::Split(model) => model.learn(grad_logits, pass, rate, threads),
            TrustedModel::Layered(model) => model.learn(grad_logits, pass, rate, threads),
        }
    }

    /// Residuals `[records, C, H, W]` of the images in the input, from the frozen backbone.
    pub(crate) fn residuals(&mut self, records: usize, threads: &Threads) -> Result<&[f32], RunError> {
        self.split()?.residuals(records, threads)
    }

    /// [`TrustedModel::predict`] for the images whose residuals were just computed, which are lost.
    pub(crate) fn predict_split(&mut self, records: usize, threads: &Threads) -> Result<&[f32], RunError> {
        Ok(self.split()?.predict_split(records, threads))
    }

    fn split(&mut self) -> Result<&mut SplitModel, RunError> {
        match self {
            TrustedModel::Whole(_) | TrustedModel::Layered(_) => {
                Err(RunError::Request("this flow has no residual of a record".to_owned()))
            }
            TrustedModel::Split(model) => Ok(model),
        }
    }

    /// Digest of everything that turns an image into its residual.
    pub(crate) fn residual_function(&self, preprocessing: &[u8]) -> Digest {
        match self {
            TrustedModel::Whole(_) | TrustedModel::Layered(_) => Digest::of("no residual", &[]),
            TrustedModel::Split(model) => {
                let parameters = wire::body::from_parameters(model.backbone().parameters());
                // Attributes of operators have no parameters, but other values are other functions.
                let graph = format!("{:?}", model.backbone().graph());
                let config = format!("{:?}", model.config());
                let parts = [&parameters, graph.as_bytes(), config.as_bytes(), preprocessing];
                Digest::of("asymflow residual function v3", &parts)
            }
        }
    }

    /// Everything that training changes.
    pub(crate) fn state(&self) -> Vec<LearnerStateRef<'_>> {
        match self {
            TrustedModel::Whole(model) => vec![model.state_ref()],
            TrustedModel::Layered(model) => vec![model.learner.state_ref()],
            TrustedModel::Split(model) => vec![model.backbone().state_ref(), model.main().state_ref()],
        }
    }

    /// Replaces everything that training changes.
    pub(crate) fn restore(
        &mut self,
        state: Vec<LearnerState>,
        optimiser: &OptimiserConfig,
    ) -> Result<(), RunError> {
        let learners: Vec<&mut Learner> = match self {
            TrustedModel::Whole(model) => vec![model],
            TrustedModel::Layered(model) => vec![&mut model.learner],
            TrustedModel::Split(model) => model.learners_mut().into(),
        };
        if learners.len() != state.len() {
            return Err(RunError::Request("the checkpoint belongs to another flow".to_owned()));
        }
        let restored: Result<(), StateError> = learners
            .into_iter()
            .zip(state)
            .try_for_each(|(learner, state)| learner.restore(state, optimiser));
        restored.map_err(request)
    }

    /// States of its running bases.
    pub(crate) fn bases(&self) -> Vec<Vec<f32>> {
        match self {
            TrustedModel::Layered(model) => model.layers.bases(),
            TrustedModel::Whole(_) | TrustedModel::Split(_) => Vec::new(),
        }
    }

    /// Goes on from the states of its running bases after so many updates.
    pub(crate) fn restore_bases(&mut self, bases: &[Vec<f32>], updates: usize) -> Result<(), RunError> {
        match self {
            TrustedModel::Layered(model) => model.layers.restore_bases(bases, updates as u64),
            TrustedModel::Whole(_) | TrustedModel::Split(_) => Ok(()),
        }
    }

    /// Name, graph and parameters of each trusted part.
    pub(crate) fn parts(&self) -> Vec<(&'static str, &Graph, &Parameters)> {
        match self {
            TrustedModel::Whole(model) => vec![("model", model.graph(), model.parameters())],
            TrustedModel::Layered(model) => {
                vec![("model", model.learner.graph(), model.learner.parameters())]
            }
            TrustedModel::Split(model) => vec![
                ("backbone", model.backbone().graph(), model.backbone().parameters()),
                ("main", model.main().graph(), model.main().parameters()),
            ],
        }
    }
}

/// Where parameters of a graph come from before training: the user's, by name, or else the public seed.
pub(crate) struct InitialParameters {
    pub(crate) seed: u64,
    pub(crate) graph: Graph,
    pub(crate) parameters: Parameters,
}

impl InitialParameters {
    /// Parameters of a graph derived from the user's.
    pub(crate) fn of(&self, graph: &Graph) -> Parameters {
        let mut parameters = Parameters::init(graph, self.seed);
        parameters.copy_matching(graph, &self.parameters, &self.graph);
        parameters
    }
}
