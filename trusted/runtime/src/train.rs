//! The training loop of every flow.
//!
//! Each step adds the logits of the trusted part and of the accelerator's part, computes the loss in the enclave, and
//! updates the trusted part. The accelerator trains its own part on its own softmax and streams logits ahead, so the
//! enclave waits only if the accelerator is slower.

use std::collections::VecDeque;
use std::ops::Range;

use engine::random::{Purpose, Stream};
use engine::{Pass, batches};
use kernels::{Mode, softmax_cross_entropy};
use wire::accelerator::{Job, RecordSet};
use wire::owner::{Epoch, Event, Step};
use wire::spec::{Flow, OnFailure};

use crate::accelerator::Accelerator;
use crate::checkpoint::Remote;
use crate::flow::Outsourced;
use crate::messages::Messenger;
use crate::run::{Outcome, Run};
use crate::{Host, RunError};

/// Segments of work the accelerator is given ahead of the enclave.
const AHEAD: usize = 2;

/// A stretch of steps within one epoch, with a checkpoint at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    epoch: usize,
    steps: Range<usize>,
    ends_epoch: bool,
}

/// A step's place: its epoch, its number in the epoch, and how many an epoch has.
#[derive(Clone, Copy)]
struct At {
    epoch: usize,
    step: usize,
    steps: usize,
}

/// The accelerator while it trains: what it was asked for and has not answered yet.
struct Remotely {
    link: Accelerator,
    /// Jobs in the order of their answers, each with its segment.
    pending: VecDeque<(Segment, Job)>,
    /// First step (of the run) not asked for yet.
    next: usize,
    state_len: usize,
}

impl Run {
    /// Trains from where the run stands until its end, or until the owner asks to stop.
    ///
    /// # Errors
    /// [`RunError`]. What was done up to the last checkpoint is kept; for an accelerator's failure, up to the last step.
    pub fn train(&mut self, host: &mut dyn Host) -> Result<Outcome, RunError> {
        let records = self.data.get(RecordSet::Train).len();
        if records == 0 {
            return Err(RunError::Request("there are no training records".to_owned()));
        }
        self.check_memory()?;
        let steps = batches::steps(records, self.spec.train.batch_size);
        let total = steps * self.spec.train.epochs;
        self.check_ledger(host)?;
        let mut remote: Option<Remotely> = None;
        let mut announced = None;
        while self.steps_done < total {
            let epoch = self.steps_done / steps;
            self.announce(host, epoch, steps, &mut announced);
            let idle = remote.is_none() && self.totals.degraded.is_none();
            if let Some(outsourced) = self.due(epoch).filter(|_| idle) {
                let cpu = host.cpu_seconds();
                let opened = self.open_remote(host, &outsourced, steps);
                remote = self.or_degraded(host, opened)?;
                self.totals.trusted_cpu_seconds += host.cpu_seconds() - cpu;
            }
            let segment = self.segment(self.steps_done, steps);
            if let Some(outcome) = self.train_segment(host, &segment, &mut remote, steps)? {
                self.close(remote);
                return Ok(outcome);
            }
            if segment.ends_epoch {
                self.end_epoch(host, segment.epoch, &mut remote)?;
            }
            self.account(&mut remote);
            self.save(host)?;
        }
        self.close(remote);
        Ok(Outcome::Finished)
    }

    /// Refuses to go on with a ledger that is not the one the last checkpoint saw.
    fn check_ledger(&mut self, host: &mut dyn Host) -> Result<(), RunError> {
        if self.parts.outsourced.is_some() {
            let ledger = crate::ledger::open(host, &self.spec.privacy, self.ledger_head.as_ref())?;
            self.ledger_head = Some(ledger.ledger().head());
        }
        Ok(())
    }

    /// The accelerator's part, from the epoch on in which it starts.
    fn due(&self, epoch: usize) -> Option<Outsourced> {
        self.parts.outsourced.clone().filter(|outsourced| epoch >= outsourced.first_epoch)
    }

    fn announce(&self, host: &mut dyn Host, epoch: usize, steps: usize, announced: &mut Option<String>) {
        let epochs = self.spec.train.epochs;
        let (name, epochs) = match &self.spec.flow {
            Flow::Delta(delta) if epoch < delta.stage1_epochs => {
                ("stage 1: trusted part alone", delta.stage1_epochs)
            }
            Flow::Delta(delta) => ("stage 2: both parts", epochs - delta.stage1_epochs.min(epochs)),
            Flow::Plain => ("training on the accelerator", epochs),
            Flow::Enclave => ("training in the enclave", epochs),
        };
        if announced.as_deref() != Some(name) {
            host.report(Event::Stage { name: name.to_owned(), epochs, steps_per_epoch: steps }, &[]);
            *announced = Some(name.to_owned());
        }
    }

