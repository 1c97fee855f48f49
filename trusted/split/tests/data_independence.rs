//! The time of a split must not tell the numbers: timing of two classes of records in turn, as dudect does (Reparaz,
//! Balasch, Verbauwhede 2017), beside a control that does tell.
//!
//! As for the kernels, the test compares quartiles and asks for a leak that shows every time, so that a busy machine does
//! not fail it.

#![allow(clippy::unwrap_used)] // a test that fails says why
// The ban on clocks is for code of the enclave.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::hint::black_box;
use std::time::Instant;

use asymflow_split as split;
use kernels::Threads;
use kernels::compact::Format;
use split::{ChannelSplit, Finding, SharedBasis};
use tensor::{Shape, View};

const SAMPLE: [usize; 3] = [24, 12, 13];
const LEN: usize = SAMPLE[0] * SAMPLE[1] * SAMPLE[2];
const RANK: usize = 6;

/// Difference of two classes' times that counts as a leak. The control's is ten times that.
const LEAK: f64 = 0.02;

type Job<'a> = Box<dyn FnMut(&[f32]) + 'a>;

fn jobs<'a>() -> Vec<(String, Job<'a>)> {
    let findings = [Finding::Light { iterations: 8 }, Finding::Subspace { iterations: 2 }, Finding::Shared];
    let pairs = findings.into_iter().flat_map(|finding| Format::ALL.map(|format| (finding, format)));
    let mut jobs: Vec<_> = pairs
        .map(|(finding, format)| (format!("{finding:?} with {}", format.name()), forward(finding, format)))
        .collect();
    jobs.push(("observing".to_owned(), observe()));
    jobs
}

fn forward<'a>(finding: Finding, format: Format) -> Job<'a> {
    let split = ChannelSplit::new(finding, RANK, Shape::from(SAMPLE)).unwrap();
    let (threads, shape) = (Threads::new(1), split.sample_shape().batched(1));
    let mut bases = SharedBasis::new(SAMPLE[0], RANK).basis().to_vec();
    let mut principal = vec![0.0; split.principal_shape().len()];
    let mut residual = vec![0; format.encoded_len(SAMPLE[0], SAMPLE[1] * SAMPLE[2])];
    Box::new(move |x| {
        let residual = Some((format, &mut residual[..]));
        split.forward(&threads, View { shape, data: x }, &mut bases, &mut principal, residual).unwrap();
        black_box(&principal);
    })
}

fn observe<'a>() -> Job<'a> {
    let (mut basis, threads) = (SharedBasis::new(SAMPLE[0], RANK), Threads::new(1));
    let shape = Shape::from(SAMPLE).batched(1);
    // The first takes more rounds, whatever it sees.
    basis.observe(&threads, View { shape, data: &[0.5; LEN] });
    Box::new(move |x| basis.observe(&threads, View { shape, data: x }))
}

/// A clipping that tells which numbers it clips: what the test must find.
fn control<'a>() -> Job<'a> {
    let mut y = vec![0.0; LEN];
    Box::new(move |x| {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = if x > 0.0 { black_box(x) } else { black_box(0.0) };
        }
    })
}

/// Nanoseconds of a job on records that are all alike, and on random ones, in turn.
fn times(job: &mut Job<'_>, samples: usize) -> [Vec<f64>; 2] {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 40
    };
    let (mut x, neutral) = (vec![0.0f32; LEN], vec![-0.25f32; LEN]);
    let mut times = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
    while times.iter().any(|t| t.len() < samples) {
        let class = draw() as usize % 2;
        // Both classes are made by the same steps, and follow the same work: nothing but the numbers differs.
        for x in &mut x {
            let drawn = draw() as f32 / (1u64 << 23) as f32 - 1.0;
            *x = 0.5 + class as f32 * (drawn - 0.5);
        }
        job(&neutral);
        let start = Instant::now();
        job(black_box(&x));
        times[class].push(start.elapsed().as_nanos() as f64);
    }
    times.map(|mut t| {
        t.sort_by(f64::total_cmp);
        t
    })
}

/// The least of several relative differences of the lower quartiles, which interruptions do not reach.
fn effect(job: &mut Job<'_>) -> f64 {
    let once = |job: &mut Job<'_>| {
        let [a, b] = times(job, 200).map(|t| t[t.len() / 4]);
        (a - b).abs() / a.min(b)
    };
    (0..8).map(|_| once(job)).fold(f64::INFINITY, f64::min)
}

#[test]
fn time_does_not_tell_the_numbers() {
    let found = effect(&mut control());
    assert!(found > 10.0 * LEAK, "the control tells only {found}: the test finds nothing");
    for (name, mut job) in jobs() {
        let found = effect(&mut job);
        println!("{name}: {found:.4}");
        assert!(found < LEAK, "{name}: times differ by {found} with the data");
    }
}
