use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use mechanism::{LedgerStore, StoreError};
use runtime::{Crossed, Host, Journal, StorageError, Transport};
use wire::WireError;
use wire::accelerator::{Job, Reply};
use wire::owner::Event;
use wire::spec::Address;
use worker::{CpuDevice, Device, DeviceError};

/// What survives a process: files and the ledger.
#[derive(Clone, Default)]
pub struct Disk {
    pub files: BTreeMap<String, Vec<u8>>,
    pub ledger: Vec<u8>,
}

/// What the accelerator does wrong, from its n-th reply on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Die,
    Hang,
    NotANumber,
    Infinite,
    /// One number too few.
    Shape,
    /// The reply of another step.
    WrongStep,
    /// A reply of another kind.
    WrongKind,
    /// The device reports an error.
    Fail,
}

/// What an accelerator makes of its replies to one job: it may alter, repeat, reorder, drop or add some.
pub type Liar = Rc<RefCell<dyn FnMut(&Job, &mut Vec<(Reply, Vec<u8>)>)>>;

/// All that crossed in a run: jobs with their bodies, and the lines of the boundary log.
#[derive(Default)]
pub struct Links {
    pub jobs: Vec<(Job, Vec<u8>)>,
    pub journal: Vec<Line>,
}

/// One line of the boundary log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub outward: bool,
    pub kind: &'static str,
    pub class: &'static str,
    pub bytes: usize,
    pub records: usize,
    pub has_receipt: bool,
    /// The ledger's entry that paid for it.
    pub receipt: Option<ledger::Paid>,
    /// Data set and view that its receipt is for.
    pub paid_for: Option<(ledger::Digest, u32)>,
    /// Length of the ledger when the line was written.
    pub ledger_bytes: usize,
}

/// A host without a process: everything is in memory and can be looked at.
pub struct MemoryHost {
    pub disk: Rc<RefCell<Disk>>,
    pub links: Rc<RefCell<Links>>,
    pub events: Vec<Event>,
    pub key: [u8; 32],
    /// Fault, and the number of replies that come before it.
    pub fault: Option<(Fault, usize)>,
    /// An accelerator that lies with well-formed replies.
    pub liar: Option<Liar>,
    /// Processor seconds of this process so far, as it is told them.
    pub cpu_seconds: fn() -> f64,
    /// Stop when this many steps were reported.
    pub stop_after: Option<usize>,
    /// No accelerator answers.
    pub unreachable: bool,
    pub ledger: Arc<Mutex<Vec<u8>>>,
    /// Fail every durable write from the n-th on, as a full disk or a crash would.
    pub writes_left: Option<usize>,
}

impl Default for MemoryHost {
    fn default() -> Self {
        MemoryHost::on(Disk::default())
    }
}

impl MemoryHost {
    /// A process that starts with what is on `disk`.
    pub fn on(disk: Disk) -> Self {
        let ledger = Arc::new(Mutex::new(disk.ledger.clone()));
        MemoryHost {
            disk: Rc::new(RefCell::new(disk)),
            links: Rc::default(),
            events: Vec::new(),
            key: [42; 32],
            fault: None,
            liar: None,
            cpu_seconds: || 0.0,
            stop_after: None,
            unreachable: false,
            ledger,
            writes_left: None,
        }
    }

    /// What is on disk now.
    pub fn disk(&self) -> Disk {
        let ledger = self.ledger.lock().expect("no thread panics with it").clone();
        Disk { ledger, ..self.disk.borrow().clone() }
    }

    /// Losses of all steps reported, in order.
    pub fn losses(&self) -> Vec<f32> {
        let loss = |event: &Event| match event {
            Event::Step(step) => Some(step.loss),
            _ => None,
        };
        self.events.iter().filter_map(loss).collect()
    }

