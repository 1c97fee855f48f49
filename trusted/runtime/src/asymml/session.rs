//! An `asymml` run: its model is split before it is first used, and its accelerator is there as long as it is.

use engine::LearnerState;
use ledger::Digest;
use mechanism::NoiseKey;
use model::Parameters;
use serde::{Deserialize, Serialize};
use wire::RunSpec;
use wire::layers::{Layer, Outsourcing};
use wire::owner::Event;
use wire::spec::{Asymml, Flow, OnFailure};

use super::calibrate;
use super::exchange::{Exchange, Weights, answers, questions};
use super::layers::Settings;
use super::model::LayeredModel;
use super::noise::Noise;
use super::placements::Placements;
use super::rewrite::LayerPlan;
use crate::accelerator::Accelerator;
use crate::checkpoint;
use crate::flow::{LayeredGraphs, Parts, TrustedGraphs};
use crate::memory::{Held, MemoryPlan};
use crate::run::Run;
use crate::trusted_model::TrustedModel;
use crate::{Host, RunError};
use wire::accelerator::RecordSet;

/// How a model is split, with the bases it begins with: what is stored.
#[derive(Serialize, Deserialize)]
pub(crate) struct Settled {
    pub(crate) placements: Placements,
    /// States of the running bases; empty for layers without one.
    pub(crate) bases: Vec<Vec<f32>>,
}

/// Name of the file that holds it.
const NAME: &str = "placements";

impl Run {
    /// Splits the model of an `asymml` run: as it was split before, or as calibration on the records at hand says.
    pub(crate) fn settle(&mut self, host: &mut dyn Host) -> Result<(), RunError> {
        let Flow::Asymml(asymml) = self.spec.flow.clone() else { return Ok(()) };
        if matches!(self.trusted, Some(TrustedModel::Layered(_))) {
            return Ok(());
        }
        let settled = match checkpoint::load(host, NAME)? {
            Some(settled) => settled,
            None => {
                let settled = calibrate::settle(self, &asymml)?;
                checkpoint::save(host, NAME, &settled)?;
                settled
            }
        };
        self.place(&asymml, &settled)
    }

    /// Splits the model as it was split before, if it was.
    pub(crate) fn settle_again(&mut self, host: &dyn Host) -> Result<(), RunError> {
        let Flow::Asymml(asymml) = self.spec.flow.clone() else { return Ok(()) };
        match checkpoint::load(host, NAME)? {
            Some(settled) => self.place(&asymml, &settled),
            None => Ok(()),
        }
    }

    fn place(&mut self, asymml: &Asymml, settled: &Settled) -> Result<(), RunError> {
        let parts = Parts::placed(&self.spec, asymml, &settled.placements)?;
        let [train, test] = [RecordSet::Train, RecordSet::Test].map(|set| self.data.get(set).len());
        self.memory = MemoryPlan::fitting(&self.spec, &parts, Held { train, test })?;
        let Some(TrustedModel::Whole(whole)) = self.trusted.take() else {
            return Err(RunError::Request("a model is split once".to_owned()));
        };
        let Some(TrustedGraphs::Layered(graphs)) = &parts.trusted else {
            unreachable!("a placed model is a layered one");
        };
        self.taken = None;
        let (optimiser, batch) = (&self.spec.train.optimiser, self.spec.train.batch_size);
        // Its memory is given back before the new one's is taken.
        let LearnerState { parameters, .. } = whole.into_state();
        let mut model = LayeredModel::new(graphs, parameters, optimiser, batch)?;
        model.layers.restore_bases(&settled.bases, 0)?;
        (self.parts, self.trusted) = (parts, Some(TrustedModel::Layered(Box::new(model))));
        Ok(())
    }

    /// Splits the model, and gives the accelerator its convolutions, unless both is done.
    pub(crate) fn open_layers(&mut self, host: &mut dyn Host, training: bool) -> Result<(), RunError> {
        self.settle(host)?;
        self.take_memory();
        let origin = if self.steps_done == 0 { Weights::Initial } else { Weights::Trained };
        let Run { trusted, spec, permissions, .. } = self;
        let Some(TrustedModel::Layered(model)) = trusted else { return Ok(()) };
        let outsourcing = outsourcing(
            model.layers.plans(),
            model.layers.settings(),
            (training, spec.train.batch_size),
            spec.accelerator.threads,
        );
        if outsourcing.layers.is_empty()
            || model.layers.exchange_mut().is_some_and(|exchange| *exchange.spec() == outsourcing)
        {
            return Ok(());
        }
        let began = host.cpu_seconds();
        let Flow::Asymml(asymml) = spec.flow.clone() else { return Ok(()) };
        let ledger = crate::ledger::open(host, spec, self.ledger_head.as_ref())?;
        let key = NoiseKey::new(host.job_key()?);
        let noise = Noise::of(spec, &asymml, model.layers.plans(), &key, ledger)?;
        let link = match Accelerator::connect(host, &spec.accelerator) {
            Err(RunError::Accelerator(error))
                if !training && spec.accelerator.on_failure == OnFailure::Degrade =>
            {
                let text = format!("DEGRADED: the low-rank parts answer alone: {error}");
                host.report(Event::Note { text }, &[]);
                self.totals.degraded = Some(error.to_string());
                model.layers.set_alone(true);
                return Ok(());
            }
            link => link?,
        };
        let parameters = model.learner.parameters();
        let at: Vec<usize> = model.layers.plans().flat_map(|plan| plan.weights.clone()).collect();
        let weights = at.iter().map(|&at| &parameters.params[at]);
        let mut exchange = Exchange::open(link, outsourcing, permissions.clone(), weights, origin)?;
        if noise.is_some() {
            // What training saw comes from its checkpoint.
            let begun = first_transcript(spec, training, parameters, &model.layers.bases());
            exchange.set_transcript(self.transcript.filter(|_| training).unwrap_or(begun));
        }
        model.layers.connect(exchange, noise);
        host.report(Event::Connected { trusted_cpu_seconds: host.cpu_seconds() - began }, &[]);
        let epsilon = self.epsilon(&ledger::Ledger::verify(&host.ledger()?)?);
        host.report(Event::Spent { epsilon }, &[]);
        Ok(())
    }

