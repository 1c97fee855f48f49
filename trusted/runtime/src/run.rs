//! One run: opened, given records, then trained, evaluated, asked or exported.

use engine::{Augment, InputForm};
use kernels::Threads;
use ledger::{Class, Digest, Entry, Head, Kind, Ledger};
use mechanism::{NoiseKey, Permissions};
use model::{Graph, Parameters};
use wire::RunSpec;
use wire::accelerator::{Load, RecordSet};
use wire::owner::{Event, Summary};
use wire::spec::{Accelerator as AcceleratorSpec, Asymml, Flow, Labels, Protection, Release, Side};

use crate::accelerator::Accelerator;
use crate::batch::Batch;
use crate::calibration::Calibration;
use crate::checkpoint::{self, Checkpoint, CheckpointRef, Job, Totals};
use crate::flow::{self, Outsourced, Parts};
use crate::memory::{self, Held, MemoryPlan};
use crate::messages::{self, Context, Messenger};
use crate::records::DataSets;
use crate::trusted_model::{InitialParameters, TrustedModel};
use crate::{Host, RunError};

/// A run with everything it holds in memory.
pub struct Run {
    pub(crate) spec: RunSpec,
    pub(crate) parts: Parts,
    pub(crate) initial: InitialParameters,
    pub(crate) trusted: Option<TrustedModel>,
    pub(crate) remote: Option<checkpoint::Remote>,
    pub(crate) totals: Totals,
    pub(crate) steps_done: usize,
    pub(crate) ledger_head: Option<Head>,
    pub(crate) data: DataSets,
    pub(crate) pixels: InputForm,
    pub(crate) permissions: Permissions,
    pub(crate) threads: Threads,
    pub(crate) batch: Batch,
    pub(crate) memory: MemoryPlan,
    /// Digest of what an accelerator that computes layers has answered, where noise depends on it.
    pub(crate) transcript: Option<Digest>,
    /// Whether the records are images that belong to no set.
    pub(crate) singly: bool,
    /// Whether the trusted part has its memory, and if so, whether it computes again what is cheap.
    pub(crate) taken: Option<bool>,
}

/// How training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// As asked, with a checkpoint after this many steps.
    Stopped {
        steps_done: usize,
    },
}

impl Run {
    /// Starts a run: checks that the flow may do what it must, and stores what the run is.
    ///
    /// # Errors
    /// [`RunError`] if the specification does not fit together, something unprotected would leave without permission, or
    /// storage fails.
    pub fn create(host: &mut dyn Host, spec: RunSpec, initial: Parameters) -> Result<Self, RunError> {
        let run = Run::create_unstored(spec, initial)?;
        checkpoint::save_job(host, &run.spec, &run.initial.parameters)?;
        Ok(run)
    }

    /// Opens a run where its last checkpoint left it. `accelerator` replaces the stored address.
    ///
    /// # Errors
    /// [`RunError`] if there is no run, or its files were altered.
    pub fn open(host: &mut dyn Host, accelerator: AcceleratorSpec) -> Result<Self, RunError> {
        let Job { spec, initial } = checkpoint::load_job(host)?;
        let mut run = Run::create_unstored(RunSpec { accelerator, ..spec }, initial)?;
        run.settle_again(host)?;
        if let Some(Checkpoint { steps_done, trusted, remote, totals, ledger, bases, transcript }) =
            checkpoint::newest_checkpoint(host)?
        {
            if let Some(model) = &mut run.trusted {
                model.restore(trusted, &run.spec.train.optimiser)?;
                model.restore_bases(&bases, steps_done)?;
            }
            run.steps_done = steps_done;
            run.remote = remote;
            run.totals = totals;
            run.ledger_head = Some(ledger);
            run.transcript = transcript;
        }
        Ok(run)
    }

