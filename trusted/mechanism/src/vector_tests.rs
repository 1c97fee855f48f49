//! Noised vectors from end to end: charge, clip, noise, encode.

use std::sync::{Arc, Mutex};

use ledger::{Class, Ledger};

use super::*;
use crate::{Budget, Crossing, LedgerStore, LedgerWriter, StoreError};

const DATASET: Digest = Digest([9; 32]);

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl LedgerStore for Memory {
    fn append_durably(&mut self, line: &[u8]) -> Result<(), StoreError> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(())
    }
}

fn writer() -> LedgerWriter {
    let budget = Budget::new(f64::INFINITY, 1e-5).unwrap();
    LedgerWriter::new(Ledger::empty(), budget, Box::new(Memory::default()))
}

fn config(shape: [usize; 3], clip: f64, sigma: f64) -> VectorReleaseConfig {
    VectorReleaseConfig {
        kind: Kind::NoisedResiduals,
        shape,
        clip,
        sigma,
        layer: 3,
        function: Digest([3; 32]),
        encoding: Encoding::F32,
    }
}

fn mechanism(config: VectorReleaseConfig) -> VectorRelease {
    VectorRelease::new(config, NoiseKey::new([5; 32])).unwrap()
}

/// What leaves for these records in a step after this transcript.
fn step(
    mechanism: &VectorRelease,
    ledger: &mut LedgerWriter,
    records: &[u64],
    transcript: u8,
    x: &[f32],
) -> Vec<Vec<u8>> {
    let charge =
        mechanism.charge_step(DATASET, RecordSet::of(records), Digest([transcript; 32]), "one step, layer 3");
    let receipt = ledger.charge(charge).unwrap();
    let sent = mechanism.release(&Threads::new(2), &receipt, records, x).unwrap();
    sent.iter().map(|message| message.value().clone()).collect()
}

