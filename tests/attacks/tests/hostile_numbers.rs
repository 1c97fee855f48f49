//! The move: residuals of NaN, infinities, the largest and the smallest numbers, to break clipping and so the sensitivity.
//!
//! What must hold: the released bits are those of some vector of norm C at most. A vector outside the ball gives, byte for
//! byte, the bits of that vector brought to the ball before; NaN and infinities count as 0.
//!
//! Enforced in `mechanism::bit_release` (clipping in double precision) and `mechanism::release_shape` (what is no number).
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_attacks::MemoryLedger;
use ledger::{Digest, RecordSet};
use mechanism::{
    Answered, BitRelease, BitReleaseConfig, Crossing, GradientRelease, GradientReleaseConfig, NoiseKey,
    NormQuantile, RecordRelease, ReleaseShape,
};

const SIZE: [usize; 3] = [3, 8, 8];
const LEN: usize = 3 * 8 * 8;
const SHAPES: [ReleaseShape; 4] =
    [ReleaseShape::Full, ReleaseShape::Mean, ReleaseShape::Pooled(4), ReleaseShape::Pooled(1)];

/// Messages of 32 records with the same residual.
fn bits(shape: ReleaseShape, sigma: f64, x: &[f32]) -> Vec<Vec<u8>> {
    let config = BitReleaseConfig { clip: 1.0, sigma, shape, residual: SIZE, function: Digest([3; 32]) };
    let mechanism = BitRelease::new(config, NoiseKey::new([5; 32])).unwrap();
    let charge = mechanism.charge(Digest([9; 32]), RecordSet::range(0..32), 0, "a test");
    let receipt = MemoryLedger::default().writer(f64::INFINITY, 1e-5).charge(charge).unwrap();
    let sent = mechanism.release(&receipt, 0..32, &x.repeat(32)).unwrap();
    sent.iter().map(|message| message.value().clone()).collect()
}

/// A vector without symmetry.
fn vector() -> Vec<f32> {
    (0..LEN).map(|i| ((i * 7919 % 1009) as f32 / 504.5 - 0.9) * 2.0).collect()
}

/// For both ways in which signs are drawn: much noise, and hardly any.
fn assert_same(a: &[f32], b: &[f32], name: &str) {
    for shape in SHAPES {
        for sigma in [1.0, 0.1] {
            assert!(bits(shape, sigma, a) == bits(shape, sigma, b), "{name}, {shape}, σ = {sigma}");
        }
    }
}

#[test]
fn a_vector_outside_the_ball_is_the_one_on_its_surface() {
    // So large that all shapes of it are outside.
    let x: Vec<f32> = vector().iter().map(|x| x * 1024.0).collect();
    // Powers of two are exact, so that only clipping can make a difference.
    for scale in [2f32.powi(20), 2f32.powi(80), 2f32.powi(115)] {
        let huge: Vec<f32> = x.iter().map(|x| x * scale).collect();
        assert!(huge.iter().all(|x| x.is_finite()));
        assert_same(&x, &huge, &format!("scaled by {scale:e}"));
    }
    // The same vector brought to norm C beforehand; single precision is fine enough not to flip any of these bits.
    let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let surface: Vec<f32> = x.iter().map(|x| (f64::from(*x) / norm) as f32).collect();
    for sigma in [1.0, 0.1] {
        assert!(bits(ReleaseShape::Full, sigma, &x) == bits(ReleaseShape::Full, sigma, &surface));
    }
    // It is a test: half that norm gives other bits.
    let inside: Vec<f32> = surface.iter().map(|x| x / 2.0).collect();
    assert!(bits(ReleaseShape::Full, 0.1, &inside) != bits(ReleaseShape::Full, 0.1, &surface));
}

