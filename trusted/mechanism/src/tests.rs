//! Releases from end to end: charge, clip, noise, sign.

use std::sync::{Arc, Mutex};

use accounting::{gaussian, information, randomised_response};
use ledger::{Class, Digest, Kind, Ledger, MechanismId, RecordSet};

use super::*;

const DELTA: f64 = 1e-5;
const DATASET: Digest = Digest([9; 32]);

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl LedgerStore for Memory {
    fn append_durably(&mut self, line: &[u8]) -> Result<(), StoreError> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(())
    }
}

fn writer(epsilon: f64) -> (LedgerWriter, Memory) {
    let store = Memory::default();
    let budget = Budget::new(epsilon, DELTA).unwrap();
    (LedgerWriter::new(Ledger::empty(), budget, Box::new(store.clone())), store)
}

fn config(sigma: f64, shape: ReleaseShape, residual: [usize; 3]) -> BitReleaseConfig {
    BitReleaseConfig { clip: 1.0, sigma, shape, residual, function: Digest([3; 32]) }
}

fn release(config: BitReleaseConfig) -> BitRelease {
    BitRelease::new(config, NoiseKey::new([5; 32])).unwrap()
}

fn batch(records: &[u64]) -> ReleaseBatch<'_> {
    ReleaseBatch { dataset: DATASET, records, view: 0, purpose: "a test" }
}

fn bytes_of(released: &[Released<Vec<u8>>]) -> Vec<Vec<u8>> {
    released.iter().map(|r| r.value().clone()).collect()
}

/// Residuals of `n` records, from a fixed sequence.
fn residuals(n: usize, len: usize) -> Vec<f32> {
    (0..n * len).map(|i| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * 0.3).collect()
}

#[test]
fn bits_are_packed_signs() {
    let config = config(1e-9, ReleaseShape::Full, [1, 2, 5]);
    let x = [1.0, -1.0, 0.5, -0.25, 0.125, 1.0, 1.0, -1.0, -1.0, 1.0];
    let (mut ledger, _) = writer(f64::INFINITY);
    let sent = release(config).release_batch(&mut ledger, &batch(&[0]), &x).unwrap();
    assert_eq!(*sent[0].value(), [0b0111_0101, 0b0000_0010]);
    assert_eq!((sent[0].kind(), sent[0].class()), (Kind::ResidualBits, Class::NoisedCounted));
    assert_eq!(sent[0].receipt().unwrap().paid().entry, 0);
    assert_eq!(release(config).message_len(), 2);
    // Without noise the same bits need a permission.
    let plain = PlainBits::new(config.shape, config.residual).unwrap();
    let refused = plain.release(&Permissions::none(), &x).unwrap_err();
    assert_eq!(refused, ReleaseError::Refused(Refused::NotAllowed { kind: Kind::PlainResiduals }));
    let allowed = Permissions::from_names(["plain-residuals"]).unwrap();
    let bits = plain.release(&allowed, &x).unwrap();
    assert_eq!(bits.value(), sent[0].value());
    assert_eq!((bits.class(), bits.receipt().is_none()), (Class::Unprotected, true));
}

#[test]
fn a_replay_gives_the_same_bytes_and_costs_nothing() {
    let (records, x) = ([4, 2, 7], residuals(3, 64));
    let mechanism = release(config(1.0, ReleaseShape::Full, [1, 8, 8]));
    let (mut ledger, store) = writer(f64::INFINITY);
    let first = mechanism.release_batch(&mut ledger, &batch(&records), &x).unwrap();
    let spent = ledger.ledger().epsilon(DELTA);
    // A restart: the ledger is read back, the batch comes in another order.
    let bytes = store.0.lock().unwrap().clone();
    let budget = Budget::new(spent, DELTA).unwrap();
    let mut later = LedgerWriter::new(Ledger::verify(&bytes).unwrap(), budget, Box::new(store));
    let order = [7, 4, 2];
    let moved = [&x[128..], &x[..64], &x[64..128]].concat();
    let again = mechanism.release_batch(&mut later, &batch(&order), &moved).unwrap();
    let (first, again) = (bytes_of(&first), bytes_of(&again));
    assert_eq!([&again[1], &again[2], &again[0]], [&first[0], &first[1], &first[2]]);
    assert_eq!(later.ledger().epsilon(DELTA), spent);
    assert_ne!(first[0], first[1]);
}

