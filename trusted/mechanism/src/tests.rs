//! Releases from end to end: charge, clip, noise, sign.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use accounting::{Event, gaussian, information, randomised_response};
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

/// Charges for the records, then makes their messages.
fn send(
    mechanism: &BitRelease,
    ledger: &mut LedgerWriter,
    records: Range<u64>,
    x: &[f32],
) -> Result<Vec<Released<Vec<u8>>>, ReleaseError> {
    let charge = mechanism.charge(DATASET, RecordSet::range(records.clone()), 0, "a test");
    mechanism.release(&ledger.charge(charge)?, records, x)
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
    let sent = send(&release(config), &mut ledger, 0..1, &x).unwrap();
    assert_eq!(*sent[0].value(), [0b0111_0101, 0b0000_0010]);
    assert_eq!((sent[0].kind(), sent[0].class()), (Kind::ResidualBits, Class::NoisedCounted));
    assert_eq!(sent[0].receipt().unwrap().paid().entry, 0);
    assert_eq!(release(config).message_len(), 2);
    // Without noise the same bits need a permission.
    let plain = PlainBits::new(config.shape, config.residual).unwrap();
    let refused = plain.release(&Permissions::none(), 1, &x).unwrap_err();
    assert_eq!(refused, ReleaseError::Refused(Refused::NotAllowed { kind: Kind::PlainResiduals }));
    let allowed = Permissions::from_names(["plain-residuals"]).unwrap();
    let bits = plain.release(&allowed, 1, &x).unwrap().remove(0);
    assert_eq!(bits.value(), sent[0].value());
    assert_eq!((bits.class(), bits.receipt().is_none()), (Class::Unprotected, true));
}

#[test]
fn a_replay_gives_the_same_bytes_and_costs_nothing() {
    let x = residuals(3, 64);
    let mechanism = release(config(1.0, ReleaseShape::Full, [1, 8, 8]));
    let (mut ledger, store) = writer(f64::INFINITY);
    let first = bytes_of(&send(&mechanism, &mut ledger, 4..7, &x).unwrap());
    let spent = ledger.ledger().epsilon(DELTA);
    // A restart: the ledger is read back, the records come one by one in another order.
    let bytes = store.0.lock().unwrap().clone();
    let budget = Budget::new(spent, DELTA).unwrap();
    let mut later = LedgerWriter::new(Ledger::verify(&bytes).unwrap(), budget, Box::new(store));
    for record in [6, 4, 5] {
        let at = record - 4;
        let again = send(&mechanism, &mut later, record as u64..record as u64 + 1, &x[64 * at..64 * at + 64]);
        assert_eq!(bytes_of(&again.unwrap()), first[at..at + 1]);
    }
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
    let first = send(&release(base), &mut ledger, 0..1, &zeros).unwrap();
    for (i, other) in others.into_iter().enumerate() {
        let sent = send(&release(other), &mut ledger, 0..1, &zeros).unwrap();
        assert_eq!(ledger.ledger().len(), i as u64 + 2);
        let differ: u32 =
            sent[0].value().iter().zip(first[0].value()).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert!((80..176).contains(&differ), "{differ} of 256 bits differ");
    }
}

#[test]
fn nothing_is_released_without_its_charge() {
    let mechanism = release(config(0.5, ReleaseShape::Mean, [2, 2, 2]));
    let (mut ledger, _) = writer(f64::INFINITY);
    let receipt = ledger.charge(mechanism.charge(DATASET, RecordSet::range(0..10), 0, "a test")).unwrap();
    assert!(mechanism.release(&receipt, 9..10, &[0.0; 8]).is_ok());
    let refused = |result: Result<Vec<Released<Vec<u8>>>, ReleaseError>| result.unwrap_err();
    assert_eq!(
        refused(mechanism.release(&receipt, 9..11, &[0.0; 16])),
        ReleaseError::NotCharged { record: 10 }
    );
    let other = release(config(0.6, ReleaseShape::Mean, [2, 2, 2]));
    assert_eq!(refused(other.release(&receipt, 9..10, &[0.0; 8])), ReleaseError::NotCharged { record: 9 });
    assert_eq!(
        refused(mechanism.release(&receipt, 9..10, &[0.0; 7])),
        ReleaseError::Length { expected: 8, found: 7 }
    );
    // A batch over budget releases nothing and charges nothing.
    let (mut poor, empty) = writer(0.1);
    let over = send(&mechanism, &mut poor, 1..2, &[0.0; 8]).unwrap_err();
    assert!(matches!(over, ReleaseError::Charge(ChargeError::Budget { .. })));
    assert!(empty.0.lock().unwrap().is_empty());
}

