//! What a release and its charge cost: `cargo bench -p asymflow-mechanism`.
//!
//! Prints processor time on one thread (a busy machine disturbs it less), the median of several repetitions. Compare a release with the trusted
//! processor time of a training step on the same records, as `asymflow train` reports it per image.

use std::sync::{Arc, Mutex};

use accounting::{Event, gaussian};
use asymflow_mechanism as mechanism;
use chacha20::XChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use kernels::Threads;
use ledger::{Charge, Digest, Kind, Ledger, MechanismId, RecordSet};
use mechanism::{
    BitRelease, BitReleaseConfig, Budget, Encoding, LedgerStore, LedgerWriter, NoiseKey, RecordRelease,
    ReleaseShape, StoreError, VectorRelease, VectorReleaseConfig,
};

const BATCH: u64 = 64;
const RECORDS: u64 = 1_000_000;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl LedgerStore for Memory {
    fn append_durably(&mut self, line: &[u8]) -> Result<(), StoreError> {
        self.0.lock().expect("one thread").extend_from_slice(line);
        Ok(())
    }
}

fn main() {
    println!("release of {BATCH} records at ε = 8 (clip 2, δ = 1e-5), one thread");
    for residual in [[16, 32, 32], [64, 32, 32]] {
        for shape in
            [ReleaseShape::Full, ReleaseShape::Mean, ReleaseShape::Pooled(8), ReleaseShape::Pooled(4)]
        {
            let seconds = release(residual, shape);
            println!(
                "  {residual:?} {shape:>9}: {:8.3} ms, {:7.1} µs a record",
                1e3 * seconds,
                1e6 * seconds / BATCH as f64
            );
        }
    }
    vectors();
    println!("ledger of {RECORDS} records");
    ledger("one charge for all", RECORDS);
    ledger("batches of 128 in random order", 128);
}

/// Seconds to charge for and make the messages of one batch.
fn release(residual: [usize; 3], shape: ReleaseShape) -> f64 {
    let sigma = gaussian::sigma(8.0, 1e-5, 4.0).expect("in range");
    let config = BitReleaseConfig { clip: 2.0, sigma, shape, residual, function: Digest([0; 32]) };
    let mechanism = BitRelease::new(config, NoiseKey::new([1; 32])).expect("a valid mechanism");
    let len: usize = residual.iter().product();
    let x: Vec<f32> =
        (0..len * BATCH as usize).map(|i| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * 0.1).collect();
    let (mut writer, _) = writer();
    let mut first = 0;
    median(21, || {
        first += BATCH;
        let records = first..first + BATCH;
        let charge = mechanism.charge(Digest([1; 32]), RecordSet::range(records.clone()), 0, "a benchmark");
        let receipt = writer.charge(charge).expect("no limit");
        let sent = mechanism.release(&receipt, records, &x).expect("charged");
        assert_eq!(sent.len(), BATCH as usize);
    })
}

/// Numbers of one vector: a layer's input of 64 channels, 112×112.
const VECTOR: [usize; 3] = [64, 112, 112];

/// A whole vector release, its random bytes alone, and the noise as an inversion by `erfc` would make it.
fn vectors() {
    let numbers: usize = VECTOR.iter().product();
    println!("noised vector of {numbers} numbers, one thread");
    let rate = |name: &str, numbers: usize, seconds: f64| {
        println!(
            "  {name}: {:6.1} million numbers a second, {:6.1} ns each",
            1e-6 * numbers as f64 / seconds,
            1e9 * seconds / numbers as f64
        );
    };
    let x: Vec<f32> = (0..numbers).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 1.0).collect();
    let config = VectorReleaseConfig {
        kind: Kind::NoisedResiduals,
        shape: VECTOR,
        clip: 2.0,
        sigma: 6.0,
        layer: 0,
        function: Digest([0; 32]),
        encoding: Encoding::F32,
    };
    let mechanism = VectorRelease::new(config, NoiseKey::new([1; 32])).expect("a valid mechanism");
    let (mut writer, _) = writer();
    let charge = mechanism.charge(Digest([1; 32]), RecordSet::of(&[0]), 0, "a benchmark");
    let receipt = writer.charge(charge).expect("no limit");
    let threads = Threads::new(1);
    let seconds = median(21, || {
        mechanism.release(&threads, &receipt, &[0], &x).expect("charged");
    });
    rate("clip, noise, grid, encode    ", numbers, seconds);
    let mut stream = XChaCha20::new(&[1; 32].into(), &[2; 24].into());
    let mut bytes = vec![0u8; 16 * numbers];
    let seconds = median(21, || stream.apply_keystream(&mut bytes));
    rate("random bytes of it           ", numbers, seconds);
    let few = numbers / 64;
    let draws: Vec<f64> = bytes.as_chunks::<8>().0[..few]
        .iter()
        .map(|word| (u64::from_le_bytes(*word) as f64 + 1.0) / 18_446_744_073_709_551_616.0)
        .collect();
    let mut sum = 0.0;
    let seconds = median(5, || sum += draws.iter().map(|&u| by_inversion(0.5 * u, 6144.0)).sum::<f64>());
    rate("noise alone, by erfc, without bytes", few, seconds);
    assert!(sum.is_finite());
}

