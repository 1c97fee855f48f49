//! The privacy loss of one release on a grid, never less than it is.

use crate::normal::{ROUNDING, mixture_loss, upper_tail};

/// Largest loss kept finite, and the negative of the smallest: far above any useful ε, and `exp` of it is still a float.
const LARGEST_LOSS: f64 = 600.0;

/// Most grid points of one release; a smaller loss counts as the smallest of them.
const MOST_POINTS: i64 = 1 << 22;

/// Standard deviations of noise kept towards small losses; the rest (1e-19) is given the smallest loss kept.
const BELOW: f64 = 9.0;

/// Standard deviations of noise kept towards large losses; the rest (below 1e-40) counts as an infinite loss.
const ABOVE: f64 = 13.4;

/// Distribution of the privacy loss `ln(P/Q)` of one release under `P`, on the grid of multiples of an interval.
///
/// It overstates: the chance of a loss above any bound is at least that of a pair of distributions that dominates `(P, Q)`.
pub(super) struct Distribution {
    /// Loss of `mass[0]`, in intervals.
    pub(super) first: i64,
    /// Probability of each loss.
    pub(super) mass: Vec<f64>,
    /// Its logarithm.
    pub(super) log_mass: Vec<f64>,
    /// Probability of an infinite loss.
    pub(super) infinite: f64,
}

/// Which of two neighbours is `P`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Direction {
    /// The data set with the record.
    Remove,
    /// The data set without it.
    Add,
}

/// What lies above a loss `l`: `P[L > l]` and `e^l · Q[L > l]`, and the largest argument a normal tail was taken at.
struct Tails {
    p: f64,
    scaled_q: f64,
    argument: f64,
}

impl Distribution {
    /// One Gaussian release with `μ = Δ/σ`: the loss is `N(μ²/2, μ²)`.
    pub(super) fn gaussian(mu: f64, interval: f64) -> Self {
        let loss = |deviations: f64| mu * mu / 2.0 + deviations * mu;
        Self::discretise(interval, loss(-BELOW), loss(ABOVE), |l| {
            let (t, s) = (l / mu - mu / 2.0, l / mu + mu / 2.0);
            let scaled_q = libm::exp(l) * upper_tail(s);
            Tails { p: upper_tail(t), scaled_q, argument: t.abs().max(s.abs()) }
        })
    }

    /// One Gaussian release about a Poisson sample, `0 < rate < 1`: `N(0, m²)` against `(1−q) N(0, m²) + q N(1, m²)`.
    pub(super) fn sampled_gaussian(m: f64, rate: f64, interval: f64, direction: Direction) -> Self {
        let q = rate;
        let loss = |x: f64| mixture_loss(q, (2.0 * x - 1.0) / (2.0 * m) / m);
        // Where the loss is l: the inverse of `loss`, minus infinity below its range.
        let place = |l: f64| {
            let odds = (libm::expm1(l) + q) / q;
            if odds > 0.0 { 0.5 + m * m * libm::log(odds) } else { f64::NEG_INFINITY }
        };
        match direction {
            Direction::Remove => Self::discretise(interval, loss(-BELOW * m), loss(1.0 + ABOVE * m), |l| {
                let x = place(l);
                let (without, with) = (upper_tail(x / m), upper_tail((x - 1.0) / m));
                let (p, scaled_q) = ((1.0 - q) * without + q * with, libm::exp(l) * without);
                Tails { p, scaled_q, argument: argument(x, m) }
            }),
            Direction::Add => Self::discretise(interval, -loss(1.0 + BELOW * m), -loss(-ABOVE * m), |l| {
                let x = place(-l);
                let (without, with) = (upper_tail(-x / m), upper_tail((1.0 - x) / m));
                let q_tail = (1.0 - q) * without + q * with;
                Tails { p: without, scaled_q: libm::exp(l) * q_tail, argument: argument(x, m) }
            }),
        }
    }

    /// One ε-private release, whichever: randomised response between two values, which each such release is a function of.
    pub(super) fn pure(epsilon: f64, interval: f64) -> Self {
        let keep = 1.0 / (1.0 + libm::exp(-epsilon));
        let other = libm::exp(-epsilon) / (1.0 + libm::exp(-epsilon));
        Self::discretise(interval, -epsilon, epsilon, |l| {
            let (p, q) = if l < -epsilon { (1.0, 1.0) } else { (keep, other) };
            let above = f64::from(l < epsilon);
            Tails { p: above * p, scaled_q: above * q * libm::exp(l), argument: 0.0 }
        })
    }

