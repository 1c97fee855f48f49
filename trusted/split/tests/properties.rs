//! What must hold for any input: exact reconstruction, adjoints, invariance.

use asymflow_split as split;
use kernels::Threads;
use proptest::prelude::*;
use split::{AsymmetricSplit, Dct, Method, SplitConfig, SplitError, SplitOutput, channels, spectrum};
use tensor::compare::{Tolerance, assert_close, worst_relative};
use tensor::{Shape, View};

/// Numbers in [−1, 1) from a fixed linear congruential sequence.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

struct Parts {
    principal: Vec<f32>,
    basis: Vec<f32>,
    main: Vec<f32>,
    residual: Vec<f32>,
}

fn forward(split: &AsymmetricSplit, n: usize, x: &[f32], threads: &Threads) -> Parts {
    let buffer = |shape: Shape| vec![f32::NAN; n * shape.len()];
    let mut parts = Parts {
        principal: buffer(split.principal_shape()),
        basis: buffer(split.basis_shape()),
        main: buffer(split.main_shape()),
        residual: buffer(split.sample_shape()),
    };
    let output = SplitOutput {
        principal: &mut parts.principal,
        basis: &mut parts.basis,
        main: Some(&mut parts.main),
        residual: Some(&mut parts.residual),
    };
    split
        .forward(View { shape: split.sample_shape().batched(n), data: x }, output, threads)
        .expect("buffers fit");
    parts
}

fn config(rank: usize, method: Method, block: usize, keep: usize) -> SplitConfig {
    SplitConfig { rank, method, iterations: 2, block, keep }
}

/// Splits of samples with more pixels than channels and the other way round, with and without DCT.
fn splits() -> Vec<AsymmetricSplit> {
    let cases = [
        ([6, 8, 12], config(3, Method::Light, 4, 2)),
        ([6, 8, 12], config(3, Method::Exact, 4, 3)),
        ([40, 4, 4], config(5, Method::Light, 2, 1)),
        ([5, 6, 6], config(5, Method::Light, 3, 3)),
        ([1, 1, 1], config(1, Method::Light, 1, 1)),
        ([7, 5, 5], config(2, Method::Exact, 5, 5)),
    ];
    cases
        .map(|(shape, config)| AsymmetricSplit::new(config, Shape::from(shape)).expect("the split fits"))
        .into()
}

#[test]
fn main_part_and_residual_give_the_input_back() {
    let threads = Threads::new(2);
    for split in splits() {
        let n = 3;
        let x = numbers(1, n * split.sample_shape().len());
        let parts = forward(&split, n, &x, &threads);
        let mut sum = vec![f32::NAN; x.len()];
        let principal = View { shape: split.principal_shape().batched(n), data: &parts.principal };
        split.expand(&parts.basis, principal, &mut sum, &threads).unwrap();
        sum.iter_mut().zip(&parts.residual).for_each(|(s, r)| *s += r);
        assert_close("reconstruction", &sum, &x, Tolerance::relative(1e-5));
        // The rebuilt main part leads to the same place: Ûᵀ Û = I.
        let main = View { shape: split.main_shape().batched(n), data: &parts.main };
        let mut through_main = vec![f32::NAN; x.len()];
        split.backward(&parts.basis, main, &mut through_main, &threads).unwrap();
        through_main.iter_mut().zip(&parts.residual).for_each(|(s, r)| *s += r);
        assert_close("through the main part", &through_main, &x, Tolerance::relative(1e-5));
    }
}

/// The residual of a full-rank split without DCT is nothing.
#[test]
fn nothing_is_left_at_full_rank_and_resolution() {
    for method in [Method::Light, Method::Exact] {
        let split = AsymmetricSplit::new(config(6, method, 4, 4), Shape::from([6, 8, 8])).unwrap();
        let x = numbers(2, 2 * 6 * 64);
        let parts = forward(&split, 2, &x, &Threads::new(1));
        assert!(parts.residual.iter().all(|r| r.abs() < 1e-5));
    }
}

/// ⟨forward(x), g⟩ = ⟨x, backward(g)⟩ with the basis held constant.
#[test]
fn backward_is_the_adjoint() {
    let threads = Threads::new(1);
    for split in splits() {
        let n = 2;
        let x = numbers(3, n * split.sample_shape().len());
        let grad = numbers(4, n * split.main_shape().len());
        let parts = forward(&split, n, &x, &threads);
        let mut dx = vec![f32::NAN; x.len()];
        let view = View { shape: split.main_shape().batched(n), data: &grad };
        split.backward(&parts.basis, view, &mut dx, &threads).unwrap();
        let (left, right) = (dot(&parts.main, &grad), dot(&x, &dx));
        let scale = dot(&parts.main, &parts.main).sqrt() * dot(&grad, &grad).sqrt();
        assert!((left - right).abs() < 1e-5 * scale, "{left} {right}");
        assert!(scale > 0.1);
    }
}

