//! The part of the model that the enclave computes.

use engine::{Learner, LearnerState, OptimiserConfig, Pass, StateError};
use kernels::{Mode, Threads};
use ledger::Digest;
use model::{Graph, Parameters};
use split::{AsymmetricSplit, SplitConfig, SplitOutput};
use tensor::View;

use crate::RunError;
use crate::flow::{SplitGraphs, TrustedGraphs, request};

/// The trusted graphs with their parameters and optimisers.
pub(crate) enum TrustedModel {
    Whole(Box<Learner>),
    Split(Box<SplitModel>),
}

/// Delta's trusted side: backbone, split, main model.
pub(crate) struct SplitModel {
    backbone: Learner,
    split: AsymmetricSplit,
    config: SplitConfig,
    main: Learner,
    principal: Vec<f32>,
    basis: Vec<f32>,
    residual: Vec<f32>,
    grad_sample: Vec<f32>,
    /// Whether the backbone is trained no more (stage 2).
    frozen: bool,
    /// Weight of the orthogonality regularisation of the main model; 0 is off.
    orthogonality: f32,
}

impl TrustedModel {
    /// A trusted part for batches of up to `batch`, with parameters of the same names taken from `initial`.
    pub(crate) fn new(
        graphs: &TrustedGraphs,
        initial: &InitialParameters,
        optimiser: &OptimiserConfig,
        batch: usize,
    ) -> Result<Self, RunError> {
        let learner = |graph: &Graph| {
            Learner::new(graph.clone(), initial.of(graph), optimiser.clone(), batch).map_err(request)
        };
        match graphs {
            TrustedGraphs::Whole(graph) => Ok(TrustedModel::Whole(Box::new(learner(graph)?))),
            TrustedGraphs::Split(graphs) => {
                let SplitGraphs { backbone, split, config, main, orthogonality } = graphs.as_ref();
                let sample = backbone.shape(backbone.output(), 1).record().len();
                Ok(TrustedModel::Split(Box::new(SplitModel {
                    backbone: learner(backbone)?,
                    main: learner(main)?,
                    principal: vec![0.0; batch * split.principal_shape().len()],
                    basis: vec![0.0; batch * split.basis_shape().len()],
                    residual: vec![0.0; batch * sample],
                    grad_sample: vec![0.0; batch * sample],
                    split: split.clone(),
                    config: *config,
                    frozen: false,
                    orthogonality: *orthogonality,
                })))
            }
        }
    }

    /// Where the images of the next pass go.
    pub(crate) fn input_mut(&mut self, records: usize) -> &mut [f32] {
        match self {
            TrustedModel::Whole(model) => model.input_mut(records),
            TrustedModel::Split(model) => model.backbone.input_mut(records),
        }
    }

    /// Stops training the backbone: from here on it runs in evaluation mode, so that no statistic couples two records.
    pub(crate) fn freeze_backbone(&mut self) {
        if let TrustedModel::Split(model) = self {
            model.frozen = true;
        }
    }

