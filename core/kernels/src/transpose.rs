//! Transposed 16×16 blocks, in registers.

use std::ops::{Deref, DerefMut};

use pulp::Simd;

/// Side of a block.
pub(crate) const BLOCK: usize = 16;

/// A small array that begins on a line of the cache, so that no vector in it straddles two.
#[repr(align(64))]
pub(crate) struct OnLines<const N: usize>([f32; N]);

impl<const N: usize> OnLines<N> {
    #[inline(always)]
    pub(crate) fn zeros() -> Self {
        OnLines([0.0; N])
    }
}

impl<const N: usize> Deref for OnLines<N> {
    type Target = [f32; N];

    #[inline(always)]
    fn deref(&self) -> &[f32; N] {
        &self.0
    }
}

impl<const N: usize> DerefMut for OnLines<N> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [f32; N] {
        &mut self.0
    }
}

/// `to[k·to_stride + r] = from[r·stride + k]` for `r`, `k` below 16; rows may overlap.
#[inline(always)]
pub(crate) fn transpose_block<S: Simd>(
    simd: S,
    from: &[f32],
    stride: usize,
    to: &mut [f32],
    to_stride: usize,
) {
    let from = &from[..15 * stride + BLOCK];
    let to = &mut to[..15 * to_stride + BLOCK];
    #[cfg(target_arch = "x86_64")]
    match S::F32_LANES {
        16 => {
            if let Some(v4) = pulp::x86::V4::try_new() {
                return x86::transpose_16(v4, from, stride, to, to_stride);
            }
        }
        8 => {
            if let Some(v3) = pulp::x86::V3::try_new() {
                for (r, k) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
                    x86::transpose_8(
                        v3,
                        &from[r * stride + k..],
                        stride,
                        &mut to[k * to_stride + r..],
                        to_stride,
                    );
                }
                return;
            }
        }
        _ => {}
    }
    let _ = simd;
    for r in 0..BLOCK {
        for k in 0..BLOCK {
            to[k * to_stride + r] = from[r * stride + k];
        }
    }
}

/// Copies the first 16 elements: as a vector, where the lengths of slices would make it a call.
#[inline(always)]
pub(crate) fn copy_lanes(from: &[f32], to: &mut [f32]) {
    let (from, to) = (from.first_chunk::<BLOCK>(), to.first_chunk_mut::<BLOCK>());
    *to.expect("16 elements") = *from.expect("16 elements");
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::x86_64::{__m256, __m512};

    use pulp::x86::{V3, V4};
    use pulp::{cast, f32x8, f32x16};

    /// Pairs, then fours, of rows are interleaved within 128 bits; two rounds then exchange the 128-bit parts.
    #[inline(always)]
    pub(super) fn transpose_16(simd: V4, from: &[f32], stride: usize, to: &mut [f32], to_stride: usize) {
        let avx = simd.avx512f;
        let zero: __m512 = cast(f32x16(0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.));
        let (mut a, mut b) = ([zero; 16], [zero; 16]);
        for r in 0..16 {
            let row: &[f32; 16] = from[r * stride..].first_chunk().expect("sliced by the caller");
            a[r] = cast(*row);
        }
        for i in 0..8 {
            b[2 * i] = avx._mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
            b[2 * i + 1] = avx._mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
        }
        for i in 0..4 {
            for j in 0..2 {
                let (low, high) = (cast(b[4 * i + j]), cast(b[4 * i + j + 2]));
                a[4 * i + 2 * j] = cast(avx._mm512_unpacklo_pd(low, high));
                a[4 * i + 2 * j + 1] = cast(avx._mm512_unpackhi_pd(low, high));
            }
        }
        for j in 0..4 {
            b[j] = avx._mm512_shuffle_f32x4::<0x88>(a[j], a[4 + j]);
            b[4 + j] = avx._mm512_shuffle_f32x4::<0x88>(a[8 + j], a[12 + j]);
            b[8 + j] = avx._mm512_shuffle_f32x4::<0xdd>(a[j], a[4 + j]);
            b[12 + j] = avx._mm512_shuffle_f32x4::<0xdd>(a[8 + j], a[12 + j]);
        }
        for j in 0..4 {
            a[j] = avx._mm512_shuffle_f32x4::<0x88>(b[j], b[4 + j]);
            a[8 + j] = avx._mm512_shuffle_f32x4::<0xdd>(b[j], b[4 + j]);
            a[4 + j] = avx._mm512_shuffle_f32x4::<0x88>(b[8 + j], b[12 + j]);
            a[12 + j] = avx._mm512_shuffle_f32x4::<0xdd>(b[8 + j], b[12 + j]);
        }
        for k in 0..16 {
            let column: [f32; 16] = cast(a[k]);
            to[k * to_stride..][..16].copy_from_slice(&column);
        }
    }

    #[inline(always)]
    pub(super) fn transpose_8(simd: V3, from: &[f32], stride: usize, to: &mut [f32], to_stride: usize) {
        let avx = simd.avx;
        let zero: __m256 = cast(f32x8(0., 0., 0., 0., 0., 0., 0., 0.));
        let (mut a, mut b) = ([zero; 8], [zero; 8]);
        for r in 0..8 {
            let row: &[f32; 8] = from[r * stride..].first_chunk().expect("sliced by the caller");
            a[r] = cast(*row);
        }
        for i in 0..4 {
            b[2 * i] = avx._mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
            b[2 * i + 1] = avx._mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
        }
        for i in 0..2 {
            for j in 0..2 {
                let (low, high) = (cast(b[4 * i + j]), cast(b[4 * i + j + 2]));
                a[4 * i + 2 * j] = cast(avx._mm256_unpacklo_pd(low, high));
                a[4 * i + 2 * j + 1] = cast(avx._mm256_unpackhi_pd(low, high));
            }
        }
        for j in 0..4 {
            b[j] = avx._mm256_permute2f128_ps::<0x20>(a[j], a[4 + j]);
            b[4 + j] = avx._mm256_permute2f128_ps::<0x31>(a[j], a[4 + j]);
        }
        for k in 0..8 {
            let column: [f32; 8] = cast(b[k]);
            to[k * to_stride..][..8].copy_from_slice(&column);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    struct Job<'a>(&'a [f32], usize, &'a mut [f32], usize);

    impl pulp::WithSimd for Job<'_> {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            transpose_block(simd, self.0, self.1, self.2, self.3);
        }
    }

    #[test]
    fn transposes_with_every_instruction_set() {
        for (stride, to_stride) in [(16, 16), (9, 20), (40, 16)] {
            let from = random(&[15 * stride + 16], 1);
            let check = |run: &dyn Fn(Job<'_>)| {
                let mut to = vec![0.0; 15 * to_stride + 16];
                run(Job(from.data(), stride, &mut to, to_stride));
                for (r, k) in (0..16).flat_map(|r| (0..16).map(move |k| (r, k))) {
                    assert_eq!(to[k * to_stride + r], from.data()[r * stride + k], "{r}, {k}");
                }
            };
            check(&|job| pulp::Arch::new().dispatch(job));
            check(&|job| pulp::WithSimd::with_simd(job, pulp::Scalar));
            #[cfg(target_arch = "x86_64")]
            if let Some(v3) = pulp::x86::V3::try_new() {
                check(&|job| Simd::vectorize(v3, job));
            }
        }
    }
}
