//! The move: two values of one record, everything that leaves for them, and the best test to tell them apart.
//!
//! What must hold: no test has more power than the stated (ε, δ) allows. Each case draws many releases of both values from
//! the mechanism itself, scores each by its log-likelihood ratio, and bounds ε from below by
//! `ln((power − δ) / false alarms)` with 99.9 % confidence. The bound must lie under the stated ε with the right noise and
//! over it with half the noise: the check can fail, and does where it should.
//!
//! Enforced in `mechanism`: `signs.rs` and `lattice.rs` (the noise), `label_release.rs`, and in `accounting` (how much).
#![allow(clippy::unwrap_used)] // a test that fails says why

use accounting::gaussian;
use asymflow_attacks::MemoryLedger;
use kernels::Threads;
use ledger::{Digest, Kind, RecordSet};
use mechanism::{
    Answered, BitRelease, BitReleaseConfig, Crossing, Encoding, GradientRelease, GradientReleaseConfig,
    LabelRelease, NoiseKey, RecordRelease, ReleaseShape, VectorRelease, VectorReleaseConfig,
};

/// Releases of each of the two values.
const RUNS: u64 = 40_000;
/// Thresholds of the score, fixed beforehand: `i/10` for `i` in −40..=40.
const THRESHOLDS: std::ops::RangeInclusive<i32> = -40..=40;
/// Probability that any of a case's bounds is wrong.
const DOUBT: f64 = 1e-3;
const DATASET: Digest = Digest([9; 32]);

fn phi(t: f64) -> f64 {
    0.5 * libm::erfc(-t * std::f64::consts::FRAC_1_SQRT_2)
}

/// `KL(a ‖ b)` between coins, in nats.
fn divergence(a: f64, b: f64) -> f64 {
    let term = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
    term(a, b) + term(1.0 - a, 1.0 - b)
}

/// Bounds of a coin's probability that fell heads in a share of `runs` throws, each wrong with probability `doubt` at most.
///
/// Chernoff: `P[share ≥ a] ≤ exp(−n KL(a ‖ p))` for `a ≥ p`, and the same below; never tighter than Clopper–Pearson.
fn bounds(share: f64, runs: u64, doubt: f64) -> (f64, f64) {
    let near = |p: f64| runs as f64 * divergence(share, p) <= (1.0 / doubt).ln();
    let edge = |far: f64| {
        let (mut inside, mut outside) = (share, far);
        for _ in 0..60 {
            let middle = (inside + outside) / 2.0;
            if near(middle) { inside = middle } else { outside = middle }
        }
        outside
    };
    (edge(0.0), edge(1.0))
}

/// The largest ε at `delta` that these scores refute: those under the first value tend to be larger.
fn lower_bound(first: &[f64], second: &[f64], delta: f64) -> f64 {
    let doubt = DOUBT / (2.0 * THRESHOLDS.count() as f64);
    let share = |scores: &[f64], threshold: f64| {
        scores.iter().filter(|&&score| score > threshold).count() as f64 / scores.len() as f64
    };
    let bound = |i: i32| {
        let threshold = f64::from(i) / 10.0;
        let (power, _) = bounds(share(first, threshold), first.len() as u64, doubt);
        let (_, alarms) = bounds(share(second, threshold), second.len() as u64, doubt);
        ((power - delta).max(0.0) / alarms).ln()
    };
    THRESHOLDS.map(bound).fold(0.0, f64::max)
}

/// The bound with the right noise, and with half of it.
fn judge(name: &str, stated: f64, delta: f64, mut bound: impl FnMut(f64) -> f64) {
    let (right, halved) = (bound(1.0), bound(0.5));
    println!(
        "{name}: stated ε = {stated} at δ = {delta}; refuted up to {right:.3}, with half the noise up to {halved:.3}"
    );
    assert!(right <= stated, "{name}: ε is at least {right}, not {stated}");
    assert!(halved > stated, "{name}: the test has no power: {halved}");
}

