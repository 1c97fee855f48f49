//! The accelerator while it trains: what it is sent, what it was asked for, and its answers.
//!
//! Where labels leave, it trains on its own and streams logits ahead of the enclave. Where they are withheld, every step is
//! an exchange: its logits come in, noised gradients go out.

use std::collections::VecDeque;
use std::ops::Range;

use ledger::Digest;
use mechanism::{LedgerWriter, NoiseKey};
use wire::accelerator::{Job, RecordSet};
use wire::owner::Event;
use wire::spec::Release;

use crate::accelerator::Accelerator;
use crate::checkpoint::Remote;
use crate::flow::Outsourced;
use crate::labels::LabelMessenger;
use crate::messages::Messenger;
use crate::run::Run;
use crate::{Host, RunError};

/// Segments of work the accelerator is given ahead of the enclave.
const AHEAD: usize = 2;

/// A stretch of steps within one epoch, with a checkpoint at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) epoch: usize,
    pub(crate) steps: Range<usize>,
    pub(crate) ends_epoch: bool,
}

/// A session with the accelerator in the middle of training.
pub(crate) struct Remotely {
    pub(crate) link: Accelerator,
    messenger: Messenger,
    labels: LabelMessenger,
    ledger: LedgerWriter,
    /// Root of the training records.
    root: Digest,
    /// Jobs in the order of their answers, each with its segment.
    pending: VecDeque<(Segment, Job)>,
    /// First step (of the run) not asked for yet.
    next: usize,
    /// The epoch whose view was sent last, where each epoch has its own.
    sent: Option<usize>,
    /// Whether the labels left in this session.
    labelled: bool,
    /// An update whose end was not seen yet.
    updating: bool,
    state_len: usize,
    /// Processor seconds of the accelerator that are in the run's figures already.
    counted_seconds: f64,
}

impl Run {
    /// Connects, sends every record's message, and brings the accelerator to where the run stands.
    pub(crate) fn open_remote(
        &mut self,
        host: &mut dyn Host,
        outsourced: &Outsourced,
        steps: usize,
    ) -> Result<Remotely, RunError> {
        if let Some(model) = &mut self.trusted {
            model.freeze_backbone();
        }
        let (messenger, ledger) = self.messenger(host, outsourced)?;
        let labels = LabelMessenger::new(&self.spec, outsourced, NoiseKey::new(host.job_key()?))?;
        let mut remotely = Remotely {
            link: self.connect(host, outsourced)?,
            messenger,
            labels,
            ledger,
            root: self.data.get(RecordSet::Train).root(),
            pending: VecDeque::new(),
            next: self.steps_done,
            sent: None,
            labelled: false,
            updating: false,
            state_len: self.remote_state_len(outsourced),
            counted_seconds: 0.0,
        };
        if let Release::Views(views) = self.spec.privacy.release {
            for view in 0..views.max(1) {
                self.send_records(host, &mut remotely, RecordSet::Train, view, view as usize)?;
            }
        }
        self.send_view(host, &mut remotely, self.steps_done / steps)?;
        self.send_records(host, &mut remotely, RecordSet::Test, 0, 0)?;
        self.catch_up(&mut remotely.link, steps)?;
        Ok(remotely)
    }

    /// Sends the training records' views of an epoch, where each epoch has its own; once.
    pub(crate) fn send_view(
        &mut self,
        host: &mut dyn Host,
        remotely: &mut Remotely,
        epoch: usize,
    ) -> Result<(), RunError> {
        let first = self.parts.outsourced.as_ref().map_or(0, |outsourced| outsourced.first_epoch);
        if self.spec.privacy.release != Release::PerStep || remotely.sent == Some(epoch) {
            return Ok(());
        }
        self.send_records(host, remotely, RecordSet::Train, (epoch - first) as u32, 0)?;
        remotely.sent = Some(epoch);
        Ok(())
    }

