//! Gaussian noise on a grid: low-order bits of what leaves carry nothing.
//!
//! A floating-point sum `x + σN` shows in its low-order bits which `x` it came from (Mironov 2012). Here `x` is first put on
//! a grid of step 2⁻¹²σ or finer, towards zero, so that no norm grows; then the noise, rounded to the same grid, is added
//! in whole numbers. That is a function of the grid value plus ideal noise, so the Gaussian mechanism's guarantee holds.

use crate::noise::NoiseStream;

/// The grid's step is the power of two just below `σ · 2⁻¹²`.
const STEPS_PER_SIGMA: i32 = 12;

/// Largest noise in standard deviations; a normal number is beyond it with probability 2⁻¹²⁶.
const LARGEST: f64 = 13.0;

/// A grid with its noise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lattice {
    step: f64,
    /// σ in steps, from 2¹² to 2¹³.
    sigma: f64,
}

impl Lattice {
    /// The grid for noise `N(0, σ²)`; `sigma` finite and positive.
    pub(crate) fn new(sigma: f64) -> Self {
        let step = libm::exp2(libm::floor(libm::log2(sigma)) - f64::from(STEPS_PER_SIGMA));
        Lattice { step, sigma: sigma / step }
    }

    /// Distance between neighbours on the grid.
    pub(crate) fn step(&self) -> f64 {
        self.step
    }

    /// The number of steps of `x`, towards zero.
    pub(crate) fn quantise(&self, x: f64) -> i64 {
        (x / self.step) as i64
    }

    /// The number that many steps stand for.
    pub(crate) fn value(&self, steps: i64) -> f64 {
        steps as f64 * self.step
    }

    /// Noise in whole steps: a normal number of standard deviation σ, rounded to the nearest step.
    ///
    /// By inversion: a uniform number picks a tail probability and the step is the one whose boundaries enclose it, so
    /// each step's probability is a difference of two values of `erfc`. Up to 10 standard deviations its ratio to the ideal
    /// one is within `e^±`[`accounting::LATTICE_ETA`]: a few roundings of 2⁻⁵³, times the size of the argument squared,
    /// over a step's share of its tail. Beyond lies a probability of 2⁻⁷⁵ per number, for which no ratio is claimed; as a
    /// part of δ it is far below any in use and is not counted.
    pub(crate) fn noise(&self, stream: &mut NoiseStream) -> i64 {
        let (sign, tail) = (stream.bits() >> 63, stream.small_uniform());
        let tail = (0.5 * tail).max(tail_of(LARGEST));
        // Newton's method on ln(tail) from a rational start; the exact step follows.
        let mut x = start(tail);
        for _ in 0..3 {
            let density = libm::exp(-0.5 * x * x) / (2.0 * std::f64::consts::PI).sqrt();
            x += tail_of(x) / density * libm::log(tail_of(x) / tail);
        }
        let mut steps = libm::floor(x * self.sigma + 0.5).max(0.0);
        // Two rounds at most: Newton's method is right to far less than a step.
        while tail_of((steps + 0.5) / self.sigma) > tail {
            steps += 1.0;
        }
        while steps > 0.0 && tail_of((steps - 0.5) / self.sigma) <= tail {
            steps -= 1.0;
        }
        // `as` after a bound: at most 13 · 2¹³.
        if sign == 1 { -(steps as i64) } else { steps as i64 }
    }
}

/// `P[N > x]`.
fn tail_of(x: f64) -> f64 {
    0.5 * libm::erfc(x * std::f64::consts::FRAC_1_SQRT_2)
}

/// Where `P[N > x] = tail`, to three digits, for `tail ≤ 1/2` (Abramowitz & Stegun 26.2.23).
fn start(tail: f64) -> f64 {
    let t = libm::sqrt(-2.0 * libm::log(tail));
    let up = 2.515517 + t * (0.802853 + t * 0.010328);
    let down = 1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308));
    (t - up / down).max(0.0)
}

