//! Rényi differential privacy: one number per order α, which adds up over releases.
//!
//! - Units: ε and the divergences in nats; orders none
//! - Neighbours: as the noise multiplier's sensitivity says; with sampling, one record added or removed
//! - Source: Mironov 2017 (definition, composition); Mironov, Talwar & Zhang 2019 (sampled Gaussian); Canonne, Kamath &
//!   Steinke 2020, Proposition 12 (conversion)
//!
//! An upper bound always, but a looser one than [`crate::gaussian`] for Gaussian releases and than [`crate::Pld`] for the
//! rest: for comparison with published figures, not for budgets.

use std::f64::consts::PI;

use crate::normal::{log_sum, mixture_loss};
use crate::{AccountingError, checked};

/// Rounding of one product or sum, with room to spare.
const UNIT: f64 = 4.0 * f64::EPSILON;

/// Discretisation and both cut tails of the integral for a fractional order are below `exp(−80)` each, relative to it;
/// this is far above their sum.
const QUADRATURE: f64 = 1e-30;

/// Orders that find the smallest ε to about 0.1 %: 1.1 to 10.9 in tenths, every integer from 11 to 256, 512 and 1024.
pub fn orders() -> Vec<f64> {
    let tenths = (11..110).map(|n| f64::from(n) / 10.0);
    tenths.chain((11..=256).map(f64::from)).chain([512.0, 1024.0]).collect()
}

/// Divergence at `order` of one Gaussian release: `α/(2 m²)`, rounded up.
///
/// # Errors
/// [`AccountingError::Parameter`] unless `order > 1` and the noise multiplier is positive, both finite.
pub fn gaussian(order: f64, noise_multiplier: f64) -> Result<f64, AccountingError> {
    check(order, noise_multiplier)?;
    Ok(order / (2.0 * noise_multiplier) / noise_multiplier * (1.0 + UNIT))
}

/// Divergence at `order` of one Gaussian release about a Poisson sample with this sampling rate, rounded up.
///
/// `ln(A_α)/(α − 1)` with `A_α = E[(1 − q + q·exp((2x − 1)/2m²))^α]`, `x ~ N(0, m²)`; the other direction is never larger
/// (Mironov, Talwar & Zhang 2019). `A_α − 1` is a finite sum of positive terms for an integer order, else an
/// integral of a positive function. Takes time proportional to `order`.
///
/// # Errors
/// [`AccountingError::Parameter`] unless `order > 1` and the noise multiplier is positive, both finite, and the rate is
/// between 0 and 1.
pub fn sampled_gaussian(order: f64, noise_multiplier: f64, rate: f64) -> Result<f64, AccountingError> {
    check(order, noise_multiplier)?;
    checked("sampling rate", rate, (0.0..=1.0).contains(&rate), "between 0 and 1")?;
    if rate == 0.0 {
        return Ok(0.0);
    }
    if rate == 1.0 {
        return gaussian(order, noise_multiplier);
    }
    let excess = if order.fract() == 0.0 { integer_excess } else { fractional_excess };
    let log_excess = excess(order, noise_multiplier, rate);
    // ln A from ln(A − 1)
    let log_a = if log_excess > 40.0 { log_excess + UNIT } else { libm::log1p(libm::exp(log_excess)) };
    Ok(log_a / (order - 1.0) * (1.0 + 4.0 * UNIT))
}

/// Divergence at `order` of any ε-private mechanism, rounded up: that of randomised response between two values, which
/// every such mechanism is a function of.
///
/// # Errors
/// [`AccountingError::Parameter`] unless `order > 1` and `epsilon ≥ 0`, both finite.
pub fn pure(order: f64, epsilon: f64) -> Result<f64, AccountingError> {
    check(order, 1.0)?;
    checked("epsilon", epsilon, epsilon >= 0.0 && epsilon.is_finite(), "finite and not negative")?;
    // (e^{αε} + e^{(1−α)ε})/(1 + e^ε) = e^{(α−1)ε} (1 + e^{(1−2α)ε})/(1 + e^{−ε})
    let ratio = libm::log1p(libm::exp((1.0 - 2.0 * order) * epsilon)) - libm::log1p(libm::exp(-epsilon));
    let rounding = UNIT * (1.0 + 1.0 / (order - 1.0)) * (1.0 + epsilon);
    Ok((epsilon + ratio / (order - 1.0) + rounding).min(epsilon))
}

