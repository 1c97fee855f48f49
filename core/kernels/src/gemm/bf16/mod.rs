//! Products of operands rounded to bf16, summed in `f32`.
//!
//! Operands are *pairs*: two numbers in bf16, side by side in the bits of one `f32`, which is only ever copied. A pair is
//! one step of depth, so everything that packs, copies or blocks operands works on pairs as it does on numbers, and
//! either number of a pair may come from anywhere, as long as both operands agree: here one is half of the depth away
//! from the other ([`halves`]).
//!
//! | instructions | order of the sum |
//! |---|---|
//! | `amx-bf16` | of 16 pairs the first numbers and the second ones apart, both from 0, then their sum is added |
//! | `avx512bf16` | pair by pair |
//! | `portable` | as `amx-bf16`, bit for bit |
//!
//! Every sum is one chain that goes on from what is in its place, wherever passes and blocks are cut.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod product;
#[cfg(test)]
pub(super) mod tests;
#[cfg(test)]
pub(crate) mod twin;

pub(crate) use product::{multiply, scratch};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use self::amx::TileState;
use super::kernel::{Tile, last};
use crate::Threads;
use crate::simd::vectorised;

/// No instructions that need a state.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) enum TileState {}

/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// Pairs in one step of the tile instructions: passes are cut at multiples of it, whatever the instructions.
pub(super) const STEP: usize = 16;

/// Most pairs in one pass: a block of columns of this depth, and a panel, stay in the first-level cache.
pub(super) const DEPTH: usize = 256;

/// Elements of the largest block of any instruction set.
const BLOCK: usize = 1024;

/// Instructions for products of bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// Tiles of 16×16 sums.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
    /// Vectors of 16 sums.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// What every processor has.
    Portable,
}

impl Isa {
    /// What this processor, and the operating system, let us use; fastest first.
    pub(super) fn available() -> impl Iterator<Item = Isa> {
        let mut found = Vec::new();
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if amx::is_available() {
            found.push(Isa::Amx);
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f") {
            found.push(Isa::Avx512);
        }
        found.push(Isa::Portable);
        found.into_iter()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => "amx-bf16",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512bf16",
            Isa::Portable => "portable",
        }
    }

    /// Rows and columns of a block of sums.
    pub(super) fn block(self) -> [usize; 2] {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => [amx::SIDE, amx::SIDE],
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => [avx512::WIDTH, avx512::COLS],
            Isa::Portable => [portable::WIDTH, portable::COLS],
        }
    }

    /// Gets this thread ready for blocks of `cols` columns.
    #[inline]
    pub(super) fn begin(self, cols: usize) -> Option<TileState> {
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => Some(TileState::new(cols)),
            _ => {
                let _ = cols;
                None
            }
        }
    }

    /// Computes one tile.
    ///
    /// # Panics
    /// If a slice is shorter than the sizes and strides say, or the depths of `right` do not lie next to each other.
    #[inline]
    pub(super) fn run(self, state: Option<&TileState>, tile: Tile<'_>) {
        let Tile { rows, cols, depth, left, left_stride, right, right_strides, dst, dst_strides, .. } = &tile;
        let [width, most] = self.block();
        assert!((1..=width).contains(rows) && (1..=most).contains(cols) && *depth >= 1);
        assert!(right_strides[0] == 1 || *depth == 1, "depths of the right operand lie next to each other");
        let lanes = rows.next_multiple_of(LANES);
        assert!(left.len() >= (depth - 1) * left_stride + lanes);
        assert!(right.len() > last(*cols, right_strides[1], *depth, 1));
        assert!(dst.len() > last(*rows, dst_strides[0], *cols, dst_strides[1]));
        let operands = Operands {
            lanes,
            cols: *cols,
            depth: *depth,
            left,
            left_stride: *left_stride,
            right,
            right_stride: right_strides[1],
        };
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if self == Isa::Amx && amx::is_whole(&tile, lanes) {
            let state = state.expect("this thread is ready");
            return amx::sum(state, &operands, tile.dst_scale == 1.0, tile.dst, tile.dst_strides[1]);
        }
        let mut sums = [0.0; BLOCK];
        let goes_on = tile.scale == 1.0 && tile.dst_scale == 1.0;
        if goes_on {
            start(&tile, width, &mut sums);
        }
        match self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => amx::sum(state.expect("this thread is ready"), &operands, true, &mut sums, width),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::sum(&operands, &mut sums),
            Isa::Portable => portable::sum(&operands, &mut sums),
        }
        let dst_scale = if goes_on { 0.0 } else { tile.dst_scale };
        finish(&sums, width, Tile { dst_scale, ..tile });
    }
}