/// Any difference in what is released is another mechanism: other noise, and a charge.
#[test]
fn another_function_has_other_noise_and_is_charged() {
    let base = config(1.0, ReleaseShape::Full, [1, 16, 16]);
    let others = [
        BitReleaseConfig { function: Digest([4; 32]), ..base },
        BitReleaseConfig { sigma: 1.0 + f64::EPSILON, ..base },
        BitReleaseConfig { clip: 2.0, ..base },
        BitReleaseConfig { shape: ReleaseShape::Mean, ..base },
        BitReleaseConfig { residual: [1, 8, 32], ..base },
    ];
    let (mut ledger, _) = writer(f64::INFINITY);
    let zeros = [0.0; 256];
    let first = release(base).release_batch(&mut ledger, &batch(&[0]), &zeros).unwrap();
    for (i, other) in others.into_iter().enumerate() {
        let sent = release(other).release_batch(&mut ledger, &batch(&[0]), &zeros).unwrap();
        assert_eq!(ledger.ledger().len(), i as u64 + 2);
        let differ: u32 =
            sent[0].value().iter().zip(first[0].value()).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert!((80..176).contains(&differ), "{differ} of 256 bits differ");
    }
}

#[test]
fn nothing_is_released_without_its_charge() {
    let mechanism = release(config(0.5, ReleaseShape::Mean, [2, 2, 2]));
    let (mut ledger, store) = writer(f64::INFINITY);
    let receipt = ledger.charge(mechanism.charge(DATASET, RecordSet::range(0..10), 0, "a test")).unwrap();
    assert!(mechanism.release(&receipt, 9, &[0.0; 8]).is_ok());
    let refused = |result: Result<Released<Vec<u8>>, ReleaseError>| result.unwrap_err();
    assert_eq!(refused(mechanism.release(&receipt, 10, &[0.0; 8])), ReleaseError::NotCharged { record: 10 });
    let other = release(config(0.6, ReleaseShape::Mean, [2, 2, 2]));
    assert_eq!(refused(other.release(&receipt, 9, &[0.0; 8])), ReleaseError::NotCharged { record: 9 });
    assert_eq!(
        refused(mechanism.release(&receipt, 9, &[0.0; 7])),
        ReleaseError::Length { expected: 8, found: 7 }
    );
    // A batch that is refused charges nothing, one over budget releases nothing.
    let before = store.0.lock().unwrap().len();
    let twice = mechanism.release_batch(&mut ledger, &batch(&[1, 1]), &[0.0; 16]).unwrap_err();
    assert_eq!(twice, ReleaseError::Repeated { records: 2 });
    assert!(mechanism.release_batch(&mut ledger, &batch(&[20]), &[0.0; 9]).is_err());
    assert_eq!(store.0.lock().unwrap().len(), before);
    let (mut poor, empty) = writer(0.1);
    let over = mechanism.release_batch(&mut poor, &batch(&[1]), &[0.0; 8]).unwrap_err();
    assert!(matches!(over, ReleaseError::Charge(ChargeError::Budget { .. })));
    assert!(empty.0.lock().unwrap().is_empty());
}

/// Signs agree with the true ones exactly as often as the noise allows: the noise has the size that is charged for.
#[test]
fn signs_agree_as_often_as_the_noise_allows() {
    let sigma = gaussian::sigma(8.0, DELTA, 2.0).unwrap();
    let (side, records) = (16, 400);
    let mechanism = release(config(sigma, ReleaseShape::Mean, [1, side, side]));
    let ids: Vec<u64> = (0..records as u64).collect();
    let x: Vec<f32> = (0..records as u64)
        .flat_map(|record| {
            let mut z = vec![0.0; side * side];
            NoiseKey::new([1; 32])
                .stream(&DATASET, record, 0, &MechanismId::new("data"), None)
                .fill_gaussian(&mut z);
            // Far over the clipping norm: clipping must bring it to 1.
            z.into_iter().map(|v| (1e6 * v) as f32)
        })
        .collect();
    let (mut ledger, _) = writer(8.0);
    let sent = mechanism.release_batch(&mut ledger, &batch(&ids), &x).unwrap();
    let agree: usize = sent
        .iter()
        .zip(x.chunks_exact(side * side))
        .map(|(bits, x)| {
            let bit = |i: usize| bits.value()[i / 8] >> (i % 8) & 1 == 1;
            x.iter().enumerate().filter(|&(i, &v)| bit(i) == (v >= 0.0)).count()
        })
        .sum();
    let share = agree as f64 / x.len() as f64;
    let expected = information::sign_agreement(side * side, 1.0, sigma);
    // Standard deviation 1/(2 √102400) = 0.0016.
    assert!((share - expected).abs() < 0.005, "{share}, expected {expected}");
    assert!((ledger.ledger().epsilon(DELTA) - 8.0).abs() < 1e-6);
}

