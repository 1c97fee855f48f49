use proptest::prelude::*;
use tensor::compare::{Tolerance, assert_close};

use super::{halves, multiply, numbers, pair, pairs_of, rounded, twin};
use crate::Threads;
use crate::gemm::{self, Kernel, Matrix, Output, multiply_panels, scratch_len};
use crate::testing::{ROUNDING, cases, random};

/// Every instruction set for bf16 there is.
pub(crate) const NAMES: [&str; 3] = ["amx-bf16", "avx512bf16", "portable"];

/// Every number that is a bf16, what lies half way to the next, and its neighbours.
#[test]
fn rounds_to_nearest_even() {
    for high in (0..=u16::MAX).map(|high| u32::from(high) << 16) {
        for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            let x = f32::from_bits(high | low);
            let found = f32::from_bits(rounded(x) & 0xffff_0000);
            if x.is_nan() {
                assert!(found.is_nan(), "{x:e}");
            } else {
                assert_eq!(found.to_bits(), twin::round(x).to_bits(), "{x:e}");
            }
        }
    }
}

#[test]
fn a_pair_holds_both_halves() {
    let from = [1.0f32, -2.0, f32::NAN, 4.0, f32::INFINITY];
    let mut pairs = [0.0; 3];
    halves(&from, 1, &mut pairs);
    assert_eq!(numbers(pairs[0]), [1.0, 4.0]);
    assert_eq!(numbers(pairs[1]), [-2.0, f32::INFINITY]);
    assert!(numbers(pairs[2])[0].is_nan() && numbers(pairs[2])[1] == 0.0);
    halves(&from[..4], 2, &mut pairs[..2]);
    assert_eq!([numbers(pairs[0])[1], numbers(pairs[1])[1]].map(|x| x.is_nan()), [true, false]);
    // Long enough for vectors.
    let [first, second] = [1, 2].map(|seed| random(&[67], seed));
    let mut pairs = vec![0.0; 67];
    pair(first.data(), second.data(), &mut pairs);
    for (i, pair) in pairs.into_iter().enumerate() {
        assert_eq!(numbers(pair), [first.data()[i], second.data()[i]].map(twin::round));
    }
}

fn sizes() -> impl Strategy<Value = [usize; 3]> {
    let edge = || prop_oneof![0..9usize, 14..19usize, 30..34usize, 60..70usize, Just(130)].boxed();
    [edge(), edge(), prop_oneof![edge(), (510..515usize).boxed(), Just(1100).boxed()].boxed()]
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn bf16_agrees_with_the_twin_of_rounded_operands(
        [m, n, k] in sizes(),
        keep in prop_oneof![Just(0.0f32), Just(1.0), Just(0.5)],
        transposed in any::<[bool; 2]>(),
        threads in 1..4usize,
    ) {
        let (a, b, c) = (random(&[m, k], 1), random(&[k, n], 2), random(&[m, n], 3));
        let [ra, rb] = [&a, &b].map(|operand| twin::rounded(operand.data()));
        let expected = gemm::twin::multiply([m, n, k], 1.0, &ra, &rb, keep, c.data());
        let (a, b) = (stored(a.data(), [m, k], transposed[0]), stored(b.data(), [k, n], transposed[1]));
        let (a, b) = (view(&a, [m, k], transposed[0]), view(&b, [k, n], transposed[1]));
        let mut found = if keep == 0.0 { vec![f32::NAN; m * n] } else { c.into_vec() };
        let threads = Threads::new(threads);
        threads.reserve(&super::scratch([m, k, n]));
        multiply(&threads, a, b, keep, &mut found);
        prop_assert_eq!(threads.grown(), 0, "`scratch` tells too little");
        assert_close("product", &found, &expected, ROUNDING);
    }
}

fn stored(data: &[f32], [rows, cols]: [usize; 2], transposed: bool) -> Vec<f32> {
    if transposed {
        (0..rows * cols).map(|i| data[i % rows * cols + i / rows]).collect()
    } else {
        data.to_vec()
    }
}

fn view(data: &[f32], [rows, cols]: [usize; 2], transposed: bool) -> Matrix<'_> {
    if transposed { Matrix::new(data, cols, rows).transposed() } else { Matrix::new(data, rows, cols) }
}

