//! k-ary randomised response: the true label with some probability, else one of the others, all equally likely.
//!
//! - Units: ε in nats; δ = 0

use crate::{AccountingError, checked};

/// ε of a randomised response that tells the truth with probability `keep` among `labels` labels, rounded up.
///
/// `ln(keep / other)` with `other = (1 − keep)/(labels − 1)`; infinite for `keep = 1`, 0 at `keep = 1/labels`.
///
/// # Errors
/// [`AccountingError::Parameter`] unless `labels ≥ 2` and `1/labels ≤ keep ≤ 1`.
pub fn epsilon(labels: usize, keep: f64) -> Result<f64, AccountingError> {
    checked("labels", labels as f64, labels >= 2, "at least 2")?;
    let fair = 1.0 / labels as f64;
    // One unit in the last place below 1/labels is still 1/labels.
    checked("keep", keep, keep >= fair.next_down() && keep <= 1.0, "between 1/labels and 1")?;
    let ratio = keep * (labels - 1) as f64 / (1.0 - keep);
    // Four correctly rounded operations, each within one unit in the last place of the next.
    Ok(libm::log(ratio * (1.0 + 4.0 * f64::EPSILON)).max(0.0).next_up())
}

/// Probability with which an ε-private randomised response tells the truth, rounded down: `e^ε/(e^ε + labels − 1)`.
///
/// # Errors
/// [`AccountingError::Parameter`] unless `labels ≥ 2` and `epsilon ≥ 0` is finite.
pub fn keep(labels: usize, epsilon: f64) -> Result<f64, AccountingError> {
    checked("labels", labels as f64, labels >= 2, "at least 2")?;
    checked("epsilon", epsilon, epsilon >= 0.0 && epsilon.is_finite(), "finite and not negative")?;
    let keep = 1.0 / (1.0 + (labels - 1) as f64 * libm::exp(-epsilon));
    Ok((keep * (1.0 - 4.0 * f64::EPSILON)).max(1.0 / labels as f64))
}