/// Central differences of ⟨Û low(Ûᵀ x), g⟩ in double precision, with the basis of the unperturbed input.
#[test]
fn backward_agrees_with_differences_at_a_fixed_basis() {
    let split = AsymmetricSplit::new(config(2, Method::Light, 4, 2), Shape::from([3, 4, 4])).unwrap();
    let (threads, x, grad) = (Threads::new(1), numbers(5, 48), numbers(6, 12));
    let parts = forward(&split, 1, &x, &threads);
    // Û low(Ûᵀ ·) as a matrix is linear: apply it to the unit vectors through its adjoint's adjoint, by hand.
    let dct = Dct::new(4, 2).unwrap();
    let main = |x: &[f64]| -> Vec<f64> {
        let mut out = vec![0.0; 12];
        for k in 0..2 {
            let v: Vec<f32> = (0..16)
                .map(|i| {
                    (0..3).map(|c| f64::from(parts.basis[c * 2 + k]) * x[c * 16 + i]).sum::<f64>() as f32
                })
                .collect();
            let mut low = vec![0.0; 4];
            dct.low(&threads, &v, [4, 4], &mut low);
            for (at, out) in out.iter_mut().enumerate() {
                *out += f64::from(parts.basis[at / 4 * 2 + k]) * f64::from(low[at % 4]);
            }
        }
        out
    };
    let loss = |x: &[f64]| -> f64 { main(x).iter().zip(&grad).map(|(m, &g)| m * f64::from(g)).sum() };
    let mut dx = vec![0.0; 48];
    let view = View { shape: split.main_shape().batched(1), data: &grad };
    split.backward(&parts.basis, view, &mut dx, &threads).unwrap();
    let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
    let step = 0.25; // the function is linear: a large step only helps
    let differences: Vec<f32> = (0..48)
        .map(|i| {
            let at = |by: f64| {
                let mut moved = wide.clone();
                moved[i] += by;
                loss(&moved)
            };
            ((at(step) - at(-step)) / (2.0 * step)) as f32
        })
        .collect();
    assert_close("dx", &dx, &differences, Tolerance::relative(1e-4));
}

#[test]
fn samples_do_not_depend_on_their_batch_or_threads() {
    let split = &splits()[0];
    let len = split.sample_shape().len();
    let x = numbers(7, 4 * len);
    let whole = forward(split, 4, &x, &Threads::new(3));
    for (i, sample) in x.chunks_exact(len).enumerate() {
        let alone = forward(split, 1, sample, &Threads::new(1));
        assert_eq!(alone.residual, whole.residual[i * len..(i + 1) * len]);
    }
}

