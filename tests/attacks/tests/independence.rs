//! The move: average the noise away, over records, views, steps, data sets or mechanisms that share some of it.
//!
//! What must hold: the released bits and gradients of two different places are independent: they agree as often as coins.
//!
//! Enforced in `mechanism::noise` (a stream per data set, record, view, mechanism and transcript).
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_attacks::MemoryLedger;
use kernels::Threads;
use ledger::{Digest, Kind, RecordSet};
use mechanism::{
    Answered, BitRelease, BitReleaseConfig, Crossing, Encoding, GradientRelease, LabelRelease, LedgerWriter,
    NoiseKey, RecordRelease, ReleaseShape, VectorRelease, VectorReleaseConfig,
};

const RECORDS: u64 = 600;
const SIDE: usize = 16;
/// Standard deviations beyond which chance is no explanation: 1 in 100,000 per comparison.
const LIMIT: f64 = 4.5;

fn mechanism(function: u8, sigma: f64) -> BitRelease {
    let config = BitReleaseConfig {
        clip: 1.0,
        sigma,
        shape: ReleaseShape::Full,
        residual: [1, SIDE, SIDE],
        function: Digest([function; 32]),
    };
    BitRelease::new(config, NoiseKey::new([5; 32])).unwrap()
}

fn writer() -> LedgerWriter {
    MemoryLedger::default().writer(f64::INFINITY, 1e-5)
}

/// Messages of all records for a residual of zeros: noise and nothing else.
fn noise(mechanism: &BitRelease, dataset: u8, view: u32) -> Vec<Vec<u8>> {
    let charge = mechanism.charge(Digest([dataset; 32]), RecordSet::range(0..RECORDS), view, "a test");
    let receipt = writer().charge(charge).unwrap();
    let zeros = vec![0.0; RECORDS as usize * SIDE * SIDE];
    let sent = mechanism.release(&receipt, 0..RECORDS, &zeros).unwrap();
    sent.iter().map(|message| message.value().clone()).collect()
}

/// How far the number of equal bits is from half of them, in standard deviations.
fn agreement<'a>(pairs: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>) -> f64 {
    let (mut equal, mut bits) = (0u32, 0u32);
    for (a, b) in pairs {
        equal += a.iter().zip(b).map(|(a, b)| (a ^ b).count_zeros()).sum::<u32>();
        bits += 8 * a.len() as u32;
    }
    (f64::from(equal) - f64::from(bits) / 2.0) / (f64::from(bits) / 4.0).sqrt()
}

#[test]
fn bits_of_different_places_agree_as_often_as_coins() {
    // Both ways in which signs are drawn.
    for sigma in [1.0, 0.1] {
        let base = noise(&mechanism(3, sigma), 9, 0);
        let same = agreement(base.iter().zip(&noise(&mechanism(3, sigma), 9, 0)));
        assert!(same > 100.0, "the same place has the same bits: {same}");
        let ones: u32 = base.iter().flatten().map(|byte| byte.count_ones()).sum();
        let bits = (RECORDS as usize * SIDE * SIDE) as f64;
        assert!((f64::from(ones) - bits / 2.0).abs() < LIMIT * (bits / 4.0).sqrt(), "{ones} of {bits} ones");
        for lag in [1, 2, 64, 255] {
            let off = agreement(base.iter().zip(&base[lag..]));
            assert!(off.abs() < LIMIT, "records {lag} apart: {off}");
        }
        let others = [
            ("view", noise(&mechanism(3, sigma), 9, 1)),
            ("data set", noise(&mechanism(3, sigma), 8, 0)),
            ("function", noise(&mechanism(4, sigma), 9, 0)),
            ("sigma", noise(&mechanism(3, sigma * (1.0 + 1e-15)), 9, 0)),
        ];
        for (name, other) in others {
            let off = agreement(base.iter().zip(&other));
            assert!(off.abs() < LIMIT, "another {name}: {off}");
            // Nor shifted by a record.
            let off = agreement(base.iter().zip(&other[1..]));
            assert!(off.abs() < LIMIT, "another {name}, one record on: {off}");
        }
        // Within a message: every bit and the next, and the one a row below.
        let bit = |message: &Vec<u8>, i: usize| message[i / 8] >> (i % 8) & 1;
        for lag in [1, 2, 8, SIDE] {
            let pairs = SIDE * SIDE - lag;
            let equal: usize =
                base.iter().map(|m| (0..pairs).filter(|&i| bit(m, i) == bit(m, i + lag)).count()).sum();
            let all = (pairs * base.len()) as f64;
            let off = (equal as f64 - all / 2.0) / (all / 4.0).sqrt();
            assert!(off.abs() < LIMIT, "bits {lag} apart: {off}");
        }
    }
}