/// Scores of the messages of a residual: log-likelihood of the bits under `x` less that under `−x`.
fn bit_scores(x: &[f32], sigma: f64, sign: f32, key: u8) -> Vec<f64> {
    let config = BitReleaseConfig {
        clip: 1.0,
        sigma,
        shape: ReleaseShape::Full,
        residual: [1, 1, x.len()],
        function: Digest([3; 32]),
    };
    let mechanism = BitRelease::new(config, NoiseKey::new([key; 32])).unwrap();
    let charge = mechanism.charge(DATASET, RecordSet::range(0..RUNS), 0, "a test");
    let receipt = MemoryLedger::default().writer(f64::INFINITY, 1e-5).charge(charge).unwrap();
    let value: Vec<f32> = x.iter().map(|x| sign * x).collect();
    let norm = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let ratios: Vec<f64> =
        x.iter().map(|&x| f64::from(x) / norm / sigma).map(|t| (phi(t) / phi(-t)).ln()).collect();
    let score = |record: u64| {
        let message = mechanism.release(&receipt, record..record + 1, &value).unwrap().remove(0);
        let bit = |i: usize| message.value()[i / 8] >> (i % 8) & 1 == 1;
        ratios.iter().enumerate().map(|(i, ratio)| if bit(i) { *ratio } else { -ratio }).sum()
    };
    (0..RUNS).map(score).collect()
}

fn judge_bits(name: &str, x: &[f32], stated: f64, delta: f64) {
    let sigma = gaussian::sigma(stated, delta, 2.0).unwrap();
    judge(name, stated, delta, |part| {
        let [first, second] = [(1.0, 1), (-1.0, 2)].map(|(sign, key)| bit_scores(x, part * sigma, sign, key));
        lower_bound(&first, &second, delta)
    });
}

/// One bit at a δ where the sign alone, which is less than the Gaussian number it comes from, breaks half the noise.
#[test]
fn one_bit() {
    judge_bits("one bit", &[1.0], 0.5, 0.1);
}

/// Bits of a residual far outside the clipping ball: both values are clipped to its opposite ends.
#[test]
fn many_bits() {
    let x: Vec<f32> = (0..64).map(|i| if i * 7 % 3 == 0 { 1e6 } else { -1e6 }).collect();
    judge_bits("64 bits", &x, 1.0, 0.1);
    judge_bits("64 bits, smaller δ", &x, 1.0, 0.01);
    let uneven: Vec<f32> = (0..12).map(|i| 0.7f32.powi(i) * if i % 2 == 0 { 1e3 } else { -1e3 }).collect();
    judge_bits("12 uneven bits", &uneven, 2.0, 0.05);
}

/// Gradients in place of two labels, of logits that give both the same probability.
fn gradient_scores(labels: usize, clip: f64, (stated, delta, part): (f64, f64, f64)) -> [Vec<f64>; 2] {
    let multiplier = gaussian::sigma(stated, delta, 1.0).unwrap();
    let key = |label: u16| NoiseKey::new([label as u8 + 1; 32]);
    let right = GradientRelease::calibrated(labels, clip, multiplier, key(0)).unwrap();
    let sigma = right.sensitivity() * multiplier * part;
    let logits = vec![0.0f32; labels];
    let clipped = |label: usize| {
        let mut g = vec![1.0 / labels as f64; labels];
        g[label] -= 1.0;
        let norm = g.iter().map(|x| x * x).sum::<f64>().sqrt();
        g.into_iter().map(|x| x * (clip / norm).min(1.0)).collect::<Vec<_>>()
    };
    let (first, second) = (clipped(0), clipped(1));
    [0u16, 1].map(|label| {
        let config = GradientReleaseConfig { labels, clip, sigma };
        let mechanism = GradientRelease::new(config, key(label)).unwrap();
        let charge = mechanism.charge(DATASET, RecordSet::range(0..RUNS), Digest([1; 32]), "a test");
        let receipt = MemoryLedger::default().writer(f64::INFINITY, delta).charge(charge).unwrap();
        let answers: Vec<_> = (0..RUNS).map(|record| Answered { record, label, logits: &logits }).collect();
        let message = mechanism.release(&receipt, answers.into_iter()).unwrap();
        let numbers = message.value().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let numbers: Vec<f64> = numbers.map(f64::from).collect();
        let far = |y: &[f64], g: &[f64]| y.iter().zip(g).map(|(y, g)| (y - g).powi(2)).sum::<f64>();
        let score = |y: &[f64]| (far(y, &second) - far(y, &first)) / (2.0 * sigma * sigma);
        numbers.chunks_exact(labels).map(score).collect()
    })
}

