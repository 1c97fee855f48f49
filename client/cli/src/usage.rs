//! The difference between wrong use (exit status 2) and failure (1).

use wire::owner::FailureKind;

use crate::config::ConfigError;
use crate::session::SessionError;

/// The command was used wrongly; the text says how to use it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(String);

impl Usage {
    /// Wrong use, as `text` says.
    pub fn new(text: impl Into<String>) -> Self {
        Usage(text.into())
    }
}

/// Exit status of an error.
pub fn exit_status(error: &anyhow::Error) -> u8 {
    let request = |e: &SessionError| matches!(e, SessionError::Failed { kind: FailureKind::Request, .. });
    let wrong_use = error.is::<Usage>()
        || error.is::<ConfigError>()
        || error.downcast_ref::<SessionError>().is_some_and(request);
    if wrong_use { 2 } else { 1 }
}
