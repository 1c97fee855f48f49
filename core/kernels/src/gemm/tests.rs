use proptest::prelude::*;
use tensor::compare::assert_close;

use super::*;
use crate::testing::{ROUNDING, cases, random};

/// `m`, `n`, `k`, on both sides of every tile edge (panels of 1 to 64 rows, blocks of 6 columns, passes of 512).
fn sizes() -> impl Strategy<Value = [usize; 3]> {
    let edge = || prop_oneof![0..9usize, 14..19usize, 30..34usize, 60..70usize, Just(130)].boxed();
    [edge(), edge(), prop_oneof![edge(), (510..515usize).boxed(), Just(1100).boxed()].boxed()]
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn agrees_with_the_twin(
        [m, n, k] in sizes(),
        scale in prop_oneof![Just(1.0f32), Just(-0.5)],
        keep in prop_oneof![Just(0.0f32), Just(1.0), Just(0.5)],
        transposed in any::<[bool; 2]>(),
        threads in 1..4usize,
    ) {
        let (a, b, c) = (random(&[m, k], 1), random(&[k, n], 2), random(&[m, n], 3));
        let expected = twin::multiply([m, n, k], scale, a.data(), b.data(), keep, c.data());
        let (a, b) = (stored(a.data(), [m, k], transposed[0]), stored(b.data(), [k, n], transposed[1]));
        let (a, b) = (view(&a, [m, k], transposed[0]), view(&b, [k, n], transposed[1]));
        // With `keep` 0 the output may hold anything.
        let mut found = if keep == 0.0 { vec![f32::NAN; m * n] } else { c.into_vec() };
        multiply(&Threads::new(threads), scale, a, b, keep, &mut found);
        assert_close("product", &found, &expected, ROUNDING);
    }
}

/// `data` `[rows, cols]`, laid out row-major or column-major.
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

/// Every kernel this processor can run, not only the fastest; `EXPECT_ISA` names one that must be among them.
#[test]
#[allow(clippy::disallowed_methods)] // The environment says what this machine must offer.
fn every_kernel_agrees_with_the_twin() {
    let mut ran = Vec::new();
    for kernel in Kernel::available() {
        for rows in [1, 2, 15, 16, 17, 63, 64, 65, 130] {
            for cols in [1, 3, 6, 7, 13] {
                let depth = 37;
                let (a, b) = (random(&[rows, depth], 1), random(&[depth, cols], 2));
                let expected = twin::multiply([rows, cols, depth], 1.0, a.data(), b.data(), 0.0, &[]);
                let mut found = vec![f32::NAN; rows * cols];
                let out = Output {
                    data: &mut found,
                    row_stride: cols,
                    col_stride: 1,
                    place: |r| r * cols,
                    keep: 0.0,
                };
                let mut scratch = vec![0.0; scratch_len(&kernel, rows, depth)];
                let (left, right) = (Matrix::new(a.data(), rows, depth), Matrix::new(b.data(), depth, cols));
                multiply_panels(&kernel, &left, 0..rows, right, 1.0, out, &mut scratch);
                assert_close(kernel.name(), &found, &expected, ROUNDING);
            }
        }
        ran.push(kernel.name());
    }
    println!("ran: {ran:?}");
    let of_bf16 = |name: &String| bf16::tests::NAMES.contains(&name.as_str());
    if let Some(expected) = std::env::var("EXPECT_ISA").ok().filter(|name| !of_bf16(name)) {
        assert!(ran.contains(&expected.as_str()), "{expected} did not run, only {ran:?}");
    }
}

#[test]
fn the_same_for_any_number_of_threads() {
    let (a, b) = (random(&[77, 600], 1), random(&[600, 90], 2));
    let run = |threads| {
        let mut c = vec![0.0; 77 * 90];
        let (a, b) = (Matrix::new(a.data(), 77, 600), Matrix::new(b.data(), 600, 90));
        multiply(&Threads::new(threads), 1.0, a, b, 0.0, &mut c);
        c
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(3));
}

/// Rows that overlap (a sliding window), and one row many times.
#[test]
fn strides_may_be_smaller_than_a_row() {
    let data = random(&[200], 1);
    for row_stride in [0, 1, 3] {
        let a: Vec<f32> = (0..20 * 40).map(|i| data.data()[i / 40 * row_stride + i % 40]).collect();
        let b = random(&[40, 30], 2);
        let expected = twin::multiply([20, 30, 40], 1.0, &a, b.data(), 0.0, &[]);
        let window = Matrix::strided(data.data(), [20, 40], [row_stride, 1]);
        let mut found = vec![f32::NAN; 20 * 30];
        multiply(&Threads::new(1), 1.0, window, Matrix::new(b.data(), 40, 30), 0.0, &mut found);
        assert_close("window on the left", &found, &expected, ROUNDING);

        // The same product transposed packs the windows.
        let mut found = vec![f32::NAN; 30 * 20];
        let b = Matrix::new(b.data(), 40, 30).transposed();
        multiply(&Threads::new(1), 1.0, b, window.transposed(), 0.0, &mut found);
        let expected: Vec<f32> = (0..600).map(|i| expected[i % 20 * 30 + i / 20]).collect();
        assert_close("window on the right", &found, &expected, ROUNDING);
    }
}

#[test]
#[should_panic(expected = "does not fit 5 elements")]
fn refuses_strides_beyond_the_slice() {
    let _ = Matrix::strided(&[0.0; 5], [2, 3], [3, 1]);
}

#[test]
#[should_panic(expected = "does not fit")]
fn refuses_strides_that_overflow() {
    let _ = Matrix::strided(&[0.0; 5], [3, 1], [usize::MAX / 2 + 1, 1]);
}

#[test]
#[should_panic(expected = "a has 3 columns, b has 2 rows")]
fn refuses_sizes_that_do_not_fit() {
    let data = [0.0; 6];
    multiply(&Threads::new(1), 1.0, Matrix::new(&data, 2, 3), Matrix::new(&data, 2, 3), 0.0, &mut [0.0; 6]);
}
