//! The accelerator as the enclave sees it: everything that leaves is accounted for, everything that comes back is checked.

use ledger::{Class, Direction, Kind};
use mechanism::{Crossing, Public};
use model::{Graph, Parameters};
use wire::accelerator::{Job, Load, RecordSet, Reply};
use wire::spec::Accelerator as AcceleratorSpec;
use wire::{WireError, body};

use crate::RunError;
use crate::error::AcceleratorError;
use crate::host::{Crossed, Host, Journal, ReplyBody, Transport};
use crate::messages::Message;

/// Largest size of a logit that is believed: beyond that of any useful model, and so small that no sum of losses overflows. What is
/// refused must follow from the answer alone; whether a loss overflows follows from the labels too, and the accelerator
/// sees whether the run goes on.
const LARGEST_LOGIT: f32 = 1e30;

/// A session with the accelerator.
///
/// Bodies can only be given as [`Crossing`] values: released by a mechanism, declared public, or allowed by name.
pub(crate) struct Accelerator {
    transport: Box<dyn Transport>,
    journal: Box<dyn Journal>,
    timeout_seconds: f64,
    traffic: Traffic,
    reply: Vec<u8>,
    cpu_seconds: f64,
    busy_seconds: f64,
    taken_seconds: [f64; 2],
}

/// Anything that may cross as the body of a frame.
pub(crate) type Body = dyn Crossing<Value = Vec<u8>>;

/// Bytes of the bodies that crossed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
}

/// The accelerator's model with its optimiser, as it came back: a function of released and public values only.
///
/// Only [`Accelerator::state`] makes one, or the sealed checkpoint that one was stored in: that is why it may go back.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct RemoteState {
    /// Raw little-endian parameters, buffers and optimiser state.
    #[serde(with = "raw")]
    bytes: Public<Vec<u8>>,
    updates: u64,
}

/// A state in a checkpoint: its bytes.
mod raw {
    use std::fmt;

    use mechanism::{Crossing, Public};
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(state: &Public<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(state.value())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Public<Vec<u8>>, D::Error> {
        from.deserialize_bytes(Bytes).map(Public::returned)
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the bytes of a state")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }
    }
}

impl RemoteState {
    /// The parameters in it.
    pub(crate) fn parameters(&self, graph: &Graph) -> Result<Parameters, AcceleratorError> {
        let (parameters, _) =
            body::take_parameters(self.bytes.value(), graph).map_err(AcceleratorError::Protocol)?;
        Ok(parameters)
    }
}

impl Accelerator {
    /// An accelerator that nothing is journalled of.
    #[cfg(test)]
    pub(crate) fn over(transport: Box<dyn Transport>) -> Self {
        struct Unwritten;
        impl Journal for Unwritten {
            fn message(&mut self, _: &Crossed<'_>) -> Result<(), mechanism::StoreError> {
                Ok(())
            }
        }
        Accelerator::new(transport, Box::new(Unwritten), f64::INFINITY)
    }

    fn new(transport: Box<dyn Transport>, journal: Box<dyn Journal>, timeout_seconds: f64) -> Self {
        Accelerator {
            transport,
            journal,
            timeout_seconds,
            traffic: Traffic::default(),
            reply: Vec::new(),
            cpu_seconds: 0.0,
            busy_seconds: 0.0,
            taken_seconds: [0.0; 2],
        }
    }

    /// Connects, and agrees on the protocol.
    pub(crate) fn connect(host: &mut dyn Host, spec: &AcceleratorSpec) -> Result<Self, RunError> {
        let address = spec.address.as_ref().ok_or_else(|| {
            RunError::Request("this flow needs an accelerator: set `address` in [accelerator]".to_owned())
        })?;
        let transport = host
            .connect(address, spec.timeout_seconds)
            .map_err(|error| AcceleratorError::Unreachable { address: format!("{address:?}"), error })?;
        let journal = host.journal()?;
        let mut link = Accelerator::new(transport, journal, spec.timeout_seconds);
        let job = Job::Hello { version: wire::VERSION };
        link.control(&job)?;
        match link.receive(&job)? {
            Reply::Ready { version, .. } if version == wire::VERSION => Ok(link),
            Reply::Ready { version, .. } => {
                Err(AcceleratorError::Version { expected: wire::VERSION, found: version }.into())
            }
            other => Err(unexpected(&job, &other).into()),
        }
    }

