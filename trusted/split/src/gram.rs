//! Gram matrices in double precision: for spectra, and for exact bases.

use kernels::pulp::{Simd, WithSimd};

use crate::dense::transpose;

/// Columns that are multiplied before the next: blocks of rows stay in the second-level cache.
const DEPTH: usize = 512;

/// Side of a block of sums in registers.
const SIDE: usize = 4;

/// `X Xᵀ` `[C, C]` or `Xᵀ X` `[P, P]`, whichever is smaller, of `x` `[C, P]`.
pub(crate) fn gram_of_smaller(x: &[f32], [c, p]: [usize; 2]) -> Vec<f64> {
    if c <= p {
        return gram(x, [c, p]);
    }
    let mut pixels = vec![0.0; x.len()];
    transpose(x, [c, p], &mut pixels);
    gram(&pixels, [p, c])
}

/// `X Xᵀ` `[n, n]` of `x` `[n, depth]`.
pub(crate) fn gram(x: &[f32], [n, depth]: [usize; 2]) -> Vec<f64> {
    let mut out = vec![0.0; n * n];
    // Whole blocks of rows: the last are zeros.
    let rows = n.next_multiple_of(SIDE);
    let mut block = vec![0.0f64; rows * DEPTH];
    for from in (0..depth).step_by(DEPTH) {
        let len = DEPTH.min(depth - from);
        block.fill(0.0);
        for (to, row) in block.chunks_exact_mut(DEPTH).zip(x.chunks_exact(depth)) {
            to.iter_mut().zip(&row[from..from + len]).for_each(|(to, &x)| *to = x.into());
        }
        kernels::dispatch(AddProducts { block: &block, len, n, out: &mut out });
    }
    for i in 0..n {
        (0..i).for_each(|j| out[j * n + i] = out[i * n + j]);
    }
    out
}

/// `out[i, j] += Σ_k block[i, k] block[j, k]`, at least where `j ≤ i`.
struct AddProducts<'a> {
    /// `[n rounded up, DEPTH]`, zeros from `len` on.
    block: &'a [f64],
    len: usize,
    n: usize,
    out: &'a mut [f64],
}

impl WithSimd for AddProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let AddProducts { block, len, n, out } = self;
        // Every vector length of a processor divides `DEPTH`.
        let len = len.next_multiple_of(S::F64_LANES);
        for i in (0..n).step_by(SIDE) {
            for j in (0..=i).step_by(SIDE) {
                let sums = products(simd, rows::<S>(block, i, len), rows::<S>(block, j, len));
                for (a, sums) in (i..n).zip(sums) {
                    for (b, sum) in (j..n).zip(sums) {
                        out[a * n + b] += sum;
                    }
                }
            }
        }
    }
}

/// Rows from `first` on, as vectors.
#[inline(always)]
fn rows<S: Simd>(block: &[f64], first: usize, len: usize) -> [&[S::f64s]; SIDE] {
    std::array::from_fn(|i| S::as_simd_f64s(&block[(first + i) * DEPTH..][..len]).0)
}

#[inline(always)]
fn products<S: Simd>(simd: S, left: [&[S::f64s]; SIDE], right: [&[S::f64s]; SIDE]) -> [[f64; SIDE]; SIDE] {
    let mut sums = [[simd.splat_f64s(0.0); SIDE]; SIDE];
    for k in 0..left[0].len() {
        let right = right.map(|row| row[k]);
        for i in 0..SIDE {
            let left = left[i][k];
            for j in 0..SIDE {
                sums[i][j] = simd.mul_add_e_f64s(left, right[j], sums[i][j]);
            }
        }
    }
    sums.map(|row| row.map(|sum| simd.reduce_sum_f64s(sum)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_sums() {
        for [n, depth] in [[1, 1], [3, 7], [4, 512], [9, 1030], [6, 0]] {
            let x: Vec<f32> = (0..n * depth).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
            let found = gram(&x, [n, depth]);
            for (at, found) in found.iter().enumerate() {
                let row = |i: usize| x[i * depth..][..depth].iter().map(|&v| f64::from(v));
                let expected: f64 = row(at / n).zip(row(at % n)).map(|(a, b)| a * b).sum();
                assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0) * depth as f64);
            }
        }
    }

    #[test]
    fn the_smaller_side_is_chosen() {
        let x: Vec<f32> = (0..6).map(|i| i as f32).collect();
        assert_eq!(gram_of_smaller(&x, [2, 3]), [5.0, 14.0, 14.0, 50.0]);
        assert_eq!(gram_of_smaller(&x, [3, 2]), [20.0, 26.0, 26.0, 35.0]);
    }
}
