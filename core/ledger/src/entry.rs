//! One line of the ledger.

use accounting::Event;
use serde::{Deserialize, Serialize};

use crate::chain::{self, Head, Link};
use crate::{Digest, MechanismId, RecordSet};

/// What is about to be released.
#[derive(Clone, Debug, PartialEq)]
pub struct Charge {
    /// Root of the data set that the record numbers belong to.
    pub dataset: Digest,
    /// The records, each charged once.
    pub records: RecordSet,
    /// Which augmentation of each record; 0 for the record itself.
    pub view: u32,
    /// The mechanism with all its parameters.
    pub mechanism: MechanismId,
    /// For a release that depends on what the accelerator sent before: digest of that. The same mechanism after another
    /// exchange is another release, with other noise, and is charged.
    pub transcript: Option<Digest>,
    /// The loss of one release, per record.
    pub event: Event,
    /// Bytes of one record's message on the wire; 0 for a number that is only published in the ledger.
    pub bytes: u64,
    /// Why, in words, for people.
    pub purpose: String,
}

/// One charge, as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Position in the ledger, from 0.
    pub sequence: u64,
    /// Root of the data set.
    pub dataset: Digest,
    /// The records charged.
    pub records: RecordSet,
    /// Which augmentation of each record.
    pub view: u32,
    /// The mechanism with all its parameters.
    pub mechanism: MechanismId,
    /// Digest of what the release depends on beside the records, for releases that depend on an exchange.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcript: Option<Digest>,
    /// The loss of one release, per record.
    pub event: Event,
    /// Bytes of one record's message on the wire.
    pub bytes: u64,
    /// Why, in words.
    pub purpose: String,
    /// Hash of the entry before; that of the empty ledger for the first.
    pub previous: Digest,
    /// SHA-256 of the line before `,"hash"`.
    pub hash: Digest,
}

impl Entry {
    /// The entry after `head` for `charge`, and its line with the newline.
    pub fn after(head: &Head, charge: &Charge) -> (Entry, Vec<u8>) {
        let Charge { dataset, records, view, mechanism, transcript, event, bytes, purpose } = charge.clone();
        let mut entry = Entry {
            sequence: head.sequence,
            dataset,
            records,
            view,
            mechanism,
            transcript,
            event,
            bytes,
            purpose,
            previous: head.hash,
            hash: Digest([0; 32]),
        };
        let line = chain::seal(&mut entry);
        (entry, line)
    }

    /// What was charged.
    pub fn charge(&self) -> Charge {
        let Entry { dataset, records, view, mechanism, transcript, event, bytes, purpose, .. } = self.clone();
        Charge { dataset, records, view, mechanism, transcript, event, bytes, purpose }
    }
}

impl Link for Entry {
    const DOMAIN: &'static str = "asymflow ledger v2";

    fn place(&self) -> (u64, Digest) {
        (self.sequence, self.previous)
    }

    fn hash(&self) -> Digest {
        self.hash
    }

    fn set_hash(&mut self, hash: Digest) {
        self.hash = hash;
    }
}
