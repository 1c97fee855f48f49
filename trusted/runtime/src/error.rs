//! Why a run failed, and whose fault it was.

use ledger::LedgerError;
use mechanism::{ChargeError, Refused, ReleaseError, StoreError, UnknownKind};
use wire::WireError;
use wire::owner::FailureKind;

use crate::StorageError;

/// A run that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// What was asked for does not fit together.
    #[error("{0}")]
    Request(String),
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Several kinds that the configuration does not allow.
    #[error(
        "refused: flow `{flow}` would send {kinds} without any guarantee (UNPROTECTED); to send them all the same, add \
         them to `allow` in [privacy]"
    )]
    RefusedKinds { flow: &'static str, kinds: String },
    #[error(transparent)]
    UnknownKind(#[from] UnknownKind),
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    Charge(#[from] ChargeError),
    #[error("the ledger is not to be trusted, so nothing is released: {0}")]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Accelerator(#[from] AcceleratorError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the boundary log could not be written, so nothing was sent: {0}")]
    Journal(#[from] StoreError),
    #[error(
        "training diverged: the loss is not a finite number at step {step}; lower `learning_rate` in [train]"
    )]
    Diverged { step: usize },
}

impl RunError {
    /// Whose fault it was.
    pub fn kind(&self) -> FailureKind {
        match self {
            RunError::Request(_) | RunError::UnknownKind(_) | RunError::Diverged { .. } => {
                FailureKind::Request
            }
            RunError::Refused(_)
            | RunError::RefusedKinds { .. }
            | RunError::Release(_)
            | RunError::Charge(_)
            | RunError::Ledger(_) => FailureKind::Privacy,
            RunError::Accelerator(_) => FailureKind::Accelerator,
            RunError::Storage(_) | RunError::Journal(_) => FailureKind::Storage,
        }
    }
}

/// What the accelerator did wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceleratorError {
    #[error("the accelerator at {address} cannot be reached: {error}")]
    Unreachable { address: String, error: WireError },
    #[error("the accelerator died: {error}")]
    Died { error: WireError },
    #[error(
        "the accelerator gave no answer within {seconds} s; raise `timeout` in [accelerator] if it is only slow"
    )]
    Hung { seconds: u64 },
    #[error("the accelerator sent what is not the protocol: {0}")]
    Protocol(WireError),
    #[error("the accelerator speaks protocol version {found}, this enclave version {expected}")]
    Version { expected: u32, found: u32 },
    #[error("the accelerator answered a `{job}` job with a {found} reply")]
    Unexpected { job: &'static str, found: &'static str },
    #[error("the accelerator's {what} has the wrong shape: {expected} bytes expected, {found} found")]
    Shape { what: &'static str, expected: usize, found: usize },
    #[error("the accelerator's {what} is not finite (NaN or infinity)")]
    NotFinite { what: &'static str },
    #[error("the accelerator's {what} are too large to be added up (beyond 1e30)")]
    TooLarge { what: &'static str },
    #[error("the accelerator sent the logits of step {found} where step {expected} was due")]
    Step { expected: usize, found: usize },
    #[error("the accelerator could not do a `{job}` job: {why}")]
    Failed { job: &'static str, why: String },
}
