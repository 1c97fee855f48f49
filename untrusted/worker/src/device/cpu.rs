//! The processor as an accelerator, with the same kernels the enclave uses.

use std::collections::BTreeMap;
use std::ops::Range;

use engine::{Draw, InputForm, Learner, LearnerState, Pass, batches, random};
use kernels::{Mode, Threads};
use model::Parameters;
use wire::accelerator::{Job, Load, RecordSet, Reply};
use wire::{WireError, body};

use super::layers::Layers;
use super::{Device, DeviceError, Replies};

/// Runs jobs on the processor.
#[derive(Default)]
pub struct CpuDevice {
    loaded: Option<Loaded>,
    layers: Option<Layers>,
}

/// A model with the records it is trained on.
struct Loaded {
    load: Load,
    learner: Learner,
    threads: Threads,
    records: BTreeMap<RecordSet, Records>,
    /// The epoch whose order is kept, and the order.
    order: Option<(usize, Vec<u32>)>,
    /// A step whose update waits for its gradient.
    waiting: Option<Step>,
}

/// One step of training.
#[derive(Clone, Copy)]
struct Step {
    pass: Pass,
    rate: f32,
}

/// Messages of one set of records, with the labels that came along.
struct Records {
    /// By view, then by record.
    messages: Vec<u8>,
    message_len: usize,
    labels: Vec<u16>,
    /// By view, then by record.
    stored: Vec<bool>,
    labelled: Vec<bool>,
}

impl Device for CpuDevice {
    fn name(&self) -> String {
        "cpu".to_owned()
    }

    fn run(&mut self, job: &Job, body: &[u8], replies: Replies<'_>) -> Result<(), DeviceError> {
        let name = job.name();
        if let Job::Load(load) = job {
            self.loaded = Some(Loaded::new((**load).clone(), body)?);
            return Ok(());
        }
        match (job, &mut self.layers) {
            (Job::Outsource(spec), _) => {
                self.layers = Some(Layers::new(spec, body)?);
                return Ok(());
            }
            (_, Some(layers)) if job.is_of_layers() => return layers.run(job, body, replies),
            _ => {}
        }
        let loaded = match (&mut self.loaded, job) {
            (_, Job::Hello { .. } | Job::Share { .. } | Job::Finish) => return Ok(()),
            (Some(loaded), _) => loaded,
            (None, _) => return Err(DeviceError::NotLoaded { job: name }),
        };
        match *job {
            Job::Store { set, view, first, count, labels } => {
                loaded.store(set, view, first..first.saturating_add(count), labels, body)
            }
            Job::Train { epoch, first_step, steps, quiet, snapshot } => {
                for step in first_step..first_step.saturating_add(steps) {
                    let (logits, count) = loaded.train_step(epoch, step)?;
                    if !quiet {
                        replies(Reply::Logits { step, count }, &body::from_f32(&logits))?;
                    }
                }
                if snapshot { loaded.snapshot(replies) } else { Ok(()) }
            }
            Job::Forward { epoch, step } => {
                let (logits, count) = loaded.forward(epoch, step)?;
                Ok(replies(Reply::Logits { step, count }, &body::from_f32(&logits))?)
            }
            Job::Backward => loaded.backward(body),
            Job::Restore { updates } => loaded.restore(updates, body),
            Job::Snapshot => loaded.snapshot(replies),
            Job::Predict { set, first, count } => loaded.predict(set, first, count, replies),
            Job::Answer { count } => loaded.answer(count, body, replies),
            Job::Convolve { .. }
            | Job::Differentiate { .. }
            | Job::WeightGradients { .. }
            | Job::Weights { .. } => Err(DeviceError::NotLoaded { job: name }),
            Job::Hello { .. } | Job::Share { .. } | Job::Load(_) | Job::Outsource(_) | Job::Finish => Ok(()),
        }
    }
}

impl Loaded {
    fn new(load: Load, body: &[u8]) -> Result<Self, DeviceError> {
        load.input.check()?;
        let form = load.input.input_shape();
        if load.graph.input().dims() != form {
            return Err(DeviceError::Input { form, graph: load.graph.input() });
        }
        let (parameters, rest) = match body {
            // They are about to be restored.
            [] => (Parameters::zeros(&load.graph), body),
            _ => body::take_parameters(body, &load.graph)?,
        };
        if !rest.is_empty() {
            return Err(WireError::Body { expected: body.len() - rest.len(), found: body.len() }.into());
        }
        let learner = Learner::new(load.graph.clone(), parameters, load.optimiser.clone(), load.batch_size)?;
        let message_len = load.input.message_len();
        let train = Records::empty(load.train_records, load.views.max(1), message_len)?;
        let test = Records::empty(load.test_records, 1, message_len)?;
        let records = [(RecordSet::Train, train), (RecordSet::Test, test)].into();
        let threads = Threads::new(load.threads);
        threads.reserve(&learner.scratch(threads.count()));
        Ok(Loaded { learner, threads, records, order: None, waiting: None, load })
    }

