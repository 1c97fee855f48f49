//! Adding to a ledger, within a budget: charged and stored before the bytes leave.
//!
//! A record is charged once per (data set, view, mechanism, transcript). Asking again for what is already paid appends
//! nothing and gives a receipt marked as a resend: the noise is a function of the same, so the bytes are the same.

use std::fmt;

use accounting::{AccountingError, Loss};

use ledger::{Charge, Entry, Ledger, Paid, RecordSet};

use crate::Receipt;

/// Where lines are kept: a file with fsync, sealed storage, or memory in tests.
pub trait LedgerStore {
    /// Appends one line, newline included. Returns once it will survive a crash.
    ///
    /// # Errors
    /// [`StoreError`] if that cannot be promised; the line may or may not be there then.
    fn append_durably(&mut self, line: &[u8]) -> Result<(), StoreError>;
}

/// A line could not be stored; says where and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// The most that may be spent on any one record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    epsilon: f64,
    delta: f64,
}

/// A budget that is not one.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "a budget needs epsilon above 0 and delta between 0 and 1, not epsilon = {epsilon} and delta = {delta}"
)]
pub struct InvalidBudget {
    /// ε as given.
    pub epsilon: f64,
    /// δ as given.
    pub delta: f64,
}

impl Budget {
    /// A budget of (ε, δ) per record; an infinite ε only counts.
    ///
    /// # Errors
    /// [`InvalidBudget`] unless `epsilon > 0` and `0 < delta < 1`.
    pub fn new(epsilon: f64, delta: f64) -> Result<Self, InvalidBudget> {
        if epsilon > 0.0 && delta > 0.0 && delta < 1.0 {
            Ok(Budget { epsilon, delta })
        } else {
            Err(InvalidBudget { epsilon, delta })
        }
    }

    /// ε per record, in nats.
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// δ per record.
    pub fn delta(&self) -> f64 {
        self.delta
    }
}

/// A charge that was refused: nothing may be released for it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChargeError {
    /// The charge would exceed the budget of some records. Nothing was appended.
    #[error(
        "the privacy budget does not allow {purpose}: {records} have spent ε = {spent:.4} and would reach {total:.4} of {budget} at δ = {delta:e}; use more noise, release less, or raise epsilon in [privacy]"
    )]
    Budget {
        /// What the charge was for.
        purpose: String,
        /// The records whose budget would be exceeded.
        records: RecordSet,
        /// The most that any of them has spent.
        spent: f64,
        /// What that would become.
        total: f64,
        /// The budget.
        budget: f64,
        /// The δ at which all of these hold.
        delta: f64,
    },
    /// The mechanism was charged before under this name with another loss.
    #[error(
        "{purpose}: the mechanism \"{mechanism}\" was charged with another loss before; its name must tell all its parameters"
    )]
    Renamed {
        /// What the charge was for.
        purpose: String,
        /// The mechanism.
        mechanism: String,
    },
    /// The charge names no records.
    #[error("{purpose}: there are no records to charge")]
    NoRecords {
        /// What the charge was for.
        purpose: String,
    },
    /// The event has no stated loss.
    #[error(transparent)]
    Event(#[from] AccountingError),
    /// The entry could not be stored.
    #[error("the ledger could not be written, so nothing is released: {0}")]
    Store(#[from] StoreError),
    /// An earlier entry could not be stored; whether it was is unknown.
    #[error(
        "an earlier ledger entry could not be written; verify the ledger again before releasing anything"
    )]
    Unwritten,
}

/// A ledger that can be charged.
pub struct LedgerWriter {
    ledger: Ledger,
    budget: Budget,
    store: Box<dyn LedgerStore + Send>,
    failed: bool,
}

impl LedgerWriter {
    /// Continues `ledger`, whose lines `store` holds.
    pub fn new(ledger: Ledger, budget: Budget, store: Box<dyn LedgerStore + Send>) -> Self {
        LedgerWriter { ledger, budget, store, failed: false }
    }

    /// What has been charged so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The budget of each record.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// Charges for a release, durably, before it happens.
    ///
    /// Records that this mechanism has already been charged for (same data set and view) are not charged again: they get
    /// the same noise, so the same bytes. If that is all of them the receipt is marked as a resend.
    ///
    /// # Errors
    /// [`ChargeError`]; nothing may be released then. Nothing was appended, except perhaps after
    /// [`ChargeError::Store`], which also refuses all further charges.
    pub fn charge(&mut self, charge: Charge) -> Result<Receipt, ChargeError> {
        let due = self.due(&charge)?;
        if due.is_empty() {
            return Ok(self.resend(charge));
        }
        let (entry, line) = Entry::after(&self.ledger.head(), &Charge { records: due, ..charge.clone() });
        if let Err(error) = self.store.append_durably(&line) {
            self.failed = true;
            return Err(error.into());
        }
        self.ledger.add(&entry)?;
        Ok(Receipt::new(Paid { entry: entry.sequence, hash: entry.hash }, charge, false))
    }

    /// The receipt of a charge that earlier entries paid for.
    fn resend(&self, charge: Charge) -> Receipt {
        let entry = self.ledger.issued(&charge).expect("nothing is due, so all was charged").latest;
        let hash = self.ledger.hash_of(entry).expect("the ledger holds every entry it counts");
        Receipt::new(Paid { entry, hash }, charge, true)
    }

    /// Whether [`LedgerWriter::charge`] would succeed, without charging: the records that would be charged.
    ///
    /// # Errors
    /// [`ChargeError`] as `charge`, except for storage.
    pub fn due(&self, charge: &Charge) -> Result<RecordSet, ChargeError> {
        let purpose = || charge.purpose.clone();
        if self.failed {
            return Err(ChargeError::Unwritten);
        }
        if charge.records.is_empty() {
            return Err(ChargeError::NoRecords { purpose: purpose() });
        }
        Loss::default().and(&charge.event)?;
        let due = match self.ledger.issued(charge) {
            Some(issued) if issued.event != charge.event => {
                let mechanism = charge.mechanism.to_string();
                return Err(ChargeError::Renamed { purpose: purpose(), mechanism });
            }
            Some(issued) => charge.records.difference(&issued.records),
            None => charge.records.clone(),
        };
        self.within_budget(charge, &due)?;
        Ok(due)
    }

    fn within_budget(&self, charge: &Charge, due: &RecordSet) -> Result<(), ChargeError> {
        let Budget { epsilon, delta } = self.budget;
        let mut over = Vec::new();
        let mut worst: Option<(Loss, Loss)> = None;
        for (range, spent) in self.ledger.losses_of(&charge.dataset, due) {
            let total = spent.and(&charge.event)?;
            if total.within(epsilon, delta) {
                continue;
            }
            over.push(range);
            let more = |most: Loss| total != most && total.epsilon(delta) > most.epsilon(delta);
            if worst.is_none_or(|(_, most)| more(most)) {
                worst = Some((spent, total));
            }
        }
        let Some((spent, total)) = worst else { return Ok(()) };
        Err(ChargeError::Budget {
            purpose: charge.purpose.clone(),
            records: RecordSet::ascending(over),
            spent: spent.epsilon(delta),
            total: total.epsilon(delta),
            budget: epsilon,
            delta,
        })
    }
}

impl fmt::Debug for LedgerWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LedgerWriter({} entries)", self.ledger.len())
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