#[cfg(test)]
mod tests {
    use ledger::{Digest, MechanismId};

    use super::*;
    use crate::NoiseKey;

    fn stream(record: u64) -> NoiseStream {
        NoiseKey::new([3; 32]).stream(&Digest([0; 32]), record, 0, &MechanismId::new("lattice"), None)
    }

    #[test]
    fn the_grid_is_fine_and_never_grows_a_number() {
        for sigma in [1e-9, 0.3, 1.0, 1.999, 2.0, 1e12] {
            let lattice = Lattice::new(sigma);
            assert!((4096.0..8192.0).contains(&lattice.sigma), "{sigma}: {}", lattice.sigma);
            for x in [0.0, 0.999, -0.999, 1.5, -7.3] {
                let x = x * sigma;
                let put = lattice.value(lattice.quantise(x));
                assert!(put.abs() <= x.abs() && (put - x).abs() < lattice.step(), "{x}: {put}");
            }
        }
    }

    /// χ² over 40 cells of equal probability; above 66 with probability 0.5 %.
    fn chi_squared(noise: &[i64], sigma: f64) -> f64 {
        const CELLS: usize = 40;
        let mut counts = [0usize; CELLS];
        for &steps in noise {
            let below = 1.0 - tail_of(steps as f64 / sigma);
            counts[((below * CELLS as f64) as usize).min(CELLS - 1)] += 1;
        }
        let expected = noise.len() as f64 / CELLS as f64;
        counts.iter().map(|&c| (c as f64 - expected).powi(2) / expected).sum()
    }

    #[test]
    fn noise_has_the_rounded_normal_distribution() {
        let lattice = Lattice::new(1.3);
        let mut stream = stream(1);
        let noise: Vec<i64> = (0..200_000).map(|_| lattice.noise(&mut stream)).collect();
        let off = chi_squared(&noise, lattice.sigma);
        assert!(off < 66.0, "{off}");
        // The test can fail: 2 % too little noise shows.
        assert!(chi_squared(&noise, 1.02 * lattice.sigma) > 66.0);
        let beyond = noise.iter().filter(|n| n.abs() as f64 > 4.0 * lattice.sigma).count();
        assert!((3..30).contains(&beyond), "{beyond} of an expected 12.7");
    }

    /// Step by step, where a coarse grid makes each of them likely: the probabilities are those of the intervals.
    #[test]
    fn each_step_has_its_interval() {
        let lattice = Lattice { step: 1.0, sigma: 0.8 };
        let mut stream = stream(2);
        let draws = 200_000;
        let mut counts = std::collections::BTreeMap::new();
        (0..draws).for_each(|_| *counts.entry(lattice.noise(&mut stream)).or_insert(0u32) += 1);
        for step in -3i64..=3 {
            let edge = |half: f64| tail_of((step as f64 + half) / lattice.sigma);
            let p = edge(-0.5) - edge(0.5);
            let found = f64::from(counts.get(&step).copied().unwrap_or(0));
            let deviation = (found - p * f64::from(draws)) / (f64::from(draws) * p * (1.0 - p)).sqrt();
            assert!(deviation.abs() < 4.5, "step {step}: {deviation} standard deviations");
        }
    }

    /// The picked step encloses its tail probability, from the middle to the far end.
    #[test]
    fn inversion_is_exact_over_the_whole_range() {
        let sigma = 6000.0;
        for exponent in 1..=125 {
            let tail = libm::exp2(-f64::from(exponent)) * 0.77;
            let mut x = start(tail);
            for _ in 0..3 {
                let density = libm::exp(-0.5 * x * x) / (2.0 * std::f64::consts::PI).sqrt();
                x += tail_of(x) / density * libm::log(tail_of(x) / tail);
            }
            assert!((tail_of(x) / tail - 1.0).abs() < 1e-3 / sigma * (1.0 + x), "2^-{exponent}");
        }
    }
}
