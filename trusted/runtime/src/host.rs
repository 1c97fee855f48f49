//! What the runtime asks of the process it runs in.

use ledger::{Class, Direction, Kind};
use mechanism::{Receipt, StoreError};
use wire::WireError;
use wire::accelerator::{Job, Reply};
use wire::owner::Event;

/// A file of the run directory that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {why}")]
pub struct StorageError {
    pub file: String,
    pub why: String,
}

/// The process around the runtime: its storage, its accelerator connection, its owner.
pub trait Host {
    /// Stores `bytes` under `name`, encrypted and durably, replacing what was there in one step.
    ///
    /// # Errors
    /// [`StorageError`]; the old content is still there then.
    fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), StorageError>;

    /// What was last saved under `name`; `None` if nothing was.
    ///
    /// # Errors
    /// [`StorageError`] if it is there but was altered, cut short, or sealed with another key.
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError>;

    /// Removes `name`, if it is there.
    ///
    /// # Errors
    /// [`StorageError`] if it cannot be removed.
    fn remove(&mut self, name: &str) -> Result<(), StorageError>;

    /// Names saved so far, sorted.
    ///
    /// # Errors
    /// [`StorageError`] if the run directory cannot be read.
    fn names(&self) -> Result<Vec<String>, StorageError>;

    /// The whole ledger, as written so far.
    ///
    /// # Errors
    /// [`StorageError`] if it is there and cannot be read.
    fn ledger(&self) -> Result<Vec<u8>, StorageError>;

    /// The newest ledger entry that the boundary log has a message of; `None` if there is none, or no log.
    ///
    /// # Errors
    /// [`StorageError`] if the log is there and cannot be read, or was altered.
    fn newest_receipt(&self) -> Result<Option<ledger::Paid>, StorageError>;

    /// A store that appends to the ledger durably.
    ///
    /// # Errors
    /// [`StorageError`] if it cannot be opened, or another process has it.
    fn ledger_store(&mut self) -> Result<Box<dyn mechanism::LedgerStore + Send>, StorageError>;

    /// Removes a cut-short last line of the ledger, leaving `intact` bytes.
    ///
    /// # Errors
    /// [`StorageError`] if that is not possible.
    fn truncate_ledger(&mut self, intact: usize) -> Result<(), StorageError>;

    /// The secret key of this run, from the operating system or the owner.
    ///
    /// # Errors
    /// [`StorageError`] if no run is open.
    fn job_key(&self) -> Result<[u8; 32], StorageError>;

    /// A log of everything that crosses to the accelerator and back.
    ///
    /// # Errors
    /// [`StorageError`] if it cannot be opened.
    fn journal(&mut self) -> Result<Box<dyn Journal>, StorageError>;

    /// Connects to the accelerator.
    ///
    /// # Errors
    /// [`WireError`] if nobody answers there.
    fn connect(
        &mut self,
        address: &wire::spec::Address,
        timeout_seconds: f64,
    ) -> Result<Box<dyn Transport>, WireError>;

    /// Reports to the owner.
    fn report(&mut self, event: Event, body: &[u8]);

    /// Whether the owner asked to stop at the next step.
    fn stop_asked(&self) -> bool;

    /// Processor seconds of this process so far, from the operating system.
    fn cpu_seconds(&self) -> f64;

    /// Largest resident memory of this process so far, in bytes, from the operating system.
    fn peak_bytes(&self) -> u64;
}

/// A log of what crosses the boundary: kinds and sizes, never content.
pub trait Journal {
    /// Appends one line. Outward messages are logged before they leave.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be written; the message must not leave then.
    fn message(&mut self, message: &Crossed<'_>) -> Result<(), StoreError>;
}

/// One message that crosses.
#[derive(Clone, Debug)]
pub struct Crossed<'a> {
    pub direction: Direction,
    pub job: &'a str,
    pub kind: Kind,
    pub class: Class,
    pub bytes: usize,
    /// Number of records it speaks of.
    pub records: usize,
    pub receipt: Option<&'a Receipt>,
    /// Why it is public, where it was declared so.
    pub reason: Option<&'static str>,
}

/// A connection to the accelerator that carries frames.
pub trait Transport {
    /// Sends one job.
    ///
    /// # Errors
    /// [`WireError`] if the connection fails.
    fn send(&mut self, job: &Job, parts: &[&[u8]]) -> Result<(), WireError>;

    /// From now on up to so many bytes of replies may be read before they are waited for: then the accelerator never waits
    /// for the enclave to read what it asked for, while the enclave waits for it to read what it sends.
    fn read_ahead(&mut self, _bytes: usize) {}

    /// Offers the accelerator memory for the bodies of frames in either direction, of so many bytes each; whether it took it.
    /// Bodies for which it has no room go on through the connection.
    ///
    /// # Errors
    /// [`WireError`] if the connection fails.
    fn share(&mut self, _outward: usize, _inward: usize) -> Result<bool, WireError> {
        Ok(false)
    }

    /// [`Transport::receive`] that leaves the body where it came.
    ///
    /// # Errors
    /// As [`Transport::receive`].
    fn receive_in_place(&mut self) -> Result<(Reply, Box<dyn ReplyBody>), WireError> {
        let mut body = Vec::new();
        let reply = self.receive(&mut body)?;
        Ok((reply, Box::new(body)))
    }

    /// Waits for one reply, at most as long as the connection's time limit.
    ///
    /// # Errors
    /// [`WireError::TimedOut`] after the limit; any other if the connection fails.
    fn receive(&mut self, body: &mut Vec<u8>) -> Result<Reply, WireError>;
}

/// The body of a reply, perhaps in memory that the accelerator can still change: every byte is to be read once.
pub trait ReplyBody: Send {
    /// Bytes of it.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies bytes from `at` on.
    ///
    /// # Panics
    /// If they are not all within it.
    fn read(&self, at: usize, out: &mut [u8]);
}

impl ReplyBody for Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn read(&self, at: usize, out: &mut [u8]) {
        out.copy_from_slice(&self[at..at + out.len()]);
    }
}
