//! Reading a ledger back.

use std::collections::BTreeMap;
use std::ops::Range;

use accounting::{AccountingError, Event, Loss};

use crate::chain::{self, ChainError, Head};
use crate::spending::Spending;
use crate::{Charge, Digest, Entry, MechanismId, RecordSet};

/// A ledger that cannot be trusted, and the line (from 1) that shows it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// A line was cut short, altered, removed, repeated or exchanged.
    #[error("ledger {0}")]
    Chain(#[from] ChainError),
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
    #[error("ledger line {line} is not the entry that had been written there: this is another ledger")]
    Replaced {
        /// The line.
        line: u64,
    },
}

/// Reads a ledger entry by entry, checking every hash and the order; ends after the first error.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = Result<Entry, ChainError>> + '_ {
    chain::lines(bytes)
}

/// What all entries of a ledger add up to.
#[derive(Clone, Debug)]
pub struct Ledger {
    heads: Vec<Digest>,
    spending: Spending,
    issued: BTreeMap<Release, Issued>,
}

/// What makes a release of a record the same release.
type Release = (Digest, u32, MechanismId, Option<Digest>);

/// What one release has been charged for.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The records, over all entries.
    pub records: RecordSet,
    /// The loss of each of them.
    pub event: Event,
    /// The latest entry.
    pub latest: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            heads: vec![Head::empty::<Entry>().hash],
            spending: Spending::default(),
            issued: BTreeMap::new(),
        }
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

    /// The loss so far of these records: ranges that cover them, each with the loss of its records.
    pub fn losses_of<'a>(
        &'a self,
        dataset: &Digest,
        records: &'a RecordSet,
    ) -> impl Iterator<Item = (Range<u64>, Loss)> + 'a {
        self.spending.of(dataset, records)
    }

    /// What this release has been charged for already.
    pub fn issued(&self, charge: &Charge) -> Option<&Issued> {
        self.issued.get(&(charge.dataset, charge.view, charge.mechanism.clone(), charge.transcript))
    }

    /// Hash of entry `sequence`; `None` if there is none.
    pub fn hash_of(&self, sequence: u64) -> Option<Digest> {
        self.heads.get(usize::try_from(sequence).ok()?.checked_add(1)?).copied()
    }

    /// Adds the entry after the last one.
    ///
    /// # Errors
    /// [`AccountingError`] if its loss cannot be stated; nothing is added then.
    pub fn add(&mut self, entry: &Entry) -> Result<(), AccountingError> {
        self.spending.add(entry.dataset, &entry.records, &entry.event)?;
        let issued = Issued { records: entry.records.clone(), event: entry.event, latest: entry.sequence };
        self.issued
            .entry((entry.dataset, entry.view, entry.mechanism.clone(), entry.transcript))
            .and_modify(|before| {
                before.records = before.records.union(&entry.records);
                before.latest = entry.sequence;
            })
            .or_insert(issued);
        self.heads.push(entry.hash);
        Ok(())
    }
}
