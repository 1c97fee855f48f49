//! Which part of a sum of losses matters for a δ, and the exponential weight that makes it the likely part.

use super::distribution::Distribution;
use super::{SUM_ROUNDING, Term};

/// Largest exponent θ; beyond it nothing is gained.
const LARGEST: f64 = 1e4;

/// Share of δ that may lie above the window, where it counts in full.
const BEYOND: f64 = 1e-9;

/// Share of the tilted mass that may lie on either side of the window, from where it is counted in a wrong place (which
/// only adds to δ: what is beyond the window's top is counted in full as well).
const OUTSIDE: f64 = 1e-13;

/// Longest window, in grid points: 64 MiB of complex numbers.
const LONGEST: f64 = (1 << 22) as f64;

/// Largest loss in intervals: as a float it is still exact, and so is its sum with a window's length.
const FARTHEST: f64 = (1u64 << 52) as f64;

/// The exponent θ of the weight `e^{θl}`, and the moment generating function `M(θ)` of every term.
pub(super) struct Tilt<'a> {
    terms: &'a [Term<'a>],
    interval: f64,
    theta: f64,
    log_total: f64,
}

/// Consecutive losses on the grid.
pub(super) struct Window {
    /// The smallest, in intervals.
    pub(super) first: i64,
    /// How many; a power of two.
    pub(super) length: usize,
    /// Bound on the probability of a sum above them.
    pub(super) beyond: f64,
}

impl<'a> Tilt<'a> {
    /// The exponent whose bound gives the smallest ε for `delta`.
    pub(super) fn for_delta(terms: &'a [Term<'a>], interval: f64, delta: f64) -> Self {
        let log_delta = libm::log(delta);
        Self::best(terms, interval, |theta, log_total| (log_total + log_share(theta) - log_delta) / theta)
    }

    /// The exponent whose bound gives the smallest δ for `epsilon`.
    pub(super) fn for_epsilon(terms: &'a [Term<'a>], interval: f64, epsilon: f64) -> Self {
        Self::best(terms, interval, |theta, log_total| log_total + log_share(theta) - theta * epsilon)
    }

    pub(super) fn theta(&self) -> f64 {
        self.theta
    }

    /// `ln M(θ)` of the sum.
    pub(super) fn log_total(&self) -> f64 {
        self.log_total
    }

    /// Chernoff's bound on the probability of a sum above `epsilon`, not 0.
    pub(super) fn chernoff(&self, epsilon: f64) -> f64 {
        libm::exp(self.log_total - self.theta * epsilon).clamp(1e-300, 1.0)
    }

    /// The tilted probabilities of one term, which add up to 1, from its first loss.
    pub(super) fn tilted(&self, distribution: &'a Distribution) -> impl Iterator<Item = f64> + 'a {
        let log_m = log_m(distribution, self.interval, self.theta);
        exponents(distribution, self.interval, self.theta).map(move |e| libm::exp(e - log_m))
    }

    /// The losses that decide a δ of about this size (and, where given, δ at this ε); `None` if they are too many.
    pub(super) fn window_at(&self, delta: f64, epsilon: Option<f64>) -> Option<Window> {
        let (top, beyond) = self.top(delta * BEYOND);
        let mut bottom = self.bottom();
        if let Some(epsilon) = epsilon {
            bottom = bottom.min(epsilon);
        }
        let first = (bottom / self.interval).floor() - 1.0;
        let length = (top / self.interval).ceil() - first + 2.0;
        if length.is_nan() || length > LONGEST || first.abs() > FARTHEST {
            return None;
        }
        Some(Window { first: first as i64, length: (length.max(2.0) as usize).next_power_of_two(), beyond })
    }

    /// A loss that the sum exceeds with at most this probability, and the tilted sum hardly ever; and that probability.
    fn top(&self, probability: f64) -> (f64, f64) {
        let largest =
            self.terms.iter().map(|(d, n)| *n as f64 * d.last() as f64).sum::<f64>() * self.interval;
        let (mut plain, mut tilted) = (f64::INFINITY, f64::INFINITY);
        for factor in [1.05, 1.2, 1.5, 2.0, 3.0, 5.0] {
            let theta = factor * self.theta;
            let log_total = log_total(self.terms, self.interval, theta);
            plain = plain.min((log_total - libm::log(probability)) / theta);
            tilted = tilted.min((log_total - self.log_total - libm::log(OUTSIDE)) / (theta - self.theta));
        }
        let top = plain.max(tilted);
        let count: f64 = self.terms.iter().map(|(_, n)| *n as f64).sum();
        if top < largest { (top, probability * libm::exp(SUM_ROUNDING * count)) } else { (largest, 0.0) }
    }

    /// A loss below which the tilted sum hardly ever lies.
    fn bottom(&self) -> f64 {
        let least = self.terms.iter().map(|(d, n)| *n as f64 * d.first as f64).sum::<f64>() * self.interval;
        let below = |factor: f64| {
            let by = factor * self.theta;
            let other = log_total(self.terms, self.interval, self.theta - by);
            (libm::log(OUTSIDE) + self.log_total - other) / by
        };
        [0.25, 0.5, 1.0, 2.0, 4.0].map(below).into_iter().fold(least, f64::max)
    }

    /// The exponent with the least `goal(θ, ln M(θ))`, which is quasi-convex, to about 1 %: by golden section of ln θ.
    fn best(terms: &'a [Term<'a>], interval: f64, goal: impl Fn(f64, f64) -> f64) -> Self {
        const GOLDEN: f64 = 0.618_033_988_749_894_9;
        let at = |log_theta: f64| {
            let theta = libm::exp(log_theta);
            goal(theta, log_total(terms, interval, theta))
        };
        let (mut low, mut high) = (libm::log(1e-4), libm::log(LARGEST));
        let mut inner = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
        let mut values = (at(inner.0), at(inner.1));
        while high - low > 0.02 {
            if values.0 <= values.1 {
                high = inner.1;
                inner = (high - GOLDEN * (high - low), inner.0);
                values = (at(inner.0), values.0);
            } else {
                low = inner.0;
                inner = (inner.1, low + GOLDEN * (high - low));
                values = (values.1, at(inner.1));
            }
        }
        let theta = libm::exp(0.5 * (low + high));
        Tilt { terms, interval, theta, log_total: log_total(terms, interval, theta) }
    }
}

