//! The split of a layer's input: exact, orthonormal, the same for any batch and threads.

#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_split as split;
use kernels::compact::Format;
use kernels::{Scratch, Threads};
use proptest::prelude::*;
use split::{ChannelSplit, Finding, SharedBasis, SplitError};
use tensor::compare::{Tolerance, assert_close};
use tensor::{Shape, View};

/// Single precision after sums of a few hundred products.
const ROUNDING: Tolerance = Tolerance::relative(2e-5);

const FOUND: [Finding; 3] =
    [Finding::Light { iterations: 2 }, Finding::Subspace { iterations: 2 }, Finding::Exact];

/// Samples and ranks: more pixels than channels and the other way round, all ranks, one of everything, several blocks.
const CASES: [([usize; 3], usize); 9] = [
    ([6, 8, 12], 3),
    ([40, 4, 4], 5),
    ([40, 4, 4], 16),
    ([5, 6, 6], 5),
    ([1, 1, 1], 1),
    ([7, 5, 5], 2),
    ([3, 1, 1], 1),
    ([130, 30, 37], 9),
    ([9, 150, 61], 4),
];

/// Numbers in [−1, 1) from a fixed linear congruential sequence.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A sum of `rank` products of a channel vector and an image, falling in size.
fn low_rank(seed: u64, [c, p]: [usize; 2], rank: usize) -> Vec<f32> {
    let (u, v) = (numbers(seed, c * rank), numbers(seed ^ 99, rank * p));
    let term = |at: usize, i: usize| u[at / p * rank + i] * v[i * p + at % p] / (1 + i) as f32;
    (0..c * p).map(|at| (0..rank).map(|i| term(at, i)).sum()).collect()
}

struct Parts {
    bases: Vec<f32>,
    principal: Vec<f32>,
    residual: Vec<u8>,
}

fn forward(
    split: &ChannelSplit,
    n: usize,
    x: &[f32],
    format: Format,
    threads: &Threads,
    shared: &[f32],
) -> Parts {
    let [c, p] = size(split);
    let mut parts = Parts {
        bases: vec![f32::NAN; split.bases(n) * c * split.rank()],
        principal: vec![f32::NAN; n * split.rank() * p],
        residual: vec![0xff; n * format.encoded_len(c, p)],
    };
    if split.finding() == Finding::Shared {
        parts.bases.copy_from_slice(shared);
    }
    let view = View { shape: split.sample_shape().batched(n), data: x };
    let Parts { bases, principal, residual } = &mut parts;
    split.forward(threads, view, bases, principal, Some((format, residual))).unwrap();
    parts
}

fn size(split: &ChannelSplit) -> [usize; 2] {
    let shape = split.sample_shape();
    [shape.dims()[0], shape.record_len()]
}

fn basis_of(split: &ChannelSplit, parts: &Parts, record: usize) -> Vec<f32> {
    let len = split.basis_shape().len();
    let first = if split.finding() == Finding::Shared { 0 } else { record * len };
    parts.bases[first..first + len].to_vec()
}

/// `Û V + decoded residual`.
fn sum_of_halves(split: &ChannelSplit, parts: &Parts, n: usize, format: Format) -> Vec<f32> {
    let ([c, p], r) = (size(split), split.rank());
    let len = format.encoded_len(c, p);
    (0..n)
        .flat_map(|record| {
            let (basis, v) = (basis_of(split, parts, record), &parts.principal[record * r * p..][..r * p]);
            let mut sum = vec![0.0; c * p];
            assert!(format.decode(&parts.residual[record * len..][..len], c, &mut sum));
            for (at, sum) in sum.iter_mut().enumerate() {
                let low: f64 =
                    (0..r).map(|i| f64::from(basis[at / p * r + i]) * f64::from(v[i * p + at % p])).sum();
                *sum += low as f32;
            }
            sum
        })
        .collect()
}

fn splits() -> impl Iterator<Item = ChannelSplit> {
    CASES.into_iter().flat_map(|(shape, rank)| {
        let new = move |finding| ChannelSplit::new(finding, rank, Shape::from(shape)).unwrap();
        FOUND.map(new).into_iter().chain([new(Finding::Shared)])
    })
}

/// A basis of another record, for shared splits.
fn shared_basis(split: &ChannelSplit) -> Vec<f32> {
    let mut basis = SharedBasis::new(size(split)[0], split.rank());
    let x = numbers(77, 2 * split.sample_shape().len());
    basis.observe(&Threads::new(1), View { shape: split.sample_shape().batched(2), data: &x });
    basis.basis().to_vec()
}

/// Largest difference of `ÛᵀÛ` from the identity.
fn worst_product(basis: &[f32], rank: usize) -> f64 {
    let product = |i: usize, j: usize| {
        basis.chunks_exact(rank).map(|row| f64::from(row[i]) * f64::from(row[j])).sum::<f64>()
    };
    let pairs = (0..rank).flat_map(|i| (0..rank).map(move |j| (i, j)));
    pairs.map(|(i, j)| (product(i, j) - if i == j { 1.0 } else { 0.0 }).abs()).fold(0.0, f64::max)
}