fn numbers(message: &[u8]) -> Vec<f32> {
    message.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

fn vectors(count: usize, len: usize) -> Vec<f32> {
    (0..count * len).map(|i| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * 0.3).collect()
}

#[test]
fn a_message_is_the_clipped_vector_and_noise_of_the_stated_size() {
    let (shape, clip, sigma) = ([3, 40, 50], 2.0, 0.7);
    let mechanism = mechanism(config(shape, clip, sigma));
    let x = vectors(1, 6000);
    let message = step(&mechanism, &mut writer(), &[7], 0, &x).remove(0);
    let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    assert!(norm > 2.0 * clip, "{norm}");
    let noise: Vec<f64> = numbers(&message)
        .iter()
        .zip(&x)
        .map(|(sent, x)| f64::from(*sent) - f64::from(*x) * clip / norm)
        .collect();
    let variance = noise.iter().map(|n| n * n).sum::<f64>() / noise.len() as f64;
    // Standard deviation of the ratio: √(2/6000) = 0.018.
    assert!((variance / (sigma * sigma) - 1.0).abs() < 0.08, "{variance}");
    let along = noise.iter().zip(&x).map(|(n, x)| n * f64::from(*x) / norm).sum::<f64>() / sigma;
    assert!(along.abs() < 4.5, "the vector itself has the right size: {along}");
}

/// What is sent lies on the grid, so that its low bits tell nothing.
#[test]
fn everything_sent_is_on_the_grid() {
    let mechanism = mechanism(config([1, 30, 30], 1.0, 3.0));
    let message = step(&mechanism, &mut writer(), &[0], 0, &vectors(1, 900)).remove(0);
    let step = 3f64.log2().floor().exp2() / 4096.0;
    for x in numbers(&message) {
        assert_eq!((f64::from(x) / step).fract(), 0.0, "{x}");
        assert!(x != 0.0 || x.is_sign_positive(), "a negative zero tells a sign");
    }
}

/// Clipping alone, seen through almost no noise: short vectors stay, long ones get the norm.
#[test]
fn no_vector_is_longer_than_the_clipping_norm() {
    let mechanism = mechanism(config([1, 1, 8], 1.0, 1e-9));
    for size in [0.0f32, 0.01, 1.0, 3.0, 1e20, f32::MAX] {
        let x = [size; 8];
        let message = step(&mechanism, &mut writer(), &[0], 0, &x).remove(0);
        let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let (sent, expected) = (norm(&numbers(&message)), norm(&x).min(1.0));
        assert!((sent - expected).abs() < 1e-6, "{size}: {sent}, expected {expected}");
    }
}

/// What is not a number counts as zero: no error tells that there was one, and no other number changes.
#[test]
fn what_is_not_a_number_counts_as_zero() {
    let mechanism = mechanism(config([1, 1, 4], 1.0, 0.5));
    let sent = |x: [f32; 4]| step(&mechanism, &mut writer(), &[0], 0, &x);
    let zero = sent([0.25, 0.0, -0.5, 0.0]);
    assert_eq!(sent([0.25, f32::NAN, -0.5, f32::INFINITY]), zero);
    assert_eq!(sent([0.25, f32::NEG_INFINITY, -0.5, -f32::NAN]), zero);
    assert_eq!(sent([f32::NAN; 4]), sent([0.0; 4]));
}

#[test]
fn the_same_for_any_number_of_threads() {
    let (mechanism, mut ledger) = (mechanism(config([3, 20, 30], 1.0, 1.0)), writer());
    let receipt = ledger.charge(mechanism.charge(DATASET, RecordSet::range(0..5), 0, "once")).unwrap();
    let x = vectors(5, 1800);
    let sent = |threads| {
        let sent = mechanism.release(&Threads::new(threads), &receipt, &[0, 1, 2, 3, 4], &x).unwrap();
        sent.iter().map(|message| message.value().clone()).collect::<Vec<_>>()
    };
    assert!(sent(1) == sent(2) && sent(1) == sent(3));
}

/// The same transcript gives the same bytes for nothing, another one new noise for a charge.
#[test]
fn noise_is_bound_to_the_transcript() {
    let (mechanism, mut ledger) = (mechanism(config([2, 4, 4], 1.0, 1.0)), writer());
    let x = vectors(3, 32);
    let first = step(&mechanism, &mut ledger, &[4, 9, 6], 1, &x);
    let spent = ledger.ledger().epsilon(1e-5);
    // In another order and in parts.
    let again = step(&mechanism, &mut ledger, &[6], 1, &x[64..]);
    assert_eq!((again[0].as_slice(), ledger.ledger().len()), (first[2].as_slice(), 1));
    assert_eq!(ledger.ledger().epsilon(1e-5), spent);
    let other = step(&mechanism, &mut ledger, &[4, 9, 6], 2, &x);
    assert_eq!(ledger.ledger().len(), 2);
    assert!(ledger.ledger().epsilon(1e-5) > spent);
    // Noise of neighbouring layers, steps and records has nothing in common.
    let layer =
        VectorRelease::new(VectorReleaseConfig { layer: 4, ..*mechanism.config() }, NoiseKey::new([5; 32]));
    let zeros = [0.0; 32];
    let layer = step(&layer.unwrap(), &mut ledger, &[4], 1, &zeros).remove(0);
    let here = step(&mechanism, &mut ledger, &[4], 1, &zeros).remove(0);
    assert!(numbers(&layer).iter().zip(numbers(&here)).all(|(a, b)| *a != b));
    assert!(first.iter().zip(&other).all(|(a, b)| numbers(a).iter().zip(numbers(b)).all(|(a, b)| *a != b)));
    assert_ne!(first[0], first[1]);
}

#[test]
fn a_charge_is_the_loss_of_its_noise() {
    let mechanism = mechanism(config([4, 8, 8], 2.0, 6.0));
    let Event::LatticeGaussian { noise_multiplier, numbers: 256, count: 1, clipped: true } =
        mechanism.event()
    else {
        panic!("{:?}", mechanism.event())
    };
    assert_eq!(noise_multiplier, 1.5f64.next_down());
    let charge = mechanism.charge(DATASET, RecordSet::range(0..3), 2, "once");
    assert_eq!((charge.bytes, charge.view, charge.transcript), (1024, 2, None));
    let name = charge.mechanism.to_string();
    assert!(
        name.starts_with("noised-residuals v1: 4x8x8 in f32, clip 2, sigma 6, layer 3, function "),
        "{name}"
    );
}

#[test]
fn nothing_is_released_without_its_charge() {
    let (mechanism, mut ledger) = (mechanism(config([1, 2, 2], 1.0, 1.0)), writer());
    let charge = mechanism.charge(DATASET, RecordSet::of(&[1, 5]), 0, "once");
    let receipt = ledger.charge(charge).unwrap();
    let refused = |records: &[u64], len| {
        mechanism.release(&Threads::new(1), &receipt, records, &vec![0.0; len]).unwrap_err()
    };
    assert_eq!(refused(&[1, 2], 8), ReleaseError::NotCharged { record: 2 });
    assert_eq!(refused(&[1, 5], 7), ReleaseError::Length { expected: 4, found: 3 });
    let other = VectorReleaseConfig { sigma: 1.5, ..*mechanism.config() };
    let other = VectorRelease::new(other, NoiseKey::new([5; 32])).unwrap();
    assert_eq!(
        other.release(&Threads::new(1), &receipt, &[1], &[0.0; 4]).unwrap_err(),
        ReleaseError::NotCharged { record: 1 }
    );
    let sent = mechanism.release(&Threads::new(1), &receipt, &[5, 1], &[0.0; 8]).unwrap();
    assert_eq!((sent[0].kind(), sent[0].class()), (Kind::NoisedResiduals, Class::NoisedCounted));
    let all = Released::gather(sent).unwrap();
    assert_eq!(
        (all.kind(), all.byte_len(), all.receipt().unwrap().paid().entry),
        (Kind::NoisedResiduals, 32, 0)
    );
}

/// Stored before it is sent, a message comes back only to its mechanism, key, records and charge.
#[test]
fn stored_messages_come_back_as_they_were() {
    let (mechanism, mut ledger) = (mechanism(config([1, 2, 2], 1.0, 1.0)), writer());
    let receipt = ledger.charge(mechanism.charge(DATASET, RecordSet::range(3..6), 0, "once")).unwrap();
    let sent = RecordRelease::release(&mechanism, &receipt, 3..6, &vectors(3, 4)).unwrap();
    let mut stored = mechanism.to_stored(&receipt, 3..6, &sent);
    let back = mechanism.from_stored(&receipt, 3..6, &stored).unwrap();
    assert!(back.iter().zip(&sent).all(|(a, b)| a.value() == b.value() && a.kind() == b.kind()));
    let wrong = ReleaseError::Stored { first: 3 };
    assert_eq!(mechanism.from_stored(&receipt, 3..5, &stored[..64]).unwrap_err(), wrong);
    stored[5] ^= 1;
    assert_eq!(mechanism.from_stored(&receipt, 3..6, &stored).unwrap_err(), wrong);
}

/// A compact format is a plain function of what was noised.
#[test]
fn an_encoding_is_post_processing() {
    let halves: Encoding = Encoding {
        name: "bf16",
        len: |planes, plane| 2 * planes * plane,
        write: |numbers, _, bytes| {
            let (words, _) = bytes.as_chunks_mut::<2>();
            words.iter_mut().zip(numbers).for_each(|(w, x)| *w = [x.to_le_bytes()[2], x.to_le_bytes()[3]]);
        },
    };
    let mechanism = mechanism(VectorReleaseConfig { encoding: halves, ..config([2, 3, 3], 1.0, 1.0) });
    let sent = step(&mechanism, &mut writer(), &[0], 0, &vectors(1, 18));
    assert_eq!((sent[0].len(), mechanism.message_len()), (36, 36));
    assert_eq!(mechanism.charge(DATASET, RecordSet::of(&[0]), 0, "once").bytes, 36);
}

#[test]
fn what_gives_no_guarantee_is_refused() {
    let refused = |config| VectorRelease::new(config, NoiseKey::new([5; 32])).unwrap_err();
    let good = config([1, 2, 2], 1.0, 1.0);
    for clip in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e31, 1e-31] {
        assert!(
            matches!(refused(VectorReleaseConfig { clip, ..good }), UnusableMechanism::Clip(_)),
            "{clip}"
        );
    }
    for sigma in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e31, 1e-31] {
        let found = refused(VectorReleaseConfig { sigma, ..good });
        assert!(matches!(found, UnusableMechanism::Sigma(_)), "{sigma}");
    }
    assert_eq!(refused(VectorReleaseConfig { shape: [1, 0, 2], ..good }), UnusableMechanism::Empty);
    for kind in [Kind::Inputs, Kind::ResidualBits, Kind::LogitGradients, Kind::Results] {
        assert_eq!(refused(VectorReleaseConfig { kind, ..good }), UnusableMechanism::Kind(kind));
    }
}