    /// A run as [`Run::create`], without a trace on disk.
    pub(crate) fn create_unstored(spec: RunSpec, initial: Parameters) -> Result<Self, RunError> {
        if !initial.fits(&spec.graph) {
            return Err(RunError::Request("the initial parameters are not those of the model".to_owned()));
        }
        let permissions = Permissions::from_names(&spec.privacy.allow)?;
        let parts = Parts::of(&spec)?;
        refuse_unprotected(&spec, &parts, &permissions)?;
        if let Some(outsourced) = &parts.outsourced {
            // What leaves nothing for residuals is refused now, not after the first stage.
            Calibration::of(&spec, outsourced)?;
        }
        let pixels = flow::pixels(&spec)?;
        let initial =
            InitialParameters { seed: spec.train.seed, graph: spec.graph.clone(), parameters: initial };
        // Without records; when they come, once more.
        let memory = MemoryPlan::fitting(&spec, &parts, Held::default())?;
        let new_model =
            |graphs| TrustedModel::new(graphs, &initial, &spec.train.optimiser, spec.train.batch_size);
        let trusted = parts.trusted.as_ref().map(new_model).transpose()?;
        let threads = Threads::new(spec.threads);
        Ok(Run {
            parts,
            initial,
            trusted,
            remote: None,
            totals: Totals::default(),
            steps_done: 0,
            ledger_head: None,
            data: DataSets::default(),
            pixels,
            permissions,
            threads,
            batch: Batch::default(),
            memory,
            transcript: None,
            singly: false,
            taken: None,
            spec,
        })
    }

    /// What the run is.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// Steps done so far.
    pub fn steps_done(&self) -> usize {
        self.steps_done
    }

    /// Adds private records.
    ///
    /// # Errors
    /// [`RunError::Request`] if the body does not hold `count` records of the model's input size with labels, or they are
    /// more than `[trusted] memory` has room for.
    pub fn add_records(&mut self, set: RecordSet, count: usize, body: &[u8]) -> Result<(), RunError> {
        self.make_room(set, count)?;
        let classes = self.spec.graph.classes();
        self.data.get_mut(set).append(count, body, self.pixels.message_len(), classes)
    }

    /// Name, graph and parameters of each part of the trained model.
    ///
    /// # Errors
    /// [`RunError`] if the accelerator's state does not belong to its graph.
    pub fn model_parts(&self) -> Result<Vec<(&'static str, Graph, Parameters)>, RunError> {
        let trusted = self.trusted.iter().flat_map(TrustedModel::parts);
        let mut parts: Vec<_> = trusted.map(|(name, graph, p)| (name, graph.clone(), p.clone())).collect();
        if let Some(outsourced) = &self.parts.outsourced {
            let name = if self.trusted.is_some() { "residual" } else { "model" };
            let parameters = match &self.remote {
                Some(remote) => remote.state.parameters(&outsourced.graph)?,
                None => self.initial.of(&outsourced.graph),
            };
            parts.push((name, outsourced.graph.clone(), parameters));
        }
        Ok(parts)
    }

    /// What `Load` tells the accelerator.
    pub(crate) fn load(&self, outsourced: &Outsourced) -> Load {
        let train = &self.spec.train;
        let epochs = train.schedule.epochs.saturating_sub(outsourced.first_epoch);
        let (augment, views) = match self.spec.privacy.release {
            Release::Views(views) => (train.augment, views.max(1) as usize),
            // The view that leaves is the augmentation.
            Release::PerStep => (Augment::default(), 1),
        };
        Load {
            graph: outsourced.graph.clone(),
            input: outsourced.input.clone(),
            optimiser: train.optimiser.clone(),
            schedule: engine::Schedule { epochs, ..train.schedule.clone() },
            augment,
            seed: train.seed,
            views,
            first_epoch: outsourced.first_epoch,
            batch_size: train.batch_size,
            train_records: self.data.get(RecordSet::Train).len(),
            test_records: self.data.get(RecordSet::Test).len(),
            threads: self.spec.accelerator.threads,
        }
    }

    /// A session with the accelerator, which holds the outsourced model as it was last seen.
    pub(crate) fn connect(
        &self,
        host: &mut dyn Host,
        outsourced: &Outsourced,
    ) -> Result<Accelerator, RunError> {
        let began = host.cpu_seconds();
        let mut link = Accelerator::connect(host, &self.spec.accelerator)?;
        match &self.remote {
            Some(remote) => link.load_again(self.load(outsourced), &remote.state)?,
            None => link.load(self.load(outsourced), &self.initial.of(&outsourced.graph))?,
        }
        host.report(Event::Connected { trusted_cpu_seconds: host.cpu_seconds() - began }, &[]);
        Ok(link)
    }

