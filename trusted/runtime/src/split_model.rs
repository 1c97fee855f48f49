//! Delta's trusted side: backbone, split, main model, in one arena.

use std::ops::Range;

use engine::timeline::Buffer;
use engine::{Arena, Layout, Learner, OptimiserConfig, Pass, Plans, Timeline};
use kernels::trace::Work;
use kernels::{Scratch, Threads};
use split::{AsymmetricSplit, SplitConfig, SplitOutput};
use tensor::View;

use crate::RunError;
use crate::flow::{SplitGraphs, request};
use crate::trusted_model::InitialParameters;

/// Places of the graphs among the parts ([`crate::trusted_model::TrustedModel::parts`]).
const BACKBONE: u8 = 0;
const MAIN: u8 = 1;
const PARTS: u8 = 2;

/// The trusted graphs of Delta with their parameters and optimisers.
pub(crate) struct SplitModel {
    backbone: Learner,
    split: AsymmetricSplit,
    config: SplitConfig,
    main: Learner,
    arena: Arena,
    places: SplitPlaces,
    /// Whether the backbone is trained no more (stage 2).
    frozen: bool,
    /// Weight of the orthogonality regularisation of the main model; 0 is off.
    orthogonality: f32,
}

/// Where the split's own buffers are in the arena.
struct SplitPlaces {
    principal: Range<usize>,
    basis: Range<usize>,
    residual: Range<usize>,
}

impl SplitPlaces {
    fn of(plan: &SplitPlan, layout: &Layout) -> Self {
        let [principal, basis, residual] =
            [plan.principal, plan.basis, plan.residual].map(|buffer| layout.place(buffer));
        SplitPlaces { principal, basis, residual }
    }
}

/// The buffers of a step of Delta's trusted side: backbone, split, main model and back.
pub(crate) struct SplitPlan {
    backbone: Plans,
    main: Plans,
    principal: Buffer,
    basis: Buffer,
    residual: Buffer,
    pub(crate) timeline: Timeline,
}

impl SplitPlan {
    pub(crate) fn of(graphs: &SplitGraphs, batch: usize, recompute: bool) -> Self {
        let SplitGraphs { backbone, split, main, .. } = graphs;
        let mut timeline = Timeline::default();
        let mut backbone = Plans::forward(backbone, batch, &mut timeline);
        timeline.step("split, forward");
        timeline.read(backbone.training.output());
        let [principal, basis, residual] =
            [split.principal_shape(), split.basis_shape(), split.sample_shape()]
                .map(|shape| timeline.make(batch * shape.len()));
        let mut main = Plans::forward(main, batch, &mut timeline);
        timeline.step("loss");
        timeline.read(main.training.output());
        let grad_main = main.training.backward(recompute, &mut timeline);
        timeline.step("split, backward");
        timeline.read(basis);
        grad_main.into_iter().for_each(|grad| timeline.read(grad));
        backbone.training.backward(recompute, &mut timeline);
        SplitPlan { backbone, main, principal, basis, residual, timeline }
    }

    /// Scratch memory that any step takes on so many threads.
    pub(crate) fn scratch(&self, split: &AsymmetricSplit, threads: usize) -> Scratch {
        let graphs = self.backbone.scratch(threads).or(self.main.scratch(threads));
        graphs.or(split.scratch(self.backbone.training.batch()))
    }
}

impl SplitModel {
    /// The trusted side for batches of up to `batch`, with parameters of the same names taken from `initial`.
    pub(crate) fn new(
        graphs: &SplitGraphs,
        initial: &InitialParameters,
        optimiser: &OptimiserConfig,
        batch: usize,
    ) -> Result<Self, RunError> {
        let planned = SplitPlan::of(graphs, batch, false);
        let layout = planned.timeline.lay_out();
        let learner = |graph: &model::Graph, plans, part| {
            let learner = Learner::part(plans, &layout, initial.of(graph), optimiser.clone());
            let mut learner = learner.map_err(request)?;
            learner.set_parts([part, PARTS + part]);
            Ok::<_, RunError>(learner)
        };
        Ok(SplitModel {
            backbone: learner(&graphs.backbone, &planned.backbone, BACKBONE)?,
            main: learner(&graphs.main, &planned.main, MAIN)?,
            places: SplitPlaces::of(&planned, &layout),
            arena: Arena::default(),
            split: graphs.split.clone(),
            config: graphs.config,
            frozen: false,
            orthogonality: graphs.orthogonality,
        })
    }

    /// See [`crate::trusted_model::TrustedModel::take_memory`].
    pub(crate) fn take_memory(&mut self, graphs: &SplitGraphs, recompute: bool) {
        // Given back before the new one is made.
        self.arena = Arena::default();
        let planned = SplitPlan::of(graphs, self.backbone.batch(), recompute);
        let layout = planned.timeline.lay_out();
        self.backbone.move_to(&planned.backbone, &layout);
        self.main.move_to(&planned.main, &layout);
        self.places = SplitPlaces::of(&planned, &layout);
        self.arena = layout.arena();
    }

    pub(crate) fn backbone(&self) -> &Learner {
        &self.backbone
    }

    pub(crate) fn main(&self) -> &Learner {
        &self.main
    }

    /// Backbone and main model.
    pub(crate) fn learners_mut(&mut self) -> [&mut Learner; 2] {
        [&mut self.backbone, &mut self.main]
    }

    pub(crate) fn config(&self) -> &SplitConfig {
        &self.config
    }

