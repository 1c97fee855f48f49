//! The two passes of a split over the pixels of a record `X` `[C, P]`: `V = Ûᵀ X`, and `X − Û V`.
//!
//! Sums of either are chains of fused multiply-adds in the order of channels, or of principal channels, whatever the
//! blocks.

#[cfg(test)]
mod tests;

use std::ops::Range;

use kernels::pulp::{Simd, WithSimd};

/// Vectors of pixels, and rows, of a block of sums in registers.
const VECTORS: usize = 4;
const ROWS: usize = 4;

/// Rows that [`residual`] makes at a time.
pub(crate) const TOGETHER: usize = ROWS;

/// Channels that are projected before the next: planes are often whole pages apart, and a set of the first-level cache has
/// room for few lines.
const CHANNELS: usize = 16;

/// Pixels of a block, which is projected, and whose residual is made, before the next.
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    pixels: usize,
    len: usize,
    rank: usize,
}

/// The longest vector of any processor.
const LONGEST: usize = 16;

impl Blocks {
    /// Of `p` pixels of `c` channels: channels (512 KiB) and principal channels stay in the second-level cache.
    pub(crate) fn new([c, p]: [usize; 2], rank: usize) -> Self {
        const NUMBERS: usize = 1 << 17;
        let most = (NUMBERS / c.max(rank)).next_multiple_of(4 * LONGEST).min(1024);
        Blocks { pixels: p, len: most.min(p), rank }
    }

    /// Pixels of the largest block.
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// How many there are.
    pub(crate) fn count(self) -> usize {
        self.pixels.div_ceil(self.len)
    }

    /// The pixels of block `i`.
    pub(crate) fn pixels(self, i: usize) -> Range<usize> {
        (i * self.len).min(self.pixels)..((i + 1) * self.len).min(self.pixels)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.count()).map(move |i| self.pixels(i))
    }

    /// From one row of a block to the next, with room for a last vector: never whole pages.
    pub(crate) fn stride(self) -> usize {
        self.len + LONGEST
    }

    /// Numbers of a block's principal channels.
    pub(crate) fn principal_len(self) -> usize {
        self.rank * self.stride()
    }
}

/// `V = Ûᵀ X` for some pixels.
///
/// - Shapes: `x` `[C, P]`, `basis` `[C, r]` → rows of `v`, `[r, pixels]`, at multiples of `stride`: that of [`Blocks`]
pub(crate) fn project(
    x: &[f32],
    [c, p]: [usize; 2],
    pixels: Range<usize>,
    basis: &[f32],
    v: &mut [f32],
    stride: usize,
) {
    assert!(x.len() == c * p && pixels.end <= p && stride >= pixels.len() + LONGEST);
    let rank = basis.len() / c;
    for first in (0..c).step_by(CHANNELS) {
        let channels = first..c.min(first + CHANNELS);
        kernels::dispatch(Project {
            x: Rows { data: &x[first * p + pixels.start..], stride: p },
            pixels: pixels.len(),
            basis: &basis[first * rank..channels.end * rank],
            rank,
            goes_on: first > 0,
            v,
            stride,
        });
    }
}

/// `R = X − Û V` for some channels and pixels.
///
/// - Shapes: `x` `[C, P]`, `basis` `[C, r]`, rows of `v`, `[r, pixels]` → rows of `residual`, `[channels, pixels]`, at most
///   [`TOGETHER`] channels; both at multiples of `stride`: that of [`Blocks`]
pub(crate) fn residual(
    x: &[f32],
    [c, p]: [usize; 2],
    [channels, pixels]: [Range<usize>; 2],
    [basis, v]: [&[f32]; 2],
    stride: usize,
    residual: &mut [f32],
) {
    assert!(channels.len() <= TOGETHER && pixels.end <= p && stride >= pixels.len() + LONGEST);
    let rank = basis.len() / c;
    kernels::dispatch(Residual {
        x: Rows { data: &x[channels.start * p + pixels.start..], stride: p },
        channels: channels.len(),
        pixels: pixels.len(),
        basis: &basis[channels.start * rank..channels.end * rank],
        rank,
        v,
        residual,
        stride,
    });
}

/// Rows at multiples of a stride.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows from column `at` on.
    #[inline(always)]
    fn rows_at(self, at: usize) -> impl Iterator<Item = &'a [f32]> {
        (0..).map(move |row| self.data.get(row * self.stride + at..).unwrap_or_default())
    }
}

/// Some channels' part in the principal channels.
struct Project<'a> {
    x: Rows<'a>,
    pixels: usize,
    /// Of these channels.
    basis: &'a [f32],
    rank: usize,
    /// Whether other channels' part is there already.
    goes_on: bool,
    v: &'a mut [f32],
    stride: usize,
}

// No closures in what follows: what they do is compiled for this processor's vectors only where they are inlined.
impl WithSimd for Project<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for (at, vectors) in places(self.pixels, S::F32_LANES) {
            for first in (0..self.rank).step_by(ROWS) {
                if vectors == VECTORS {
                    self.rows::<S, VECTORS>(simd, at, first);
                } else {
                    self.rows::<S, 1>(simd, at, first);
                }
            }
        }
    }
}

