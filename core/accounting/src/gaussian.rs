//! The Gaussian mechanism: noise `N(0, σ²)` on every coordinate of a vector with a bounded L2 sensitivity.
//!
//! Its privacy loss is a function of one number, `μ = Δ/σ` (the inverse noise multiplier), exactly:
//! `δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ)`.
//!
//! - Units: ε in nats; σ and sensitivity in the units of the released vector; μ none
//! - Source: Balle & Wang 2018, Theorem 8; composition: Dong, Roth & Su 2022, Corollary 3.3

use crate::normal::{ROUNDING, density, mills, mills_slope, upper_tail};
use crate::{AccountingError, checked};

/// Below this μ the difference of two Mills ratios is replaced by a bound from their slopes.
const SMALL_MU: f64 = 1e-5;

/// From here on the normal density is below every positive float.
const NO_DENSITY: f64 = 39.0;

/// How much larger than needed σ is made: the rounding of a million charges stays within the ε it was made for.
pub(crate) const SIGMA_MARGIN: f64 = 1e-9;

/// The smallest δ for which a release with `μ = Δ/σ` is (ε, δ)-private, rounded up.
///
/// 1 (nothing is promised) where `epsilon` or `mu` is negative or not a number; 0 for `mu = 0`.
pub fn delta(epsilon: f64, mu: f64) -> f64 {
    if !(epsilon >= 0.0 && mu >= 0.0) || mu == f64::INFINITY {
        return 1.0;
    }
    if mu == 0.0 || epsilon == f64::INFINITY {
        return 0.0;
    }
    let t = epsilon / mu - mu / 2.0;
    let s = epsilon / mu + mu / 2.0;
    if t >= NO_DENSITY {
        return f64::MIN_POSITIVE;
    }
    // e^ε φ(s) = φ(t), so e^ε Φ(−s) = φ(t) M(s) with the Mills ratio M: no overflow, however large ε is.
    // An error of one unit in the last place of t moves φ(t) by t·|error of t|.
    let phi = density(t) * (1.0 + ROUNDING * (1.0 + t.abs() * s));
    let delta = if t <= -1.0 {
        upper_tail(t) * (1.0 + ROUNDING)
            - density(t) * (1.0 - ROUNDING * (1.0 + t.abs() * s)).max(0.0) * mills(s)
    } else if mu < SMALL_MU {
        // −M' is convex, so the trapezoid lies above its integral from t to s.
        phi * mu * 0.5 * (mills_slope(t) + mills_slope(s)) * (1.0 + ROUNDING)
    } else {
        phi * (mills(t) * (1.0 + ROUNDING) - mills(s) * (1.0 - ROUNDING))
    };
    delta.clamp(f64::MIN_POSITIVE, 1.0)
}

/// The smallest ε ≥ 0 for which a release with `μ = Δ/σ` is (ε, δ)-private, rounded up.
///
/// 0 where `mu = 0` or `delta` alone covers the loss; infinite where no finite ε does, or where an argument is negative
/// or not a number.
pub fn epsilon(mu: f64, delta: f64) -> f64 {
    if mu == 0.0 && delta >= 0.0 {
        return 0.0;
    }
    if !(mu > 0.0 && delta > 0.0) {
        return f64::INFINITY;
    }
    let enough = |epsilon: f64| self::delta(epsilon, mu) <= delta;
    if enough(0.0) {
        return 0.0;
    }
    let mut high = mu * mu / 2.0 + mu;
    while !enough(high) {
        if high == f64::INFINITY {
            return high;
        }
        high *= 2.0;
    }
    bisect(0.0, high, enough)
}

/// The smallest σ that makes a release of this L2 sensitivity (ε, δ)-private, rounded up (by 1e-9 relative).
///
/// # Errors
/// [`AccountingError::Parameter`] unless `epsilon ≥ 0`, `0 < delta < 1` and `sensitivity > 0`, all finite.
pub fn sigma(epsilon: f64, delta: f64, sensitivity: f64) -> Result<f64, AccountingError> {
    checked("epsilon", epsilon, epsilon >= 0.0 && epsilon.is_finite(), "finite and not negative")?;
    checked("delta", delta, delta > 0.0 && delta < 1.0, "between 0 and 1")?;
    checked("sensitivity", sensitivity, sensitivity > 0.0 && sensitivity.is_finite(), "finite and positive")?;
    // In terms of the noise multiplier σ/Δ: too little noise at `low`, enough at `high`.
    let enough = |multiplier: f64| self::delta(epsilon, 1.0 / multiplier) <= delta;
    let mut high = 1.0;
    while !enough(high) {
        high *= 2.0;
    }
    let mut low = high;
    while enough(low) {
        low /= 2.0;
    }
    Ok(bisect(low, high, enough) * (1.0 + SIGMA_MARGIN) * sensitivity)
}

/// `μ` of many Gaussian releases about the same record, each given as (sensitivity, σ): `sqrt(Σ (Δ_i/σ_i)²)`, rounded up.
///
/// Exact: the composition of Gaussian mechanisms is one Gaussian mechanism. Infinite if a pair is not positive.
pub fn compose(releases: impl IntoIterator<Item = (f64, f64)>) -> f64 {
    let mut sum = 0.0f64;
    for (sensitivity, sigma) in releases {
        if !(sensitivity > 0.0 && sigma > 0.0 && sensitivity.is_finite()) {
            return f64::INFINITY;
        }
        let mu = (sensitivity / sigma).next_up();
        sum = (sum + (mu * mu).next_up()).next_up();
    }
    if sum == 0.0 { 0.0 } else { sum.sqrt().next_up() }
}

/// The least float in `(low, high]` where `enough` holds, given that it holds at `high` and not at `low`.
pub(crate) fn bisect(mut low: f64, mut high: f64, enough: impl Fn(f64) -> bool) -> f64 {
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            return high;
        }
        if enough(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
}