    /// Gives the accelerator its model, in the state it had before.
    pub(crate) fn load_again(&mut self, load: Load, state: &RemoteState) -> Result<(), RunError> {
        let job = Job::Load(Box::new(load));
        self.control(&job)?;
        self.done(&job)?;
        let job = Job::Restore { updates: state.updates };
        self.send(&job, &[(&state.bytes, 0)])?;
        self.done(&job)
    }

    /// Gives the accelerator its model. `parameters` must be public: drawn from the public seed.
    pub(crate) fn load(&mut self, load: Load, parameters: &Parameters) -> Result<(), RunError> {
        let reason =
            "the accelerator's initial parameters: from the public seed, or the weights the owner named";
        let body = Public::declare(Kind::Parameters, body::from_parameters(parameters), reason)?;
        let job = Job::Load(Box::new(load));
        self.send(&job, &[(&body, 0)])?;
        self.done(&job)
    }

    /// Stores messages of the records from `first` on at place `view`, with their labels if they leave.
    pub(crate) fn store(
        &mut self,
        (set, view, first): (RecordSet, usize, usize),
        messages: &[Message],
        labels: Option<&Body>,
    ) -> Result<(), RunError> {
        let job = Job::Store { set, view, first, count: messages.len(), labels: labels.is_some() };
        let mut bodies: Vec<(&Body, usize)> = messages.iter().map(|m| (m.as_ref(), 1)).collect();
        bodies.extend(labels.map(|l| (l, messages.len())));
        self.send(&job, &bodies)?;
        self.done(&job)
    }

    /// Sends the gradients of the last forward step's records without waiting; its end is [`Accelerator::done`].
    pub(crate) fn gradients(&mut self, gradients: &Body, records: usize) -> Result<(), RunError> {
        self.send(&Job::Backward, &[(gradients, records)])
    }

    /// Asks for training without waiting; collect its logits with [`Accelerator::logits`], then
    /// [`Accelerator::state`], then [`Accelerator::done`].
    pub(crate) fn submit(&mut self, job: &Job) -> Result<(), RunError> {
        self.control(job)
    }

    /// Puts the next logits `[count × classes]` of `job`, checked, in place of what is in `logits`.
    pub(crate) fn logits(
        &mut self,
        job: &Job,
        step: usize,
        (count, classes): (usize, usize),
        logits: &mut Vec<f32>,
    ) -> Result<(), RunError> {
        match self.receive(job)? {
            Reply::Logits { step: found, .. } if found != step => {
                Err(AcceleratorError::Step { expected: step, found }.into())
            }
            Reply::Logits { .. } => {
                self.check_finite("logits", count * classes)?;
                logits.clear();
                logits.extend(numbers(&self.reply));
                if logits.iter().any(|x| x.abs() > LARGEST_LOGIT) {
                    return Err(AcceleratorError::TooLarge { what: "logits" }.into());
                }
                Ok(())
            }
            other => Err(unexpected(job, &other).into()),
        }
    }

    /// The state of `length` bytes that ends `job`, checked.
    pub(crate) fn state(&mut self, job: &Job, length: usize) -> Result<RemoteState, RunError> {
        match self.receive(job)? {
            Reply::State { updates } => {
                self.check_finite("state", length / 4)?;
                Ok(RemoteState { bytes: Public::returned(std::mem::take(&mut self.reply)), updates })
            }
            other => Err(unexpected(job, &other).into()),
        }
    }

    /// Waits until `job` is done.
    pub(crate) fn done(&mut self, job: &Job) -> Result<(), RunError> {
        match self.receive(job)? {
            Reply::Done { cpu_seconds, busy_seconds }
                if [cpu_seconds, busy_seconds]
                    .iter()
                    .all(|seconds| seconds.is_finite() && *seconds >= 0.0) =>
            {
                (self.cpu_seconds, self.busy_seconds) = (cpu_seconds, busy_seconds);
                Ok(())
            }
            Reply::Done { .. } => Err(AcceleratorError::NotFinite { what: "processor time" }.into()),
            other => Err(unexpected(job, &other).into()),
        }
    }

