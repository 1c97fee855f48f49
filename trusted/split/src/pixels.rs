//! The two passes of a split over the pixels of a record `X` `[C, P]`: `V = Ûᵀ X`, and `X − Û V`.
//!
//! Sums of either are chains of fused multiply-adds in the order of channels, or of principal channels, whatever the
//! blocks.

use std::ops::Range;

use kernels::pulp::{Simd, WithSimd};

/// Vectors of pixels, and rows, of a block of sums in registers.
const VECTORS: usize = 4;
const ROWS: usize = 4;

/// Rows that [`Residual`] makes at a time.
pub(crate) const TOGETHER: usize = ROWS;

/// Pixels of a record of `c` channels that are projected, and whose residual is made, before the next: their channels
/// (256 KiB) stay in the second-level cache.
pub(crate) fn block_len(c: usize) -> usize {
    const NUMBERS: usize = 1 << 16;
    (NUMBERS / c.max(1)).next_multiple_of(64).clamp(64, 4096)
}

/// The blocks of `p` pixels.
pub(crate) fn blocks(c: usize, p: usize) -> impl Iterator<Item = Range<usize>> {
    let len = block_len(c);
    (0..p).step_by(len).map(move |at| at..p.min(at + len))
}

/// `V = Ûᵀ X` for some pixels.
///
/// - Shapes: `x` `[C, P]`, `basis` `[C, r]` → rows of `v` at multiples of `v_stride`, `[r, pixels]`
pub(crate) fn project(
    x: &[f32],
    [c, p]: [usize; 2],
    pixels: Range<usize>,
    basis: &[f32],
    v: &mut [f32],
    v_stride: usize,
) {
    assert!(x.len() == c * p && pixels.end <= p);
    let x = Rows { data: &x[pixels.start.min(x.len())..], stride: p };
    kernels::dispatch(Project { x, channels: c, pixels: pixels.len(), basis, v, v_stride });
}

/// `R = X − Û V` for some channels and pixels.
///
/// - Shapes: `x` `[C, P]`, `basis` `[C, r]`, `v` `[r, P]` → `residual` `[channels, pixels]`, at most [`TOGETHER`] channels
pub(crate) fn residual(
    x: &[f32],
    p: usize,
    [channels, pixels]: [Range<usize>; 2],
    basis: &[f32],
    v: &[f32],
    residual: &mut [f32],
) {
    assert!(channels.len() <= TOGETHER && pixels.end <= p);
    let rank = v.len() / p;
    let x = Rows { data: &x[channels.start * p + pixels.start..], stride: p };
    let v = Rows { data: &v[pixels.start..], stride: p };
    let basis = &basis[channels.start * rank..channels.end * rank];
    kernels::dispatch(Residual {
        x,
        channels: channels.len(),
        pixels: pixels.len(),
        basis,
        v,
        rank,
        residual,
    });
}

/// Rows at multiples of a stride.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> Rows<'a> {
    /// Some numbers of a row.
    #[inline(always)]
    fn part(self, row: usize, at: usize, len: usize) -> &'a [f32] {
        &self.data[row * self.stride + at..][..len]
    }
}

struct Project<'a> {
    x: Rows<'a>,
    channels: usize,
    pixels: usize,
    basis: &'a [f32],
    v: &'a mut [f32],
    v_stride: usize,
}

impl WithSimd for Project<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rank = self.basis.len() / self.channels.max(1);
        for_each_vectors::<S>(self.pixels, |at, len| {
            for first in (0..rank).step_by(ROWS) {
                match (len / S::F32_LANES, ROWS.min(rank - first)) {
                    (VECTORS, 4) => self.block::<S, VECTORS, 4>(simd, at, len, first, rank),
                    (VECTORS, 3) => self.block::<S, VECTORS, 3>(simd, at, len, first, rank),
                    (VECTORS, 2) => self.block::<S, VECTORS, 2>(simd, at, len, first, rank),
                    (VECTORS, _) => self.block::<S, VECTORS, 1>(simd, at, len, first, rank),
                    (_, 4) => self.block::<S, 1, 4>(simd, at, len, first, rank),
                    (_, 3) => self.block::<S, 1, 3>(simd, at, len, first, rank),
                    (_, 2) => self.block::<S, 1, 2>(simd, at, len, first, rank),
                    _ => self.block::<S, 1, 1>(simd, at, len, first, rank),
                }
            }
        });
    }
}

impl Project<'_> {
    /// `R` principal channels of `len` pixels, which are `W` vectors or less than one.
    #[inline(always)]
    fn block<S: Simd, const W: usize, const R: usize>(
        &mut self,
        simd: S,
        at: usize,
        len: usize,
        first: usize,
        rank: usize,
    ) {
        let mut sums = [[simd.splat_f32s(0.0); W]; R];
        for (c, weights) in self.basis.chunks_exact(rank).enumerate() {
            let x: [S::f32s; W] = load(simd, self.x.part(c, at, len));
            let weights = &weights[first..first + R];
            for i in 0..R {
                let weight = simd.splat_f32s(weights[i]);
                for w in 0..W {
                    sums[i][w] = simd.mul_add_e_f32s(weight, x[w], sums[i][w]);
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            store(simd, &mut self.v[(first + i) * self.v_stride + at..][..len], sums);
        }
    }
}

struct Residual<'a> {
    x: Rows<'a>,
    channels: usize,
    pixels: usize,
    /// Of these channels.
    basis: &'a [f32],
    v: Rows<'a>,
    rank: usize,
    residual: &'a mut [f32],
}