/// Hostile values neither spoil the norm nor stop the release.
#[test]
fn hostile_values_count_as_zero_or_are_clipped() {
    let mechanism = release(config(1e-3, ReleaseShape::Full, [1, 1, 4]));
    let (mut ledger, _) = writer(f64::INFINITY);
    let x = [f32::NAN, f32::MAX, f32::MIN, f32::NEG_INFINITY];
    let sent = mechanism.release_batch(&mut ledger, &batch(&[0]), &x).unwrap();
    assert_eq!(sent[0].value()[0] & 0b0110, 0b0010);
    let zero = mechanism.release_batch(&mut ledger, &batch(&[1]), &[0.0; 4]).unwrap();
    assert!(zero[0].value()[0] < 16);
}

#[test]
fn a_mechanism_without_noise_or_bound_is_refused() {
    let key = || NoiseKey::new([0; 32]);
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let noise = config(bad, ReleaseShape::Full, [1, 1, 1]);
        assert!(matches!(BitRelease::new(noise, key()), Err(UnusableMechanism::Sigma(_))));
        let clip = BitReleaseConfig { clip: bad, ..config(1.0, ReleaseShape::Full, [1, 1, 1]) };
        assert!(matches!(BitRelease::new(clip, key()), Err(UnusableMechanism::Clip(_))));
    }
    let shape = config(1.0, ReleaseShape::Pooled(3), [1, 4, 4]);
    assert!(matches!(BitRelease::new(shape, key()), Err(UnusableMechanism::Shape(_))));
    assert!(
        LabelRelease::new(1, 1.0, key()).is_err() && LabelRelease::new(10, f64::INFINITY, key()).is_err()
    );
}

#[test]
fn released_values_gather_and_derive() {
    let mechanism = release(config(1.0, ReleaseShape::Full, [1, 1, 8]));
    let (mut ledger, _) = writer(f64::INFINITY);
    let mut sent = mechanism.release_batch(&mut ledger, &batch(&[0]), &[1.0; 8]).unwrap();
    sent.extend(mechanism.release_batch(&mut ledger, &batch(&[1, 2]), &[1.0; 16]).unwrap());
    let all = Released::gather(sent).unwrap();
    assert_eq!((all.value().len(), all.byte_len(), all.receipt().unwrap().paid().entry), (3, 3, 1));
    assert_eq!(format!("{all:?}"), "Released(residual-bits)");
    let count = all.derive(|bits| bits.len());
    assert_eq!((count.kind(), count.class(), *count.value()), (Kind::Derived, Class::PostProcessing, 3));
    assert!(Released::<u8>::gather(Vec::new()).is_none());
}

#[test]
fn labels_are_told_as_often_as_charged_for() {
    let (labels, epsilon, records) = (10, 2.0, 20_000u64);
    let mechanism = LabelRelease::new(labels, epsilon, NoiseKey::new([6; 32])).unwrap();
    let (mut ledger, _) = writer(epsilon);
    let truth: Vec<u16> = (0..records).map(|id| (id % 10) as u16).collect();
    let receipt = ledger.charge(mechanism.charge(DATASET, RecordSet::range(0..records), "a test")).unwrap();
    let sent = mechanism.release(&receipt, 0..records, &truth).unwrap();
    let told = |message: &Released<Vec<u8>>| -> Vec<u16> {
        message.value().chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect()
    };
    let mut steps = [0u32; 10];
    for (told, truth) in told(&sent).iter().zip(&truth) {
        steps[usize::from((told + 10 - truth) % 10)] += 1;
    }
    let keep = randomised_response::keep(labels, epsilon).unwrap();
    let near = |count: u32, p: f64| {
        let (n, mean) = (records as f64, records as f64 * p);
        (f64::from(count) - mean).abs() < 4.5 * (n * p * (1.0 - p)).sqrt()
    };
    assert!(near(steps[0], keep), "{steps:?}");
    assert!(steps[1..].iter().all(|&count| near(count, (1.0 - keep) / 9.0)), "{steps:?}");
    assert_eq!(ledger.ledger().epsilon(DELTA), epsilon);
    assert_eq!((sent.kind(), sent.class()), (Kind::RandomisedLabels, Class::NoisedCounted));
    // Any part of it again is the same answer.
    let part = mechanism.release(&receipt, 40..50, &truth[40..50]).unwrap();
    assert_eq!(told(&part), told(&sent)[40..50]);
    assert_eq!(
        mechanism.release(&receipt, 3..4, &[10]).unwrap_err(),
        ReleaseError::Label { record: 3, labels: 10 }
    );
    assert!(matches!(mechanism.release(&receipt, 0..3, &[1, 2]), Err(ReleaseError::Length { .. })));
    let beyond = mechanism.release(&receipt, records..records + 1, &[0]);
    assert_eq!(beyond.unwrap_err(), ReleaseError::NotCharged { record: records });
}
