//! Reading a ledger back.

use std::collections::BTreeMap;
use std::ops::Range;

use accounting::{AccountingError, Event, Loss};
use serde::{Deserialize, Serialize};

use crate::ledger::spending::Spending;
use crate::ledger::{Charge, Entry};
use crate::{Digest, MechanismId, RecordSet};

/// One place in a ledger: how many entries there are up to it, and the hash of the last of them.
///
/// A checkpoint stores it, so that a ledger that was rolled back behind it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of entries.
    pub sequence: u64,
    /// Hash of the last one.
    pub hash: Digest,
}

impl Head {
    /// The head of an empty ledger.
    pub fn empty() -> Self {
        Head { sequence: 0, hash: Digest::of("asymflow ledger v1", &[]) }
    }
}

/// A ledger that cannot be trusted, and the line (from 1) that shows it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The last line is cut short.
    #[error("ledger line {line} is cut short; restore the whole file, nothing is released without it")]
    Truncated {
        /// The line.
        line: usize,
        /// Bytes before it, all intact.
        intact: usize,
    },
    /// A line that is not an entry.
    #[error("ledger line {line} is not an entry: {reason}")]
    Malformed {
        /// The line.
        line: usize,
        /// Why it does not parse.
        reason: String,
    },
    /// A line whose hash is not that of its content.
    #[error("ledger line {line} was altered: its hash does not match its content")]
    Altered {
        /// The line.
        line: usize,
    },
    /// Entries are missing before this one.
    #[error("ledger line {line} is entry {found}, expected entry {expected}: entries before it are missing")]
    Missing {
        /// The line.
        line: usize,
        /// The entry that belongs there.
        expected: u64,
        /// The entry that stands there.
        found: u64,
    },
    /// An entry that belongs further up.
    #[error(
        "ledger line {line} is entry {found}, expected entry {expected}: entries are repeated or out of order"
    )]
    OutOfOrder {
        /// The line.
        line: usize,
        /// The entry that belongs there.
        expected: u64,
        /// The entry that stands there.
        found: u64,
    },
    /// An entry that follows another one than the one before it.
    #[error("ledger line {line} does not follow the line before it: one of them is from another ledger")]
    Broken {
        /// The line.
        line: usize,
    },
    /// An entry whose loss cannot be stated.
    #[error("ledger line {line}: {source}")]
    Loss {
        /// The line.
        line: usize,
        /// What is wrong with its event.
        source: AccountingError,
    },
    /// A ledger that ends before an entry that is known to have been written.
    #[error("the ledger was rolled back: it has {found} entries, but {written} had been written")]
    RolledBack {
        /// Entries known to have been written.
        written: u64,
        /// Entries in this ledger.
        found: u64,
    },
    /// A ledger that has another entry in the place of a known one.
    #[error("line {line} is not the entry that had been written there: this is another ledger")]
    Replaced {
        /// The line.
        line: u64,
    },
}

/// Reads a ledger entry by entry, checking every hash and the order; ends after the first error.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = Result<Entry, LedgerError>> + '_ {
    let (mut rest, mut head, mut line, mut failed) = (bytes, Head::empty(), 0, false);
    std::iter::from_fn(move || {
        if rest.is_empty() || failed {
            return None;
        }
        line += 1;
        let result = next_entry(&mut rest, &head, line, bytes.len());
        match &result {
            Ok(entry) => head = Head { sequence: entry.sequence + 1, hash: entry.hash },
            Err(_) => failed = true,
        }
        Some(result)
    })
}

fn next_entry(rest: &mut &[u8], head: &Head, line: usize, total: usize) -> Result<Entry, LedgerError> {
    let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
        return Err(LedgerError::Truncated { line, intact: total - rest.len() });
    };
    let text = &rest[..end];
    *rest = &rest[end + 1..];
    let (entry, intact) =
        Entry::parse(text).map_err(|e| LedgerError::Malformed { line, reason: e.to_string() })?;
    if !intact {
        return Err(LedgerError::Altered { line });
    }
    let (expected, found) = (head.sequence, entry.sequence);
    if found > expected {
        return Err(LedgerError::Missing { line, expected, found });
    }
    if found < expected {
        return Err(LedgerError::OutOfOrder { line, expected, found });
    }
    if entry.previous != head.hash {
        return Err(LedgerError::Broken { line });
    }
    Ok(entry)
}