/// `ln` of the largest `(1 − e^{−x})·e^{−θx}` over `x ≥ 0`: `δ(ε)` is at most that share of Chernoff's `M(θ)·e^{−θε}`
/// (Canonne, Kamath & Steinke 2020, Proposition 12).
fn log_share(theta: f64) -> f64 {
    theta * libm::log1p(-1.0 / (theta + 1.0)) - libm::log(theta + 1.0)
}

fn log_total(terms: &[Term<'_>], interval: f64, theta: f64) -> f64 {
    terms.iter().map(|(d, n)| *n as f64 * log_m(d, interval, theta)).sum()
}

/// `ln Σ m(l)·e^{θl}` over the finite losses of one release.
fn log_m(distribution: &Distribution, interval: f64, theta: f64) -> f64 {
    // The largest exponent is taken out, so that nothing overflows; what is far below it is below rounding.
    let largest = exponents(distribution, interval, theta).fold(f64::NEG_INFINITY, f64::max);
    let above = |e: &f64| *e > largest - 80.0;
    largest
        + libm::log(
            exponents(distribution, interval, theta).filter(above).map(|e| libm::exp(e - largest)).sum(),
        )
}

/// `ln(m(l)·e^{θl})` of every finite loss.
fn exponents(distribution: &Distribution, interval: f64, theta: f64) -> impl Iterator<Item = f64> + '_ {
    let step = theta * interval;
    (distribution.first..).zip(&distribution.log_mass).map(move |(i, log)| step * i as f64 + log)
}