    /// Largest finite loss, in intervals.
    pub(super) fn last(&self) -> i64 {
        self.first + self.mass.len() as i64 - 1
    }

    /// The loss on a grid from below `low` to above `high`.
    ///
    /// The mass between two grid points goes to both, so that its share under `P` and under `Q` stays what it is (a spread
    /// of `P/Q` under `Q` that keeps its mean, so that no δ(ε), convex in it, falls: "connect the dots" of Doroshenko et
    /// al. 2022). Mass below the grid is moved up to its first point, mass above it is infinite, and every tail is rounded
    /// up.
    fn discretise(interval: f64, low: f64, high: f64, tails: impl Fn(f64) -> Tails) -> Self {
        let last = (high.min(LARGEST_LOSS) / interval).ceil() as i64;
        let first = ((low.max(-LARGEST_LOSS) / interval).floor() as i64).clamp(last - MOST_POINTS, last) - 1;
        let cell = -libm::expm1(-interval);
        let growth = libm::exp(interval);

        let mut upper = tails(last as f64 * interval);
        let infinite = (upper.p * (1.0 + uncertainty(&upper, 0.0))).min(1.0);
        let mut above = infinite;
        let mut mass = Vec::with_capacity((last - first + 1) as usize);
        for point in (first + 1..=last).rev() {
            let low = (point - 1) as f64 * interval;
            let lower = tails(low);
            // Of the mass in this cell, what goes to its upper end; see `uncertainty` for the rounding.
            let (p, scaled_q) = (lower.p - upper.p, lower.scaled_q - upper.scaled_q / growth);
            let raised = (p - scaled_q).max(0.0) + lower.p * uncertainty(&lower, low);
            let here = upper.p * (1.0 + uncertainty(&upper, 0.0)) + raised / cell;
            // P[L ≥ this point], at most 1 and never less than further up.
            let from_here = here.clamp(above, 1.0);
            mass.push(from_here - above);
            above = from_here;
            upper = lower;
        }
        mass.push(1.0 - above);
        mass.reverse();
        let log_mass = mass.iter().map(|&m| libm::log(m)).collect();
        Distribution { first, mass, log_mass, infinite }
    }
}

fn argument(x: f64, m: f64) -> f64 {
    if x.is_finite() { (x / m).abs().max(((x - 1.0) / m).abs()) } else { 0.0 }
}

/// Bound on the error of a difference of two tails at a loss, relative to the larger.
///
/// Each tail is exact to [`ROUNDING`] at its argument `t`; an error of one unit in the last place of `t` changes it by `t²`
/// units. A grid point `l` stands for a place whose loss is `l` to a few units in the last place: less than
/// `ROUNDING·(1 + |l|)` of the mass beyond it in either tail.
fn uncertainty(tails: &Tails, loss: f64) -> f64 {
    ROUNDING * (4.0 + tails.argument * tails.argument / 4.0 + loss.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P's and Q's total where nothing is infinite: Σ m and Σ m e^{−l}.
    fn totals(d: &Distribution, interval: f64) -> (f64, f64) {
        let losses = (d.first..).map(|i| i as f64 * interval);
        let q = d.mass.iter().zip(losses).map(|(m, l)| m * libm::exp(-l)).sum();
        (d.mass.iter().sum::<f64>() + d.infinite, q)
    }

    #[test]
    fn both_distributions_keep_their_total() {
        let interval = 1e-3;
        let cases = [
            ("gaussian", Distribution::gaussian(0.5, interval)),
            ("remove", Distribution::sampled_gaussian(1.0, 0.01, interval, Direction::Remove)),
            ("add", Distribution::sampled_gaussian(1.0, 0.01, interval, Direction::Add)),
            ("nearly all", Distribution::sampled_gaussian(0.8, 0.95, interval, Direction::Remove)),
            ("pure", Distribution::pure(1.2345, interval)),
        ];
        for (name, distribution) in cases {
            let (p, q) = totals(&distribution, interval);
            assert!((p - 1.0).abs() < 1e-12, "{name}: P has {p}");
            assert!((q - 1.0).abs() < 1e-8 && q <= 1.0 + 1e-12, "{name}: Q has {q}");
            assert!(distribution.infinite < 1e-30, "{name}: {}", distribution.infinite);
            assert!(distribution.mass.iter().all(|&m| m >= 0.0), "{name}");
        }
    }

    #[test]
    fn a_loss_too_large_is_infinite() {
        assert!(Distribution::pure(1e4, 1e-2).infinite > 0.99);
        assert!(Distribution::gaussian(100.0, 1e-2).infinite > 0.99);
    }
}