    /// The messenger of this run, and the ledger it charges.
    pub(crate) fn messenger(
        &mut self,
        host: &mut dyn Host,
        outsourced: &Outsourced,
    ) -> Result<(Messenger, mechanism::LedgerWriter), RunError> {
        let mut ledger = crate::ledger::open(host, &self.spec, self.ledger_head.as_ref())?;
        let key = NoiseKey::new(host.job_key()?);
        let mut trusted = self.trusted.take();
        let clip = outsourced.shape.map(|shape| {
            let records = self.data.get(RecordSet::Train);
            let with = (key.clone(), &self.context());
            messages::clipping_norm(host, &mut ledger, &self.spec, (trusted.as_mut(), shape), records, with)
        });
        self.trusted = trusted;
        let with = (self.trusted.as_ref(), clip.transpose()?);
        Ok((Messenger::new(outsourced, &self.spec, with, key)?, ledger))
    }

    /// What messages depend on beside their records.
    pub(crate) fn context(&self) -> Context<'_> {
        Context {
            permissions: &self.permissions,
            threads: &self.threads,
            form: &self.pixels,
            batch: self.spec.train.batch_size,
            augment: self.spec.train.augment,
            seed: self.spec.train.seed,
        }
    }

    /// Length in bytes of the accelerator's state.
    pub(crate) fn remote_state_len(&self, outsourced: &Outsourced) -> usize {
        memory::trained_state(&outsourced.graph, &self.spec.train.optimiser) as usize
    }

    /// The figures of the run or evaluation so far, with ε from the ledger.
    ///
    /// # Errors
    /// [`RunError::Ledger`] if the ledger cannot be trusted.
    pub fn training_summary(&self, host: &dyn Host) -> Result<Summary, RunError> {
        let ledger = Ledger::verify(&host.ledger()?)?;
        Ok(self.summary(host, self.epsilon(&ledger)))
    }

    /// The figures of the run so far.
    pub(crate) fn summary(&self, host: &dyn Host, epsilon: Option<f64>) -> Summary {
        let steps = engine::batches::steps(self.data.get(RecordSet::Train).len(), self.spec.train.batch_size);
        Summary {
            flow: self.spec.flow.name().to_owned(),
            model: self.spec.graph.name().to_owned(),
            epochs: self.steps_done.checked_div(steps).unwrap_or(self.spec.train.epochs),
            scores: self.totals.scores,
            trusted_cpu_seconds: self.totals.trusted_cpu_seconds,
            untrusted_cpu_seconds: self.totals.untrusted_cpu_seconds,
            untrusted_busy_seconds: self.totals.untrusted_busy_seconds,
            images: self.totals.images,
            bytes_out: self.totals.bytes_out,
            bytes_in: self.totals.bytes_in,
            precision: self.spec.precision,
            instructions: crate::flow::instructions(self.spec.precision).to_owned(),
            peak_trusted_bytes: self.memory.bytes(),
            resident_trusted_bytes: host.peak_bytes(),
            epsilon,
            delta: epsilon.map(|_| self.spec.privacy.delta),
            not_covered: self.not_covered(),
            conditions: self.conditions(),
            degraded: self.totals.degraded.clone(),
        }
    }

    /// ε per record that the ledger amounts to: 0 where nothing leaves, `None` where nothing is guaranteed.
    pub(crate) fn epsilon(&self, ledger: &Ledger) -> Option<f64> {
        match (self.releases(), self.spec.privacy.protection) {
            (false, _) => Some(0.0),
            (true, Protection::Epsilon(_)) => Some(ledger.epsilon(self.spec.privacy.delta)),
            (true, Protection::NoNoise | Protection::NothingReleased) => None,
        }
    }

    /// Whether anything that depends on records leaves.
    fn releases(&self) -> bool {
        self.parts.outsourced.is_some() || matches!(self.spec.flow, Flow::Asymml(_))
    }

    /// What no guarantee covers, in sentences.
    pub(crate) fn not_covered(&self) -> Vec<String> {
        let unprotected = unprotected_kinds(&self.spec, &self.parts);
        let mut sentences: Vec<String> =
            unprotected.iter().map(|kind| format!("UNPROTECTED {kind}: {}", kind.description())).collect();
        if self.releases() {
            sentences.push("That a record took part, and its position in the public batch order.".to_owned());
        }
        sentences
    }

    /// What a guarantee depends on, in sentences.
    pub(crate) fn conditions(&self) -> Vec<String> {
        let privacy = &self.spec.privacy;
        let releases =
            matches!(privacy.protection, Protection::Epsilon(_)) || privacy.labels != Labels::Public;
        if !self.releases() || !releases {
            return Vec::new();
        }
        let mut conditions = self.layer_conditions();
        if let Flow::Delta(delta) = &self.spec.flow
            && delta.stage1_epochs > 0
        {
            conditions.push(
                "The backbone is trained on the same private records, so the guarantee for one record is conditional on \
                 the backbone; it is unconditional only for a backbone made from public data."
                    .to_owned(),
            );
        }
        conditions.push(
            "Rollback protection: none; an operator who restores an older copy of the whole run directory is not noticed."
                .to_owned(),
        );
        conditions
    }

    /// What the guarantee of an `asymml` run depends on.
    fn layer_conditions(&self) -> Vec<String> {
        if !matches!(self.spec.flow, Flow::Asymml(_)) {
            return Vec::new();
        }
        let mut conditions = Vec::new();
        if self.spec.train.epochs > 0 {
            conditions.push(
                "ε is that of the residuals of each step given the weights of that step, which depend on the records and are \
                 shown to the accelerator."
                    .to_owned(),
            );
            let batch_norm = |node: &model::Node| match &node.op {
                kernels::Op::BatchNorm2d(norm) => !norm.frozen,
                _ => false,
            };
            if self.spec.graph.nodes().iter().any(batch_norm) {
                conditions.push(
                    "Batch statistics couple records: a record that is changed moves the residuals of those in its batches, \
                     so that the batch is the unit; norm = \"group\" or \"frozen\" in [model] removes this."
                        .to_owned(),
                );
            }
        }
        conditions.push(
            "Ranks and shared bases are found on private records; they stay here, but residuals are functions of them."
                .to_owned(),
        );
        conditions
    }

    /// A checkpoint of the state now.
    pub(crate) fn save(&mut self, host: &mut dyn Host) -> Result<(), RunError> {
        self.note_layers();
        let checkpoint = CheckpointRef {
            steps_done: self.steps_done,
            trusted: self.trusted.as_ref().map(TrustedModel::state).unwrap_or_default(),
            remote: self.remote.as_ref(),
            totals: &self.totals,
            ledger: self.ledger_head.unwrap_or_else(Head::empty::<Entry>),
            bases: self.trusted.as_ref().map(TrustedModel::bases).unwrap_or_default(),
            transcript: self.transcript,
        };
        checkpoint::save_checkpoint(host, &checkpoint)?;
        host.report(Event::Checkpoint { steps_done: self.steps_done }, &[]);
        Ok(())
    }
}