/// A product of pairs by one kernel; `by_columns` says how the result lies in memory.
fn product(
    kernel: &Kernel,
    [rows, cols, depth]: [usize; 3],
    [a, b]: [&[f32]; 2],
    by_columns: bool,
) -> Vec<f32> {
    let pairs = pairs_of(depth);
    // `a` is `[rows, depth]`, `b` `[cols, depth]`.
    let [left, right] = [(a, rows), (b, cols)].map(|(data, count)| {
        let mut paired = vec![0.0; count * pairs];
        let lines = paired.chunks_mut(pairs).zip(data.chunks(depth));
        lines.for_each(|(paired, line)| halves(line, 1, paired));
        paired
    });
    let mut found = vec![f32::NAN; rows * cols];
    let (row_stride, col_stride) = if by_columns { (1, rows) } else { (cols, 1) };
    let out = Output { data: &mut found, row_stride, col_stride, place: |r| r * row_stride, keep: 0.0 };
    let mut scratch = vec![f32::NAN; scratch_len(kernel, rows, pairs)];
    let (left, right) = (Matrix::new(&left, rows, pairs), Matrix::new(&right, cols, pairs).transposed());
    multiply_panels(kernel, &left, 0..rows, right, 1.0, out, &mut scratch);
    if by_columns { stored(&found, [cols, rows], true) } else { found }
}

/// Every kernel this processor can run, not only the fastest; `EXPECT_ISA` names one that must be among them. Tile
/// instructions and plain loops add in the same order: they agree bit for bit.
#[test]
#[allow(clippy::disallowed_methods)] // The environment says what this machine must offer.
fn every_bf16_kernel_agrees_with_the_twin() {
    let kernels: Vec<Kernel> = Kernel::bf16_available().collect();
    let portable = kernels.last().expect("the portable kernel runs everywhere");
    for rows in [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130] {
        for cols in [1, 3, 6, 7, 15, 16, 17, 31, 32, 33] {
            for depth in [1, 31, 32, 77, 1100] {
                let (a, b) = (random(&[rows, depth], 1), random(&[cols, depth], 2));
                let [ra, rb] = [&a, &b].map(|operand| twin::rounded(operand.data()));
                let rb = stored(&rb, [cols, depth], true);
                let expected = gemm::twin::multiply([rows, cols, depth], 1.0, &ra, &rb, 0.0, &[]);
                let run = |kernel, by_columns| {
                    product(kernel, [rows, cols, depth], [a.data(), b.data()], by_columns)
                };
                let plain = run(portable, true);
                for kernel in &kernels {
                    let found = run(kernel, false);
                    assert_close(kernel.name(), &found, &expected, ROUNDING);
                    assert_eq!(found, run(kernel, true), "{}: another place", kernel.name());
                    if kernel.name() == "amx-bf16" {
                        assert_eq!(found, plain, "{rows}, {cols}, {depth}");
                    }
                }
            }
        }
    }
    let ran: Vec<_> = kernels.iter().map(Kernel::name).collect();
    println!("ran: {ran:?}");
    if let Ok(expected) =
        std::env::var("EXPECT_ISA").map(|name| NAMES.into_iter().find(|&known| known == name))
    {
        assert!(expected.is_none_or(|name| ran.contains(&name)), "{expected:?} did not run, only {ran:?}");
    }
}

/// The tester notices: operands that are not rounded are further away than any order of summation.
#[test]
fn unrounded_operands_do_not_agree() {
    let (a, b) = (random(&[20, 300], 1), random(&[300, 20], 2));
    let exact = gemm::twin::multiply([20, 20, 300], 1.0, a.data(), b.data(), 0.0, &[]);
    let mut found = vec![0.0; 400];
    let (a, b) = (Matrix::new(a.data(), 20, 300), Matrix::new(b.data(), 300, 20));
    multiply(&Threads::new(1), a, b, 0.0, &mut found);
    let Tolerance { relative, .. } = ROUNDING;
    let size = exact.iter().fold(0.0f32, |size, x| size.max(x.abs()));
    assert!(exact.iter().zip(&found).any(|(e, f)| (e - f).abs() > 10.0 * relative * size));
}

#[test]
fn bf16_is_the_same_for_any_number_of_threads() {
    let (a, b) = (random(&[77, 600], 1), random(&[600, 90], 2));
    let run = |threads| {
        let mut c = vec![0.0; 77 * 90];
        let (a, b) = (Matrix::new(a.data(), 77, 600), Matrix::new(b.data(), 600, 90));
        multiply(&Threads::new(threads), a, b, 0.0, &mut c);
        c
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(3));
}
