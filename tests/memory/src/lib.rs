//! A host that notes what has been allocated when each step ends, and keeps no files, and an accelerator that takes no memory.

use std::collections::VecDeque;

use flows::MemoryHost;
use mechanism::StoreError;
use runtime::{Crossed, Host, Journal, StorageError, Transport};
use wire::WireError;
use wire::accelerator::{Job, Load, Reply};
use wire::owner::Event;
use wire::spec::Address;

/// A [`MemoryHost`] that takes notes.
pub struct NotingHost {
    host: MemoryHost,
    allocated: fn() -> usize,
    /// By epoch, for each of its steps: what `allocated` said at its end.
    pub notes: Vec<Vec<usize>>,
    /// The run's notes to its owner.
    pub said: String,
}

impl NotingHost {
    /// A host that asks `allocated` at the end of every step.
    pub fn new(allocated: fn() -> usize) -> Self {
        const EPOCHS: usize = 8;
        const STEPS: usize = 256;
        let notes = (0..EPOCHS).map(|_| Vec::with_capacity(STEPS)).collect();
        NotingHost { host: MemoryHost::default(), allocated, notes, said: String::new() }
    }
}

impl Host for NotingHost {
    /// Copies the bytes, as sealing them does, and keeps the small ones.
    fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        const SMALL: usize = 1 << 10;
        let sealed = std::hint::black_box(bytes.to_vec());
        if sealed.len() < SMALL { self.host.save(name, &sealed) } else { Ok(()) }
    }

    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        self.host.load(name)
    }

    fn remove(&mut self, name: &str) -> Result<(), StorageError> {
        self.host.remove(name)
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        self.host.names()
    }

    fn ledger(&self) -> Result<Vec<u8>, StorageError> {
        self.host.ledger()
    }

    fn newest_receipt(&self) -> Result<Option<ledger::Paid>, StorageError> {
        self.host.newest_receipt()
    }

    fn ledger_store(&mut self) -> Result<Box<dyn mechanism::LedgerStore + Send>, StorageError> {
        self.host.ledger_store()
    }

    fn truncate_ledger(&mut self, intact: usize) -> Result<(), StorageError> {
        self.host.truncate_ledger(intact)
    }

    fn job_key(&self) -> Result<[u8; 32], StorageError> {
        self.host.job_key()
    }

    fn journal(&mut self) -> Result<Box<dyn Journal>, StorageError> {
        Ok(Box::new(NoJournal))
    }

    fn connect(&mut self, _: &Address, _: f64) -> Result<Box<dyn Transport>, WireError> {
        Ok(Box::new(Zeros { load: None, replies: VecDeque::with_capacity(Zeros::REPLIES) }))
    }

    fn report(&mut self, event: Event, _body: &[u8]) {
        match event {
            Event::Step(step) => self.notes[step.epoch].push((self.allocated)()),
            Event::Note { text } => self.said += &text,
            _ => {}
        }
    }

    fn stop_asked(&self) -> bool {
        false
    }

    fn cpu_seconds(&self) -> f64 {
        0.0
    }

    fn peak_bytes(&self) -> u64 {
        0
    }
}

struct NoJournal;

impl Journal for NoJournal {
    fn message(&mut self, _: &Crossed<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// An accelerator whose logits and state are zeros: it holds nothing but what it was asked for.
struct Zeros {
    load: Option<Box<Load>>,
    /// With the number of zeros in the body.
    replies: VecDeque<(Reply, usize)>,
}

impl Zeros {
    /// Replies that may be due at once.
    const REPLIES: usize = 256;

    fn done(&mut self) {
        self.replies.push_back((Reply::Done { cpu_seconds: 0.0, busy_seconds: 0.0 }, 0));
    }

    fn logits(&mut self, step: usize, count: usize) {
        let classes = self.load.as_ref().map_or(0, |load| load.graph.classes());
        self.replies.push_back((Reply::Logits { step, count }, count * classes));
    }

    /// Numbers of the model's parameters and running statistics, and of what the optimiser keeps.
    fn state_len(load: &Load) -> usize {
        let buffers: usize = load.graph.buffer_specs().iter().map(|(_, shape)| shape.len()).sum();
        (1 + load.optimiser.copies()) * load.graph.param_count() + buffers
    }
}

impl Transport for Zeros {
    fn send(&mut self, job: &Job, _: &[&[u8]]) -> Result<(), WireError> {
        match job {
            Job::Hello { version } => {
                let ready = Reply::Ready { version: *version, device: "zeros".into() };
                self.replies.push_back((ready, 0));
                return Ok(());
            }
            Job::Load(load) => self.load = Some(load.clone()),
            Job::Train { first_step, steps, snapshot, .. } => {
                let load = self.load.as_ref().ok_or(WireError::Closed)?;
                let (records, batch, state) = (load.train_records, load.batch_size, Zeros::state_len(load));
                for step in *first_step..first_step + steps {
                    self.logits(step, engine::batches::range(records, batch, step).len());
                }
                if *snapshot {
                    self.replies.push_back((Reply::State { updates: 1 }, state));
                }
            }
            Job::Predict { count, .. } | Job::Answer { count } => self.logits(0, *count),
            _ => {}
        }
        self.done();
        Ok(())
    }

    fn receive(&mut self, body: &mut Vec<u8>) -> Result<Reply, WireError> {
        let (reply, numbers) = self.replies.pop_front().ok_or(WireError::Closed)?;
        body.clear();
        body.resize(4 * numbers, 0);
        Ok(reply)
    }
}