/// The step whose borders enclose a tail probability: the sampler that [`VectorRelease`]'s replaced.
fn by_inversion(tail: f64, sigma: f64) -> f64 {
    let tail_of = |x: f64| 0.5 * libm::erfc(x * std::f64::consts::FRAC_1_SQRT_2);
    // Abramowitz & Stegun 26.2.23, to three digits.
    let t = libm::sqrt(-2.0 * libm::log(tail));
    let up = 2.515517 + t * (0.802853 + t * 0.010328);
    let down = 1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308));
    let mut x = (t - up / down).max(0.0);
    for _ in 0..3 {
        let density = libm::exp(-0.5 * x * x) / (2.0 * std::f64::consts::PI).sqrt();
        x += tail_of(x) / density * libm::log(tail_of(x) / tail);
    }
    let mut steps = libm::floor(x * sigma + 0.5).max(0.0);
    while tail_of((steps + 0.5) / sigma) > tail {
        steps += 1.0;
    }
    while steps > 0.0 && tail_of((steps - 0.5) / sigma) <= tail {
        steps -= 1.0;
    }
    steps
}

fn ledger(name: &str, batch: u64) {
    let (mut writer, store) = writer();
    let mechanism = MechanismId::new(format!(
        "residual-bits v2: full of 16x32x32, clip 2, sigma 2.4, function {}",
        Digest([3; 32])
    ));
    let charge = |ids: &[u64], transcript: u64| Charge {
        dataset: Digest([1; 32]),
        records: if batch == RECORDS { RecordSet::range(0..RECORDS) } else { RecordSet::of(ids) },
        view: 0,
        mechanism: mechanism.clone(),
        transcript: (batch < RECORDS).then(|| Digest::of("exchange", &[&transcript.to_le_bytes()])),
        event: Event::gaussian(1.2),
        bytes: 2048,
        purpose: "training records, one epoch".into(),
    };
    // A fixed permutation: 7919 and a million have no common divisor.
    let order: Vec<u64> = (0..RECORDS).map(|i| i * 7919 % RECORDS).collect();
    let began = cpu_seconds();
    for (i, ids) in order.chunks(batch as usize).enumerate() {
        writer.charge(charge(ids, i as u64)).expect("no limit");
    }
    let charged = cpu_seconds() - began;
    let bytes = store.0.lock().expect("one thread").clone();
    let began = cpu_seconds();
    let read = Ledger::verify(&bytes).expect("just written");
    let verified = cpu_seconds() - began;
    let began = cpu_seconds();
    let epsilon = read.epsilon(1e-5);
    println!(
        "  {name}: charged in {charged:.3} s, verified in {verified:.3} s, ε = {epsilon:.3} in {:.3} s, {} entries, {:.2} MB",
        cpu_seconds() - began,
        read.len(),
        bytes.len() as f64 / 1e6
    );
}

fn writer() -> (LedgerWriter, Memory) {
    let store = Memory::default();
    let budget = Budget::new(f64::INFINITY, 1e-5).expect("a budget");
    (LedgerWriter::new(Ledger::empty(), budget, Box::new(store.clone())), store)
}

fn median(repetitions: usize, mut work: impl FnMut()) -> f64 {
    work();
    let mut seconds: Vec<f64> = (0..repetitions)
        .map(|_| {
            let began = cpu_seconds();
            work();
            cpu_seconds() - began
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[repetitions / 2]
}

/// Processor seconds of this process.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
