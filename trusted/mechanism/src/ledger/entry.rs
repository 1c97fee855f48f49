//! One line of the ledger.

use accounting::Event;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ledger::{Charge, Head};
use crate::{Digest, MechanismId, RecordSet};

/// What stands before the hash at the end of a line, and after it.
const HASH_OPEN: &[u8] = b",\"hash\":\"";
const HASH_CLOSE: &[u8] = b"\"}";

/// One charge, as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Position in the ledger, from 0.
    pub sequence: u64,
    /// Root of the data set.
    pub dataset: Digest,
    /// The records charged, as ranges with ends excluded.
    pub records: RecordSet,
    /// Which augmentation of each record.
    pub view: u32,
    /// The mechanism with all its parameters.
    pub mechanism: MechanismId,
    /// The loss of one release, per record.
    pub event: Event,
    /// Why, in words.
    pub purpose: String,
    /// Hash of the entry before; that of the empty ledger for the first.
    pub previous: Digest,
    /// SHA-256 of the line before `,"hash"`.
    pub hash: Digest,
}

impl Entry {
    /// The entry after `head` for `charge`, and its line with the newline.
    pub(super) fn after(head: &Head, charge: &Charge) -> (Entry, Vec<u8>) {
        let Charge { dataset, records, view, mechanism, event, purpose } = charge.clone();
        let unsigned = Digest([0; 32]);
        let (sequence, previous) = (head.sequence, head.hash);
        let mut entry =
            Entry { sequence, dataset, records, view, mechanism, event, purpose, previous, hash: unsigned };
        let mut line = serde_json::to_vec(&entry).expect("an entry has string keys and finite numbers only");
        line.truncate(line.len() - HASH_CLOSE.len() - 64 - HASH_OPEN.len());
        entry.hash = sha256(&line);
        line.extend_from_slice(HASH_OPEN);
        line.extend_from_slice(entry.hash.to_string().as_bytes());
        line.extend_from_slice(HASH_CLOSE);
        line.push(b'\n');
        (entry, line)
    }

    /// The entry of a line without its newline, and whether its hash is right.
    pub(super) fn parse(line: &[u8]) -> Result<(Entry, bool), serde_json::Error> {
        let entry: Entry = serde_json::from_slice(line)?;
        let tail = [HASH_OPEN, entry.hash.to_string().as_bytes(), HASH_CLOSE].concat();
        let intact = line.strip_suffix(tail.as_slice()).is_some_and(|body| sha256(body) == entry.hash);
        Ok((entry, intact))
    }

    /// What was charged.
    pub fn charge(&self) -> Charge {
        let Entry { dataset, records, view, mechanism, event, purpose, .. } = self.clone();
        Charge { dataset, records, view, mechanism, event, purpose }
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}
