//! What was released and what crossed, in formats that anyone can check.
//!
//! - [`Ledger`]: every charge for a release, one JSON object per line, chained by hash; [`Ledger::verify`] reads one back
//!   and anyone can recompute ε from it
//! - [`BoundaryLine`]: a line of the boundary log, every message by kind and size
//! - [`Kind`]: every kind of message that may cross the boundary, in one table
//! - [`audit`]: what left and what it cost, recomputed from these, and where the files of a run disagree
//!
//! A record is charged once per (data set, view, mechanism, transcript). Nothing here can release anything or make a
//! receipt: that is the mechanism's.

pub mod audit;
mod boundary_line;
pub mod chain;
mod digest;
mod entry;
mod history;
mod kind;
mod mechanism_id;
mod records;
mod spending;
#[cfg(test)]
mod tests;

pub use boundary_line::{BoundaryLine, Paid};
pub use chain::{ChainError, Head};
pub use digest::{Digest, NotADigest};
pub use entry::{Charge, Entry};
pub use history::{Issued, Ledger, LedgerError, entries};
pub use kind::{Class, Direction, Kind};
pub use mechanism_id::MechanismId;
pub use records::{InvalidRecords, RecordSet};
