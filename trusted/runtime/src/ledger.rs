//! The ledger of a run, opened and checked.

use ledger::{ChainError, Head, Ledger, LedgerError, Paid};
use mechanism::{Budget, LedgerWriter};
use wire::RunSpec;
use wire::owner::Event;

use crate::calibration;
use crate::flow::request;
use crate::{Host, RunError};

/// Opens the ledger for charging; `known` is the head that the last checkpoint saw.
///
/// A last line that is cut short was never complete, so nothing left for it: it is removed.
///
/// # Errors
/// [`RunError::Ledger`] if the ledger was altered, reordered, or is behind the checkpoint or a message that
/// left.
pub(crate) fn open(
    host: &mut dyn Host,
    spec: &RunSpec,
    known: Option<&Head>,
) -> Result<LedgerWriter, RunError> {
    let bytes = host.ledger()?;
    let (ledger, torn) = match Ledger::verify(&bytes) {
        Err(LedgerError::Chain(ChainError::Truncated { intact, .. })) => {
            (Ledger::verify(&bytes[..intact])?, Some(intact))
        }
        other => (other?, None),
    };
    if let Some(known) = known {
        ledger.require(known)?;
    }
    if let Some(Paid { entry, hash }) = host.newest_receipt()? {
        ledger.require(&Head { sequence: entry + 1, hash })?;
    }
    if let Some(intact) = torn {
        host.truncate_ledger(intact)?;
        let text =
            "the last ledger entry was cut short by a crash; nothing was sent for it, so it was removed";
        host.report(Event::Note { text: text.to_owned() }, &[]);
    }
    let budget = Budget::new(calibration::budget(spec), spec.privacy.delta).map_err(request)?;
    Ok(LedgerWriter::new(ledger, budget, host.ledger_store()?))
}