/// Kinds that leave without a guarantee in this flow.
fn unprotected_kinds(spec: &RunSpec, parts: &Parts) -> Vec<Kind> {
    if let Flow::Asymml(asymml) = &spec.flow {
        return asymml_kinds(spec, asymml);
    }
    let Some(outsourced) = &parts.outsourced else { return Vec::new() };
    let message = Some(outsourced.kind).filter(|kind| kind.class() == Class::Unprotected);
    let trained = spec.train.epochs > outsourced.first_epoch;
    let labels = (trained && spec.privacy.labels == Labels::Public).then_some(Kind::Labels);
    message.into_iter().chain(labels).collect()
}

/// Residuals without noise; in training the weights that the accelerator computes with, and gradients, unless they stay.
fn asymml_kinds(spec: &RunSpec, asymml: &Asymml) -> Vec<Kind> {
    let trained = spec.train.epochs > 0;
    let residuals = (spec.privacy.protection == Protection::NoNoise).then_some(Kind::PlainResiduals);
    let gradients = (trained && asymml.backward == Side::Accelerator).then_some(Kind::OutputGradients);
    let weights = trained.then_some(Kind::WeightUpdates);
    residuals.into_iter().chain(gradients).chain(weights).collect()
}

/// Refuses a run before anything starts, if something would leave that the configuration does not allow by name.
fn refuse_unprotected(spec: &RunSpec, parts: &Parts, permissions: &Permissions) -> Result<(), RunError> {
    let kinds = unprotected_kinds(spec, parts);
    let refused: Vec<&Kind> = kinds.iter().filter(|kind| permissions.check(**kind).is_err()).collect();
    match refused.as_slice() {
        [] => Ok(()),
        [one] => Ok(permissions.check(**one)?),
        several => {
            let names: Vec<String> = several.iter().map(|kind| format!("\"{kind}\"")).collect();
            Err(RunError::RefusedKinds { flow: spec.flow.name(), kinds: names.join(" and ") })
        }
    }
}