#[test]
fn the_largest_numbers_are_clipped() {
    // All equal: each is C/√k after clipping, whatever it was.
    assert_same(&[f32::MAX; LEN], &[1e3; LEN], "the largest number everywhere");
    assert_same(&[f32::MIN; LEN], &[-1e3; LEN], "the least number everywhere");
    let one = |value: f32| {
        let mut x = [0.0f32; LEN];
        x[17] = value;
        x
    };
    assert_same(&one(f32::MAX), &one(1e6), "one largest number");
    // Beside the largest number, the others vanish.
    let mut among: Vec<f32> = vector();
    among[17] = f32::MAX;
    let bits_among = bits(ReleaseShape::Full, 0.1, &among);
    assert!(bits_among == bits(ReleaseShape::Full, 0.1, &one(f32::MAX)));
}

#[test]
fn what_is_no_number_counts_as_zero() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7f80_0001)] {
        let (mut with, mut without) = (vector(), vector());
        for i in [0, 5, 100, LEN - 1] {
            (with[i], without[i]) = (bad, 0.0);
        }
        assert_same(&with, &without, &format!("{bad}"));
        assert_same(&[bad; LEN], &[0.0; LEN], "nothing but that");
    }
}

#[test]
fn the_smallest_numbers_are_zero_and_divide_nothing() {
    for tiny in [f32::from_bits(1), -f32::from_bits(1), f32::MIN_POSITIVE, -0.0] {
        assert_same(&[tiny; LEN], &[0.0; LEN], &format!("{tiny:e}"));
    }
}

/// Norms for a private clipping norm: the answer is one of the public candidates, whatever the residuals are.
#[test]
fn a_private_norm_of_hostile_residuals_is_a_candidate() {
    for bad in [f32::NAN, f32::INFINITY, f32::MAX, f32::from_bits(1), 0.0] {
        let shape = (ReleaseShape::Full, SIZE);
        let mechanism =
            NormQuantile::new((0.5, 1.0), shape, Digest([3; 32]), NoiseKey::new([5; 32])).unwrap();
        let charge = mechanism.charge(Digest([9; 32]), RecordSet::range(0..50), "a test");
        let receipt = MemoryLedger::default().writer(f64::INFINITY, 1e-5).charge(charge).unwrap();
        let residuals = [bad; 50 * LEN];
        let norms: Vec<f64> = mechanism.norms(&residuals).unwrap().collect();
        assert!(norms.iter().all(|norm| norm.is_finite()), "{bad}");
        let found = mechanism.release(&receipt, &norms).unwrap();
        let steps = found.log2() * 8.0;
        assert!(steps == steps.round() && steps.abs() <= 160.0, "{bad}: {found}");
    }
}

/// Logits as large as they get: the gradient is finite and within its clipping norm.
#[test]
fn gradients_of_hostile_logits_are_clipped() {
    for clip in [0.1, 1.0, 10.0] {
        let config = GradientReleaseConfig { labels: 4, clip, sigma: 1e-9 };
        let mechanism = GradientRelease::new(config, NoiseKey::new([5; 32])).unwrap();
        let mut ledger = MemoryLedger::default().writer(f64::INFINITY, 1e-5);
        let cases: [[f32; 4]; 5] = [
            [f32::MAX, f32::MIN, 0.0, 0.0],
            [f32::MAX; 4],
            [f32::MIN; 4],
            [f32::from_bits(1), -0.0, 0.0, f32::MIN_POSITIVE],
            [3e38, -3e38, 3e38, -3e38],
        ];
        for (i, logits) in cases.iter().enumerate() {
            let charge =
                mechanism.charge(Digest([9; 32]), RecordSet::of(&[0]), Digest([i as u8; 32]), "a test");
            let receipt = ledger.charge(charge).unwrap();
            for label in 0..4 {
                let answer = Answered { record: 0, label, logits };
                let sent = mechanism.release(&receipt, [answer].into_iter()).unwrap();
                let numbers: Vec<f64> = sent
                    .value()
                    .chunks_exact(4)
                    .map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
                    .collect();
                let norm = numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
                assert!(norm <= clip.min(std::f64::consts::SQRT_2) + 1e-6, "{logits:?}: {numbers:?}");
            }
        }
    }
}
