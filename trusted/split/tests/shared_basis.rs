//! The running basis of a layer, kernels that read principal channels, and what calibration says.

#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_split as split;
use kernels::Threads;
use proptest::prelude::*;
use split::{Moments, SharedBasis, SplitError, add_kernel_gradient, spectrum, transform_kernels, weights};
use tensor::compare::{Tolerance, assert_close};
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

/// Records of a layer `[n, C, H, W]`: fixed mixtures of images that fall in size, so that all share a basis, and noise.
fn layer(seed: u64, [n, c, h, w]: [usize; 4], sources: usize, noise: f32) -> Vec<f32> {
    let (p, mixture) = (h * w, numbers(1234, c * sources));
    let images = numbers(seed, n * sources * p);
    let mut x: Vec<f32> = numbers(seed ^ 7, n * c * p).iter().map(|x| noise * x).collect();
    for (at, x) in x.iter_mut().enumerate() {
        let (record, channel, pixel) = (at / (c * p), at / p % c, at % p);
        for i in 0..sources {
            *x += mixture[channel * sources + i]
                * images[(record * sources + i) * p + pixel]
                * 0.7f32.powi(i as i32);
        }
    }
    x
}

fn view<'a>(dims: [usize; 4], data: &'a [f32]) -> View<'a> {
    View { shape: Shape::from(dims), data }
}

/// Share of the energy of `x` that a basis `[C, r]` keeps.
fn kept(x: &[f32], [n, c, h, w]: [usize; 4], basis: &[f32]) -> f64 {
    let (p, r) = (h * w, basis.len() / c);
    let along = |record: usize, i: usize, pixel: usize| -> f64 {
        (0..c).map(|c_| f64::from(basis[c_ * r + i]) * f64::from(x[(record * c + c_) * p + pixel])).sum()
    };
    let places =
        (0..n).flat_map(|record| (0..r).flat_map(move |i| (0..p).map(move |pixel| (record, i, pixel))));
    let energy: f64 = places.map(|(record, i, pixel)| along(record, i, pixel).powi(2)).sum();
    energy / x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>()
}

fn worst_product(basis: &[f32], rank: usize) -> f64 {
    let product = |i: usize, j: usize| {
        basis.chunks_exact(rank).map(|row| f64::from(row[i]) * f64::from(row[j])).sum::<f64>()
    };
    let pairs = (0..rank).flat_map(|i| (0..rank).map(move |j| (i, j)));
    pairs.map(|(i, j)| (product(i, j) - if i == j { 1.0 } else { 0.0 }).abs()).fold(0.0, f64::max)
}

const LAYER: [usize; 4] = [4, 20, 9, 11];

