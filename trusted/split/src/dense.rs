//! Vectors of one sample or one layer: sums in a fixed order, no branch on the numbers.

use kernels::select::select_f32;
use kernels::vectorised;

/// Squared norms below this fraction of what they were before orthogonalisation are rounding, not direction.
const NOTHING_LEFT: f32 = 1e-12;

/// Makes the rows of `rows` `[k, n]` orthonormal, in order (Gram–Schmidt, twice); rows that add nothing become zero.
pub(crate) fn orthonormalise(rows: &mut [f32], n: usize) {
    for k in 0..rows.len() / n {
        let (done, rest) = rows.split_at_mut(k * n);
        orthonormalise_row(done, &mut rest[..n]);
    }
}

vectorised! {
    /// Makes a row orthogonal to those that are done, and of unit length.
    fn orthonormalise_row<'a>(done: &'a [f32], row: &'a mut [f32]) -> () {
        to_unit_length(row);
        for _ in 0..2 {
            for other in done.chunks_exact(row.len()) {
                let along = dot(other, row);
                add_scaled(row, -along, other);
            }
        }
        let keep = select_f32(dot(row, row) > NOTHING_LEFT, 1.0, 0.0);
        row.iter_mut().for_each(|x| *x *= keep);
        to_unit_length(row);
    }
}

vectorised! {
    /// Scales to unit length; zero stays zero.
    pub(crate) fn normalise<'a>(u: &'a mut [f32]) -> () {
        to_unit_length(u);
    }
}

vectorised! {
    /// Scales so that the largest element is 1 in size; zero stays zero.
    pub(crate) fn to_largest_one<'a>(u: &'a mut [f32]) -> () {
        largest_one(u);
    }
}

#[inline(always)]
fn to_unit_length(u: &mut [f32]) {
    // By the largest element first, so that squares neither overflow nor vanish.
    largest_one(u);
    let scale = inverse_root(dot(u, u));
    u.iter_mut().for_each(|x| *x *= scale);
}

#[inline(always)]
fn largest_one(u: &mut [f32]) {
    // Sizes compare as their bits do.
    let largest = f32::from_bits(u.iter().fold(0, |most, x| most.max(x.abs().to_bits())));
    let scale = inverse(largest);
    u.iter_mut().for_each(|x| *x *= scale);
}

/// `1/x`, or 0 unless `x` is above 0.
#[inline(always)]
pub(crate) fn inverse(x: f32) -> f32 {
    unless_nothing(x, |x| 1.0 / x)
}

/// `1/√x`, or 0 unless `x` is above 0.
#[inline(always)]
fn inverse_root(x: f32) -> f32 {
    unless_nothing(x, |x| 1.0 / x.sqrt())
}

/// `f(x)`, or 0 unless `x` is above 0. Time does not tell which: dividing by 0 may be faster than by another number.
#[inline(always)]
fn unless_nothing(x: f32, f: impl Fn(f32) -> f32) -> f32 {
    const SOMETHING: f32 = 1.431_126_2;
    select_f32(x > 0.0, f(select_f32(x > 0.0, x, SOMETHING)), 0.0)
}

#[inline(always)]
pub(crate) fn add_scaled(to: &mut [f32], weight: f32, from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(t, &f)| *t += weight * f);
}

/// Sum of products in eight lanes, in a fixed order.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        lanes.iter_mut().zip(x.iter().zip(y)).for_each(|(lane, (x, y))| *lane += x * y);
    }
    lanes.iter().sum::<f32>() + tail
}

/// `[rows, cols]` → `[cols, rows]`.
pub(crate) fn transpose(from: &[f32], [rows, cols]: [usize; 2], to: &mut [f32]) {
    for (r, row) in from.chunks_exact(cols).enumerate() {
        row.iter().enumerate().for_each(|(c, &x)| to[c * rows + r] = x);
    }
}

/// A number in [½, 1) that looks random: a hash of both.
pub(crate) fn fixed_factor(direction: usize, index: usize) -> f32 {
    // The finaliser of SplitMix64.
    let mut bits = ((direction as u64) << 32 ^ index as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    0.5 + (bits >> 41) as f32 / (1u64 << 24) as f32
}