    fn records(&mut self, set: RecordSet) -> &mut Records {
        self.records.get_mut(&set).expect("both sets are there from the start")
    }

    fn store(
        &mut self,
        set: RecordSet,
        view: usize,
        range: Range<usize>,
        labels: bool,
        body: &[u8],
    ) -> Result<(), DeviceError> {
        let classes = self.learner.graph().classes();
        let records = self.records(set);
        let (count, limit) = (range.len(), records.labels.len());
        in_range("records", range.start, count, limit)?;
        in_range("views", view, 1, records.stored.len() / limit.max(1))?;
        let expected = count * records.message_len + if labels { count * 2 } else { 0 };
        if body.len() != expected {
            return Err(WireError::Body { expected, found: body.len() }.into());
        }
        let (messages, label_bytes) = body.split_at(count * records.message_len);
        let place = view * limit + range.start;
        records.messages[place * records.message_len..][..messages.len()].copy_from_slice(messages);
        records.stored[place..][..count].fill(true);
        let label_values = body::to_u16(label_bytes)?;
        if let Some(&label) = label_values.iter().find(|l| usize::from(**l) >= classes) {
            return Err(DeviceError::Range {
                what: "a label",
                found: usize::from(label),
                limit: classes - 1,
            });
        }
        if labels {
            records.labels[range.clone()].copy_from_slice(&label_values);
            records.labelled[range].fill(true);
        }
        Ok(())
    }

    /// One step of ordinary training; returns the logits `[count, K]` from before the update.
    fn train_step(&mut self, epoch: usize, step: usize) -> Result<(Vec<f32>, usize), DeviceError> {
        let (chosen, Step { pass, rate }) = self.begin(epoch, step)?;
        let labels = self.records[&RecordSet::Train].labels_of(&chosen)?;
        let (logits, _) = self.learner.train_step(&labels, pass, rate, &self.threads);
        finite(logits, step)?;
        Ok((logits.to_vec(), chosen.len()))
    }

    /// Logits `[count, K]` of one step, whose update waits for a gradient.
    fn forward(&mut self, epoch: usize, step: usize) -> Result<(Vec<f32>, usize), DeviceError> {
        let (chosen, begun) = self.begin(epoch, step)?;
        let logits = self.learner.forward(begun.pass, &self.threads).to_vec();
        finite(&logits, step)?;
        self.waiting = Some(begun);
        Ok((logits, chosen.len()))
    }

    /// The update of the step that waits.
    fn backward(&mut self, body: &[u8]) -> Result<(), DeviceError> {
        let Step { pass, rate } = self.waiting.take().ok_or(DeviceError::NothingWaits)?;
        let mut gradient = body::to_f32(body, pass.records * self.learner.graph().classes())?;
        // Each record's own; the batch's loss is their mean.
        gradient.iter_mut().for_each(|g| *g /= pass.records as f32);
        self.learner.backward(&gradient, pass, false, &self.threads);
        self.learner.update(rate);
        Ok(())
    }