    /// Logits `[records, K]` of the trusted part alone.
    pub(crate) fn forward(&mut self, pass: Pass, threads: &Threads) -> Result<&[f32], RunError> {
        match self {
            TrustedModel::Whole(model) => Ok(model.forward(pass, threads)),
            TrustedModel::Split(model) => model.forward(pass, threads),
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
                model.update(rate);
                Ok(())
            }
            TrustedModel::Split(model) => model.learn(grad_logits, pass, rate, threads),
        }
    }

    /// Residuals `[records, C, H, W]` of the images in the input, from the frozen backbone.
    pub(crate) fn residuals(&mut self, records: usize, threads: &Threads) -> Result<&[f32], RunError> {
        match self {
            TrustedModel::Whole(_) => Err(RunError::Request("this flow has no residual".to_owned())),
            TrustedModel::Split(model) => model.residuals(records, threads),
        }
    }

    /// Digest of everything that turns an image into its residual.
    pub(crate) fn residual_function(&self, preprocessing: &[u8]) -> Digest {
        match self {
            TrustedModel::Whole(_) => Digest::of("no residual", &[]),
            TrustedModel::Split(model) => {
                let parameters = wire::body::from_parameters(model.backbone.parameters());
                // Attributes of operators have no parameters, but other values are other functions.
                let graph = format!("{:?}", model.backbone.graph());
                let config = format!("{:?}", model.config);
                let parts = [&parameters, graph.as_bytes(), config.as_bytes(), preprocessing];
                Digest::of("asymflow residual function v2", &parts)
            }
        }
    }

    /// Everything that training changes.
    pub(crate) fn state(&self) -> Vec<LearnerState> {
        match self {
            TrustedModel::Whole(model) => vec![model.state()],
            TrustedModel::Split(model) => vec![model.backbone.state(), model.main.state()],
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
            TrustedModel::Split(model) => vec![&mut model.backbone, &mut model.main],
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

    /// Bytes of buffers, parameters and optimiser state.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            TrustedModel::Whole(model) => model.bytes(),
            TrustedModel::Split(model) => {
                let own = [&model.principal, &model.basis, &model.residual, &model.grad_sample];
                model.backbone.bytes() + model.main.bytes() + own.iter().map(|b| 4 * b.len()).sum::<usize>()
            }
        }
    }

    /// Name, graph and parameters of each trusted part.
    pub(crate) fn parts(&self) -> Vec<(&'static str, &Graph, &Parameters)> {
        match self {
            TrustedModel::Whole(model) => vec![("model", model.graph(), model.parameters())],
            TrustedModel::Split(model) => vec![
                ("backbone", model.backbone.graph(), model.backbone.parameters()),
                ("main", model.main.graph(), model.main.parameters()),
            ],
        }
    }
}

impl SplitModel {
    /// The backbone's output for the last single record, `[1, C, H, W]`.
    pub(crate) fn sample(&self) -> View<'_> {
        self.backbone.output(1)
    }

    fn forward(&mut self, pass: Pass, threads: &Threads) -> Result<&[f32], RunError> {
        let backbone_mode = if self.frozen { Mode::Eval } else { pass.mode };
        let records = pass.records;
        self.backbone.forward(Pass { mode: backbone_mode, ..pass }, threads);
        self.split_into_main(records, None, threads)?;
        Ok(self.main.forward(pass, threads))
    }

    fn residuals(&mut self, records: usize, threads: &Threads) -> Result<&[f32], RunError> {
        self.backbone.predict(records, threads);
        let mut residual = std::mem::take(&mut self.residual);
        let len = self.backbone.graph().shape(self.backbone.graph().output(), records).len();
        let result = self.split_into_main(records, Some(&mut residual[..len]), threads);
        self.residual = residual;
        result?;
        Ok(&self.residual[..len])
    }

    /// Splits the backbone's output; the main part goes into the main model's input.
    fn split_into_main(
        &mut self,
        records: usize,
        residual: Option<&mut [f32]>,
        threads: &Threads,
    ) -> Result<(), RunError> {
        let principal = &mut self.principal[..records * self.split.principal_shape().len()];
        let basis = &mut self.basis[..records * self.split.basis_shape().len()];
        let main = Some(self.main.input_mut(records));
        let x = self.backbone.output(records);
        self.split.forward(x, SplitOutput { principal, basis, main, residual }, threads).map_err(request)
    }

    fn learn(
        &mut self,
        grad_logits: &[f32],
        pass: Pass,
        rate: f32,
        threads: &Threads,
    ) -> Result<(), RunError> {
        let records = pass.records;
        if self.frozen {
            self.main.backward(grad_logits, pass, false, threads);
            self.update_main(rate, threads);
            return Ok(());
        }
        let shape = self.split.main_shape().batched(records);
        let grad_main =
            self.main.backward(grad_logits, pass, true, threads).expect("the input's gradient was asked for");
        let basis = &self.basis[..records * self.split.basis_shape().len()];
        let len = self.backbone.graph().shape(self.backbone.graph().output(), records).len();
        let grad_sample = &mut self.grad_sample[..len];
        self.split.backward(basis, View { shape, data: grad_main }, grad_sample, threads).map_err(request)?;
        self.backbone.backward(grad_sample, pass, false, threads);
        self.update_main(rate, threads);
        self.backbone.update(rate);
        Ok(())
    }

    fn update_main(&mut self, rate: f32, threads: &Threads) {
        if self.orthogonality > 0.0 {
            self.main.regularise_orthogonality(self.orthogonality, threads);
        }
        self.main.update(rate);
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
