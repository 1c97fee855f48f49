//! The standard normal distribution, without overflow or cancellation in the tails.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// Relative error bound of [`upper_tail`], [`density`]` / exp` and [`mills`], with room to spare (they reach about 2e-15).
pub(crate) const ROUNDING: f64 = 1e-14;

/// From here on the Mills ratio comes from its continued fraction, before it from `erfc`.
const FRACTION_FROM: f64 = 3.0;

/// Terms of the continued fraction: enough for full precision at [`FRACTION_FROM`], and so beyond.
const FRACTION_TERMS: u32 = 96;

/// `P[Z > x]` for a standard normal `Z`.
pub(crate) fn upper_tail(x: f64) -> f64 {
    0.5 * libm::erfc(x * FRAC_1_SQRT_2)
}

/// `φ(x) = exp(−x²/2)/√(2π)`.
pub(crate) fn density(x: f64) -> f64 {
    libm::exp(-0.5 * x * x) / (2.0 * PI).sqrt()
}

/// Mills ratio `P[Z > x] / φ(x)`, for `x ≥ −1`; decreasing, convex, about `1/x` for large `x`.
///
/// Source: continued fraction of Laplace, `1/(x+1/(x+2/(x+3/(x+…))))`.
pub(crate) fn mills(x: f64) -> f64 {
    if x < FRACTION_FROM {
        return upper_tail(x) / density(x);
    }
    let tail = (1..=FRACTION_TERMS).rev().fold(0.0, |below, n| f64::from(n) / (x + below));
    1.0 / (x + tail)
}

/// `−M'(x) = 1 − x·M(x)` for the Mills ratio `M`, for `x ≥ −1`, without cancellation for large `x`.
pub(crate) fn mills_slope(x: f64) -> f64 {
    if x < FRACTION_FROM {
        return 1.0 - x * mills(x);
    }
    // 1 − x/(x + tail) = tail/(x + tail)
    let tail = (1..=FRACTION_TERMS).rev().fold(0.0, |below, n| f64::from(n) / (x + below));
    tail / (x + tail)
}

/// `ln(1 − q + q e^w)` for `0 < q < 1`: the loss of a Gaussian release about a sample, whose loss is `w` without sampling.
pub(crate) fn mixture_loss(q: f64, w: f64) -> f64 {
    if w <= 30.0 {
        return libm::log1p(q * libm::expm1(w));
    }
    w + libm::log(q) + libm::log1p((1.0 - q) / q * libm::exp(-w))
}

/// `ln(e^a + e^b)`, without overflow.
pub(crate) fn log_sum(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + libm::log1p(libm::exp(low - high)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mills_ratio_is_continuous_where_the_method_changes() {
        let (below, above) = (FRACTION_FROM - 1e-12, FRACTION_FROM);
        assert!((mills(below) / mills(above) - 1.0).abs() < 1e-11);
        assert!((mills_slope(below) / mills_slope(above) - 1.0).abs() < 1e-11);
        let fraction = mills(above);
        let direct = upper_tail(above) / density(above);
        assert!((fraction / direct - 1.0).abs() < ROUNDING, "{fraction} {direct}");
    }

    #[test]
    fn mills_ratio_of_known_points() {
        assert!((mills(0.0) - (PI / 2.0).sqrt()).abs() < 1e-15);
        // 1/x − 1/x³ < M(x) < 1/x
        for x in [10.0, 1e3, 1e8, 1e300] {
            assert!(mills(x) <= 1.0 / x && mills(x) >= 1.0 / x - 1.0 / x / x / x);
        }
        assert!((mills_slope(1e4) - 1e-8).abs() < 1e-15);
    }
}