    /// Sends the messages of one view of a set; labels go with the first
    /// view of the training records in a session.
    fn send_records(
        &mut self,
        host: &mut dyn Host,
        remotely: &mut Remotely,
        set: RecordSet,
        view: u32,
        place: usize,
    ) -> Result<(), RunError> {
        let Remotely { link, messenger, labels, ledger, labelled, .. } = remotely;
        let records = self.data.get(set);
        let total = records.len();
        let purpose = match set {
            RecordSet::Train => format!("training records, view {view}"),
            RecordSet::Test => "test records, released once".to_owned(),
        };
        let receipt = messenger.charge(ledger, records, view, &purpose)?;
        let mut trusted = self.trusted.take();
        let mut sent = Ok(());
        for chunk in Messenger::chunks(set, view, total) {
            let records = self.data.get(set);
            let source = (records, receipt.as_ref());
            let messages = messenger.chunk(host, trusted.as_mut(), source, &chunk, None, &self.context());
            sent = messages.and_then(|messages| {
                let labels = match set {
                    RecordSet::Train if !*labelled => {
                        labels.message(&self.permissions, ledger, records, chunk.range.clone())?
                    }
                    RecordSet::Train | RecordSet::Test => None,
                };
                link.store((set, place, chunk.range.start), &messages, labels.as_deref())
            });
            if sent.is_err() {
                break;
            }
            let epsilon = self.epsilon(ledger.ledger());
            host.report(Event::Released { set, records: chunk.range.end, total, epsilon }, &[]);
        }
        *labelled |= set == RecordSet::Train;
        self.trusted = trusted;
        self.ledger_head = Some(ledger.ledger().head());
        sent
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

    /// Asks for more of the steps to come, where the accelerator trains on its own.
    pub(crate) fn submit_ahead(&self, remotely: &mut Remotely, steps: usize) -> Result<(), RunError> {
        let total = steps * self.spec.train.epochs;
        let tests = self.data.get(RecordSet::Test).len();
        while !remotely.stepwise() && remotely.segments() < AHEAD && remotely.next < total {
            let segment = self.segment(remotely.next, steps);
            // The next epoch's messages are sent when it begins.
            if self.spec.privacy.release == Release::PerStep && remotely.sent != Some(segment.epoch) {
                return Ok(());
            }
            remotely.next += segment.steps.len();
            remotely.submit(segment, tests)?;
        }
        Ok(())
    }

    /// Puts the accelerator's logits `[N, K]` for one step of the records `chosen` in place of what is in `logits`; where
    /// labels are withheld, their gradients are charged and sent in return.
    pub(crate) fn ask_step(
        &mut self,
        remotely: &mut Remotely,
        (epoch, step): (usize, usize),
        chosen: &[u32],
        logits: &mut Vec<f32>,
    ) -> Result<(), RunError> {
        remotely.logits((epoch, step), (chosen.len(), self.spec.graph.classes()), logits)?;
        let Remotely { labels, ledger, root, link, .. } = remotely;
        let source = (self.data.get(RecordSet::Train), *root);
        if let Some(gradients) = labels.gradients(ledger, source, (epoch, step), chosen, logits)? {
            self.ledger_head = Some(ledger.ledger().head());
            link.gradients(&gradients, chosen.len())?;
            remotely.updating = true;
        }
        Ok(())
    }

    /// Takes over the accelerator's state at the end of a segment.
    pub(crate) fn end_segment(&mut self, remotely: &mut Remotely) -> Result<(), RunError> {
        let state = remotely.state()?;
        self.remote = Some(Remote { steps_done: self.steps_done, state });
        self.totals.untrusted_cpu_seconds += remotely.uncounted_seconds();
        Ok(())
    }

    /// Leaves the accelerator in the middle of a segment: where its steps cannot be repeated, its state is taken over.
    pub(crate) fn stop_remote(
        &mut self,
        host: &mut dyn Host,
        remote: &mut Option<Remotely>,
    ) -> Result<(), RunError> {
        if let Some(remotely) = remote.as_mut().filter(|remotely| remotely.stepwise()) {
            let ended = self.end_segment(remotely);
            self.check_remote(host, ended, remote)?;
        }
        self.account(remote);
        Ok(())
    }
}

impl Remotely {
    /// Whether every step is an exchange.
    pub(crate) fn stepwise(&self) -> bool {
        self.labels.withholds()
    }

    /// What was charged so far.
    pub(crate) fn ledger(&self) -> &ledger::Ledger {
        self.ledger.ledger()
    }

    fn segments(&self) -> usize {
        self.pending.iter().filter(|(_, job)| matches!(job, Job::Train { .. })).count()
    }

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

    fn logits(
        &mut self,
        (epoch, step): (usize, usize),
        size: (usize, usize),
        logits: &mut Vec<f32>,
    ) -> Result<(), RunError> {
        if self.stepwise() {
            self.end_update()?;
            let job = Job::Forward { epoch, step };
            self.link.submit(&job)?;
            self.link.logits(&job, step, size, logits)?;
            return self.link.done(&job);
        }
        let (_, job) = self.pending.front().expect("a segment was submitted before its steps");
        self.link.logits(job, step, size, logits)
    }

    /// Waits for the end of the last update, so that the accelerator works while the enclave does.
    fn end_update(&mut self) -> Result<(), RunError> {
        if std::mem::take(&mut self.updating) { self.link.done(&Job::Backward) } else { Ok(()) }
    }

    /// The accelerator's state after the steps it was asked for.
    fn state(&mut self) -> Result<crate::accelerator::RemoteState, RunError> {
        let job = if self.stepwise() {
            self.end_update()?;
            self.link.submit(&Job::Snapshot)?;
            Job::Snapshot
        } else {
            self.pending.pop_front().expect("the segment was submitted").1
        };
        let state = self.link.state(&job, self.state_len)?;
        self.link.done(&job)?;
        Ok(state)
    }

    /// Processor seconds of the accelerator since this was last asked.
    fn uncounted_seconds(&mut self) -> f64 {
        let seconds = self.link.cpu_seconds();
        seconds - std::mem::replace(&mut self.counted_seconds, seconds)
    }

    /// Logits of the test records at the end of an epoch.
    pub(crate) fn predictions(&mut self, count: usize, classes: usize) -> Result<Vec<f32>, RunError> {
        let job = if self.stepwise() {
            let job = Job::Predict { set: RecordSet::Test, first: 0, count };
            self.link.submit(&job)?;
            job
        } else {
            self.pending.pop_front().expect("submitted with the segment that ends the epoch").1
        };
        let mut logits = Vec::with_capacity(count * classes);
        self.link.logits(&job, 0, (count, classes), &mut logits)?;
        self.link.done(&job)?;
        Ok(logits)
    }

    /// Ends the session in good order, if nothing is under way.
    pub(crate) fn finish(&mut self) {
        if self.pending.is_empty() && !self.updating {
            self.link.finish();
        }
    }
}