impl WithSimd for Residual<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for_each_vectors::<S>(self.pixels, |at, len| match (len / S::F32_LANES, self.channels) {
            (VECTORS, 4) => self.block::<S, VECTORS, 4>(simd, at, len),
            (VECTORS, 3) => self.block::<S, VECTORS, 3>(simd, at, len),
            (VECTORS, 2) => self.block::<S, VECTORS, 2>(simd, at, len),
            (VECTORS, _) => self.block::<S, VECTORS, 1>(simd, at, len),
            (_, 4) => self.block::<S, 1, 4>(simd, at, len),
            (_, 3) => self.block::<S, 1, 3>(simd, at, len),
            (_, 2) => self.block::<S, 1, 2>(simd, at, len),
            _ => self.block::<S, 1, 1>(simd, at, len),
        });
    }
}

impl Residual<'_> {
    /// `K` channels of `len` pixels, which are `W` vectors or less than one.
    #[inline(always)]
    fn block<S: Simd, const W: usize, const K: usize>(&mut self, simd: S, at: usize, len: usize) {
        let mut sums: [[S::f32s; W]; K] = std::array::from_fn(|c| load(simd, self.x.part(c, at, len)));
        let weights: [&[f32]; K] = std::array::from_fn(|c| &self.basis[c * self.rank..][..self.rank]);
        let vectors = |i| -> [S::f32s; W] { load(simd, self.v.part(i, at, len)) };
        for (i, v) in (0..self.rank).map(|i| (i, vectors(i))) {
            for c in 0..K {
                let weight = simd.splat_f32s(-weights[c][i]);
                for w in 0..W {
                    sums[c][w] = simd.mul_add_e_f32s(weight, v[w], sums[c][w]);
                }
            }
        }
        for (c, sums) in sums.into_iter().enumerate() {
            store(simd, &mut self.residual[c * self.pixels + at..][..len], sums);
        }
    }
}

/// Calls `job(first pixel, how many)`, of [`VECTORS`] vectors, then of one, then of less.
#[inline(always)]
fn for_each_vectors<S: Simd>(pixels: usize, mut job: impl FnMut(usize, usize)) {
    let mut at = 0;
    while at < pixels {
        let left = pixels - at;
        let len =
            if left >= VECTORS * S::F32_LANES { VECTORS * S::F32_LANES } else { left.min(S::F32_LANES) };
        job(at, len);
        at += len;
    }
}

#[inline(always)]
fn load<S: Simd, const W: usize>(simd: S, from: &[f32]) -> [S::f32s; W] {
    let (vectors, rest) = S::as_simd_f32s(from);
    match vectors.first_chunk::<W>() {
        Some(vectors) => *vectors,
        None => [simd.partial_load_f32s(rest); W],
    }
}

#[inline(always)]
fn store<S: Simd, const W: usize>(simd: S, to: &mut [f32], from: [S::f32s; W]) {
    let (vectors, rest) = S::as_mut_simd_f32s(to);
    match vectors.first_chunk_mut::<W>() {
        Some(vectors) => *vectors = from,
        None => simd.partial_store_f32s(rest, from[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::fixed_factor;

    fn numbers(seed: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| 4.0 * fixed_factor(seed, i) - 3.0).collect()
    }

    fn near(found: f32, expected: f64) {
        assert!((f64::from(found) - expected).abs() < 1e-4, "{found} {expected}");
    }

    /// Sizes on both sides of every block's edges; pixels from a first one to a last one.
    #[test]
    fn both_passes_agree_with_the_sums() {
        for (c, p, rank) in [(1, 1, 1), (5, 70, 3), (9, 200, 6), (8, 64, 8), (13, 131, 9), (6, 15, 2)] {
            let (x, basis, v) = (numbers(1, c * p), numbers(2, c * rank), numbers(3, rank * p));
            for pixels in [0..p, p / 3..p, 0..p - p / 4, p..p] {
                let mut found = vec![f32::NAN; rank * pixels.len()];
                project(&x, [c, p], pixels.clone(), &basis, &mut found, pixels.len());
                for (at, &found) in found.iter().enumerate() {
                    let (i, pixel) = (at / pixels.len(), pixels.start + at % pixels.len());
                    near(
                        found,
                        (0..c).map(|c| f64::from(x[c * p + pixel]) * f64::from(basis[c * rank + i])).sum(),
                    );
                }
                for first in (0..c).step_by(TOGETHER) {
                    let channels = first..c.min(first + TOGETHER);
                    let mut found = vec![f32::NAN; channels.len() * pixels.len()];
                    residual(&x, p, [channels.clone(), pixels.clone()], &basis, &v, &mut found);
                    for (at, &found) in found.iter().enumerate() {
                        let (c, pixel) = (first + at / pixels.len(), pixels.start + at % pixels.len());
                        let low: f64 = (0..rank)
                            .map(|i| f64::from(basis[c * rank + i]) * f64::from(v[i * p + pixel]))
                            .sum();
                        near(found, f64::from(x[c * p + pixel]) - low);
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_cover_the_pixels_once() {
        for (c, p) in [(1, 1), (64, 50_176), (512, 196), (3000, 65), (1, 9000)] {
            assert!(blocks(c, p).flatten().eq(0..p));
            assert!(blocks(c, p).all(|block| block.len() <= block_len(c)));
        }
    }
}