    /// The stretch from step `at` of the run to the next checkpoint.
    fn segment(&self, at: usize, steps: usize) -> Segment {
        let (epoch, first) = (at / steps, at % steps);
        let every = self.spec.train.checkpoint_steps.unwrap_or(steps).max(1);
        // Counted from the start of the run, so that a resumed run has the same borders.
        let last = ((at / every + 1) * every - epoch * steps).min(steps);
        Segment { epoch, steps: first..last, ends_epoch: last == steps }
    }

    /// Connects, sends every record's message, and brings the accelerator to where the run stands.
    fn open_remote(
        &mut self,
        host: &mut dyn Host,
        outsourced: &Outsourced,
        steps: usize,
    ) -> Result<Remotely, RunError> {
        if let Some(model) = &mut self.trusted {
            model.freeze_backbone();
        }
        let (messenger, mut ledger) = self.messenger(host, outsourced)?;
        let mut link = self.connect(host, outsourced)?;
        for set in [RecordSet::Train, RecordSet::Test] {
            self.send_records(host, &mut link, &messenger, &mut ledger, set)?;
        }
        self.ledger_head = Some(ledger.ledger().head());
        let state_len = self.remote_state_len(outsourced);
        self.catch_up(&mut link, steps)?;
        Ok(Remotely { link, pending: VecDeque::new(), next: self.steps_done, state_len })
    }

    fn send_records(
        &mut self,
        host: &mut dyn Host,
        link: &mut Accelerator,
        messenger: &Messenger,
        ledger: &mut mechanism::LedgerWriter,
        set: RecordSet,
    ) -> Result<(), RunError> {
        let records = self.data.get(set);
        let total = records.len();
        let purpose = match set {
            RecordSet::Train => "training records, released once",
            RecordSet::Test => "test records, released once",
        };
        let receipt = messenger.charge(ledger, records, purpose)?;
        let epsilon = self.epsilon(ledger.ledger());
        let mut trusted = self.trusted.take();
        let mut sent = Ok(());
        for range in Messenger::chunks(total) {
            let chunk = (set, range.clone());
            let source = (self.data.get(set), receipt.as_ref());
            let messages = messenger.chunk(host, trusted.as_mut(), source, chunk, &self.context());
            sent = messages.and_then(|messages| {
                let labels = match set {
                    RecordSet::Train => Some(self.labels(range.clone())?),
                    RecordSet::Test => None,
                };
                link.store(set, range.start, &messages, labels.as_ref().map(|l| l as _))
            });
            if sent.is_err() {
                break;
            }
            host.report(Event::Released { set, records: range.end, total, epsilon }, &[]);
        }
        self.trusted = trusted;
        sent
    }

    fn labels(&self, range: Range<usize>) -> Result<mechanism::Unprotected<Vec<u8>>, RunError> {
        let labels = wire::body::from_u16(&self.data.get(RecordSet::Train).labels()[range]);
        Ok(self.permissions.allow(ledger::Kind::Labels, labels)?)
    }

    /// Lets the accelerator repeat, without answers, the steps between its last known state and the run's.
    fn catch_up(&mut self, link: &mut Accelerator, steps: usize) -> Result<(), RunError> {
        let known = self.remote.as_ref().map_or(self.first_remote_step(steps), |remote| remote.steps_done);
        if known < self.steps_done {
            let (epoch, first_step) = (known / steps, known % steps);
            let count = self.steps_done - known;
            let job = Job::Train { epoch, first_step, steps: count, quiet: true, snapshot: false };
            link.submit(&job)?;
            link.done(&job)?;
        }
        Ok(())
    }

    fn first_remote_step(&self, steps: usize) -> usize {
        self.parts.outsourced.as_ref().map_or(0, |o| o.first_epoch * steps)
    }

    /// Trains one segment; `Some` if the owner asked to stop in it.
    fn train_segment(
        &mut self,
        host: &mut dyn Host,
        segment: &Segment,
        remote: &mut Option<Remotely>,
        steps: usize,
    ) -> Result<Option<Outcome>, RunError> {
        let order =
            batches::order(self.spec.train.seed, segment.epoch, self.data.get(RecordSet::Train).len());
        let mut cpu = host.cpu_seconds();
        for step in segment.steps.clone() {
            if host.stop_asked() {
                self.totals.trusted_cpu_seconds += host.cpu_seconds() - cpu;
                self.account(remote);
                self.save(host)?;
                return Ok(Some(Outcome::Stopped { steps_done: self.steps_done }));
            }
            if let Some(remotely) = remote {
                let submitted = self.submit_ahead(remotely, steps);
                self.check_remote(host, submitted, remote)?;
            }
            let result = self.train_step(host, &order, At { epoch: segment.epoch, step, steps }, remote);
            let now = host.cpu_seconds();
            self.totals.trusted_cpu_seconds += now - cpu;
            cpu = now;
            result?;
        }
        if let Some(remotely) = remote {
            let ended = remotely.end_segment(self.steps_done);
            match ended {
                Ok((state, cpu_seconds)) => {
                    self.remote = Some(state);
                    self.totals.untrusted_cpu_seconds += cpu_seconds;
                }
                Err(error) => self.check_remote(host, Err(error), remote)?,
            }
        }
        Ok(None)
    }

