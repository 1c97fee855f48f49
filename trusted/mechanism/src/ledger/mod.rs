//! The ledger: what was released about which record, charged and stored before the bytes leave.
//!
//! One JSON object per line, in order, each with the hash of the one before. The last member of a line is `hash`: SHA-256
//! of the line's bytes before `,"hash"`. [`Ledger::verify`] reads one back and anyone can recompute ε from it;
//! [`LedgerWriter`] adds to it, within a [`Budget`]. Where the lines are kept is behind [`LedgerStore`].
//!
//! A record is charged once per (data set, view, mechanism). Asking again for what is already paid appends nothing and
//! gives a receipt marked as a resend: the noise is a function of the same four, so the bytes are the same.

mod entry;
mod history;
mod spending;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::sync::Arc;

use accounting::Event;
use serde::{Serialize, Serializer};

pub use entry::Entry;
pub use history::{Head, Ledger, LedgerError, entries};
pub use writer::{Budget, ChargeError, InvalidBudget, LedgerStore, LedgerWriter, StoreError};

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
    /// The loss of one release, per record.
    pub event: Event,
    /// Why, in words, for people.
    pub purpose: String,
}

/// Proof that the ledger was charged; only the ledger makes one.
///
/// Serialises as the sequence number and hash of the entry.
#[derive(Clone)]
pub struct Receipt {
    paid: Arc<Paid>,
}

struct Paid {
    head: Head,
    charge: Charge,
    resend: bool,
}

impl Receipt {
    fn new(head: Head, charge: Charge, resend: bool) -> Self {
        Receipt { paid: Arc::new(Paid { head, charge, resend }) }
    }

    /// Number of the latest entry that paid for this.
    pub fn sequence(&self) -> u64 {
        self.paid.head.sequence
    }

    /// Hash of that entry, which commits to all entries before it.
    pub fn entry_hash(&self) -> Digest {
        self.paid.head.hash
    }

    /// What was paid for.
    pub fn charge(&self) -> &Charge {
        &self.paid.charge
    }

    /// Whether all of it had been paid for earlier, so that nothing was charged now.
    pub fn is_resend(&self) -> bool {
        self.paid.resend
    }

    /// Whether it pays for a release about this record by this mechanism.
    pub fn covers(&self, record: u64, mechanism: &MechanismId) -> bool {
        self.paid.charge.mechanism == *mechanism && self.paid.charge.records.contains(record)
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receipt(entry {})", self.sequence())
    }
}

impl Serialize for Receipt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.paid.head.serialize(serializer)
    }
}
