//! `boundary.jsonl`: every message that crosses, by kind and size, never by content.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use mechanism::ledger::StoreError;
use runtime::{Crossed, Journal, StorageError};
use serde_json::json;

/// Appends to the boundary log.
pub(crate) struct BoundaryLog {
    file: File,
}

impl BoundaryLog {
    pub(crate) fn open(path: &Path) -> Result<Self, StorageError> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|e| StorageError { file: path.display().to_string(), why: e.to_string() })?;
        Ok(BoundaryLog { file })
    }
}

impl Journal for BoundaryLog {
    fn message(&mut self, message: &Crossed<'_>) -> Result<(), StoreError> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut line = json!({
            "time_ms": time as u64,
            "direction": message.direction.to_string(),
            "job": message.job,
            "kind": message.kind.name(),
            "class": message.class.name(),
            "bytes": message.bytes,
            "records": message.records,
            "receipt": message.receipt,
            "reason": message.reason,
        })
        .to_string();
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| StoreError(format!("boundary.jsonl: {e}")))
    }
}