    fn submit_ahead(&self, remotely: &mut Remotely, steps: usize) -> Result<(), RunError> {
        let total = steps * self.spec.train.epochs;
        let tests = self.data.get(RecordSet::Test).len();
        let segments = |pending: &VecDeque<(Segment, Job)>| {
            pending.iter().filter(|(_, job)| matches!(job, Job::Train { .. })).count()
        };
        while segments(&remotely.pending) < AHEAD && remotely.next < total {
            let segment = self.segment(remotely.next, steps);
            remotely.next += segment.steps.len();
            remotely.submit(segment, tests)?;
        }
        Ok(())
    }

    /// One step: logits of both parts, loss, update of the trusted part.
    fn train_step(
        &mut self,
        host: &mut dyn Host,
        order: &[u32],
        At { epoch, step, steps }: At,
        remote: &mut Option<Remotely>,
    ) -> Result<(), RunError> {
        let train = &self.spec.train;
        let chosen = &order[batches::range(order.len(), train.batch_size, step)];
        let draws = train.augment.draws(train.seed, epoch, step, chosen.len());
        let labels = self.data.get(RecordSet::Train).labels_of(chosen);
        let classes = self.spec.graph.classes();
        let seed = Stream::new(train.seed, Purpose::Dropout, epoch as u64, step as u64).next_u64();
        let rate = train.schedule.rate(epoch, step, steps);
        let pass = Pass { records: chosen.len(), mode: Mode::Train { seed } };

        // Before anything of the step is computed: if the accelerator fails, the step can be done again as if never begun.
        let mut residual = None;
        if let Some(remotely) = remote {
            match remotely.logits(step, labels.len(), classes) {
                Ok(logits) => residual = Some(logits),
                Err(error) => self.check_remote(host, Err(error), remote)?,
            }
        }
        let mut own = vec![0.0; chosen.len() * classes];
        if let Some(model) = &mut self.trusted {
            let images = chosen.iter().map(|&r| r as usize).zip(draws);
            self.data.get(RecordSet::Train).fill(&self.pixels, images, model.input_mut(chosen.len()));
            own.copy_from_slice(model.forward(pass, &self.threads)?);
        }
        let mut logits = own.clone();
        logits.iter_mut().zip(residual.unwrap_or_default()).for_each(|(sum, r)| *sum += r);
        let mut grad = vec![0.0; logits.len()];
        let loss = softmax_cross_entropy::loss_and_gradient(&logits, &labels, classes, &mut grad);
        if !loss.is_finite() {
            return Err(RunError::Diverged { step: self.steps_done + 1 });
        }
        if remote.is_some() {
            self.mix_own_loss(&own, &labels, &mut grad);
        }
        if let Some(model) = &mut self.trusted {
            model.learn(&grad, pass, rate, &self.threads)?;
        }
        self.steps_done += 1;
        let correct = correct(&logits, &labels, classes);
        let records = labels.len();
        self.totals.count(records, loss, correct);
        let steps_done = self.steps_done;
        host.report(Event::Step(Step { steps_done, epoch, records, loss, correct, rate }), &[]);
        Ok(())
    }

    /// Replaces a part of the merged loss's gradient by that of the trusted part's own loss, so that the trusted part stays
    /// good alone.
    fn mix_own_loss(&self, own: &[f32], labels: &[u32], grad: &mut [f32]) {
        let Flow::Delta(delta) = &self.spec.flow else { return };
        if delta.own_loss > 0.0 {
            let mut own_grad = vec![0.0; own.len()];
            softmax_cross_entropy::loss_and_gradient(own, labels, self.spec.graph.classes(), &mut own_grad);
            grad.iter_mut().zip(own_grad).for_each(|(g, o)| *g += delta.own_loss * (o - *g));
        }
    }

    fn end_epoch(
        &mut self,
        host: &mut dyn Host,
        epoch: usize,
        remote: &mut Option<Remotely>,
    ) -> Result<(), RunError> {
        let tests = self.data.get(RecordSet::Test).len();
        let residual = match remote {
            Some(remotely) if tests > 0 => {
                let predicted = remotely.predictions(tests, self.spec.graph.classes());
                self.or_degraded(host, predicted)?
            }
            _ => None,
        };
        if residual.is_none() && self.totals.degraded.is_some() {
            self.account(remote);
            *remote = None;
        }
        let test = self.score_tests(residual.as_deref())?;
        self.totals.scores = test;
        let records = self.totals.records.max(1) as f64;
        let (train_loss, train_accuracy) =
            (self.totals.loss_sum / records, self.totals.correct as f64 / records);
        self.totals.start_epoch();
        let epoch = Epoch { steps_done: self.steps_done, epoch: epoch + 1, train_loss, train_accuracy, test };
        host.report(Event::Epoch(epoch), &[]);
        Ok(())
    }