    /// Stops training the backbone: from here on it runs in evaluation mode.
    pub(crate) fn freeze_backbone(&mut self) {
        self.frozen = true;
    }

    /// Where the images of the next pass go.
    pub(crate) fn input_mut(&mut self, records: usize) -> &mut [f32] {
        let place = self.backbone.executor().input_place(records);
        &mut self.arena.floats[place]
    }

    /// The backbone's output for the last single record, `[1, C, H, W]`.
    pub(crate) fn sample(&self) -> View<'_> {
        let data = &self.arena.floats[self.backbone.executor().output_place(1)];
        View { shape: self.split.sample_shape().batched(1), data }
    }

    /// Logits `[records, K]` of the main model, in training.
    pub(crate) fn forward(&mut self, pass: Pass, threads: &Threads) -> Result<&[f32], RunError> {
        if self.frozen {
            self.run_backbone(pass.records, threads);
        } else {
            self.backbone.run_in(&mut self.arena, |backbone| _ = backbone.forward(pass, threads));
        }
        self.split_into_main(pass.records, false, threads)?;
        self.main.run_in(&mut self.arena, |main| _ = main.forward(pass, threads));
        Ok(&self.arena.floats[self.main.executor().output_place(pass.records)])
    }

    /// Logits `[records, K]` of the main model, in evaluation mode.
    pub(crate) fn predict(&mut self, records: usize, threads: &Threads) -> Result<&[f32], RunError> {
        self.run_backbone(records, threads);
        self.split_into_main(records, false, threads)?;
        Ok(self.predict_split(records, threads))
    }

    /// Residuals `[records, C, H, W]` of the images in the input, from the backbone in evaluation mode.
    pub(crate) fn residuals(&mut self, records: usize, threads: &Threads) -> Result<&[f32], RunError> {
        self.run_backbone(records, threads);
        self.split_into_main(records, true, threads)?;
        let len = records * self.split.sample_shape().len();
        Ok(&self.arena.floats[first(&self.places.residual, len)])
    }

    /// [`SplitModel::predict`] for the images whose residuals were just computed, which are lost.
    pub(crate) fn predict_split(&mut self, records: usize, threads: &Threads) -> &[f32] {
        self.main.run_in(&mut self.arena, |main| _ = main.predict(records, threads));
        &self.arena.floats[self.main.executor().output_place(records)]
    }

    fn run_backbone(&mut self, records: usize, threads: &Threads) {
        self.backbone.run_in(&mut self.arena, |backbone| _ = backbone.predict(records, threads));
    }

    /// Splits the backbone's output; the main part goes into the main model's input.
    fn split_into_main(
        &mut self,
        records: usize,
        with_residual: bool,
        threads: &Threads,
    ) -> Result<(), RunError> {
        let sample = self.split.sample_shape();
        let places = [
            self.backbone.executor().output_place(records),
            self.main.executor().input_place(records),
            first(&self.places.principal, records * self.split.principal_shape().len()),
            first(&self.places.basis, records * self.split.basis_shape().len()),
            first(&self.places.residual, records * sample.len()),
        ];
        let [x, main, principal, basis, residual] = together(&mut self.arena, places);
        let x = View { shape: sample.batched(records), data: x };
        let residual = with_residual.then_some(residual);
        let output = SplitOutput { principal, basis, main: Some(main), residual };
        threads.span(Work::Split, || self.split.forward(x, output, threads)).map_err(request)
    }

    /// Gradients for the last forward pass, which was `pass`, and one update.
    pub(crate) fn learn(
        &mut self,
        grad_logits: &[f32],
        pass: Pass,
        rate: f32,
        threads: &Threads,
    ) -> Result<(), RunError> {
        let (trained, arena) = (!self.frozen, &mut self.arena);
        self.main.run_in(arena, |main| _ = main.backward(grad_logits, pass, trained, threads));
        if trained {
            self.split_gradient(pass.records, threads)?;
            self.backbone
                .run_in(&mut self.arena, |backbone| backbone.backward_in_place(pass, false, threads));
        }
        if self.orthogonality > 0.0 {
            self.main.regularise_orthogonality(self.orthogonality, threads);
        }
        threads.span(Work::Update { part: MAIN }, || self.main.update(rate));
        if trained {
            threads.span(Work::Update { part: BACKBONE }, || self.backbone.update(rate));
        }
        Ok(())
    }

    /// The gradient of the main model's input becomes that of the backbone's output.
    fn split_gradient(&mut self, records: usize, threads: &Threads) -> Result<(), RunError> {
        let main = self.main.executor();
        let places = [
            main.grad_input_place(records).expect("the main model's output depends on its input"),
            first(&self.places.basis, records * self.split.basis_shape().len()),
            self.backbone.executor().grad_output_place(records),
        ];
        let [grad_main, basis, grad_sample] = together(&mut self.arena, places);
        let grad_main = View { shape: self.split.main_shape().batched(records), data: grad_main };
        let backward = || self.split.backward(basis, grad_main, grad_sample, threads);
        threads.span(Work::SplitBackward, backward).map_err(request)
    }
}

/// The first `len` elements of a buffer for a whole batch.
fn first(place: &Range<usize>, len: usize) -> Range<usize> {
    place.start..place.start + len
}

fn together<const N: usize>(arena: &mut Arena, places: [Range<usize>; N]) -> [&mut [f32]; N] {
    arena.floats.get_disjoint_mut(places).expect("buffers of the same step are apart")
}
