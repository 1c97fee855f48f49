//! The proof that a release was paid for.

use std::fmt;
use std::sync::Arc;

use ledger::{Charge, MechanismId, Paid};

/// Proof that the ledger was charged; only the [`LedgerWriter`](crate::LedgerWriter) makes one.
///
/// ```
/// # use asymflow_mechanism as mechanism;
/// fn entry(receipt: &mechanism::Receipt) -> u64 { receipt.paid().entry }
/// ```
/// ```compile_fail
/// # use asymflow_mechanism as mechanism;
/// fn forge(paid: ledger::Paid, charge: ledger::Charge) -> mechanism::Receipt {
///     mechanism::Receipt::new(paid, charge, false)
/// }
/// ```
#[derive(Clone)]
pub struct Receipt {
    inner: Arc<Inner>,
}

struct Inner {
    paid: Paid,
    charge: Charge,
    resend: bool,
}

impl Receipt {
    pub(crate) fn new(paid: Paid, charge: Charge, resend: bool) -> Self {
        Receipt { inner: Arc::new(Inner { paid, charge, resend }) }
    }

    /// The latest entry that paid for this.
    pub fn paid(&self) -> Paid {
        self.inner.paid
    }

    /// What was paid for.
    pub fn charge(&self) -> &Charge {
        &self.inner.charge
    }

    /// Whether all of it had been paid for earlier, so that nothing was charged now.
    pub fn is_resend(&self) -> bool {
        self.inner.resend
    }

    /// Whether it pays for a release about this record by this mechanism.
    pub fn covers(&self, record: u64, mechanism: &MechanismId) -> bool {
        self.inner.charge.mechanism == *mechanism && self.inner.charge.records.contains(record)
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receipt(entry {})", self.paid().entry)
    }
}