#[test]
fn degenerate_samples_stay_finite() {
    let threads = Threads::new(1);
    for split in splits() {
        let len = split.sample_shape().len();
        let constant = vec![2.5; len];
        let huge = numbers(8, len).iter().map(|x| x * 1e15).collect();
        let tiny = numbers(9, len).iter().map(|x| x * 1e-15).collect();
        for x in [vec![0.0; len], constant, huge, tiny] {
            let parts = forward(&split, 1, &x, &threads);
            let finite = |v: &[f32]| v.iter().all(|x| x.is_finite());
            assert!(finite(&parts.principal) && finite(&parts.basis) && finite(&parts.residual));
            let left = dot(&parts.residual, &parts.residual);
            assert!(left <= dot(&x, &x) * (1.0 + 1e-5), "a projection cannot add energy");
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let shape = Shape::from([4, 8, 8]);
    let refused = |config| AsymmetricSplit::new(config, shape).unwrap_err();
    assert!(matches!(refused(config(0, Method::Light, 4, 2)), SplitError::Rank { most: 4, .. }));
    assert!(matches!(refused(config(5, Method::Light, 4, 2)), SplitError::Rank { rank: 5, .. }));
    assert!(matches!(refused(config(2, Method::Light, 3, 2)), SplitError::Blocks { block: 3, .. }));
    assert!(matches!(refused(config(2, Method::Light, 4, 5)), SplitError::Dct { keep: 5, .. }));
    assert!(matches!(refused(config(2, Method::Light, 0, 0)), SplitError::Dct { .. }));
    let none = SplitConfig { iterations: 0, ..config(2, Method::Light, 4, 2) };
    assert!(matches!(refused(none), SplitError::Iterations));
    assert!(AsymmetricSplit::new(config(1, Method::Light, 1, 1), Shape::from([4, 8])).is_err());
    let split = AsymmetricSplit::new(config(2, Method::Light, 4, 2), shape).unwrap();
    let x = View { shape: Shape::from([1, 4, 8, 8]), data: &[0.0; 256] };
    let short = SplitOutput { principal: &mut [0.0; 3], basis: &mut [0.0; 8], main: None, residual: None };
    assert!(matches!(split.forward(x, short, &Threads::new(1)), Err(SplitError::Shape(_))));
}

#[test]
fn a_spectrum_says_how_many_channels_it_needs() {
    let flat = vec![1.0; 16];
    assert!((spectrum::channel_entropy(&flat) - 4.0).abs() < 1e-12);
    assert_eq!(spectrum::channels_needed(spectrum::channel_entropy(&flat)), 16);
    assert_eq!(spectrum::channel_entropy(&[3.0, 0.0, 0.0]), 0.0);
    assert_eq!(spectrum::channels_needed(0.0), 1);
    assert_eq!(spectrum::channel_entropy(&[0.0; 4]), 0.0);
    assert_eq!((spectrum::energy_kept(&[2.0, 1.0], 1), spectrum::energy_kept(&[0.0], 1)), (0.8, 1.0));
    assert_eq!(spectrum::rank_for_energy(&[2.0, 1.0, 1.0], 0.8), 2);
    assert_eq!(spectrum::rank_for_energy(&[2.0, 1.0], 0.0), 0);
    // Geometric spectra keep at least 0.97 of their energy in that many channels.
    for ratio in [0.3f64, 0.6, 0.9] {
        let singular: Vec<f64> = (0..64).map(|i| ratio.powi(i)).collect();
        let channels = spectrum::channels_needed(spectrum::channel_entropy(&singular));
        assert!(spectrum::energy_kept(&singular, channels) >= 0.97);
    }
}

/// Largest difference of `ÛᵀÛ` from the identity.
fn worst_product(basis: &[f32], c: usize, rank: usize) -> f64 {
    let product = |i: usize, j: usize| {
        (0..c).map(|r| f64::from(basis[r * rank + i]) * f64::from(basis[r * rank + j])).sum::<f64>()
    };
    let pairs = (0..rank).flat_map(|i| (0..rank).map(move |j| (i, j)));
    pairs.map(|(i, j)| (product(i, j) - if i == j { 1.0 } else { 0.0 }).abs()).fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The basis is orthonormal for any input, so that V = Ûᵀ X holds and nothing is counted twice.
    #[test]
    fn bases_are_orthonormal(c in 1usize..20, p in 1usize..40, share in 0.0f64..1.0, seed: u64) {
        let rank = 1 + ((c.min(p) - 1) as f64 * share) as usize;
        let x = numbers(seed, c * p);
        let mut basis = vec![0.0; c * rank];
        channels::light_basis(&Threads::new(1), &x, [c, p], rank, 2, &mut basis);
        prop_assert!(worst_product(&basis, c, rank) < 1e-5);
    }

    /// low and up are adjoint, and up · low is a projection.
    #[test]
    fn dct_pairs_are_adjoint(block in 1usize..9, part in 0.0f64..1.0, bh in 1usize..4, bw in 1usize..4, n in 1usize..3, seed: u64) {
        let keep = 1 + ((block - 1) as f64 * part) as usize;
        let (dct, threads, size) = (Dct::new(block, keep).unwrap(), Threads::new(1), [bh * block, bw * block]);
        let [h, w] = dct.low_size(size).unwrap();
        let (x, y) = (numbers(seed, n * size[0] * size[1]), numbers(seed ^ 1, n * h * w));
        let (mut low, mut up) = (vec![0.0; y.len()], vec![0.0; x.len()]);
        dct.low(&threads, &x, size, &mut low);
        dct.up(&threads, &y, size, &mut up);
        prop_assert!((dot(&low, &y) - dot(&x, &up)).abs() < 1e-4);
        let mut back = vec![0.0; y.len()];
        dct.low(&threads, &up, size, &mut back);
        prop_assert!(worst_relative(&back, &y) < 1e-5);
    }
}