impl Project<'_> {
    #[inline(always)]
    fn rows<S: Simd, const W: usize>(&mut self, simd: S, at: usize, first: usize) {
        match self.rank - first {
            1 => self.block::<S, W, 1>(simd, at, first),
            2 => self.block::<S, W, 2>(simd, at, first),
            3 => self.block::<S, W, 3>(simd, at, first),
            _ => self.block::<S, W, ROWS>(simd, at, first),
        }
    }

    /// `R` principal channels of `W` vectors of pixels.
    #[inline(always)]
    fn block<S: Simd, const W: usize, const R: usize>(&mut self, simd: S, at: usize, first: usize) {
        let mut sums = [[simd.splat_f32s(0.0); W]; R];
        if self.goes_on {
            for (i, sums) in sums.iter_mut().enumerate() {
                *sums = load(simd, &self.v[(first + i) * self.stride + at..]);
            }
        }
        for (x, weights) in self.x.rows_at(at).zip(self.basis[first..].chunks(self.rank)) {
            let (x, weights) = (load::<S, W>(simd, x), &weights[..R]);
            for i in 0..R {
                let weight = simd.splat_f32s(weights[i]);
                for w in 0..W {
                    sums[i][w] = simd.mul_add_e_f32s(weight, x[w], sums[i][w]);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            store::<S, W>(&mut self.v[(first + i) * self.stride + at..], sums);
        }
    }
}

struct Residual<'a> {
    x: Rows<'a>,
    channels: usize,
    pixels: usize,
    /// Of these channels.
    basis: &'a [f32],
    rank: usize,
    v: &'a [f32],
    residual: &'a mut [f32],
    stride: usize,
}

impl WithSimd for Residual<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for (at, vectors) in places(self.pixels, S::F32_LANES) {
            if vectors == VECTORS {
                self.rows::<S, VECTORS>(simd, at);
            } else {
                self.rows::<S, 1>(simd, at);
            }
        }
    }
}

impl Residual<'_> {
    #[inline(always)]
    fn rows<S: Simd, const W: usize>(&mut self, simd: S, at: usize) {
        match self.channels {
            1 => self.block::<S, W, 1>(simd, at),
            2 => self.block::<S, W, 2>(simd, at),
            3 => self.block::<S, W, 3>(simd, at),
            _ => self.block::<S, W, ROWS>(simd, at),
        }
    }

    /// `K` channels of `W` vectors of pixels.
    #[inline(always)]
    fn block<S: Simd, const W: usize, const K: usize>(&mut self, simd: S, at: usize) {
        let mut sums = [[simd.splat_f32s(0.0); W]; K];
        let mut weights = [&self.basis[..self.rank]; K];
        for c in 0..K {
            sums[c] = load(simd, &self.x.data[c * self.x.stride + at..]);
            weights[c] = &self.basis[c * self.rank..][..self.rank];
        }
        let v = Rows { data: self.v, stride: self.stride };
        for (i, v) in (0..self.rank).zip(v.rows_at(at)) {
            let v: [S::f32s; W] = load(simd, v);
            for c in 0..K {
                let weight = simd.splat_f32s(-weights[c][i]);
                for w in 0..W {
                    sums[c][w] = simd.mul_add_e_f32s(weight, v[w], sums[c][w]);
                }
            }
        }
        for (c, sums) in sums.iter().enumerate() {
            store::<S, W>(&mut self.residual[c * self.stride + at..], sums);
        }
    }
}

/// First pixels, and how many vectors from each on: [`VECTORS`], then one at a time. The last may reach beyond the pixels,
/// where rows have room for it.
fn places(pixels: usize, lanes: usize) -> impl Iterator<Item = (usize, usize)> {
    let vectors = pixels.div_ceil(lanes);
    let ones = vectors / VECTORS * VECTORS;
    let many = (0..ones).step_by(VECTORS).map(move |at| (at * lanes, VECTORS));
    many.chain((ones..vectors).map(move |at| (at * lanes, 1)))
}

/// The first vectors of a row; zeros beyond the end of the last.
#[inline(always)]
pub(crate) fn load<S: Simd, const W: usize>(simd: S, from: &[f32]) -> [S::f32s; W] {
    let mut vectors = [simd.splat_f32s(0.0); W];
    if from.len() >= W * S::F32_LANES {
        vectors.copy_from_slice(S::as_simd_f32s(&from[..W * S::F32_LANES]).0);
    } else {
        for (w, vector) in vectors.iter_mut().enumerate() {
            let rest = from.get(w * S::F32_LANES..).unwrap_or_default();
            *vector = simd.partial_load_f32s(&rest[..rest.len().min(S::F32_LANES)]);
        }
    }
    vectors
}

/// As many numbers of vectors as there is room for.
#[inline(always)]
pub(crate) fn store_some<S: Simd, const W: usize>(simd: S, to: &mut [f32], from: &[S::f32s; W]) {
    if to.len() >= W * S::F32_LANES {
        return store::<S, W>(to, from);
    }
    for (to, &from) in to.chunks_mut(S::F32_LANES).zip(from) {
        simd.partial_store_f32s(to, from);
    }
}

#[inline(always)]
fn store<S: Simd, const W: usize>(to: &mut [f32], from: &[S::f32s; W]) {
    S::as_mut_simd_f32s(&mut to[..W * S::F32_LANES]).0.copy_from_slice(from);
}
