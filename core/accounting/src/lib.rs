//! Privacy accounting: events, composition, calibration.
//!
//! Pure arithmetic, so that anyone can recompute ε from a ledger. Every result is rounded in the direction that can only
//! overstate the loss (ε, δ and σ up). ε is in nats.
//!
//! - [`gaussian`]: the analytic Gaussian mechanism, both ways, and its exact composition
//! - [`randomised_response`]: k-ary randomised response
//! - [`Event`] and [`Loss`]: what was released, and what it costs; [`calibrate`]: the noise that still fits a budget
//! - [`NoiseShare`]: one budget shared out among the layers of a model
//! - [`Pld`] and [`rdp`]: bounds for what does not compose exactly
//! - [`information`]: how much one message can carry at all
//! - [`paper`]: the formula of the published tables, which is not a guarantee
//!
//! # Which bound is used where
//! A ledger enforces its budget with [`Loss`] (exact for Gaussian releases, sum for pure ones): four numbers, one
//! evaluation per charge. A report may show [`epsilon_tight`] beside it. [`rdp`] and the sampled releases of [`Pld`] are for
//! comparison with published figures: nothing here is charged less for having been sampled.
//!
//! # Rounding
//! | step | direction | how |
//! |---|---|---|
//! | [`gaussian::delta`] | up | each tail and ratio by its error bound, subtracted ones down |
//! | [`gaussian::epsilon`] | up | the upper end of the bisection |
//! | [`gaussian::sigma`], [`calibrate`], [`NoiseShare`] | up | the upper end of the bisection, then 1e-9 relative |
//! | [`gaussian::compose`], the Gaussian part of [`Loss`] | up | the next float after each operation, unless it is exact |
//! | the pure part and the sampled numbers of [`Loss`] | up | sums to the next float unless exact; products by the next floats |
//! | the sampler's distance from the ideal ([`Event::LatticeGaussian`]) | up | its ratio and its tail, by sixteen units |
//! | δ for releases of such a sampler | down | it is what the ideal releases must keep |
//! | [`Loss::within`]: what is left of ε | down | as a sum of the negatives, rounded up |
//! | [`randomised_response::epsilon`] | up | four units, then the next float |
//! | [`randomised_response::keep`] | down | less truth costs less |
//! | [`rdp`]: divergences | up | every term and integral by its error bound |
//! | [`rdp::epsilon`] | up | by the error bound of its terms |
//! | [`Pld`]: one release on the grid | up | tails by their error bound; spread to both ends of a cell, which lowers no δ; above the grid infinite, below it the smallest point |
//! | [`Pld`]: sum of losses | up | the transform's error bound is added to every probability, then all relative errors |
//! | [`Pld`]: sums above the window | up | Chernoff's bound is added to δ |
//! | [`Pld`]: places of the grid's points | up | their error bound is added to ε for every release |
//! | [`epsilon_tight`] | up | the smaller of two bounds that are |
//! | [`information`], [`paper`] | nearest | not privacy losses |

mod event;
pub mod gaussian;
pub mod information;
mod layers;
mod normal;
pub mod paper;
mod pld;
pub mod randomised_response;
pub mod rdp;
mod sampling;

pub use event::{Event, Loss, calibrate, epsilon_of, epsilon_tight, epsilon_zero_record_of};
pub use layers::{LayerRelease, NoiseShare};
pub use pld::Pld;
pub use sampling::{LATTICE_ETA, LATTICE_TAIL};

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
    /// A budget that earlier releases have used up.
    #[error("the releases so far cost ε = {spent} at δ = {delta}; that leaves no room within ε = {epsilon}")]
    Exhausted {
        /// ε of the releases so far, at `delta`.
        spent: f64,
        /// The budget's ε.
        epsilon: f64,
        /// The budget's δ.
        delta: f64,
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
