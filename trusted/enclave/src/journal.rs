//! `boundary.jsonl`: every message that crosses, by kind and size, never by content, chained by hash.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ledger::{BoundaryLine, ChainError, Digest, Head, Paid, chain};
use mechanism::{Receipt, StoreError};
use runtime::{Crossed, Journal, StorageError};

/// Appends to the boundary log.
pub(crate) struct BoundaryLog {
    file: File,
    head: Head,
}

impl BoundaryLog {
    /// Opens the log where it ends. A last line that a crash cut short is removed: its message had not left.
    pub(crate) fn open(path: &Path) -> Result<Self, StorageError> {
        let (head, intact) = end_of(&read(path)?).map_err(|error| failed(path, error))?;
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|error| failed(path, error))?;
        file.set_len(intact as u64).map_err(|error| failed(path, error))?;
        Ok(BoundaryLog { file, head })
    }
}

/// The newest entry of the ledger that a line of the log at `path` has a receipt of.
pub(crate) fn newest_receipt(path: &Path) -> Result<Option<Paid>, StorageError> {
    let mut newest: Option<Paid> = None;
    for line in chain::lines::<BoundaryLine>(&read(path)?) {
        match line {
            Ok(line) => newest = newest.into_iter().chain(line.receipt).max_by_key(|paid| paid.entry),
            Err(ChainError::Truncated { .. }) => break,
            Err(error) => return Err(failed(path, error)),
        }
    }
    Ok(newest)
}

/// The log so far; empty if there is none.
fn read(path: &Path) -> Result<Vec<u8>, StorageError> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|error| failed(path, error)),
    }
}

fn failed(path: &Path, why: impl std::fmt::Display) -> StorageError {
    StorageError { file: path.display().to_string(), why: why.to_string() }
}

/// Where the log ends, and its bytes without a line cut short.
fn end_of(bytes: &[u8]) -> Result<(Head, usize), ChainError> {
    let mut head = Head::empty::<BoundaryLine>();
    for line in chain::lines::<BoundaryLine>(bytes) {
        match line {
            Ok(line) => head = Head::after(&line),
            Err(ChainError::Truncated { intact, .. }) => return Ok((head, intact)),
            Err(error) => return Err(error),
        }
    }
    Ok((head, bytes.len()))
}

impl Journal for BoundaryLog {
    fn message(&mut self, message: &Crossed<'_>) -> Result<(), StoreError> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut line = BoundaryLine {
            sequence: 0,
            time_ms: time as u64,
            direction: message.direction,
            job: message.job.to_owned(),
            kind: message.kind,
            class: message.class,
            bytes: message.bytes as u64,
            records: message.records as u64,
            receipt: message.receipt.map(Receipt::paid),
            reason: message.reason.map(str::to_owned),
            previous: Digest([0; 32]),
            hash: Digest([0; 32]),
        };
        let bytes = line.append_after(&self.head);
        self.file.write_all(&bytes).map_err(|e| StoreError(format!("boundary.jsonl: {e}")))?;
        self.head = Head::after(&line);
        Ok(())
    }
}