/// What is multiplied: `sums[c·width + r] += Σ_k left[k·left_stride + r] · right[c·right_stride + k]`, over pairs.
struct Operands<'a> {
    /// Rows, rounded up to whole vectors.
    lanes: usize,
    cols: usize,
    depth: usize,
    left: &'a [f32],
    left_stride: usize,
    right: &'a [f32],
    right_stride: usize,
}

vectorised! {
    /// Sums that go on from what is in the product's place: one chain, wherever passes or tiles are cut.
    fn start<'a>(tile: &'a Tile<'a>, width: usize, sums: &'a mut [f32; BLOCK]) -> () {
        let Tile { rows, cols, dst, dst_strides: [row, col], .. } = tile;
        for (c, sums) in sums.chunks_mut(width).take(*cols).enumerate() {
            let places = dst[c * col..].iter().step_by((*row).max(1));
            sums[..*rows].iter_mut().zip(places).for_each(|(sum, &from)| *sum = from);
        }
    }
}

vectorised! {
    /// Puts sums, `[columns, width]`, into their places.
    fn finish<'a>(sums: &'a [f32], width: usize, tile: Tile<'a>) -> () {
        let Tile { rows, cols, dst, dst_strides: [row, col], dst_scale, scale, .. } = tile;
        for (c, sums) in sums.chunks(width).take(cols).enumerate() {
            let (sums, dst) = (&sums[..rows], &mut dst[c * col..]);
            if row == 1 {
                put(sums, dst[..rows].iter_mut(), dst_scale, scale);
            } else {
                put(sums, dst.iter_mut().step_by(row.max(1)), dst_scale, scale);
            }
        }
    }
}

#[inline(always)]
fn put<'a>(sums: &[f32], places: impl Iterator<Item = &'a mut f32>, dst_scale: f32, scale: f32) {
    let each = places.zip(sums);
    match dst_scale {
        0.0 => each.for_each(|(to, sum)| *to = scale * sum),
        1.0 => each.for_each(|(to, sum)| *to += scale * sum),
        _ => each.for_each(|(to, sum)| *to = dst_scale * *to + scale * sum),
    }
}

vectorised! {
    /// `pairs[i] = (first[i], second[i])`, rounded to bf16; where `second` has ended, its number is 0.
    pub(crate) fn pair<'a>(first: &'a [f32], second: &'a [f32], pairs: &'a mut [f32]) -> () {
        let (both, rest) = pairs.split_at_mut(second.len().min(pairs.len()));
        let (first, alone) = first.split_at(both.len());
        for (to, (&a, &b)) in both.iter_mut().zip(first.iter().zip(second)) {
            *to = f32::from_bits(rounded(a) >> 16 | rounded(b) & 0xffff_0000);
        }
        for (to, &a) in rest.iter_mut().zip(alone) {
            *to = f32::from_bits(rounded(a) >> 16);
        }
    }
}

/// Pairs of numbers half of a slice apart, in units of `unit` numbers that stay together: `from` `[n, unit]` →
/// `[⌈n/2⌉, unit]`.
pub(crate) fn halves(from: &[f32], unit: usize, pairs: &mut [f32]) {
    let (first, second) = from.split_at(pairs_of(from.len() / unit.max(1)) * unit);
    pair(first, second, pairs);
}

/// [`halves`], by several threads.
pub(crate) fn halves_by(threads: &Threads, from: &[f32], unit: usize, pairs: &mut [f32]) {
    const PART: usize = crate::elementwise::PART;
    let (first, second) = from.split_at(pairs_of(from.len() / unit.max(1)) * unit);
    threads.for_each_chunk(&mut pairs[..first.len()], PART, |part, pairs| {
        let at = part * PART;
        pair(&first[at..], &second[at.min(second.len())..], pairs);
    });
}

/// [`halves`] of each of many rows of `len` numbers.
pub(crate) fn halves_of_rows(threads: &Threads, from: &[f32], len: usize, unit: usize, pairs: &mut [f32]) {
    let made = pairs_of(len / unit.max(1)) * unit;
    // A few rows to a job.
    let together = (crate::elementwise::PART / len.max(1)).max(1);
    threads.for_each_chunk(pairs, together * made, |part, pairs| {
        let rows = from[part * together * len..].chunks(len.max(1));
        pairs.chunks_mut(made.max(1)).zip(rows).for_each(|(pairs, row)| halves(row, unit, pairs));
    });
}

/// Pairs that hold `n` numbers.
pub(crate) fn pairs_of(n: usize) -> usize {
    n.div_ceil(2)
}

/// The bits of `x` rounded to bf16 (to nearest, ties to even; a NaN stays one), of which the upper 16 count.
#[inline(always)]
pub(crate) fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let up = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    if bits & 0x7fff_ffff > 0x7f80_0000 { bits | 0x0040_0000 } else { up }
}

/// The numbers of a pair.
#[inline(always)]
fn numbers(pair: f32) -> [f32; 2] {
    let bits = pair.to_bits();
    [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)]
}
