//! Privacy accounting: events, composition, calibration.
//!
//! Pure arithmetic, so that anyone can recompute ε from a ledger. Every result is rounded in the direction that can only
//! overstate the loss (ε, δ and σ up). ε is in nats.
//!
//! - [`gaussian`]: the analytic Gaussian mechanism, both ways, and its exact composition
//! - [`randomised_response`]: k-ary randomised response
//! - [`Event`] and [`Loss`]: what was released, and what it costs
//! - [`information`]: how much one message can carry at all
//! - [`paper`]: the formula of the published tables, which is not a guarantee

mod event;
pub mod gaussian;
pub mod information;
mod normal;
pub mod paper;
pub mod randomised_response;

pub use event::{Event, LATTICE_ETA, Loss, calibrate, epsilon_of, epsilon_zero_record_of};

/// A parameter for which no privacy loss can be stated.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountingError {
    /// A number outside the range in which the formula holds.
    #[error("{what} is {value}; it must be {must}")]
    Parameter {
        /// Which parameter.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The accepted range.
        must: &'static str,
    },
}

/// `value`, if `accepted`; the one way the crate refuses a parameter.
pub(crate) fn checked(
    what: &'static str,
    value: f64,
    accepted: bool,
    must: &'static str,
) -> Result<f64, AccountingError> {
    if accepted { Ok(value) } else { Err(AccountingError::Parameter { what, value, must }) }
}
