//! Sums in a fixed order: in lanes of `f32` over short blocks, in `f64` above.

use std::ops::Range;

use crate::simd::vectorised;

/// Elements summed in `f32` lanes before the sum goes into an `f64`.
pub(crate) const BLOCK: usize = 4096;

const LANES: usize = 64;

vectorised! {
    /// `Σ f(a[i], b[i])` over one block (at most [`BLOCK`] elements).
    pub(crate) fn block_sum<'a, F: Fn(f32, f32) -> f32>(a: &'a [f32], b: &'a [f32], f: F) -> f64 {
        block(a, b, f)
    }
}

/// [`block_sum`], to be inlined into another loop.
#[inline(always)]
pub(crate) fn block<F: Fn(f32, f32) -> f32>(a: &[f32], b: &[f32], f: F) -> f64 {
    let mut lanes = [0.0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a.remainder().iter().zip(b.remainder());
    let tail: f64 = rest.map(|(&a, &b)| f64::from(f(a, b))).sum();
    for (a, b) in a.zip(b) {
        for l in 0..LANES {
            lanes[l] += f(a[l], b[l]);
        }
    }
    lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>() + tail
}

/// The ranges of one channel's elements in `[N, C, plane]`, in order, in pieces of at most [`BLOCK`].
pub(crate) fn channel(
    len: usize,
    plane: usize,
    channels: usize,
    channel: usize,
) -> impl Iterator<Item = Range<usize>> {
    let image = (plane * channels).max(1);
    (channel * plane..len).step_by(image).flat_map(move |start| {
        let end = start + plane;
        (start..end).step_by(BLOCK).map(move |at| at..end.min(at + BLOCK))
    })
}