    /// Logits of records that the accelerator does not keep.
    pub(crate) fn answer(&mut self, messages: &[Message], classes: usize) -> Result<Vec<f32>, RunError> {
        let job = Job::Answer { count: messages.len() };
        let bodies: Vec<(&Body, usize)> = messages.iter().map(|m| (m.as_ref(), 1)).collect();
        self.send(&job, &bodies)?;
        let mut logits = Vec::with_capacity(messages.len() * classes);
        self.logits(&job, 0, (messages.len(), classes), &mut logits)?;
        self.done(&job)?;
        Ok(logits)
    }

    /// Lets so many bytes of answers come before they are waited for.
    pub(crate) fn read_ahead(&mut self, bytes: usize) {
        self.transport.read_ahead(bytes);
    }

    /// Offers memory for bodies, of so many bytes in each direction.
    pub(crate) fn share(&mut self, outward: usize, inward: usize) -> Result<bool, RunError> {
        for crossed in summarise(&Job::Share { outward: outward as u64 }, &[]) {
            self.journal.message(&crossed)?;
        }
        Ok(self.transport.share(outward, inward).map_err(|error| AcceleratorError::Died { error })?)
    }

    /// Sends a job with one body, which speaks of so many records, without waiting.
    pub(crate) fn submit_with(&mut self, job: &Job, body: &Body, records: usize) -> Result<(), RunError> {
        self.send(job, &[(body, records)])
    }

    /// The body of `length` bytes that answers a job about layers; its numbers are not checked.
    pub(crate) fn layer_body(&mut self, job: &Job, length: usize) -> Result<Box<dyn ReplyBody>, RunError> {
        let received = self.transport.receive_in_place();
        let (reply, body) = received.map_err(|error| self.broken(error))?;
        let reply = self.note(job, reply, body.len())?;
        let what = match (&reply, job) {
            (Reply::Products { layer, slot, records }, Job::Convolve { layer: l, slot: s, records: r })
                if (layer, slot, records) == (l, s, r) =>
            {
                "products"
            }
            (
                Reply::InputGradients { layer, slot, records },
                Job::Differentiate { layer: l, slot: s, records: r, .. },
            ) if (layer, slot, records) == (l, s, r) => "gradients of inputs",
            (Reply::WeightGradients { layer }, Job::WeightGradients { layer: l }) if layer == l => {
                "gradients of weights"
            }
            _ => return Err(unexpected(job, &reply).into()),
        };
        let (expected, found) = (length, body.len());
        if expected != found {
            return Err(AcceleratorError::Shape { what, expected, found }.into());
        }
        Ok(body)
    }

    /// Ends the session in good order; errors do not matter any more.
    pub(crate) fn finish(&mut self) {
        if self.control(&Job::Finish).is_ok() {
            let _ = self.done(&Job::Finish);
        }
    }

    /// What crossed since this was last asked.
    pub(crate) fn take_traffic(&mut self) -> Traffic {
        std::mem::take(&mut self.traffic)
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.cpu_seconds
    }

    /// Processor seconds of the accelerator, and seconds in which it had a job, since this was last asked.
    pub(crate) fn take_seconds(&mut self) -> [f64; 2] {
        let now = [self.cpu_seconds, self.busy_seconds];
        let [cpu, busy] = std::mem::replace(&mut self.taken_seconds, now);
        [now[0] - cpu, now[1] - busy]
    }

    /// Sends a job without a body: identifiers, sizes and public settings.
    fn control(&mut self, job: &Job) -> Result<(), RunError> {
        self.send(job, &[])
    }

    /// The one way out: every body is a crossing value, and is in the journal before it leaves.
    ///
    /// `bodies`: each with the number of records it speaks of.
    fn send(&mut self, job: &Job, bodies: &[(&Body, usize)]) -> Result<(), RunError> {
        for crossed in summarise(job, bodies) {
            self.journal.message(&crossed)?;
            self.traffic.bytes_out += crossed.bytes as u64;
        }
        let parts: Vec<&[u8]> = bodies.iter().map(|(body, _)| body.value().as_slice()).collect();
        self.transport.send(job, &parts).map_err(|error| AcceleratorError::Died { error })?;
        Ok(())
    }

    fn receive(&mut self, job: &Job) -> Result<Reply, RunError> {
        let received = self.transport.receive(&mut self.reply);
        let reply = received.map_err(|error| self.broken(error))?;
        self.note(job, reply, self.reply.len())
    }