/// With 10 labels and a wide clipping norm the two gradients are √2 apart; with a narrow one and 2 labels, twice the norm.
#[test]
fn gradients_in_place_of_labels() {
    for (labels, clip, stated, delta) in [(10, 1.0, 1.0, 0.01), (2, 0.5, 2.0, 0.01), (10, 10.0, 0.5, 0.05)] {
        judge(&format!("gradients of {labels} labels, clip {clip}"), stated, delta, |part| {
            let [first, second] = gradient_scores(labels, clip, (stated, delta, part));
            lower_bound(&first, &second, delta)
        });
    }
}

/// Noised vectors of a record far outside the clipping ball, and of its opposite: 2C apart, along one direction.
#[test]
fn noised_vectors() {
    let x: Vec<f32> = (0..600).map(|i| if i * 7 % 3 == 0 { 1e6 } else { -1e6 }).collect();
    let (clip, norm) = (2.0, 1e6 * 600f64.sqrt());
    for (stated, delta) in [(1.0, 0.1), (2.0, 0.01)] {
        let right = gaussian::sigma(stated, delta, 2.0 * clip).unwrap();
        judge("a noised vector of 600 numbers", stated, delta, |part| {
            let [first, second] = [(1.0f32, 1), (-1.0, 2)].map(|(sign, key)| {
                let config = VectorReleaseConfig {
                    kind: Kind::NoisedInputs,
                    shape: [1, 20, 30],
                    clip,
                    sigma: part * right,
                    layer: 0,
                    function: Digest([3; 32]),
                    encoding: Encoding::F32,
                };
                let mechanism = VectorRelease::new(config, NoiseKey::new([key; 32])).unwrap();
                let charge = mechanism.charge(DATASET, RecordSet::range(0..RUNS), 0, "a test");
                let receipt = MemoryLedger::default().writer(f64::INFINITY, delta).charge(charge).unwrap();
                let value: Vec<f32> = x.iter().map(|x| sign * x).collect();
                let score = |record: u64| {
                    let message =
                        mechanism.release(&Threads::new(1), &receipt, &[record], &value).unwrap().remove(0);
                    let sent = message.value().as_chunks::<4>().0.iter();
                    let along: f64 = sent
                        .zip(&x)
                        .map(|(y, x)| f64::from(f32::from_le_bytes(*y)) * f64::from(*x) / norm)
                        .sum();
                    2.0 * clip * along / (part * right).powi(2)
                };
                (0..RUNS).map(score).collect::<Vec<f64>>()
            });
            lower_bound(&first, &second, delta)
        });
    }
}

/// Half the noise of a randomised response is a truth told as often as at 2ε. What is told as the first label is scored 1,
/// the second −1, any other 0.
#[test]
fn randomised_labels() {
    for (labels, stated) in [(10, 1.0), (2, 0.5)] {
        judge(&format!("{labels} randomised labels"), stated, 0.0, |part| {
            let scores = |label: u16| {
                let mechanism =
                    LabelRelease::new(labels, stated / part, NoiseKey::new([label as u8 + 1; 32])).unwrap();
                let charge = mechanism.charge(DATASET, RecordSet::range(0..RUNS), "a test");
                let receipt = MemoryLedger::default().writer(f64::INFINITY, 1e-5).charge(charge).unwrap();
                let told = mechanism.release(&receipt, 0..RUNS, &vec![label; RUNS as usize]).unwrap();
                let told = told.value().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
                told.map(|told| f64::from(u8::from(told == 0)) - f64::from(u8::from(told == 1))).collect()
            };
            let (first, second): (Vec<f64>, Vec<f64>) = (scores(0), scores(1));
            lower_bound(&first, &second, 0.0)
        });
    }
}

/// The confidence bounds hold, and are not loose beyond use: for 40,000 throws that fell heads in a share of 0.3, normal
/// bounds at 4.5 standard deviations are 0.0103 away.
#[test]
fn bounds_enclose_the_share() {
    let doubt = DOUBT / 162.0;
    let (low, high) = bounds(0.3, RUNS, doubt);
    assert!((0.288..0.2901).contains(&low) && (0.3099..0.312).contains(&high), "{low} {high}");
    let (low, high) = bounds(0.0, RUNS, doubt);
    // (1 − p)ⁿ = doubt.
    assert!(low == 0.0 && (high - (1.0 - doubt.powf(1.0 / RUNS as f64))).abs() < 1e-9, "{low} {high}");
}
