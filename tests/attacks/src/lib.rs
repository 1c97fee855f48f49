//! What the attack tests share: runs in memory that can be interrupted, and what left in them.
//!
//! Each file of `tests/` is one attacker's move: its first lines say what must hold and where that is enforced.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use asymflow_flows::{Disk, MemoryHost, records};
use ledger::{Digest, Ledger};
use mechanism::{Budget, LedgerStore, LedgerWriter, StoreError};
use model::Parameters;
use runtime::{Outcome, Run, RunError};
use wire::RunSpec;
use wire::accelerator::{Job, RecordSet};

/// Training records of every run: three steps an epoch.
pub const TRAIN: usize = 48;
/// Test records of every run.
pub const TEST: usize = 16;
/// Training steps of one epoch.
pub const STEPS: usize = TRAIN / 16;

/// A new run with its records.
///
/// # Errors
/// As [`Run::create`].
///
/// # Panics
/// If the records do not fit the model.
pub fn create(host: &mut MemoryHost, spec: &RunSpec) -> Result<Run, RunError> {
    let initial = Parameters::init(&spec.graph, spec.train.seed);
    let mut run = Run::create(host, spec.clone(), initial)?;
    give_records(&mut run);
    Ok(run)
}

/// The run that `host` has on disk, with its records.
///
/// # Errors
/// As [`Run::open`].
///
/// # Panics
/// If the records do not fit the model.
pub fn open(host: &mut MemoryHost, spec: &RunSpec) -> Result<Run, RunError> {
    let mut run = Run::open(host, spec.accelerator.clone())?;
    give_records(&mut run);
    Ok(run)
}

fn give_records(run: &mut Run) {
    run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).expect("they fit the model");
    run.add_records(RecordSet::Test, TEST, &records(TEST, 2)).expect("they fit the model");
}

/// A run from its beginning on this host.
///
/// # Errors
/// As [`Run::train`].
pub fn train(host: &mut MemoryHost, spec: &RunSpec) -> Result<Outcome, RunError> {
    create(host, spec)?.train(host)
}

/// The run that `host` has on disk, from its newest checkpoint on.
///
/// # Errors
/// As [`Run::train`].
pub fn resume(host: &mut MemoryHost, spec: &RunSpec) -> Result<Outcome, RunError> {
    open(host, spec)?.train(host)
}

/// What is on disk after a run of `spec` that was stopped after so many steps; and the host, for what left.
///
/// # Panics
/// If it did not stop there.
pub fn stopped_after(spec: &RunSpec, steps: usize) -> (MemoryHost, Disk) {
    let mut host = MemoryHost { stop_after: Some(steps), ..MemoryHost::default() };
    let outcome = train(&mut host, spec).expect("nothing is wrong yet");
    assert_eq!(outcome, Outcome::Stopped { steps_done: steps });
    let disk = host.disk();
    (host, disk)
}

/// One release of one record: its data set, its view, its number.
pub type Place = (Digest, u32, usize);

/// Every byte string that left for each record and view, in the order of leaving.
#[derive(Clone, Debug, Default)]
pub struct Sent(pub BTreeMap<Place, Vec<Vec<u8>>>);

impl Sent {
    /// Adds the messages of records that left on this host.
    ///
    /// # Panics
    /// If a message left that the boundary log does not have.
    pub fn add(&mut self, host: &MemoryHost) {
        let links = host.links.borrow();
        let mut logged = links.journal.iter().filter(|line| line.kind == "residual-bits");
        for (job, body) in &links.jobs {
            let Job::Store { first, count, labels, .. } = job else { continue };
            let line = logged.next().expect("every message is logged");
            let (dataset, view) = line.paid_for.expect("every message is paid for");
            let bits = body.len() - if *labels { 2 * count } else { 0 };
            assert_eq!((line.records, line.bytes), (*count, bits));
            for (record, message) in body[..bits].chunks_exact(bits / count).enumerate() {
                self.0.entry((dataset, view, first + record)).or_default().push(message.to_vec());
            }
        }
    }

    /// Places from which two different byte strings left.
    pub fn ambiguous(&self) -> Vec<Place> {
        let differ = |messages: &Vec<Vec<u8>>| messages.iter().any(|message| *message != messages[0]);
        self.0.iter().filter(|(_, messages)| differ(messages)).map(|(place, _)| *place).collect()
    }

    /// How often anything left.
    pub fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

/// Bodies of the gradients that left on this host, in order.
pub fn gradients(host: &MemoryHost) -> Vec<Vec<u8>> {
    let links = host.links.borrow();
    let backward = |(job, body): &(Job, Vec<u8>)| (*job == Job::Backward).then(|| body.clone());
    links.jobs.iter().filter_map(backward).collect()
}

/// Bytes of all bodies that left on this host.
pub fn bytes_sent(host: &MemoryHost) -> usize {
    host.links.borrow().jobs.iter().map(|(_, body)| body.len()).sum()
}

/// A ledger in memory, which several writers may share.
#[derive(Clone, Default)]
pub struct MemoryLedger(Arc<Mutex<Vec<u8>>>);

impl MemoryLedger {
    /// Its lines.
    ///
    /// # Panics
    /// If a thread panicked with it.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().expect("no thread panics with it").clone()
    }

    /// A writer that has read what is there.
    ///
    /// # Panics
    /// If the ledger or the budget is not one.
    pub fn writer(&self, epsilon: f64, delta: f64) -> LedgerWriter {
        let ledger = Ledger::verify(&self.bytes()).expect("a ledger");
        LedgerWriter::new(ledger, Budget::new(epsilon, delta).expect("a budget"), Box::new(self.clone()))
    }
}

impl LedgerStore for MemoryLedger {
    fn append_durably(&mut self, line: &[u8]) -> Result<(), StoreError> {
        self.0.lock().expect("no thread panics with it").extend_from_slice(line);
        Ok(())
    }
}
