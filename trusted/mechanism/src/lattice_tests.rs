//! The noise on the grid against the ideal rounded normal number: computed step by step, and drawn.

use accounting::{LATTICE_ETA, LATTICE_TAIL};
use ledger::{Digest, MechanismId};

use super::*;
use crate::NoiseKey;

/// Where the stated bound on the ratio ends, in standard deviations.
const REACH: f64 = 10.5;

fn stream(record: u64) -> NoiseStream {
    NoiseKey::new([3; 32]).stream(&Digest([0; 32]), record, 0, &MechanismId::new("lattice"), None)
}

/// `P[N > x]`.
fn tail_of(x: f64) -> f64 {
    0.5 * libm::erfc(x * std::f64::consts::FRAC_1_SQRT_2)
}

/// Noise of `count` numbers, in steps.
fn noise(lattice: &Lattice, count: usize, record: u64) -> Vec<i64> {
    let (mut all, mut stream, mut scratch) = (vec![0.0; count], stream(record), Scratch::new());
    all.chunks_mut(BLOCK).for_each(|block| lattice.perturb(1.0, block, &mut stream, &mut scratch));
    all.iter().map(|x| (x / lattice.step) as i64).collect()
}

#[test]
fn the_grid_is_fine_and_never_grows_a_number() {
    for sigma in [1e-9, 0.3, 1.0, 1.999, 2.0, 1e12] {
        let lattice = Lattice::new(sigma);
        assert!((4096.0..8192.0).contains(&lattice.sigma), "{sigma}: {}", lattice.sigma);
        for x in [0.0, 0.999, -0.999, 1.5, -7.3] {
            let mut put = [x];
            add_on_grid(&mut put, sigma / lattice.step, lattice.step, &[0.0]);
            let [put] = put;
            assert!(put.abs() <= (x * sigma).abs() && (put - x * sigma).abs() < lattice.step(), "{x}: {put}");
            assert_eq!((put / lattice.step).fract(), 0.0);
        }
    }
}

/// What falls between 0 and the first step leaves the same zero from both sides.
#[test]
fn a_zero_has_no_sign() {
    for (x, noise) in [(-0.3, -0.0), (-0.3, 0.0), (0.3, -0.0), (-1.2, 1.0)] {
        let mut put = [x];
        add_on_grid(&mut put, 1.0, 1.0, &[noise]);
        assert_eq!(put[0].to_bits(), 0.0f64.to_bits(), "{x} and noise {noise}");
    }
}

/// For one step: bounds on the probability that a uniform `u` in (0, 1/2] gives this step or more.
///
/// `quantile` falls as `u` grows, but for roundings near the border, so all `u` there are tried.
fn border(step: f64, sigma: f64) -> [f64; 2] {
    let reaches = |u: f64| (quantile(u) * sigma + 0.5).floor() >= step;
    let (mut low, mut high) = (libm::exp2(-129.0).to_bits(), 0.5f64.to_bits());
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if reaches(f64::from_bits(middle)) { low = middle } else { high = middle }
    }
    // A rounding of x moves u by x² roundings of u.
    let x = step / sigma;
    let around = 8 + (8.0 * x * x) as u64;
    let window = low.saturating_sub(around)..=(low + around).min(0.5f64.to_bits());
    let first_below = window.clone().map(f64::from_bits).find(|&u| !reaches(u));
    let last_above = window.rev().map(f64::from_bits).find(|&u| reaches(u));
    // 127 bits were rounded to 53 before: half a unit either way, and the coarseness of the bits themselves.
    let [least, most] = [first_below.expect("found above"), last_above.expect("found above")];
    let coarse = libm::exp2(-128.0);
    [least * (1.0 - f64::EPSILON) - coarse, most * (1.0 + f64::EPSILON) + coarse]
}