#[test]
fn both_halves_give_the_input_back_within_the_error_of_the_format() {
    let (n, threads) = (3, Threads::new(2));
    for split in splits() {
        let (x, [c, p], shared) =
            (numbers(1, n * split.sample_shape().len()), size(&split), shared_basis(&split));
        for format in Format::ALL {
            let parts = forward(&split, n, &x, format, &threads, &shared);
            let sum = sum_of_halves(&split, &parts, n, format);
            let exact = forward(&split, n, &x, Format::F32, &threads, &shared);
            let mut residual = vec![0.0; c * p];
            for record in 0..n {
                let bytes = 4 * c * p;
                assert!(Format::F32.decode(&exact.residual[record * bytes..][..bytes], c, &mut residual));
                for (channel, row) in residual.chunks_exact(p).enumerate() {
                    let largest = row.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    for (pixel, &left) in row.iter().enumerate() {
                        let at = (record * c + channel) * p + pixel;
                        let bound = match format {
                            Format::F32 => 0.0,
                            Format::Bf16 => left.abs() / 256.0,
                            Format::Int8 => 0.501 * largest / 127.0,
                        };
                        let error = (sum[at] - x[at]).abs();
                        assert!(error <= bound + 2e-5, "{split:?} {format:?}: {error} over {bound}");
                    }
                }
            }
        }
    }
}

#[test]
fn bases_are_orthonormal_and_principal_channels_are_projections() {
    for split in splits() {
        let ([c, p], r) = (size(&split), split.rank());
        let x = numbers(2, 2 * c * p);
        let parts = forward(&split, 2, &x, Format::F32, &Threads::new(1), &shared_basis(&split));
        for record in 0..2 {
            let basis = basis_of(&split, &parts, record);
            assert!(worst_product(&basis, r) < 1e-5, "{split:?}");
            let expected: Vec<f32> = (0..r * p)
                .map(|at| {
                    let x = |c: usize| f64::from(x[(record * size(&split)[0] + c) * p + at % p]);
                    (0..c).map(|c| f64::from(basis[c * r + at / p]) * x(c)).sum::<f64>() as f32
                })
                .collect();
            assert_close(
                "principal channels",
                &parts.principal[record * r * p..][..r * p],
                &expected,
                ROUNDING,
            );
        }
    }
}

/// A batch of fewer records than threads is divided otherwise: by pixels and channels.
#[test]
fn nothing_depends_on_threads_or_on_the_batch() {
    for split in splits() {
        let (n, len, shared) = (4, split.sample_shape().len(), shared_basis(&split));
        let x = numbers(3, n * len);
        for format in Format::ALL {
            let [one, two, many] =
                [1, 2, 5].map(|t| forward(&split, n, &x, format, &Threads::new(t), &shared));
            assert!(one.bases == two.bases && one.principal == two.principal && one.residual == two.residual);
            assert!(
                one.bases == many.bases && one.principal == many.principal && one.residual == many.residual
            );
            for (i, record) in x.chunks_exact(len).enumerate() {
                let alone = forward(&split, 1, record, format, &Threads::new(1), &shared);
                assert_eq!(alone.residual, one.residual[i * alone.residual.len()..][..alone.residual.len()]);
                assert_eq!(basis_of(&split, &alone, 0), basis_of(&split, &one, i));
            }
        }
    }
}

/// The largest number of a record's residual.
fn largest_residual(finding: Finding, rank: usize, shape: [usize; 3], x: &[f32]) -> f32 {
    let split = ChannelSplit::new(finding, rank, Shape::from(shape)).unwrap();
    let parts = forward(&split, 1, x, Format::F32, &Threads::new(1), &[]);
    let mut residual = vec![0.0; x.len()];
    assert!(Format::F32.decode(&parts.residual, shape[0], &mut residual));
    residual.iter().fold(0.0, |m, x| m.max(x.abs()))
}

#[test]
fn nothing_is_left_of_what_the_rank_spans() {
    for ([c, h, w], rank) in
        [([12, 8, 9], 4), ([40, 4, 4], 7), ([6, 5, 5], 6), ([16, 2, 2], 4), ([70, 20, 20], 1)]
    {
        let x = low_rank(5, [c, h * w], rank);
        let scale = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for finding in FOUND {
            let left = largest_residual(finding, rank, [c, h, w], &x);
            assert!(
                left < 1e-4 * scale,
                "{finding:?} leaves {left} of {scale} at rank {rank} of {c}x{h}x{w}"
            );
        }
    }
}

