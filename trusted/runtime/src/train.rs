//! The training loop of every flow.
//!
//! Each step adds the logits of the trusted part and of the accelerator's part, computes the loss in the enclave, and
//! updates the trusted part. The accelerator trains its own part on its own softmax and streams logits ahead, so the
//! enclave waits only if the accelerator is slower.

use engine::random::{Purpose, Stream};
use engine::{Augment, Draw, Pass, batches};
use kernels::trace::Work;
use kernels::{Mode, Precision, softmax_cross_entropy};
use wire::accelerator::RecordSet;
use wire::owner::{Epoch, Event, Step};
use wire::spec::{Flow, OnFailure, Release};

use crate::accelerator::Accelerator;
use crate::evaluate::Answers;
use crate::flow::Outsourced;
use crate::records::Chosen;
use crate::remote::{Remotely, Segment};
use crate::run::{Outcome, Run};
use crate::{Host, RunError};

/// How an epoch's records are augmented.
struct Views {
    view: u32,
    /// The view is all the augmentation there is.
    alone: bool,
    augment: Augment,
    seed: u64,
}

impl Views {
    fn chosen(&self, record: usize, draw: Draw) -> Chosen {
        let view = self.augment.view(self.seed, self.view, record);
        Chosen { record, view, draw: if self.alone { Draw::default() } else { draw } }
    }
}

/// A step's place: its epoch, its number in the epoch, and how many an epoch has.
#[derive(Clone, Copy)]
struct At {
    epoch: usize,
    step: usize,
    steps: usize,
}

/// What is to be said where a precision buys nothing.
fn slower(precision: Precision) -> Option<String> {
    let instructions = crate::flow::instructions(precision);
    (precision == Precision::Bf16 && instructions != TILES).then(|| {
        format!(
            "[trusted] precision = \"bf16\" is computed by {instructions}, which is slower than \"f32\": this \
             processor has no {TILES}, or the operating system does not let it be used"
        )
    })
}