    fn write(&mut self) -> Result<(), StorageError> {
        match &mut self.writes_left {
            Some(0) => Err(StorageError { file: "disk".into(), why: "crashed".into() }),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Host for MemoryHost {
    fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.write()?;
        self.disk.borrow_mut().files.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.disk.borrow().files.get(name).cloned())
    }

    fn remove(&mut self, name: &str) -> Result<(), StorageError> {
        self.disk.borrow_mut().files.remove(name);
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        Ok(self.disk.borrow().files.keys().cloned().collect())
    }

    fn ledger(&self) -> Result<Vec<u8>, StorageError> {
        Ok(self.ledger.lock().expect("no thread panics with it").clone())
    }

    fn newest_receipt(&self) -> Result<Option<ledger::Paid>, StorageError> {
        let links = self.links.borrow();
        Ok(links.journal.iter().filter_map(|line| line.receipt).max_by_key(|paid| paid.entry))
    }

    fn ledger_store(&mut self) -> Result<Box<dyn LedgerStore + Send>, StorageError> {
        self.write()?;
        Ok(Box::new(MemoryLedger(Arc::clone(&self.ledger))))
    }

    fn truncate_ledger(&mut self, intact: usize) -> Result<(), StorageError> {
        self.ledger.lock().expect("no thread panics with it").truncate(intact);
        Ok(())
    }

    fn job_key(&self) -> Result<[u8; 32], StorageError> {
        Ok(self.key)
    }

    fn journal(&mut self) -> Result<Box<dyn Journal>, StorageError> {
        Ok(Box::new(MemoryJournal { links: Rc::clone(&self.links), ledger: Arc::clone(&self.ledger) }))
    }

    fn connect(
        &mut self,
        _address: &Address,
        _timeout_seconds: f64,
    ) -> Result<Box<dyn Transport>, WireError> {
        if self.unreachable {
            return Err(WireError::Closed);
        }
        Ok(Box::new(DeviceTransport {
            device: CpuDevice::default(),
            replies: VecDeque::new(),
            sent: Rc::clone(&self.links),
            fault: self.fault,
            liar: self.liar.clone(),
            answered: 0,
        }))
    }

    fn report(&mut self, event: Event, _body: &[u8]) {
        self.events.push(event);
    }

    fn stop_asked(&self) -> bool {
        self.stop_after.is_some_and(|limit| self.losses().len() >= limit)
    }

    fn cpu_seconds(&self) -> f64 {
        (self.cpu_seconds)()
    }

    fn peak_bytes(&self) -> u64 {
        0
    }
}

struct MemoryLedger(Arc<Mutex<Vec<u8>>>);

impl LedgerStore for MemoryLedger {
    fn append_durably(&mut self, line: &[u8]) -> Result<(), StoreError> {
        self.0.lock().expect("no thread panics with it").extend_from_slice(line);
        Ok(())
    }
}

struct MemoryJournal {
    links: Rc<RefCell<Links>>,
    ledger: Arc<Mutex<Vec<u8>>>,
}

impl Journal for MemoryJournal {
    fn message(&mut self, message: &Crossed<'_>) -> Result<(), StoreError> {
        let ledger_bytes = self.ledger.lock().expect("no thread panics with it").len();
        self.links.borrow_mut().journal.push(Line {
            outward: message.direction == ledger::Direction::Outward,
            kind: message.kind.name(),
            class: message.class.name(),
            bytes: message.bytes,
            records: message.records,
            has_receipt: message.receipt.is_some(),
            receipt: message.receipt.map(mechanism::Receipt::paid),
            paid_for: message.receipt.map(|receipt| (receipt.charge().dataset, receipt.charge().view)),
            ledger_bytes,
        });
        Ok(())
    }
}

/// The CPU device, called directly; every job is answered when it is sent.
struct DeviceTransport {
    device: CpuDevice,
    replies: VecDeque<(Reply, Vec<u8>)>,
    sent: Rc<RefCell<Links>>,
    fault: Option<(Fault, usize)>,
    liar: Option<Liar>,
    answered: usize,
}

impl Transport for DeviceTransport {
    fn send(&mut self, job: &Job, parts: &[&[u8]]) -> Result<(), WireError> {
        let body = parts.concat();
        self.sent.borrow_mut().jobs.push((job.clone(), body.clone()));
        let mut replies = Vec::new();
        let mut answer = |reply: Reply, body: &[u8]| {
            replies.push((reply, body.to_vec()));
            Ok::<(), WireError>(())
        };
        let last = match job {
            Job::Hello { .. } => Reply::Ready { version: wire::VERSION, device: "memory".into() },
            job => match self.device.run(job, &body, &mut answer) {
                Ok(()) => Reply::Done { cpu_seconds: 0.0, busy_seconds: 0.0 },
                Err(DeviceError::Wire(error)) => return Err(error),
                Err(error) => Reply::Failed { why: error.to_string() },
            },
        };
        answer(last, &[])?;
        if let Some(liar) = &self.liar {
            (*liar.borrow_mut())(job, &mut replies);
        }
        self.replies.extend(replies);
        Ok(())
    }

    fn receive(&mut self, body: &mut Vec<u8>) -> Result<Reply, WireError> {
        let (mut reply, mut bytes) = self.replies.pop_front().ok_or(WireError::TimedOut)?;
        let due = self.fault.filter(|(_, before)| self.answered >= *before).map(|(fault, _)| fault);
        self.answered += 1;
        if let Some(fault) = due {
            corrupt(fault, &mut reply, &mut bytes)?;
        }
        *body = bytes;
        Ok(reply)
    }
}

fn corrupt(fault: Fault, reply: &mut Reply, bytes: &mut Vec<u8>) -> Result<(), WireError> {
    let number = |bytes: &mut Vec<u8>, value: f32| {
        if let Some(first) = bytes.first_chunk_mut::<4>() {
            *first = value.to_le_bytes();
        }
    };
    match (fault, &mut *reply) {
        (Fault::Die, _) => return Err(WireError::Truncated),
        (Fault::Hang, _) => return Err(WireError::TimedOut),
        (Fault::NotANumber, _) => number(bytes, f32::NAN),
        (Fault::Infinite, _) => number(bytes, f32::NEG_INFINITY),
        (Fault::Shape, _) => bytes.truncate(bytes.len().saturating_sub(4)),
        (Fault::WrongStep, Reply::Logits { step, .. }) => *step += 1,
        (Fault::WrongStep, Reply::Products { slot, .. } | Reply::InputGradients { slot, .. }) => *slot += 1,
        (Fault::WrongStep, _) => {}
        (Fault::WrongKind, _) => *reply = Reply::Ready { version: wire::VERSION, device: "other".into() },
        (Fault::Fail, _) => *reply = Reply::Failed { why: "out of memory".into() },
    }
    Ok(())
}