/// The smallest ε that these divergences, given as (order, divergence of all releases together), prove at `delta`; rounded
/// up, never negative. Infinite where no order proves anything.
///
/// `ε = r + ln(1 − 1/α) − ln(δα)/(α − 1)`; 0 also where `δ² ≥ 1 − e^{−r}`, which bounds the total variation.
pub fn epsilon(divergences: impl IntoIterator<Item = (f64, f64)>, delta: f64) -> f64 {
    if !(delta > 0.0 && delta <= 1.0) {
        return f64::INFINITY;
    }
    let at = |(order, divergence): (f64, f64)| {
        if !(order > 1.0 && divergence >= 0.0) {
            return f64::INFINITY;
        }
        if delta * delta * (1.0 - UNIT) >= -libm::expm1(-divergence) {
            return 0.0;
        }
        let (gain, cost) = (libm::log1p(-1.0 / order), libm::log(delta * order) / (order - 1.0));
        let rounding = UNIT * (divergence + gain.abs() + cost.abs() + 1.0 / (order - 1.0));
        (divergence + gain - cost + rounding).max(0.0)
    };
    divergences.into_iter().map(at).fold(f64::INFINITY, f64::min)
}

fn check(order: f64, noise_multiplier: f64) -> Result<(), AccountingError> {
    checked("order", order, order > 1.0 && order.is_finite(), "finite and above 1")?;
    let m = noise_multiplier;
    checked("noise multiplier", m, m > 0.0 && m.is_finite(), "finite and positive")?;
    Ok(())
}

/// `ln(A_α − 1)`, rounded up: `A_α − 1 = Σ_{k≥2} C(α,k) (1−q)^{α−k} q^k (e^{(k²−k)/2m²} − 1)`.
///
/// The terms k = 0 and 1 of the binomial sum cancel against the 1, since the weights `C(α,k) (1−q)^{α−k} q^k` add up to it.
fn integer_excess(order: f64, m: f64, q: f64) -> f64 {
    let (log_q, log_rest) = (libm::log(q), libm::log1p(-q));
    let (mut log_binomial, mut rounding) = (libm::log(order), UNIT);
    let mut sum = f64::NEG_INFINITY;
    let mut k = 2.0;
    while k <= order {
        log_binomial += libm::log((order - (k - 1.0)) / k);
        rounding += UNIT * (1.0 + log_binomial.abs());
        let (weight, exponent) = (k * log_q + (order - k) * log_rest, (k * k - k) / (2.0 * m) / m);
        let excess = if exponent > 40.0 { exponent } else { libm::log(libm::expm1(exponent)) };
        let error = rounding + UNIT * (weight.abs() + excess.abs() + 1.0);
        sum = log_sum(sum, log_binomial + weight + excess + error);
        k += 1.0;
    }
    sum + UNIT * order
}

/// `ln(A_α − 1)`, rounded up: the integral of `((1+u)^α − 1 − αu) φ(z)`, `u = q (e^w − 1)`, `w = z/m − 1/2m²`, by the
/// trapezoidal rule. `E[u] = 0`, so that `αu` only takes the cancellation out: the function is never negative.
///
/// - Discretisation: in the strip `|Im z| ≤ c < πm` the function is analytic and `|f(x+ic)| ≤ e^{c²/2} ((1+u)^α + 1 + α(2+u)) φ(x)`,
///   so that the error is below `2 e^{c²/2−2πc/h} (A + 1 + 2α)` (Trefethen & Weideman 2014, Theorem 5.1); `h` makes that
///   exponent −80.
/// - Tails: below `−13` the function is at most `αqφ(z)`; above `α/m + l` it is at most `(1 + q e^{αw}) φ(z)` by convexity,
///   which is `q^{1−α} e^{−l²/2}` of `A ≥ q^α e^{(α²−α)/2m²}` and less.
fn fractional_excess(order: f64, m: f64, q: f64) -> f64 {
    let strip = (0.99 * PI * m).min(8.0);
    let step = 2.0 * PI * strip / (80.0 + strip * strip / 2.0);
    let top = order / m + (2.0 * (88.0 - (order - 1.0) * libm::log(q))).sqrt();
    let log_step = libm::log(step / (2.0 * PI).sqrt());
    let (mut sum, mut z) = (f64::NEG_INFINITY, -13.0);
    while z <= top {
        let w = z / m - 0.5 / m / m;
        sum = log_sum(sum, log_convex_rest(order, q, w) - 0.5 * z * z + log_step);
        z += step;
    }
    let largest = top * top + order * top / m;
    let points = (top + 13.0) / step;
    let relative = sum + UNIT * (points + largest);
    // Where u is small, (1+u)^α − 1 − αu has an error of a few units in the last place of αu, and E|u| ≤ 2q.
    let absolute = UNIT * 4.0 * order * q + QUADRATURE * (2.0 + 2.0 * order);
    log_sum(log_sum(relative, libm::log(absolute)), relative + libm::log(QUADRATURE))
}

/// `ln((1+u)^α − 1 − αu)` for `u = q (e^w − 1)`.
fn log_convex_rest(order: f64, q: f64, w: f64) -> f64 {
    let l = mixture_loss(q, w);
    if order * l > 1.0 {
        let lost = libm::exp(-order * l) - order * libm::expm1(-l) * libm::exp(-(order - 1.0) * l);
        return order * l + libm::log1p(-lost);
    }
    libm::log((libm::expm1(order * l) - order * q * libm::expm1(w)).max(f64::MIN_POSITIVE))
}
