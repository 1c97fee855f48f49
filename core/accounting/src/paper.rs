//! The formula behind the published tables, for reproducing them. **Not a guarantee.**
//!
//! `σ² = 2 C² ln(2/δ′)/ε′`, `ε = ln(1 + p(e^{ε′} − 1))`, `δ = p δ′`, with sampling rate `p`. It credits subsampling although
//! the adversary sees every message, and measures against an all-zero record. Print it only beside
//! [`crate::gaussian::epsilon`] of the same σ.

/// The papers' ε for noise `sigma` on a vector clipped to `clip`, at sampling rate `rate` and δ. Not a guarantee.
///
/// NaN where an argument is out of range (`clip`, `sigma`, `delta` positive, `0 < rate ≤ 1`).
pub fn epsilon_not_a_guarantee(clip: f64, sigma: f64, rate: f64, delta: f64) -> f64 {
    if !(clip > 0.0 && sigma > 0.0 && delta > 0.0 && rate > 0.0 && rate <= 1.0) {
        return f64::NAN;
    }
    let ratio = clip / sigma;
    let full = 2.0 * ratio * ratio * libm::log(2.0 * rate / delta);
    // ln(1 + p(e^ε′ − 1)); for large ε′ the rest of the sum is below rounding.
    if full > 600.0 { full + libm::log(rate) } else { libm::log1p(rate * libm::expm1(full)) }
}

/// The σ the papers would use for `epsilon`: the inverse of [`epsilon_not_a_guarantee`]. Not a guarantee.
pub fn sigma_not_a_guarantee(epsilon: f64, clip: f64, rate: f64, delta: f64) -> f64 {
    if !(epsilon > 0.0 && clip > 0.0 && delta > 0.0 && rate > 0.0 && rate <= 1.0) {
        return f64::NAN;
    }
    let full =
        if epsilon > 600.0 { epsilon - libm::log(rate) } else { libm::log1p(libm::expm1(epsilon) / rate) };
    clip * (2.0 * libm::log(2.0 * rate / delta) / full).sqrt()
}
