//! What it costs that noise on a grid is drawn by a sampler of bounded error, and not from the ideal distribution.

use crate::event::sum_up;

/// Largest accepted |ln| of the ratio between the probability with which a lattice sampler draws a number and that of the
/// ideal rounded Gaussian: the promise of a sampler that is charged as [`Event::LatticeGaussian`](crate::Event::LatticeGaussian), but for numbers whose
/// probability is below [`LATTICE_TAIL`] together.
pub const LATTICE_ETA: f64 = 1.0 / (1u64 << 31) as f64;

/// Largest accepted probability, of the sampler's and of the ideal numbers, for which [`LATTICE_ETA`] does not hold: 2⁻⁸³.
pub const LATTICE_TAIL: f64 = 1.0 / (1u128 << 83) as f64;

/// Probability that a sum of bounded differences is larger than stated: 2⁻²⁰⁰, far below any δ.
const CHANCE: f64 = 1.0 / ((1u128 << 100) as f64 * (1u128 << 100) as f64);

/// `√(2 ln 2²⁰⁰)`, rounded up.
const DEVIATIONS: f64 = 16.651_1;

/// The most of δ that the tail may take. It grows as e^ε: an ε at which it takes more is out of the sampler's reach, and so
/// is any noise as small as that (for a thousand numbers and δ = 1e-5 from ε = 36 on).
const SHARE: f64 = 1.0 / 16.0;

/// How much an ε is raised in each round of its search, and how often: a few rounds are enough, with so small a share.
const MARGIN: f64 = 1e-12;
const ROUNDS: usize = 100;

/// How the real releases relate to the ideal ones: `P'(S) ≤ e^Z P(S) + d` and `P(S) ≤ e^Z P'(S) + d` for every set `S`.
///
/// Given all that was drawn before, a number's log ratio of real to ideal probability is at most η in size
/// ([`LATTICE_ETA`]) and at most 2η² in the mean (a divergence of such a pair). Over `n` numbers it therefore is at most nη; and
/// at most `η√(2n ln(1/d')) + 2nη²`, but with probability d' (Azuma 1967; advanced composition of Dwork, Rothblum & Vadhan
/// 2010). Questions may depend on earlier answers. Numbers beyond the stated range add n·[`LATTICE_TAIL`] to d; that none of
/// them is, changes a log ratio by twice that at most, for which η has room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampling {
    /// `Z`, rounded up.
    pub(crate) ratio: f64,
    /// `d`, rounded up.
    beyond: f64,
}

impl Sampling {
    /// For so many numbers about one record.
    pub(crate) fn of(numbers: f64) -> Self {
        if numbers == 0.0 {
            return Sampling { ratio: 0.0, beyond: 0.0 };
        }
        let up = 1.0 + 16.0 * f64::EPSILON;
        let mean = 2.0 * numbers * LATTICE_ETA * LATTICE_ETA;
        let concentrated = LATTICE_ETA * DEVIATIONS * numbers.sqrt() + mean;
        let ratio = (numbers * LATTICE_ETA).min(concentrated) * up;
        Sampling { ratio, beyond: (numbers * LATTICE_TAIL + CHANCE) * up }
    }

    /// The δ that ideal releases of this ε must keep, rounded down, so that real ones keep `delta`; below 0 where the tail
    /// takes more than [`SHARE`] of it.
    ///
    /// `P'(S) ≤ e^Z P(S) + d ≤ e^Z (e^ε Q(S) + δ) + d ≤ e^{ε+2Z} Q'(S) + e^Z δ + d (1 + e^{Z+ε})`. The factor on δ is why
    /// the ratio is not the same as a pure loss of 2Z.
    pub(crate) fn ideal_delta(&self, delta: f64, epsilon: f64) -> f64 {
        if self.beyond == 0.0 {
            return delta;
        }
        let lost = self.beyond * (1.0 + libm::exp(self.ratio + epsilon)) * (1.0 + 8.0 * f64::EPSILON);
        if lost > delta * SHARE {
            return f64::NEG_INFINITY;
        }
        (delta - lost) * libm::exp(-self.ratio) * (1.0 - 4.0 * f64::EPSILON)
    }

    /// ε of the real releases at `delta`, rounded up, where `ideal` is that of the ideal ones.
    pub(crate) fn epsilon(&self, delta: f64, ideal: impl Fn(f64) -> f64) -> f64 {
        if self.beyond == 0.0 {
            return ideal(delta);
        }
        // The tail costs more of δ the larger ε is: upwards from an ε that is too small, until one is large enough.
        let mut candidate = ideal(delta * libm::exp(-self.ratio));
        for _ in 0..ROUNDS {
            candidate *= 1.0 + MARGIN;
            let left = self.ideal_delta(delta, candidate);
            let needed = if left > 0.0 { ideal(left) } else { f64::INFINITY };
            if needed <= candidate {
                return sum_up(candidate, 2.0 * self.ratio);
            }
            candidate = needed;
        }
        f64::INFINITY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_numbers_cost_their_sum_and_many_its_root() {
        let one = Sampling::of(10.0);
        assert!((one.ratio / (10.0 * LATTICE_ETA) - 1.0).abs() < 1e-12);
        // A million numbers in ten thousand releases: nη would be above 1.
        let many = Sampling::of(1e10);
        assert!((1e-4..1e-3).contains(&many.ratio), "{}", many.ratio);
        assert!(Sampling::of(4e10).ratio / many.ratio < 2.001);
        assert!(DEVIATIONS >= (2.0 * 200.0 * std::f64::consts::LN_2).sqrt());
    }

    /// The exact ratio of a walk of n steps of ±η stays within the bound, but with its probability.
    #[test]
    fn a_sum_of_the_worst_ratios_stays_within_the_bound() {
        // Real: +η with probability p, else −η, of ideal probabilities that make that the log ratio.
        let (n, eta) = (1u32 << 16, LATTICE_ETA);
        let p = 0.5 * (1.0 + (eta / 2.0).tanh());
        let mean = f64::from(n) * eta * (2.0 * p - 1.0);
        let variance = f64::from(n) * eta * eta;
        let deviations = (Sampling::of(n.into()).ratio - mean) / variance.sqrt();
        // ln of the normal tail beyond: at most −200 ln 2.
        assert!(-deviations * deviations / 2.0 <= -138.6, "{deviations}");
        assert!(mean <= 2.0 * f64::from(n) * eta * eta);
    }

    #[test]
    fn a_tail_larger_than_delta_leaves_no_guarantee() {
        let sampling = Sampling::of(1e10);
        assert!(sampling.ideal_delta(1e-5, 60.0) < 0.0);
        assert_eq!(sampling.epsilon(1e-5, |_| 60.0), f64::INFINITY);
        assert!(sampling.epsilon(1e-5, |_| 8.0) < 8.002);
        assert_eq!(Sampling::of(0.0).epsilon(1e-5, |_| 60.0), 60.0);
    }
}