/// Signs agree with the true ones exactly as often as the noise allows: the noise has the size that is charged for.
#[test]
fn signs_agree_as_often_as_the_noise_allows() {
    let sigma = gaussian::sigma(8.0, DELTA, 2.0).unwrap();
    let (side, records) = (16, 400);
    let mechanism = release(config(sigma, ReleaseShape::Mean, [1, side, side]));
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
    let sent = send(&mechanism, &mut ledger, 0..records as u64, &x).unwrap();
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
    let sent = send(&mechanism, &mut ledger, 0..1, &x).unwrap();
    assert_eq!(sent[0].value()[0] & 0b0110, 0b0010);
    let zero = send(&mechanism, &mut ledger, 1..2, &[0.0; 4]).unwrap();
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
    let mut sent = send(&mechanism, &mut ledger, 0..1, &[1.0; 8]).unwrap();
    sent.extend(send(&mechanism, &mut ledger, 1..3, &[1.0; 16]).unwrap());
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

fn gradients(mechanism: &GradientRelease, receipt: &Receipt, labels: &[u16], logits: &[f32]) -> Vec<f32> {
    let classes = logits.len() / labels.len();
    let answers = labels.iter().zip(logits.chunks(classes)).enumerate();
    let answers = answers.map(|(record, (&label, logits))| Answered { record: record as u64, label, logits });
    let message = mechanism.release(receipt, answers).unwrap();
    assert_eq!((message.kind(), message.class()), (Kind::LogitGradients, Class::NoisedCounted));
    message.value().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn gradient_charge(
    mechanism: &GradientRelease,
    ledger: &mut LedgerWriter,
    records: u64,
    exchange: u8,
) -> Receipt {
    let transcript = Digest([exchange; 32]);
    let charge = mechanism.charge(DATASET, RecordSet::range(0..records), transcript, "a test");
    ledger.charge(charge).unwrap()
}

#[test]
fn gradients_are_those_of_the_loss_clipped_and_noised() {
    let config = GradientReleaseConfig { labels: 3, clip: 10.0, sigma: 1e-6 };
    let mechanism = GradientRelease::new(config, NoiseKey::new([1; 32])).unwrap();
    let (mut ledger, _) = writer(f64::INFINITY);
    let receipt = gradient_charge(&mechanism, &mut ledger, 2, 0);
    let logits = [1.0f32, 2.0, 0.5, -1e30, 0.0, 0.0];
    let sent = gradients(&mechanism, &receipt, &[1, 0], &logits);
    let e = [1f64.exp(), 2f64.exp(), 0.5f64.exp()];
    let sum: f64 = e.iter().sum();
    let expected = [e[0] / sum, e[1] / sum - 1.0, e[2] / sum, -1.0, 0.5, 0.5];
    for (found, expected) in sent.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-5, "{found}, expected {expected}");
    }
    // Clipped to a small norm, nothing is larger.
    let small =
        GradientRelease::new(GradientReleaseConfig { clip: 0.1, ..config }, NoiseKey::new([1; 32])).unwrap();
    let receipt = gradient_charge(&small, &mut ledger, 2, 0);
    let sent = gradients(&small, &receipt, &[1, 0], &logits);
    assert!(sent.chunks(3).all(|g| g.iter().map(|x| x * x).sum::<f32>().sqrt() < 0.1001), "{sent:?}");
    assert_eq!(small.sensitivity(), 0.2f64.next_up());
    // What does not belong is refused.
    let answer = |record, label, logits| Answered { record, label, logits };
    let refused = |a: Answered<'_>| small.release(&receipt, [a].into_iter()).unwrap_err();
    assert_eq!(refused(answer(2, 0, &[0.0; 3])), ReleaseError::NotCharged { record: 2 });
    assert_eq!(refused(answer(0, 3, &[0.0; 3])), ReleaseError::Label { record: 0, labels: 3 });
    assert_eq!(refused(answer(0, 0, &[0.0; 2])), ReleaseError::Length { expected: 3, found: 2 });
    assert_eq!(refused(answer(0, 0, &[0.0, f32::NAN, 0.0])), ReleaseError::NotFinite { record: 0 });
}

/// The noise multiplier that was asked for is the one that is charged, and the noise has that size.
#[test]
fn gradients_have_the_noise_that_is_charged_for() {
    for (clip, multiplier) in [(1.0, 2.0), (0.3, 0.7), (5.0, 40.0)] {
        let mechanism = GradientRelease::calibrated(10, clip, multiplier, NoiseKey::new([2; 32])).unwrap();
        let Event::LatticeGaussian { noise_multiplier, numbers: 10, count: 1, clipped: false } =
            mechanism.event()
        else {
            panic!("{:?}", mechanism.event())
        };
        assert!(
            (1.0..1.02).contains(&(noise_multiplier / multiplier)),
            "{noise_multiplier} for {multiplier}"
        );
        let (mut ledger, _) = writer(f64::INFINITY);
        let records = 4000;
        let receipt = gradient_charge(&mechanism, &mut ledger, records, 0);
        let labels = vec![0u16; records as usize];
        let sent = gradients(&mechanism, &receipt, &labels, &vec![0.0; 10 * records as usize]);
        let norm = (0.81f64 + 0.09).sqrt();
        let mean = |i: usize| (if i.is_multiple_of(10) { -0.9 } else { 0.1 }) * (clip / norm).min(1.0);
        let variance = sent.iter().enumerate().map(|(i, &x)| (f64::from(x) - mean(i)).powi(2)).sum::<f64>()
            / sent.len() as f64;
        let expected = (noise_multiplier * mechanism.sensitivity()).powi(2);
        // Standard deviation of the ratio: √(2/40000) = 0.007.
        assert!((variance / expected - 1.0).abs() < 0.03, "{variance}, expected {expected}");
    }
}

