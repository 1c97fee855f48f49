//! Every way in which the files of a run can contradict each other.

use crate::{ChainError, Class, Digest, Direction, Kind, LedgerError};

/// A contradiction: which file, which line or key, and what to do. Lines count from 1.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Disagreement {
    /// The ledger cannot be read to its end.
    #[error("{0}; what was charged is unknown from there on: restore the file `ledger`")]
    Ledger(#[from] LedgerError),
    /// An entry of a mechanism that this version does not know.
    #[error(
        "ledger line {line}: \"{mechanism}\" is no mechanism that this version knows; audit with the version of asymflow \
         that wrote it"
    )]
    Mechanism { line: usize, mechanism: String },
    /// An entry whose loss is not that of its mechanism.
    #[error(
        "ledger line {line}: it charges a noise multiplier of {found}, but that of its mechanism is {expected} (σ over the \
         sensitivity); what \
         left is not what was charged, so stop using this run"
    )]
    Loss { line: usize, found: f64, expected: f64 },
    /// An entry that charges less than its mechanism's name says.
    #[error(
        "ledger line {line}: it charges ε = {found}, but its mechanism has ε = {expected}; what left is not what was \
         charged, so stop using this run"
    )]
    Epsilon { line: usize, found: f64, expected: f64 },
    /// Two entries of one mechanism with different losses.
    #[error(
        "ledger line {line}: \"{mechanism}\" was charged with another loss before; one of the two is wrong, so stop using \
         this run"
    )]
    Renamed { line: usize, mechanism: String },
    /// An entry whose messages are not as long as its mechanism makes them.
    #[error(
        "ledger line {line}: it charges {found} bytes per record, but its mechanism makes {expected}; restore the file \
         `ledger`"
    )]
    MessageSize { line: usize, found: u64, expected: u64 },
    /// A mechanism with another clipping norm than the configuration's.
    #[error(
        "ledger line {line}: its mechanism clips to {found}, but `clip` in [privacy] of config.toml is {stated}; restore \
         the config.toml the run began with"
    )]
    Clip { line: usize, found: f64, stated: f64 },

    /// The boundary log cannot be read to its end.
    #[error("boundary.jsonl {0}; what crossed is unknown from there on: restore the file")]
    Log(#[from] ChainError),
    /// No boundary log, although something was charged.
    #[error("boundary.jsonl is missing or empty, but the ledger has {entries} entries: restore the file")]
    NoLog { entries: u64 },
    /// A message of another class than its kind's.
    #[error(
        "boundary.jsonl line {line}: {kind} is logged as {found}, but it is {}; treat it as not covered",
        kind.class()
    )]
    Class { line: usize, kind: Kind, found: Class },
    /// A message that crossed the wrong way.
    #[error(
        "boundary.jsonl line {line}: {kind} went {found}, but it only ever goes {}; treat it as not covered",
        kind.direction()
    )]
    Direction { line: usize, kind: Kind, found: Direction },
    /// A released message that nothing paid for.
    #[error(
        "boundary.jsonl line {line}: {kind} left without a receipt, so nothing in the ledger paid for it"
    )]
    NoReceipt { line: usize, kind: Kind },
    /// A receipt for an entry that is not there.
    #[error(
        "boundary.jsonl line {line}: its receipt names entry {entry}, which the ledger does not have; restore the file \
         `ledger`"
    )]
    NoEntry { line: usize, entry: u64 },
    /// A receipt for another entry than the one that is there.
    #[error(
        "boundary.jsonl line {line}: its receipt names another entry {entry} than the ledger has; one of the two files is \
         of another run: restore both"
    )]
    OtherEntry { line: usize, entry: u64 },
    /// A receipt for another kind of message.
    #[error("boundary.jsonl line {line}: {kind} left on the receipt of entry {entry}, which paid for {paid}")]
    OtherKind { line: usize, kind: Kind, entry: u64, paid: Kind },
    /// A message of another length than was paid for.
    #[error(
        "boundary.jsonl line {line}: {found} bytes left for {records} records, but entry {entry} of the ledger paid for \
         {paid} bytes each"
    )]
    Bytes { line: usize, entry: u64, found: u64, records: u64, paid: u64 },
    /// A message about more records than were paid for.
    #[error(
        "boundary.jsonl line {line}: a message about {found} records left, but the ledger had paid for {paid} by entry \
         {entry}"
    )]
    Records { line: usize, entry: u64, found: u64, paid: u64 },
    /// A body that is said to be free of private data, without saying why.
    #[error(
        "boundary.jsonl line {line}: {kind} left as {}, but no reason is stated; treat it as not covered",
        kind.class()
    )]
    NoReason { line: usize, kind: Kind },

    /// An unprotected kind that the configuration does not name.
    #[error(
        "boundary.jsonl line {line}: {kind} left UNPROTECTED, but `allow` in [privacy] of config.toml does not name it; \
         either config.toml was changed, or the run broke its rules"
    )]
    NotAllowed { line: usize, kind: Kind },
    /// A message of a flow that sends none.
    #[error(
        "boundary.jsonl line {line}: a message left, but `kind` in [flow] of config.toml is `{flow}`, which sends none"
    )]
    NothingShouldLeave { line: usize, flow: String },
    /// More was spent than granted.
    #[error(
        "config.toml: `epsilon` in [privacy] grants {budget} per record, but data set {dataset} has spent {epsilon:.6}; \
         either config.toml was changed, or the run broke its rules"
    )]
    Budget { dataset: Digest, epsilon: f64, budget: f64 },

    /// A summary of another flow.
    #[error(
        "summary.json: `flow` is `{summary}`, but config.toml says `{config}`; restore the one that was changed"
    )]
    Flow { summary: String, config: String },
    /// A summary at another δ.
    #[error(
        "summary.json: `delta` is {summary}, but config.toml says {config}; restore the one that was changed"
    )]
    Delta { summary: f64, config: f64 },
    /// A summary that claims more privacy than there is.
    #[error(
        "summary.json: `epsilon` claims {stated}, but what was released amounts to {found:.6}; the run gives the larger"
    )]
    Understated { stated: f64, found: f64 },
    /// A summary that knows of more releases than the ledger.
    #[error(
        "summary.json: `epsilon` is {stated}, but the ledger amounts to {found:.6} only: entries are missing; restore the \
         file `ledger`"
    )]
    Overstated { stated: f64, found: f64 },
    /// A summary that claims a guarantee where there is none.
    #[error(
        "summary.json: `epsilon` claims {stated}, but {kinds} left UNPROTECTED, so nothing is guaranteed"
    )]
    NoGuarantee { stated: f64, kinds: String },
    /// A summary that does not list what left unprotected.
    #[error(
        "summary.json: `not_covered` does not list {kind}, which left UNPROTECTED; add it before you pass it on"
    )]
    Unlisted { kind: Kind },
    /// A summary that knows of more traffic than the boundary log.
    #[error(
        "boundary.jsonl: its lines add up to {found} bytes, but `{key}` in summary.json is {stated}: lines are missing; \
         restore the file"
    )]
    Traffic { key: &'static str, stated: u64, found: u64 },
}