    /// Says of which records of a set the next pass is; what is released of them is charged to them.
    pub(crate) fn begin_pass(
        &mut self,
        set: RecordSet,
        records: impl Iterator<Item = u64>,
        purpose: &'static str,
    ) {
        let Some(TrustedModel::Layered(model)) = &mut self.trusted else { return };
        let Some(noise) = model.layers.noise_mut() else { return };
        if self.singly {
            let images = self.data.get(set);
            let ids: Vec<u64> =
                records.map(|record| noise.record_of(images.pixels(record as usize))).collect();
            return noise.begin(crate::messages::single_images(), ids.into_iter(), purpose);
        }
        noise.begin(self.data.get(set).root(), records, purpose);
    }

    /// What is known of the ledger and the accelerator's answers, for a checkpoint.
    pub(crate) fn note_layers(&mut self) {
        let Some(TrustedModel::Layered(model)) = &mut self.trusted else { return };
        if let Some(noise) = model.layers.noise_mut() {
            self.ledger_head = Some(noise.ledger().head());
            self.transcript = model.layers.exchange_mut().and_then(|exchange| exchange.transcript());
        }
    }

    /// What the worst record has spent, where residuals are noised.
    pub(crate) fn spent_on_layers(&mut self) -> Option<f64> {
        let delta = self.spec.privacy.delta;
        let Some(TrustedModel::Layered(model)) = &mut self.trusted else { return None };
        model.layers.noise_mut().map(|noise| noise.ledger().epsilon(delta))
    }

    /// Adds what crossed since the last time to the run's figures.
    pub(crate) fn account_layers(&mut self) {
        let Some(TrustedModel::Layered(model)) = &mut self.trusted else { return };
        let Some(exchange) = model.layers.exchange_mut() else { return };
        self.totals.account(exchange.link_mut());
        let [cpu, busy] = exchange.link_mut().take_seconds();
        self.totals.untrusted_cpu_seconds += cpu;
        self.totals.untrusted_busy_seconds += busy;
    }

    /// Ends the session with the accelerator in good order.
    pub(crate) fn close_layers(&mut self) {
        if let Some(TrustedModel::Layered(model)) = &mut self.trusted
            && let Some(exchange) = model.layers.exchange_mut()
            && exchange.settle().is_ok()
        {
            exchange.link_mut().finish();
        }
        self.account_layers();
        if let Some(TrustedModel::Layered(model)) = &mut self.trusted {
            model.layers.disconnect();
        }
    }
}

/// Digest of everything that residuals depend on before the accelerator has answered anything, but for the records: the same
/// state, asked again for the same, gets the same noise, and anything else gets other noise.
fn first_transcript(spec: &RunSpec, training: bool, parameters: &Parameters, bases: &[Vec<f32>]) -> Digest {
    let RunSpec { graph, flow, privacy, train, threads, precision, .. } = spec;
    let instructions = crate::flow::instructions(*precision);
    let settings =
        format!("{training} {graph:?} {flow:?} {privacy:?} {train:?} {threads} {precision:?} {instructions}");
    let bases: Vec<u8> = bases.iter().flat_map(|basis| wire::body::from_f32(basis)).collect();
    let parts = [settings.as_bytes(), &wire::body::from_parameters(parameters), &bases];
    Digest::of("asymflow first transcript v1", &parts)
}

/// What the accelerator is told of the layers.
pub(crate) fn outsourcing<'a>(
    plans: impl Iterator<Item = &'a LayerPlan>,
    settings: &Settings,
    (training, batch): (bool, usize),
    threads: usize,
) -> Outsourcing {
    let layer = |plan: &LayerPlan| Layer {
        input: plan.input(),
        residual: settings.residual,
        convs: plan.convs.clone(),
    };
    Outsourcing {
        layers: plans.map(layer).collect(),
        records: settings.piece,
        slots: batch.div_ceil(settings.piece),
        training: training && !settings.own_gradients,
        products: settings.products,
        threads,
    }
}

/// Bytes that the trusted side holds for an exchange of batches of up to `batch`: what is under way, one piece as it is
/// encoded, bases, and narrow weights with their gradients.
pub(crate) fn held(graphs: &LayeredGraphs, batch: usize) -> u64 {
    let (settings, layers) = (&graphs.settings, &graphs.placing.layers);
    let spec = outsourcing(layers.iter(), settings, (true, batch), 1);
    let piece = layers.iter().map(|plan| {
        let made = (0..plan.convs.len()).map(|conv| plan.output(conv).iter().product::<usize>());
        plan.input().iter().product::<usize>().max(made.max().unwrap_or(0))
    });
    let narrow = |plan: &LayerPlan| -> usize {
        let weights = plan.convs.iter().map(|conv| conv.out_channels * conv.kernel.iter().product::<usize>());
        let bases = plan.split.bases(batch) * plan.split.basis_shape().len();
        let moments = plan.input()[0] * (plan.input()[0] + plan.split.rank());
        2 * weights.sum::<usize>() * plan.split.rank() + bases + moments
    };
    let numbers = settings.piece * piece.max().unwrap_or(0) + layers.iter().map(narrow).sum::<usize>();
    (questions(&spec) + answers(&spec) + 4 * numbers) as u64
}
