//! One line of the boundary log: what crossed, by kind and size, never by content.

use serde::{Deserialize, Serialize};

use crate::chain::{self, Head, Link};
use crate::{Class, Digest, Direction, Kind};

/// One message that crossed the boundary, as `boundary.jsonl` keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundaryLine {
    /// Position in the log, from 0.
    pub sequence: u64,
    /// Milliseconds since 1970; informative only, clocks may be wrong.
    pub time_ms: u64,
    pub direction: Direction,
    /// The job it was part of.
    pub job: String,
    pub kind: Kind,
    pub class: Class,
    /// Bytes of the body.
    pub bytes: u64,
    /// Number of records it speaks of.
    pub records: u64,
    /// The ledger's entry that paid for it.
    pub receipt: Option<Paid>,
    /// Why it is public, where it was declared so.
    pub reason: Option<String>,
    /// Hash of the line before; that of the empty log for the first.
    pub previous: Digest,
    /// SHA-256 of the line before `,"hash"`.
    pub hash: Digest,
}

/// An entry of the ledger; its hash commits to all entries before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paid {
    /// Position in the ledger, from 0.
    pub entry: u64,
    pub hash: Digest,
}

impl BoundaryLine {
    /// Puts this line after `head`; returns its bytes with the newline. Sequence and hashes are set here.
    pub fn append_after(&mut self, head: &Head) -> Vec<u8> {
        (self.sequence, self.previous) = (head.sequence, head.hash);
        chain::seal(self)
    }
}

impl Link for BoundaryLine {
    const DOMAIN: &'static str = "asymflow boundary log v1";

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