#[test]
fn starts_from_unit_vectors() {
    let basis = SharedBasis::new(4, 2);
    assert_eq!(basis.basis(), [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!((basis.channels(), basis.rank()), (4, 2));
}

#[test]
fn finds_what_records_share() {
    let (threads, rank) = (Threads::new(1), 5);
    let mut basis = SharedBasis::new(LAYER[1], rank);
    let x = layer(1, LAYER, 5, 0.0);
    basis.observe(&threads, view(LAYER, &x));
    assert!(kept(&x, LAYER, basis.basis()) > 0.999, "after one observation");
    // Other records of the same layer.
    assert!(kept(&layer(2, LAYER, 5, 0.0), LAYER, basis.basis()) > 0.999);
    assert!(worst_product(basis.basis(), rank) < 1e-5);
}

/// What a layer gives changes as it trains: the basis follows within some dozens of observations.
#[test]
fn follows_a_layer_that_changes() {
    let threads = Threads::new(1);
    let mut basis = SharedBasis::new(LAYER[1], 3);
    let mut turned = layer(3, LAYER, 3, 0.01);
    for _ in 0..40 {
        basis.observe(&threads, view(LAYER, &turned));
    }
    // The same images in other channels.
    let p = LAYER[2] * LAYER[3];
    turned.chunks_exact_mut(LAYER[1] * p).for_each(|record| record.rotate_right(7 * p));
    let before = kept(&turned, LAYER, basis.basis());
    for _ in 0..80 {
        basis.observe(&threads, view(LAYER, &turned));
    }
    let after = kept(&turned, LAYER, basis.basis());
    assert!(before < 0.9 && after > 0.99, "{before} {after}");
}

#[test]
fn is_orthonormal_whatever_is_observed() {
    let (threads, rank) = (Threads::new(1), 6);
    let len = LAYER.iter().product();
    let huge: Vec<f32> = numbers(1, len).iter().map(|x| x * 1e15).collect();
    let one_channel: Vec<f32> = (0..len).map(|i| if i / 99 % 20 == 3 { 1.0 } else { 0.0 }).collect();
    for first in [vec![0.0; len], vec![1.0; len], one_channel, huge] {
        let mut basis = SharedBasis::new(LAYER[1], rank);
        for _ in 0..3 {
            basis.observe(&threads, view(LAYER, &first));
            assert!(worst_product(basis.basis(), rank) < 1e-5);
        }
        // Directions that had no energy are found when they get some.
        let x = layer(5, LAYER, rank, 0.0);
        let largest = first.iter().fold(1.0f32, |m, x| m.max(x.abs()));
        let x: Vec<f32> = x.iter().map(|x| x * largest * 3.0).collect();
        (0..200).for_each(|_| basis.observe(&threads, view(LAYER, &x)));
        assert!(kept(&x, LAYER, basis.basis()) > 0.99, "{}", kept(&x, LAYER, basis.basis()));
    }
    let mut basis = SharedBasis::new(LAYER[1], rank);
    basis.observe(&threads, view([0, 20, 9, 11], &[]));
    assert_eq!(basis.basis(), SharedBasis::new(LAYER[1], rank).basis(), "nothing was observed");
}

#[test]
fn observations_do_not_depend_on_threads_and_continue_from_a_state() {
    let dims = [3, 70, 40, 41]; // more pixels than one observation takes
    let batches: Vec<_> = (0..4).map(|i| layer(i, dims, 9, 0.1)).collect();
    let observe = |basis: &mut SharedBasis, threads, x| basis.observe(&Threads::new(threads), view(dims, x));
    let [mut one, mut two] = [1, 3].map(|threads| {
        let mut basis = SharedBasis::new(70, 5);
        batches[..2].iter().for_each(|x| observe(&mut basis, threads, x));
        basis
    });
    assert_eq!(one.state(), two.state());
    let mut resumed = SharedBasis::new(70, 5);
    resumed.restore(&one.state()).unwrap();
    assert_eq!(resumed.basis(), one.basis());
    for x in &batches[2..] {
        for basis in [&mut one, &mut two, &mut resumed] {
            observe(basis, 2, x);
        }
    }
    assert!(one.state() == two.state() && one.state() == resumed.state());
    assert_eq!(resumed.basis(), one.basis());
}

#[test]
fn refuses_a_state_of_another_basis() {
    let state = SharedBasis::new(5, 2).state();
    assert!(matches!(SharedBasis::new(5, 3).restore(&state), Err(SplitError::State { rank: 3, .. })));
    assert!(matches!(SharedBasis::new(6, 2).restore(&state), Err(SplitError::State { channels: 6, .. })));
    let mut damaged = state.clone();
    damaged[3] = f32::NAN;
    assert!(matches!(SharedBasis::new(5, 2).restore(&damaged), Err(SplitError::State { .. })));
    assert!(SharedBasis::new(5, 2).restore(&state).is_ok());
}

#[test]
fn another_rank_is_found_from_the_same_moments() {
    let threads = Threads::new(1);
    let x = layer(1, LAYER, 8, 0.05);
    let mut basis = SharedBasis::new(LAYER[1], 2);
    (0..30).for_each(|_| basis.observe(&threads, view(LAYER, &x)));
    let few = kept(&x, LAYER, basis.basis());
    basis.set_rank(8);
    let more = kept(&x, LAYER, basis.basis());
    assert!(worst_product(basis.basis(), 8) < 1e-5 && more > 0.99 && few < 0.9, "{few} {more}");
    basis.set_rank(2);
    assert!((kept(&x, LAYER, basis.basis()) - few).abs() < 1e-3);
}

#[test]
fn what_was_reserved_for_an_observation_is_enough() {
    for (dims, rank) in [([2, 5, 3, 3], 2), ([1, 64, 80, 80], 16), ([8, 200, 7, 7], 30)] {
        for count in [1, 2] {
            let (threads, x) = (Threads::new(count), layer(1, dims, 2, 0.1));
            let mut basis = SharedBasis::new(dims[1], rank);
            threads.reserve(&basis.scratch());
            basis.observe(&threads, view(dims, &x));
            assert_eq!(threads.grown(), 0);
        }
    }
}

/// Sizes `[K, C, groups, taps]` and a rank.
const KERNELS: [([usize; 4], usize); 7] = [
    ([4, 6, 1, 9], 3),
    ([70, 40, 1, 9], 17),
    ([6, 6, 6, 9], 2),
    ([8, 12, 4, 25], 12),
    ([30, 50, 1, 1], 7),
    ([12, 9, 3, 1], 4),
    ([1, 1, 1, 1], 1),
];

fn lengths([k, c, groups, taps]: [usize; 4], rank: usize) -> [usize; 3] {
    [k * c / groups * taps, c * rank, k * rank * taps]
}

/// The sum of [`transform_kernels`], as it is written.
fn transformed(weight: &[f32], [k, c, groups, taps]: [usize; 4], basis: &[f32], rank: usize) -> Vec<f32> {
    let per_group = c / groups;
    let element = |at: usize| -> f64 {
        let (kernel, i, tap) = (at / (rank * taps), at / taps % rank, at % taps);
        let first = kernel / (k / groups) * per_group;
        let product = |c: usize| {
            f64::from(basis[(first + c) * rank + i])
                * f64::from(weight[(kernel * per_group + c) * taps + tap])
        };
        (0..per_group).map(product).sum()
    };
    (0..k * rank * taps).map(|at| element(at) as f32).collect()
}

#[test]
fn kernels_are_transformed_and_their_gradient_is_the_adjoint() {
    for (sizes, rank) in KERNELS {
        let [weights, bases, outputs] = lengths(sizes, rank);
        let (weight, basis, grad) = (numbers(1, weights), numbers(2, bases), numbers(3, outputs));
        let run = |count: usize| {
            let threads = Threads::new(count);
            threads.reserve(&weights::scratch(sizes, rank));
            let (mut out, mut back) = (vec![f32::NAN; outputs], vec![1.0; weights]);
            transform_kernels(&threads, &weight, sizes, &basis, rank, &mut out);
            add_kernel_gradient(&threads, &grad, sizes, &basis, rank, &mut back);
            assert_eq!(threads.grown(), 0, "{sizes:?}, rank {rank}, {count} threads");
            (out, back)
        };
        let (out, back) = run(1);
        assert_eq!(run(3), (out.clone(), back.clone()), "{sizes:?}");
        let expected = transformed(&weight, sizes, &basis, rank);
        assert_close(&format!("{sizes:?}"), &out, &expected, Tolerance::relative(1e-5));
        // ⟨W', G⟩ = ⟨W, adjoint G⟩; what was there is kept.
        let dot = |a: &[f32], b: &mut dyn Iterator<Item = f64>| -> f64 {
            a.iter().zip(b).map(|(&a, b)| f64::from(a) * b).sum()
        };
        let left = dot(&out, &mut grad.iter().map(|&g| g.into()));
        let right = dot(&weight, &mut back.iter().map(|&g| f64::from(g) - 1.0));
        let scale = dot(&out, &mut out.iter().map(|&x| x.into())).sqrt() * (outputs as f64).sqrt();
        assert!((left - right).abs() < 1e-5 * scale, "{sizes:?}: {left} {right}");
    }
}

#[test]
#[should_panic(expected = "2 groups of 5 and 4")]
fn groups_divide_the_kernels() {
    transform_kernels(&Threads::new(1), &[0.0; 10], [5, 4, 2, 1], &[0.0; 4], 1, &mut [0.0; 5]);
}

#[test]
fn calibration_tells_what_bases_keep() {
    for dims @ [n, c, h, w] in [[5, 12, 6, 7], [4, 30, 3, 3]] {
        let (threads, x) = (Threads::new(2), layer(1, dims, 6, 0.2));
        let mut moments = Moments::new(Shape::from([c, h, w]));
        assert_eq!(
            (moments.per_record().kept(1), moments.shared().kept(1), moments.records()),
            (1.0, 1.0, 0)
        );
        moments.add(&threads, &x[..2 * c * h * w]);
        moments.add(&threads, &x[2 * c * h * w..]);
        assert_eq!(moments.records(), n);
        let spectra: Vec<_> =
            x.chunks_exact(c * h * w).map(|x| split::channels::singular_values(x, [c, h * w])).collect();
        let mean = |f: &dyn Fn(&Vec<f64>) -> f64| spectra.iter().map(f).sum::<f64>() / n as f64;
        let (curve, shared) = (moments.per_record(), moments.shared());
        assert_eq!(curve.largest_rank(), c.min(h * w));
        for rank in 0..=c.min(h * w) {
            assert!((curve.kept(rank) - mean(&|s| spectrum::energy_kept(s, rank))).abs() < 1e-12);
            assert!(shared.kept(rank) <= curve.kept(rank) + 1e-12, "one basis for all cannot be better");
            if rank > 0 {
                // What the basis keeps, record by record.
                let basis = moments.shared_basis(rank);
                let each = x.chunks_exact(c * h * w).map(|x| kept(x, [1, c, h, w], basis.basis()));
                let found = each.sum::<f64>() / n as f64;
                assert!((shared.kept(rank) - found).abs() < 1e-5, "{rank}: {} {found}", shared.kept(rank));
            }
        }
        assert!((moments.entropy() - mean(&|s| spectrum::channel_entropy(s))).abs() < 1e-12);
        let rank = curve.rank_for(0.9);
        assert!(curve.kept(rank) >= 0.9 && curve.kept(rank - 1) < 0.9);
        assert_eq!(
            (curve.rank_for(0.0), curve.rank_for(1.0), curve.rank_for(2.0)),
            (0, c.min(h * w), c.min(h * w))
        );
        // Other threads, other waves, the same numbers.
        let mut alone = Moments::new(Shape::from([c, h, w]));
        alone.add(&Threads::new(1), &x);
        assert_eq!((alone.per_record(), alone.shared()), (curve, shared));
    }
}

#[test]
fn records_of_zeros_keep_everything() {
    let mut moments = Moments::new(Shape::from([3, 2, 2]));
    moments.add(&Threads::new(1), &[0.0; 24]);
    assert_eq!((moments.per_record().kept(0), moments.shared().kept(0), moments.entropy()), (1.0, 1.0, 0.0));
    assert_eq!(moments.per_record().rank_for(0.97), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_kernels_are_transformed(group in 1usize..5, per in 1usize..5, groups in 1usize..4, taps in 1usize..10, rank in 1usize..9) {
        let sizes = [group * groups, per * groups, groups, taps];
        let [weights, bases, outputs] = lengths(sizes, rank);
        let (weight, basis) = (numbers(4, weights), numbers(5, bases));
        let mut out = vec![f32::NAN; outputs];
        transform_kernels(&Threads::new(2), &weight, sizes, &basis, rank, &mut out);
        for (found, expected) in out.iter().zip(transformed(&weight, sizes, &basis, rank)) {
            prop_assert!((found - expected).abs() < 1e-5);
        }
    }
}