    /// Puts the records of one step, augmented, into the learner's input.
    fn begin(&mut self, epoch: usize, step: usize) -> Result<(Vec<u32>, Step), DeviceError> {
        let (total, batch) = (self.load.train_records, self.load.batch_size);
        let steps = batches::steps(total, batch);
        if step >= steps {
            return Err(DeviceError::Range { what: "a step", found: step, limit: steps.saturating_sub(1) });
        }
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.order = Some((epoch, batches::order(self.load.seed, epoch, total)));
        }
        let (_, order) = self.order.as_ref().expect("set above");
        let chosen = order[batches::range(total, batch, step)].to_vec();
        let draws = self.load.augment.draws(self.load.seed, epoch, step, chosen.len());
        let own_epoch = epoch.saturating_sub(self.load.first_epoch);
        let view = own_epoch % self.load.views.max(1);
        let records = &self.records[&RecordSet::Train];
        let drawn = chosen.iter().map(|&r| r as usize).zip(draws);
        fill(&mut self.learner, &self.load.input, records, view, drawn)?;
        let seed = random::Stream::new(self.load.seed, random::Purpose::Dropout, epoch as u64, step as u64)
            .next_u64();
        let pass = Pass { records: chosen.len(), mode: Mode::Train { seed } };
        Ok((chosen, Step { pass, rate: self.load.schedule.rate(own_epoch, step, steps) }))
    }

    fn predict(
        &mut self,
        set: RecordSet,
        first: usize,
        count: usize,
        replies: Replies<'_>,
    ) -> Result<(), DeviceError> {
        let last = in_range("records", first, count, self.records(set).labels.len())?;
        let mut logits = Vec::new();
        for from in (first..last).step_by(self.load.batch_size.max(1)) {
            let to = (from + self.load.batch_size).min(last);
            let records = &self.records[&set];
            let plain = (from..to).map(|r| (r, Draw::default()));
            fill(&mut self.learner, &self.load.input, records, 0, plain)?;
            logits.extend_from_slice(self.learner.predict(to - from, &self.threads));
        }
        Ok(replies(Reply::Logits { step: 0, count }, &body::from_f32(&logits))?)
    }

    fn answer(&mut self, count: usize, body: &[u8], replies: Replies<'_>) -> Result<(), DeviceError> {
        let message_len = self.load.input.message_len();
        let expected = count.saturating_mul(message_len);
        if body.len() != expected {
            return Err(WireError::Body { expected, found: body.len() }.into());
        }
        let mut logits = Vec::new();
        for chunk in body.chunks(message_len * self.load.batch_size.max(1)) {
            let records = chunk.len() / message_len;
            let input_len: usize = self.load.input.input_shape().iter().product();
            let input = self.learner.input_mut(records);
            for (message, out) in chunk.chunks(message_len).zip(input.chunks_mut(input_len)) {
                self.load.input.fill(message, Draw::default(), out);
            }
            logits.extend_from_slice(self.learner.predict(records, &self.threads));
        }
        Ok(replies(Reply::Logits { step: 0, count }, &body::from_f32(&logits))?)
    }

    fn snapshot(&mut self, replies: Replies<'_>) -> Result<(), DeviceError> {
        let state = self.learner.state();
        let mut bytes = body::from_parameters(&state.parameters);
        bytes.extend(body::from_tensors(&state.optimiser));
        Ok(replies(Reply::State { updates: state.updates }, &bytes)?)
    }

    fn restore(&mut self, updates: u64, body: &[u8]) -> Result<(), DeviceError> {
        let (parameters, rest) = body::take_parameters(body, self.learner.graph())?;
        let fresh = self.learner.state().optimiser;
        let (optimiser, rest) = body::take_tensors(rest, fresh.iter().map(tensor::Tensor::shape))?;
        if !rest.is_empty() {
            return Err(WireError::Body { expected: body.len() - rest.len(), found: body.len() }.into());
        }
        let state = LearnerState { parameters, optimiser, updates };
        Ok(self.learner.restore(state, &self.load.optimiser)?)
    }
}

impl Records {
    fn empty(count: usize, views: usize, message_len: usize) -> Result<Self, DeviceError> {
        const LIMIT: usize = 1 << 36;
        let each = message_len.saturating_add(1).saturating_mul(views).saturating_add(3);
        let bytes = count.saturating_mul(each);
        if bytes > LIMIT {
            return Err(DeviceError::Range { what: "bytes of stored records", found: bytes, limit: LIMIT });
        }
        Ok(Records {
            messages: vec![0; count * views * message_len],
            message_len,
            labels: vec![0; count],
            stored: vec![false; count * views],
            labelled: vec![false; count],
        })
    }

    /// The message of one view of a record.
    fn message(&self, view: usize, record: usize) -> Result<&[u8], DeviceError> {
        let place = view * self.labels.len() + record;
        if !self.stored[place] {
            return Err(DeviceError::Missing { what: "record", record });
        }
        Ok(&self.messages[place * self.message_len..][..self.message_len])
    }

    fn labels_of(&self, chosen: &[u32]) -> Result<Vec<u32>, DeviceError> {
        let label = |&r: &u32| match self.labelled[r as usize] {
            true => Ok(u32::from(self.labels[r as usize])),
            false => Err(DeviceError::Missing { what: "the label of record", record: r as usize }),
        };
        chosen.iter().map(label).collect()
    }
}

/// Puts the chosen records, augmented, into the learner's input.
fn fill(
    learner: &mut Learner,
    form: &InputForm,
    records: &Records,
    view: usize,
    chosen: impl ExactSizeIterator<Item = (usize, Draw)>,
) -> Result<(), DeviceError> {
    let input_len: usize = form.input_shape().iter().product();
    let input = learner.input_mut(chosen.len());
    for ((record, draw), out) in chosen.zip(input.chunks_mut(input_len.max(1))) {
        form.fill(records.message(view, record)?, draw, out);
    }
    Ok(())
}

fn finite(logits: &[f32], step: usize) -> Result<(), DeviceError> {
    if logits.iter().all(|x| x.is_finite()) { Ok(()) } else { Err(DeviceError::NotFinite { step }) }
}

/// `first + count`, if that many exist.
fn in_range(what: &'static str, first: usize, count: usize, limit: usize) -> Result<usize, DeviceError> {
    let last = first.saturating_add(count);
    if last <= limit { Ok(last) } else { Err(DeviceError::Range { what, found: last, limit }) }
}