/// Noise of the gradients of all records after one exchange.
fn gradient_noise(exchange: u8) -> Vec<f64> {
    let mechanism = GradientRelease::calibrated(10, 1.0, 5.0, NoiseKey::new([5; 32])).unwrap();
    let charge =
        mechanism.charge(Digest([9; 32]), RecordSet::range(0..RECORDS), Digest([exchange; 32]), "a test");
    let receipt = writer().charge(charge).unwrap();
    let answers: Vec<_> =
        (0..RECORDS).map(|record| Answered { record, label: 0, logits: &[0.0; 10] }).collect();
    let sent = mechanism.release(&receipt, answers.into_iter()).unwrap();
    let numbers = sent.value().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let expected = |i: usize| if i.is_multiple_of(10) { -0.9 } else { 0.1 };
    numbers.enumerate().map(|(i, x)| f64::from(x) - expected(i)).collect()
}

/// Correlation times √n: normal with variance 1 for independent numbers.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len());
    let of = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    of(a, b) / (of(&a[..n], &a[..n]) * of(&b[..n], &b[..n])).sqrt() * (n as f64).sqrt()
}

#[test]
fn gradients_of_different_steps_and_records_are_independent() {
    let steps: Vec<Vec<f64>> = (0..6).map(gradient_noise).collect();
    assert!(correlation(&steps[0], &gradient_noise(0)) > 50.0);
    for (i, a) in steps.iter().enumerate() {
        for b in &steps[..i] {
            let off = correlation(a, b);
            assert!(off.abs() < LIMIT, "two steps: {off}");
        }
        for lag in [1, 2, 10, 20] {
            let off = correlation(a, &a[lag..]);
            assert!(off.abs() < LIMIT, "numbers {lag} apart: {off}");
        }
    }
    // Averaged over the steps, the noise falls as that of independent numbers: by √6.
    let size = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt();
    let mean: Vec<f64> =
        (0..steps[0].len()).map(|i| steps.iter().map(|step| step[i]).sum::<f64>() / 6.0).collect();
    let fallen = size(&steps[0]) / size(&mean);
    assert!((fallen / 6f64.sqrt() - 1.0).abs() < 0.05, "{fallen}");
}

/// Noise of the vectors of all records in one step at one layer.
fn vector_noise(layer: usize, transcript: u8) -> Vec<f64> {
    let config = VectorReleaseConfig {
        kind: Kind::NoisedResiduals,
        shape: [1, 5, 7],
        clip: 1.0,
        sigma: 3.0,
        layer,
        function: Digest([3; 32]),
        encoding: Encoding::F32,
    };
    let mechanism = VectorRelease::new(config, NoiseKey::new([5; 32])).unwrap();
    let records: Vec<u64> = (0..RECORDS).collect();
    let transcript = Digest([transcript; 32]);
    let charge = mechanism.charge_step(Digest([9; 32]), RecordSet::of(&records), transcript, "a test");
    let receipt = writer().charge(charge).unwrap();
    let sent =
        mechanism.release(&Threads::new(2), &receipt, &records, &vec![0.0; 35 * RECORDS as usize]).unwrap();
    let words = sent.iter().flat_map(|message| message.value().as_chunks::<4>().0);
    words.map(|word| f64::from(f32::from_le_bytes(*word))).collect()
}

#[test]
fn vectors_of_different_layers_steps_and_records_are_independent() {
    let base = vector_noise(1, 1);
    assert!(correlation(&base, &vector_noise(1, 1)) > 100.0, "the same place has the same noise");
    for (name, other) in [("layer", vector_noise(2, 1)), ("step", vector_noise(1, 2))] {
        for lag in [0, 1, 35] {
            let off = correlation(&base, &other[lag..]);
            assert!(off.abs() < LIMIT, "another {name}, {lag} on: {off}");
        }
    }
    for lag in [1, 2, 7, 35, 70] {
        let off = correlation(&base, &base[lag..]);
        assert!(off.abs() < LIMIT, "numbers {lag} apart: {off}");
    }
}

#[test]
fn labels_of_different_records_are_independent() {
    let records = 40_000u64;
    let mechanism = LabelRelease::new(4, 1.0, NoiseKey::new([5; 32])).unwrap();
    let receipt =
        writer().charge(mechanism.charge(Digest([9; 32]), RecordSet::range(0..records), "a test")).unwrap();
    let sent = mechanism.release(&receipt, 0..records, &vec![0; records as usize]).unwrap();
    let lies: Vec<f64> =
        sent.value().chunks_exact(2).map(|told| f64::from(u8::from(told != [0, 0]))).collect();
    let share = lies.iter().sum::<f64>() / records as f64;
    let centred: Vec<f64> = lies.iter().map(|lie| lie - share).collect();
    for lag in [1, 2, 3, 256] {
        let off = correlation(&centred, &centred[lag..]);
        assert!(off.abs() < LIMIT, "records {lag} apart: {off}");
    }
}