#[test]
fn degenerate_records_stay_finite() {
    for split in splits().filter(|split| split.finding() != Finding::Shared) {
        let len = split.sample_shape().len();
        let huge = numbers(8, len).iter().map(|x| x * 1e15).collect();
        let tiny = numbers(9, len).iter().map(|x| x * 1e-15).collect();
        for x in [vec![0.0; len], vec![2.5; len], huge, tiny] {
            let parts = forward(&split, 1, &x, Format::F32, &Threads::new(1), &[]);
            assert!(parts.bases.iter().chain(&parts.principal).all(|x| x.is_finite()), "{split:?}");
            let (mut residual, c) = (vec![0.0; len], size(&split)[0]);
            assert!(Format::F32.decode(&parts.residual, c, &mut residual));
            let energy = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
            assert!(energy(&residual) <= energy(&x) * (1.0 + 1e-5), "a projection cannot add energy");
        }
    }
}

#[test]
fn what_was_reserved_is_enough() {
    for split in splits() {
        let shared = shared_basis(&split);
        for (n, count) in [(1, 1), (3, 1), (1, 2), (4, 3), (2, 5)] {
            let (threads, x) = (Threads::new(count), numbers(4, n * split.sample_shape().len()));
            threads.reserve(&split.scratch(n));
            for format in Format::ALL {
                forward(&split, n, &x, format, &threads, &shared);
            }
            assert_eq!(threads.grown(), 0, "{split:?}: {n} records, {count} threads");
        }
        assert_eq!(split.scratch(0), Scratch::NONE);
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let new = |finding, rank, shape: &[usize]| ChannelSplit::new(finding, rank, Shape::new(shape));
    assert!(matches!(new(Finding::Shared, 0, &[4, 8, 8]), Err(SplitError::Rank { most: 4, .. })));
    assert!(matches!(new(Finding::Shared, 5, &[4, 8, 8]), Err(SplitError::Rank { rank: 5, .. })));
    assert!(matches!(new(Finding::Exact, 5, &[8, 2, 2]), Err(SplitError::Rank { most: 4, .. })));
    for finding in [Finding::Light { iterations: 0 }, Finding::Subspace { iterations: 0 }] {
        assert!(matches!(new(finding, 1, &[4, 8, 8]), Err(SplitError::Iterations)));
    }
    assert!(matches!(new(Finding::Exact, 1, &[4, 8]), Err(SplitError::Shape(_))));
    let split = new(Finding::Exact, 2, &[4, 3, 3]).unwrap();
    let threads = Threads::new(1);
    let forward = |shape: &[usize], [bases, principal, bytes]: [usize; 3]| {
        let x = vec![0.0; Shape::new(shape).len()];
        let view = View { shape: Shape::new(shape), data: &x };
        let (mut bases, mut principal, mut bytes) = (vec![0.0; bases], vec![0.0; principal], vec![0; bytes]);
        split.forward(&threads, view, &mut bases, &mut principal, Some((Format::Bf16, &mut bytes)))
    };
    assert!(forward(&[2, 4, 3, 3], [16, 36, 144]).is_ok());
    assert!(matches!(forward(&[2, 4, 3, 4], [16, 36, 144]), Err(SplitError::Shape(_))));
    assert!(matches!(forward(&[2, 4, 3, 3], [8, 36, 144]), Err(SplitError::Shape(_))));
    assert!(matches!(forward(&[2, 4, 3, 3], [16, 35, 144]), Err(SplitError::Shape(_))));
    let encoded = forward(&[2, 4, 3, 3], [16, 36, 143]);
    assert!(matches!(encoded, Err(SplitError::Encoded { expected: 144, found: 143, .. })));
    assert!(forward(&[0, 4, 3, 3], [0, 0, 0]).is_ok());
}

#[test]
fn findings_are_configured_by_name() {
    let names = FOUND.map(|finding| serde_json::to_value(finding).unwrap());
    let expected = [
        serde_json::json!({"light": {"iterations": 2}}),
        serde_json::json!({"subspace": {"iterations": 2}}),
        "exact".into(),
    ];
    assert_eq!(names, expected);
    assert_eq!(serde_json::from_value::<Finding>("shared".into()).unwrap(), Finding::Shared);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// For any sizes, each method finds an orthonormal basis that keeps no more than the exact one.
    #[test]
    fn no_basis_keeps_more_than_the_exact_one(c in 1usize..24, h in 1usize..7, w in 1usize..7, share in 0.0f64..1.0, seed: u64) {
        let rank = 1 + ((c.min(h * w) - 1) as f64 * share) as usize;
        let x = numbers(seed, c * h * w);
        let energy = |finding| {
            let split = ChannelSplit::new(finding, rank, Shape::from([c, h, w])).unwrap();
            let parts = forward(&split, 1, &x, Format::F32, &Threads::new(1), &[]);
            assert!(worst_product(&parts.bases, rank) < 1e-5);
            parts.principal.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>()
        };
        let [light, subspace, exact] = FOUND.map(energy);
        prop_assert!(light <= exact * (1.0 + 1e-5) && subspace <= exact * (1.0 + 1e-5));
    }
}