/// Transcript-bound: the same exchange gives the same bytes, another one independent noise and a charge.
#[test]
fn another_exchange_has_other_noise_and_is_charged() {
    let mechanism = GradientRelease::calibrated(4, 1.0, 3.0, NoiseKey::new([2; 32])).unwrap();
    let (mut ledger, _) = writer(f64::INFINITY);
    let first = gradient_charge(&mechanism, &mut ledger, 1, 1);
    let again = gradient_charge(&mechanism, &mut ledger, 1, 1);
    let other = gradient_charge(&mechanism, &mut ledger, 1, 2);
    assert!(again.is_resend() && !other.is_resend());
    assert_eq!(ledger.ledger().len(), 2);
    let sent = |receipt: &Receipt| gradients(&mechanism, receipt, &[3], &[0.0; 4]);
    assert_eq!(sent(&first), sent(&again));
    assert!(sent(&first).iter().zip(sent(&other)).all(|(a, b)| *a != b));
}

fn quantile(q: f64, epsilon: f64) -> NormQuantile {
    let shape = (ReleaseShape::Full, [1, 1, 2]);
    NormQuantile::new((q, epsilon), shape, Digest([3; 32]), NoiseKey::new([5; 32])).unwrap()
}

#[test]
fn a_quantile_of_norms_is_near_the_true_one_and_charged() {
    // Norms 0.01, 0.02, …, 10.
    let residuals: Vec<f32> = (1..=1000).flat_map(|i| [0.006 * i as f32, -0.008 * i as f32]).collect();
    for (q, expected) in [(0.5, 5.0), (0.9, 9.0)] {
        let mechanism = quantile(q, 0.5);
        let (mut ledger, _) = writer(0.6);
        let norms: Vec<f64> = mechanism.norms(&residuals).unwrap().collect();
        assert!((norms[499] - 5.0).abs() < 1e-5);
        let receipt = ledger.charge(mechanism.charge(DATASET, RecordSet::range(0..1000), "a test")).unwrap();
        let found = mechanism.release(&receipt, &norms).unwrap();
        // Candidates are 9 % apart.
        assert!((found / expected - 1.0).abs() < 0.15, "{found}, expected {expected}");
        assert_eq!(found, mechanism.release(&receipt, &norms).unwrap());
        let spent = ledger.ledger().epsilon(DELTA);
        assert!((0.5..0.5 + 1e-8).contains(&spent), "{spent}");
        assert!(matches!(mechanism.release(&receipt, &norms[1..]), Err(ReleaseError::Length { .. })));
        let other = quantile(q, 0.4);
        assert!(matches!(other.release(&receipt, &norms), Err(ReleaseError::NotCharged { .. })));
    }
    for (q, epsilon) in [(0.0, 1.0), (1.0, 1.0), (0.5, 0.0), (0.5, f64::NAN)] {
        let shape = (ReleaseShape::Full, [1, 1, 2]);
        let refused = NormQuantile::new((q, epsilon), shape, Digest([3; 32]), NoiseKey::new([5; 32]));
        assert!(refused.is_err(), "{q} {epsilon}");
    }
}

/// Over many keys, the answers are spread as the exponential mechanism says.
#[test]
fn a_quantile_answers_as_randomly_as_charged() {
    let (epsilon, keys) = (4.0, 4000u32);
    // How often the answer lies in [1, 4), where 16 of the 321 candidates lie.
    let share = |norms: &[f64]| {
        let inside = (0..keys).filter(|key| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&key.to_le_bytes());
            let shape = (ReleaseShape::Full, [1, 1, 1]);
            let key = NoiseKey::new(bytes);
            let mechanism = NormQuantile::new((0.5, epsilon), shape, Digest([3; 32]), key).unwrap();
            let (mut ledger, _) = writer(f64::INFINITY);
            let records = RecordSet::range(0..norms.len() as u64);
            let receipt = ledger.charge(mechanism.charge(DATASET, records, "a test")).unwrap();
            (1.0..4.0).contains(&mechanism.release(&receipt, norms).unwrap())
        });
        inside.count() as f64 / f64::from(keys)
    };
    // Scores: 0 inside and −2 outside; with one record changed, −1 inside and −2 outside.
    let weight = |score: f64| (0.5 * epsilon * score).exp();
    let two = 16.0 * weight(0.0) / (16.0 * weight(0.0) + 305.0 * weight(-2.0));
    let one = 16.0 * weight(-1.0) / (16.0 * weight(-1.0) + 305.0 * weight(-2.0));
    for (norms, expected) in [([1.0, 1.0, 4.0, 4.0], two), ([1.0, 4.0, 4.0, 4.0], one)] {
        let deviation = (expected * (1.0 - expected) / f64::from(keys)).sqrt();
        assert!((share(&norms) - expected).abs() < 4.5 * deviation, "{} {expected}", share(&norms));
    }
}