    /// Handles an accelerator's failure: goes on without it if the run may, else saves what was done and fails.
    fn check_remote(
        &mut self,
        host: &mut dyn Host,
        result: Result<(), RunError>,
        remote: &mut Option<Remotely>,
    ) -> Result<(), RunError> {
        match self.or_degraded(host, result) {
            Ok(Some(())) => Ok(()),
            Ok(None) => {
                self.account(remote);
                *remote = None;
                Ok(())
            }
            Err(error) => {
                self.account(remote);
                self.save(host)?;
                Err(error)
            }
        }
    }

    /// `None`, said to the owner, if the accelerator failed and the trusted part may go on alone.
    pub(crate) fn or_degraded<T>(
        &mut self,
        host: &mut dyn Host,
        result: Result<T, RunError>,
    ) -> Result<Option<T>, RunError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(RunError::Accelerator(error))
                if self.trusted.is_some() && self.spec.accelerator.on_failure == OnFailure::Degrade =>
            {
                let text = format!("DEGRADED: the trusted part goes on alone: {error}");
                host.report(Event::Note { text }, &[]);
                self.totals.degraded = Some(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Adds what crossed since the last time to the run's figures.
    fn account(&mut self, remote: &mut Option<Remotely>) {
        if let Some(remotely) = remote {
            self.totals.account(&mut remotely.link);
        }
    }

    fn close(&mut self, remote: Option<Remotely>) {
        let Some(mut remotely) = remote else { return };
        if remotely.pending.is_empty() {
            remotely.link.finish();
        }
        self.totals.account(&mut remotely.link);
    }
}

impl Remotely {
    fn submit(&mut self, segment: Segment, tests: usize) -> Result<(), RunError> {
        let (epoch, steps) = (segment.epoch, segment.steps.clone());
        let train =
            Job::Train { epoch, first_step: steps.start, steps: steps.len(), quiet: false, snapshot: true };
        self.link.submit(&train)?;
        self.pending.push_back((segment.clone(), train));
        if segment.ends_epoch && tests > 0 {
            let predict = Job::Predict { set: RecordSet::Test, first: 0, count: tests };
            self.link.submit(&predict)?;
            self.pending.push_back((segment, predict));
        }
        Ok(())
    }

    fn logits(&mut self, step: usize, count: usize, classes: usize) -> Result<Vec<f32>, RunError> {
        let (_, job) = self.pending.front().expect("a segment was submitted before its steps");
        self.link.logits(job, step, count, classes)
    }

    /// The accelerator's state at the end of the segment, and the processor seconds it took.
    fn end_segment(&mut self, steps_done: usize) -> Result<(Remote, f64), RunError> {
        let (_, job) = self.pending.pop_front().expect("the segment was submitted");
        let before = self.link.cpu_seconds();
        let state = self.link.state(&job, self.state_len)?;
        self.link.done(&job)?;
        Ok((Remote { steps_done, state }, self.link.cpu_seconds() - before))
    }

    fn predictions(&mut self, count: usize, classes: usize) -> Result<Vec<f32>, RunError> {
        let (_, job) = self.pending.pop_front().expect("submitted with the segment that ends the epoch");
        let logits = self.link.logits(&job, 0, count, classes)?;
        self.link.done(&job)?;
        Ok(logits)
    }
}

impl crate::checkpoint::Totals {
    /// Adds what crossed on a link since the last time.
    pub(crate) fn account(&mut self, link: &mut Accelerator) {
        let traffic = link.take_traffic();
        self.bytes_out += traffic.bytes_out;
        self.bytes_in += traffic.bytes_in;
    }

    fn count(&mut self, records: usize, loss: f32, correct: usize) {
        self.images += records as u64;
        self.loss_sum += f64::from(loss) * records as f64;
        self.correct += correct;
        self.records += records;
    }

    fn start_epoch(&mut self) {
        self.loss_sum = 0.0;
        self.correct = 0;
        self.records = 0;
    }
}

/// How many rows have their largest logit at the label.
pub(crate) fn correct(logits: &[f32], labels: &[u32], classes: usize) -> usize {
    let right = |(row, &label): (&[f32], &u32)| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // Of equal logits the first counts, as in an argmax.
        row.iter().position(|&x| x == largest) == Some(label as usize)
    };
    logits.chunks_exact(classes).zip(labels).filter(|pair| right(*pair)).count()
}