/// What all entries of a ledger add up to.
#[derive(Clone, Debug)]
pub struct Ledger {
    heads: Vec<Digest>,
    spending: Spending,
    issued: BTreeMap<(Digest, u32, MechanismId), Issued>,
}

/// Records that one mechanism has been charged for.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) records: RecordSet,
    pub(super) event: Event,
    pub(super) latest: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger { heads: vec![Head::empty().hash], spending: Spending::default(), issued: BTreeMap::new() }
    }
}

impl Ledger {
    /// A ledger without entries.
    pub fn empty() -> Self {
        Ledger::default()
    }

    /// Reads a ledger, checking every line.
    ///
    /// A ledger that ends too early at a line's end cannot be told from a younger one: compare with a known [`Head`] by
    /// [`Ledger::require`].
    ///
    /// # Errors
    /// [`LedgerError`]: the first line that is cut short, altered, missing, out of order or not understood.
    pub fn verify(bytes: &[u8]) -> Result<Ledger, LedgerError> {
        let mut ledger = Ledger::empty();
        for (i, entry) in entries(bytes).enumerate() {
            ledger.add(&entry?).map_err(|source| LedgerError::Loss { line: i + 1, source })?;
        }
        Ok(ledger)
    }

    /// Where the ledger ends.
    pub fn head(&self) -> Head {
        let hash = *self.heads.last().expect("an empty ledger has a head too");
        Head { sequence: self.len(), hash }
    }

    /// Number of entries.
    pub fn len(&self) -> u64 {
        self.heads.len() as u64 - 1
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks that this ledger is `known` or continues it.
    ///
    /// # Errors
    /// [`LedgerError::RolledBack`] if it ends before `known`, [`LedgerError::Replaced`] if it has another entry there.
    pub fn require(&self, known: &Head) -> Result<(), LedgerError> {
        match usize::try_from(known.sequence).ok().and_then(|at| self.heads.get(at)) {
            Some(hash) if *hash == known.hash => Ok(()),
            Some(_) => Err(LedgerError::Replaced { line: known.sequence }),
            None => Err(LedgerError::RolledBack { written: known.sequence, found: self.len() }),
        }
    }

    /// Every data set's ranges of records with equal loss, records without any left out.
    pub fn losses(&self) -> impl Iterator<Item = (&Digest, Range<u64>, Loss)> {
        self.spending.iter()
    }

    /// The largest ε of any record at this δ, where neighbours replace that record; 0 for an empty ledger.
    pub fn epsilon(&self, delta: f64) -> f64 {
        self.worst(|loss| loss.epsilon(delta))
    }

    /// The largest ε of any record against an all-zero one: the papers' reading, beside [`Ledger::epsilon`] only.
    pub fn epsilon_zero_record(&self, delta: f64) -> f64 {
        self.worst(|loss| loss.epsilon_zero_record(delta))
    }

    fn worst(&self, epsilon: impl Fn(&Loss) -> f64) -> f64 {
        let mut distinct: Vec<Loss> = Vec::new();
        for (_, _, loss) in self.spending.iter() {
            if !distinct.contains(&loss) {
                distinct.push(loss);
            }
        }
        distinct.iter().map(epsilon).fold(0.0, f64::max)
    }

    pub(super) fn spending(&self) -> &Spending {
        &self.spending
    }

    /// What this charge's mechanism has been charged for already.
    pub(super) fn issued(&self, charge: &Charge) -> Option<&Issued> {
        self.issued.get(&(charge.dataset, charge.view, charge.mechanism.clone()))
    }

    /// The head just after entry `sequence`.
    pub(super) fn head_of(&self, sequence: u64) -> Digest {
        self.heads[sequence as usize + 1]
    }

    /// Adds a checked entry.
    pub(super) fn add(&mut self, entry: &Entry) -> Result<(), AccountingError> {
        self.spending.add(entry.dataset, &entry.records, &entry.event)?;
        let issued = Issued { records: entry.records.clone(), event: entry.event, latest: entry.sequence };
        self.issued
            .entry((entry.dataset, entry.view, entry.mechanism.clone()))
            .and_modify(|before| {
                before.records = before.records.union(&entry.records);
                before.latest = entry.sequence;
            })
            .or_insert(issued);
        self.heads.push(entry.hash);
        Ok(())
    }
}
