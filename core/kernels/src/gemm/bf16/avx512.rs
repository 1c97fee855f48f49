//! Vector instructions of x86-64 (AVX512-BF16): 16 sums of two products each, in one instruction.

use std::arch::x86_64::{
    __m512, __m512bh, _mm512_castps_si512, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_set1_ps,
    _mm512_storeu_ps,
};
use std::mem::transmute;

use super::{BLOCK, LANES, Operands};

/// Rows of a block: four vectors.
pub(super) const WIDTH: usize = 4 * LANES;

/// Columns of a block: its sums are 24 registers.
pub(super) const COLS: usize = 6;

/// `sums[c·WIDTH + r] += Σ_k …`.
#[inline]
pub(super) fn sum(operands: &Operands<'_>, sums: &mut [f32; BLOCK]) {
    const { assert!(WIDTH * COLS <= BLOCK) };
    // SAFETY: `Isa::available` has found the instructions, and `Isa::run` has checked the operands.
    #[allow(unsafe_code)]
    unsafe {
        match operands.lanes / LANES {
            1 => sum_vectors::<1>(operands, sums),
            2 => sum_vectors::<2>(operands, sums),
            3 => sum_vectors::<3>(operands, sums),
            _ => sum_vectors::<4>(operands, sums),
        }
    }
}

/// # Safety
/// The processor has the instructions; `left` has `VECTORS` vectors of pairs at each depth, and `right` has `depth` pairs
/// in each column.
#[allow(unsafe_code)]
#[inline(always)]
unsafe fn sum_vectors<const VECTORS: usize>(operands: &Operands<'_>, sums: &mut [f32; BLOCK]) {
    // SAFETY: as above.
    unsafe {
        match operands.cols {
            1 => sum_block::<VECTORS, 1>(operands, sums),
            2 => sum_block::<VECTORS, 2>(operands, sums),
            3 => sum_block::<VECTORS, 3>(operands, sums),
            4 => sum_block::<VECTORS, 4>(operands, sums),
            5 => sum_block::<VECTORS, 5>(operands, sums),
            _ => sum_block::<VECTORS, 6>(operands, sums),
        }
    }
}

/// # Safety
/// As [`sum_vectors`], for `COLUMNS` columns.
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn sum_block<const VECTORS: usize, const COLUMNS: usize>(
    operands: &Operands<'_>,
    sums: &mut [f32; BLOCK],
) {
    let Operands { depth, left, left_stride, right, right_stride, .. } = *operands;
    let mut block: [[__m512; VECTORS]; COLUMNS] = std::array::from_fn(|c| {
        let line: &[f32] = &sums[c * WIDTH..][..VECTORS * LANES];
        // SAFETY: 16 elements each.
        std::array::from_fn(|v| unsafe { _mm512_loadu_ps(line.as_ptr().add(v * LANES)) })
    });
    for k in 0..depth {
        // SAFETY: inside the operands, as above.
        let line: [__m512bh; VECTORS] = std::array::from_fn(|v| unsafe {
            pairs(_mm512_loadu_ps(left.as_ptr().add(k * left_stride + v * LANES)))
        });
        for (c, block) in block.iter_mut().enumerate() {
            // SAFETY: as above.
            let right = pairs(_mm512_set1_ps(unsafe { *right.get_unchecked(c * right_stride + k) }));
            for (sum, &left) in block.iter_mut().zip(&line) {
                *sum = _mm512_dpbf16_ps(*sum, left, right);
            }
        }
    }
    for (block, sums) in block.iter().zip(sums.chunks_exact_mut(WIDTH)) {
        for (sum, to) in block.iter().zip(sums.chunks_exact_mut(LANES)) {
            // SAFETY: 16 elements.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), *sum) };
        }
    }
}

/// The same bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(vector: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes, of which every value is valid.
    #[allow(unsafe_code)]
    unsafe {
        transmute(_mm512_castps_si512(vector))
    }
}