    fn broken(&self, error: WireError) -> AcceleratorError {
        match error {
            WireError::TimedOut => AcceleratorError::Hung { seconds: self.timeout_seconds.ceil() as u64 },
            WireError::Closed | WireError::Truncated | WireError::Io(_) => AcceleratorError::Died { error },
            error => AcceleratorError::Protocol(error),
        }
    }

    /// Writes a reply with a body of so many bytes into the journal; a failure becomes an error.
    fn note(&mut self, job: &Job, reply: Reply, bytes: usize) -> Result<Reply, RunError> {
        let (kind, records) = match reply {
            Reply::Logits { count, .. } => (Kind::ResidualLogits, count),
            Reply::State { .. } => (Kind::ResidualState, 0),
            Reply::Products { records, .. } | Reply::InputGradients { records, .. } => {
                (Kind::Results, records)
            }
            Reply::WeightGradients { .. } => (Kind::Results, 0),
            Reply::Ready { .. } | Reply::Done { .. } | Reply::Failed { .. } => (Kind::Status, 0),
        };
        self.traffic.bytes_in += bytes as u64;
        if bytes > 0 {
            let (direction, class) = (Direction::Inward, kind.class());
            let job = job.name();
            self.journal.message(&Crossed {
                direction,
                job,
                kind,
                class,
                bytes,
                records,
                receipt: None,
                reason: None,
            })?;
        }
        match reply {
            Reply::Failed { why } => {
                Err(AcceleratorError::Failed { job: job.name(), why: readable(&why) }.into())
            }
            reply => Ok(reply),
        }
    }

    /// Whether the reply is `count` finite numbers; without a copy of them.
    fn check_finite(&self, what: &'static str, count: usize) -> Result<(), AcceleratorError> {
        let (expected, found) = (count * 4, self.reply.len());
        if expected != found {
            return Err(AcceleratorError::Shape { what, expected, found });
        }
        if numbers(&self.reply).all(f32::is_finite) {
            Ok(())
        } else {
            Err(AcceleratorError::NotFinite { what })
        }
    }
}

fn numbers(body: &[u8]) -> impl Iterator<Item = f32> {
    body.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

/// A stranger's words for a person's terminal: one short line without control characters.
fn readable(text: &str) -> String {
    const LONGEST: usize = 300;
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

/// What the journal says of one job: one line per kind of body, or one for the job itself.
fn summarise<'a>(job: &'a Job, bodies: &[(&'a Body, usize)]) -> Vec<Crossed<'a>> {
    let mut lines: Vec<Crossed<'a>> = Vec::new();
    for (body, records) in bodies {
        let bytes = body.value().len();
        let same = |line: &&mut Crossed<'_>| {
            line.kind == body.kind()
                && line.receipt.map(mechanism::Receipt::paid) == body.receipt().map(mechanism::Receipt::paid)
        };
        if let Some(line) = lines.iter_mut().find(same) {
            line.bytes += bytes;
            line.records += records;
        } else {
            lines.push(Crossed {
                direction: Direction::Outward,
                job: job.name(),
                kind: body.kind(),
                class: body.class(),
                bytes,
                records: *records,
                receipt: body.receipt(),
                reason: body.declared(),
            });
        }
    }
    if bodies.is_empty() {
        lines.push(Crossed {
            direction: Direction::Outward,
            job: job.name(),
            kind: Kind::Control,
            class: Class::Public,
            bytes: 0,
            records: 0,
            receipt: None,
            reason: None,
        });
    }
    lines
}

fn unexpected(job: &Job, reply: &Reply) -> AcceleratorError {
    let found = match reply {
        Reply::Ready { .. } => "ready",
        Reply::Logits { .. } => "logits",
        Reply::State { .. } => "state",
        Reply::Products { .. } => "products",
        Reply::InputGradients { .. } => "input-gradients",
        Reply::WeightGradients { .. } => "weight-gradients",
        Reply::Done { .. } => "done",
        Reply::Failed { .. } => "failed",
    };
    AcceleratorError::Unexpected { job: job.name(), found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_accelerator_cannot_move_the_cursor() {
        assert_eq!(readable("out of memory\n\u{1b}[2Jdone"), "out of memory  [2Jdone");
        assert_eq!(readable(&"x".repeat(1000)).len(), 300);
    }
}