/// The instructions that make products of bf16 faster.
const TILES: &str = "amx-bf16";

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
        self.take_memory();
        self.check_records(host)?;
        let steps = batches::steps(records, self.spec.train.batch_size);
        let total = steps * self.spec.train.epochs;
        self.check_ledger(host)?;
        let mut remote: Option<Remotely> = None;
        let mut announced = None;
        if self.memory.recompute {
            let text = "cheap activations are computed again in the backward pass, to fit [trusted] memory";
            host.report(Event::Note { text: text.to_owned() }, &[]);
        }
        if let Some(text) = slower(self.spec.precision) {
            host.report(Event::Note { text }, &[]);
        }
        self.repeat_last_epoch(host, steps, &mut announced)?;
        if self.steps_done < total {
            let cpu = host.cpu_seconds();
            self.open_layers(host, true)?;
            self.totals.trusted_cpu_seconds += host.cpu_seconds() - cpu;
        }
        self.report_graphs(host);
        while self.steps_done < total {
            let epoch = self.steps_done / steps;
            self.announce(host, epoch, steps, &mut announced);
            let idle = remote.is_none() && self.totals.degraded.is_none();
            if let Some(outsourced) = self.due(epoch).filter(|_| idle).cloned() {
                let cpu = host.cpu_seconds();
                let opened = self.open_remote(host, &outsourced, steps);
                remote = self.or_degraded(host, opened)?;
                self.totals.trusted_cpu_seconds += host.cpu_seconds() - cpu;
            }
            let segment = self.segment(self.steps_done, steps);
            if let Some(outcome) = self.train_segment(host, &segment, &mut remote, steps)? {
                self.close(remote);
                self.close_layers();
                return Ok(outcome);
            }
            if segment.ends_epoch {
                self.end_epoch(host, segment.epoch, &mut remote)?;
            }
            self.account(&mut remote);
            self.account_layers();
            self.save(host)?;
        }
        self.close(remote);
        self.close_layers();
        Ok(Outcome::Finished)
    }

    /// Reports the last epoch again when a run goes on: a crash after its checkpoint may have lost the report.
    fn repeat_last_epoch(
        &self,
        host: &mut dyn Host,
        steps: usize,
        announced: &mut Option<String>,
    ) -> Result<(), RunError> {
        let Some(epoch) = self.totals.last_epoch else { return Ok(()) };
        let epsilon = self.epsilon(&ledger::Ledger::verify(&host.ledger()?)?);
        self.announce(host, epoch.epoch.saturating_sub(1), steps, announced);
        host.report(Event::Spent { epsilon }, &[]);
        host.report(Event::Epoch(epoch), &[]);
        Ok(())
    }

    /// Refuses to go on with other training records than the run was begun with: they would count as another data set, with
    /// a budget of its own, although most of them may be the same.
    fn check_records(&self, host: &mut dyn Host) -> Result<(), RunError> {
        const NAME: &str = "records";
        let root = self.data.get(RecordSet::Train).root();
        match host.load(NAME)? {
            None if self.steps_done == 0 => Ok(host.save(NAME, &root.0)?),
            None => Err(RunError::Request(format!(
                "{NAME}.sealed, which names the training records, is gone; restore it, or begin another run"
            ))),
            Some(stored) if stored == root.0 => Ok(()),
            Some(_) => Err(RunError::Request(
                "these are not the training records that this run was begun with; go on with those, or begin another run"
                    .to_owned(),
            )),
        }
    }

    /// Refuses to go on with a ledger that is not the one the last checkpoint saw.
    fn check_ledger(&mut self, host: &mut dyn Host) -> Result<(), RunError> {
        if self.parts.outsourced.is_some() {
            let ledger = crate::ledger::open(host, &self.spec, self.ledger_head.as_ref())?;
            self.ledger_head = Some(ledger.ledger().head());
        }
        Ok(())
    }

    /// The accelerator's part, from the epoch on in which it starts.
    fn due(&self, epoch: usize) -> Option<&Outsourced> {
        self.parts.outsourced.as_ref().filter(|outsourced| epoch >= outsourced.first_epoch)
    }

    fn announce(&self, host: &mut dyn Host, epoch: usize, steps: usize, announced: &mut Option<String>) {
        let epochs = self.spec.train.epochs;
        let (stage, epochs) = match &self.spec.flow {
            Flow::Delta(delta) if epoch < delta.stage1_epochs => {
                ("stage 1: trusted part alone", delta.stage1_epochs)
            }
            Flow::Delta(delta) => ("stage 2: both parts", epochs - delta.stage1_epochs.min(epochs)),
            Flow::Plain | Flow::DpInput => ("training on the accelerator", epochs),
            Flow::Enclave => ("training in the enclave", epochs),
            Flow::Asymml(_) => ("training on both sides, convolution by convolution", epochs),
        };
        if announced.as_deref() != Some(stage) {
            let (name, trusted_cpu_seconds) = (stage.to_owned(), host.cpu_seconds());
            host.report(Event::Stage { name, epochs, steps_per_epoch: steps, trusted_cpu_seconds }, &[]);
            *announced = Some(stage.to_owned());
        }
    }

    /// The stretch from step `at` of the run to the next checkpoint.
    pub(crate) fn segment(&self, at: usize, steps: usize) -> Segment {
        let (epoch, first) = (at / steps, at % steps);
        let every = self.spec.train.checkpoint_steps.unwrap_or(steps).max(1);
        // Counted from the start of the run, so that a resumed run has the same borders.
        let last = ((at / every + 1) * every - epoch * steps).min(steps);
        Segment { epoch, steps: first..last, ends_epoch: last == steps }
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
        if let Some(remotely) = remote {
            let sent = self.send_view(host, remotely, segment.epoch);
            self.check_remote(host, sent, remote)?;
        }
        for step in segment.steps.clone() {
            if host.stop_asked() {
                self.totals.trusted_cpu_seconds += host.cpu_seconds() - cpu;
                self.stop_remote(host, remote)?;
                self.save(host)?;
                return Ok(Some(Outcome::Stopped { steps_done: self.steps_done }));
            }
            if let Some(remotely) = remote {
                let submitted = self.submit_ahead(remotely, steps);
                self.check_remote(host, submitted, remote)?;
            }
            self.report_spans(host, None);
            let begin = self.threads.span_begin();
            let result = self.train_step(host, &order, At { epoch: segment.epoch, step, steps }, remote);
            self.threads.span_end(Work::Step, begin);
            self.report_spans(
                host,
                Some(batches::range(order.len(), self.spec.train.batch_size, step).len()),
            );
            let now = host.cpu_seconds();
            self.totals.trusted_cpu_seconds += now - cpu;
            cpu = now;
            result?;
        }
        if let Some(epsilon) = self.spent_on_layers() {
            host.report(Event::Spent { epsilon: Some(epsilon) }, &[]);
        }
        if let Some(remotely) = remote {
            let ended = self.end_segment(remotely);
            if remotely.stepwise() {
                let epsilon = self.epsilon(remotely.ledger());
                host.report(Event::Spent { epsilon }, &[]);
            }
            self.check_remote(host, ended, remote)?;
        }
        Ok(None)
    }

    /// One step: logits of both parts, loss, update of the trusted part.
    fn train_step(
        &mut self,
        host: &mut dyn Host,
        order: &[u32],
        At { epoch, step, steps }: At,
        remote: &mut Option<Remotely>,
    ) -> Result<(), RunError> {
        let chosen = &order[batches::range(order.len(), self.spec.train.batch_size, step)];
        self.begin_pass(RecordSet::Train, chosen.iter().map(|&record| u64::from(record)), "training");
        let train = &self.spec.train;
        let views = self.views(epoch);
        let chosen = &order[batches::range(order.len(), train.batch_size, step)];
        let draws = train.augment.draws(train.seed, epoch, step, chosen.len());
        let classes = self.spec.graph.classes();
        let seed = Stream::new(train.seed, Purpose::Dropout, epoch as u64, step as u64).next_u64();
        let rate = train.schedule.rate(epoch, step, steps);
        let pass = Pass { records: chosen.len(), mode: Mode::Train { seed } };

        // Before anything of the step is computed: if the accelerator fails, the step can be done again as if never begun.
        let mut batch = std::mem::take(&mut self.batch);
        if let Some(remotely) = remote {
            let begin = self.threads.span_begin();
            let asked = self.ask_step(remotely, (epoch, step), chosen, &mut batch.residual);
            self.check_remote(host, asked, remote)?;
            self.threads.span_end(Work::Wait, begin);
        }
        batch.begin(self.data.get(RecordSet::Train).labels_of(chosen), classes);
        if let Some(model) = &mut self.trusted {
            let images = chosen.iter().zip(draws).map(|(&record, draw)| views.chosen(record as usize, draw));
            let (records, input) = (self.data.get(RecordSet::Train), model.input_mut(chosen.len()));
            self.threads.span(Work::Assemble, || records.fill(&self.pixels, images, input));
            batch.own.copy_from_slice(model.forward(pass, &self.threads)?);
        }
        let begin = self.threads.span_begin();
        let loss = batch.loss(remote.is_some(), classes);
        if !loss.is_finite() {
            return Err(RunError::Diverged { step: self.steps_done + 1 });
        }
        if let (Some(_), Flow::Delta(delta)) = (&remote, &self.spec.flow) {
            batch.mix_own_loss(delta.own_loss, classes);
        }
        self.threads.span_end(Work::MergeAndLoss, begin);
        if let Some(model) = &mut self.trusted {
            model.learn(&batch.grad, pass, rate, &self.threads)?;
        }
        self.steps_done += 1;
        let correct = softmax_cross_entropy::correct(&batch.logits, &batch.labels, classes);
        let records = chosen.len();
        self.batch = batch;
        self.totals.count(records, loss, correct);
        let steps_done = self.steps_done;
        let trusted_cpu_seconds = host.cpu_seconds();
        let done = Step { steps_done, epoch, records, loss, correct, rate, trusted_cpu_seconds };
        host.report(Event::Step(done), &[]);
        Ok(())
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
        self.totals.scores = self.score_tests(Answers { own: Vec::new(), residual })?;
        self.score_low_rank()?;
        let test = self.totals.scores;
        let records = self.totals.records.max(1) as f64;
        let (train_loss, train_accuracy) =
            (self.totals.loss_sum / records, self.totals.correct as f64 / records);
        self.totals.start_epoch();
        let epoch = Epoch { steps_done: self.steps_done, epoch: epoch + 1, train_loss, train_accuracy, test };
        self.totals.last_epoch = Some(epoch);
        host.report(Event::Epoch(epoch), &[]);
        Ok(())
    }

    /// Handles an accelerator's failure: goes on without it if the run may, else saves what was done and fails.
    pub(crate) fn check_remote(
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
                // Where every step waits for its gradients nothing can be repeated: the last checkpoint stands.
                if remote.as_ref().is_none_or(|remotely| !remotely.stepwise()) {
                    self.save(host)?;
                }
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
    pub(crate) fn account(&mut self, remote: &mut Option<Remotely>) {
        if let Some(remotely) = remote {
            self.totals.account(&mut remotely.link);
        }
    }

    fn close(&mut self, remote: Option<Remotely>) {
        let Some(mut remotely) = remote else { return };
        remotely.finish();
        self.totals.account(&mut remotely.link);
    }

    /// Which view of each record an epoch is trained on, in both parts.
    fn views(&self, epoch: usize) -> Views {
        let own_epoch = self.due(epoch).map(|outsourced| (epoch - outsourced.first_epoch) as u32);
        let train = &self.spec.train;
        let (view, alone) = match (self.spec.privacy.release, own_epoch) {
            (_, None) => (0, false),
            (Release::Views(views), Some(epoch)) => (epoch % views.max(1), false),
            (Release::PerStep, Some(epoch)) => (epoch, true),
        };
        Views { view, alone, augment: train.augment, seed: train.seed }
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