/// Largest |ln| of the ratio of a step's probability to the ideal one's, up to [`REACH`], and the probability beyond.
fn distance(sigma: f64) -> (f64, f64) {
    let last = (REACH * sigma) as usize;
    let mut worst = 0.0f64;
    // Step 0 is reached from both sides, each with half of its probability.
    let mut here = [0.5, 0.5];
    for step in 0..=last {
        let next = border(step as f64 + 1.0, sigma);
        let edge = |half: f64| tail_of(((step as f64 + half) / sigma).max(0.0));
        let ideal = edge(-0.5) - edge(0.5);
        let [least, most] = [here[0] - next[1], here[1] - next[0]];
        worst = worst.max((most / ideal).ln()).max(-(least / ideal).ln());
        here = next;
    }
    (worst, (2.0 * here[1]).max(2.0 * tail_of((last as f64 + 0.5) / sigma)))
}

/// Not by sampling: every step's probability, as the code computes it, against the ideal one.
#[test]
fn each_step_is_as_likely_as_stated() {
    for sigma in [4096.0, 5793.6, 8192.0f64.next_down()] {
        let (eta, beyond) = distance(sigma);
        println!("σ = {sigma}: |ln ratio| up to 2^{:.2}, beyond 2^{:.2}", eta.log2(), beyond.log2());
        assert!(eta + 2.0 * LATTICE_TAIL < LATTICE_ETA, "σ = {sigma}: 2^{:.2}", eta.log2());
        assert!(beyond <= LATTICE_TAIL, "σ = {sigma}: 2^{:.2}", beyond.log2());
    }
}

/// The comparison can fail: noise of another size is far from the ideal.
#[test]
fn another_noise_is_noticed() {
    let ideal = 4096.0;
    let [least, _] = border(8192.0, ideal * (1.0 + 1e-9));
    let edge = tail_of(8191.5 / ideal);
    assert!((least / edge - 1.0).abs() > LATTICE_ETA);
}

#[test]
fn the_logarithm_is_right_to_two_units() {
    for i in 0..200_000 {
        let u = libm::exp2(-f64::from(i) * 129.0 / 200_000.0) * 0.999_9;
        let error = (ln(u) - libm::log(u)).abs() / libm::log(u).abs();
        assert!(error <= 2.0 * f64::EPSILON, "ln {u:e} is off by {error:e}");
    }
}

#[test]
fn the_extreme_draws_give_finite_noise() {
    assert_eq!(tail(u64::MAX, u64::MAX), 0.5);
    assert_eq!((quantile(0.5) * 8192.0 + 0.5).floor(), 0.0);
    assert_eq!(tail(SIGN, 0), libm::exp2(-129.0));
    assert!((13.0..13.2).contains(&quantile(libm::exp2(-129.0))));
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
    let noise = noise(&lattice, 200_000, 1);
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
    let draws = 200_000;
    let mut counts = std::collections::BTreeMap::new();
    noise(&lattice, draws, 2).into_iter().for_each(|step| *counts.entry(step).or_insert(0u32) += 1);
    for step in -3i64..=3 {
        let edge = |half: f64| tail_of((step as f64 + half) / lattice.sigma);
        let p = edge(-0.5) - edge(0.5);
        let found = f64::from(counts.get(&step).copied().unwrap_or(0));
        let deviation = (found - p * draws as f64) / (draws as f64 * p * (1.0 - p)).sqrt();
        assert!(deviation.abs() < 4.5, "step {step}: {deviation} standard deviations");
    }
}

/// Neighbouring numbers, and numbers at the same place of neighbouring groups, have nothing to do with each other.
#[test]
fn noise_is_independent_from_number_to_number() {
    let lattice = Lattice::new(1.0);
    let noise = noise(&lattice, 100_000, 5);
    for lag in [1, 2, LANES - 1, LANES, LANES + 1, BLOCK] {
        let products = noise.iter().zip(&noise[lag..]).map(|(a, b)| (a * b) as f64);
        let sum = products.sum::<f64>() / (lattice.sigma * lattice.sigma);
        let deviation = sum / (noise.len() as f64).sqrt();
        assert!(deviation.abs() < 4.5, "lag {lag}: {deviation}");
    }
}

/// A vector that fills no block has the noise of the first numbers of one that does.
#[test]
fn a_part_has_the_noise_of_the_whole() {
    let lattice = Lattice::new(1.0);
    let whole = noise(&lattice, BLOCK, 9);
    for len in [1, LANES - 1, LANES, LANES + 1, BLOCK - 1] {
        assert_eq!(noise(&lattice, len, 9), whole[..len]);
    }
}
