//! Plain loops: what the tile instructions compute, in their order.
//!
//! The product of two bf16 numbers is exact in `f32`, so multiplying and adding rounds once, like a fused instruction.

use super::{BLOCK, LANES, Operands, STEP, numbers};
use crate::simd::vectorised;

/// Rows of a block: two vectors.
pub(super) const WIDTH: usize = 2 * LANES;

/// Columns of a block.
pub(super) const COLS: usize = 8;

vectorised! {
    /// `sums[c·WIDTH + r] += Σ_k …`.
    pub(super) fn sum<'a>(operands: &'a Operands<'a>, sums: &'a mut [f32; BLOCK]) -> () {
        const { assert!(WIDTH * COLS <= BLOCK) };
        let Operands { lanes, cols, depth, .. } = *operands;
        for first in (0..depth).step_by(STEP) {
            let steps = first..depth.min(first + STEP);
            for (c, sums) in sums.chunks_exact_mut(WIDTH).take(cols).enumerate() {
                let right = &operands.right[c * operands.right_stride..][steps.clone()];
                for (v, sums) in sums[..lanes].chunks_exact_mut(LANES).enumerate() {
                    let left = &operands.left[first * operands.left_stride + v * LANES..];
                    add(left, operands.left_stride, right, sums);
                }
            }
        }
    }
}

/// Adds at most [`STEP`] pairs of a vector: their first and second numbers apart.
#[inline(always)]
fn add(left: &[f32], stride: usize, right: &[f32], sums: &mut [f32]) {
    let [mut first, mut second] = [[0.0f32; LANES]; 2];
    for (left, &right) in left.chunks(stride).zip(right) {
        let (left, right) = (&left[..LANES], numbers(right));
        for i in 0..LANES {
            let left = numbers(left[i]);
            first[i] += left[0] * right[0];
            second[i] += left[1] * right[1];
        }
    }
    for (sum, (first, second)) in sums.iter_mut().zip(first.iter().zip(&second)) {
        *sum += first + second;
    }
}
