//! The loops over numbers, without a branch on any of them.
//!
//! Sizes of numbers are compared by their bits without the sign: in that order every NaN is above infinity, which is above
//! every number, so a largest size tells of all three.

use super::SMALLEST;
use crate::gemm::bf16::rounded;
use crate::select::select_f32;
use crate::simd::vectorised;

/// The bits of a number but for its sign.
const SIZE: u32 = 0x7fff_ffff;

/// Added to a number below 2²², puts its nearest integer into the lowest bits (ties to even).
const TO_INTEGER: f32 = 1.5 * (1 << 23) as f32;

/// The largest multiple of a scale.
const STEPS: f32 = 127.0;

#[inline(always)]
fn size(x: f32) -> u32 {
    x.to_bits() & SIZE
}

vectorised! {
    /// Bits of the largest size among `values` and `before`.
    pub(super) fn largest<'a>(values: &'a [f32], before: u32) -> u32 {
        values.iter().fold(before, |most, &x| most.max(size(x)))
    }
}

vectorised! {
    pub(super) fn to_f32<'a>(values: &'a [f32], bytes: &'a mut [u8]) -> () {
        for (to, x) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
            *to = x.to_le_bytes();
        }
    }
}

vectorised! {
    pub(super) fn to_bf16<'a>(values: &'a [f32], bytes: &'a mut [u8]) -> () {
        for (to, &x) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
            *to = ((rounded(x) >> 16) as u16).to_le_bytes();
        }
    }
}

vectorised! {
    pub(super) fn to_int8<'a>(
        values: &'a [f32],
        plane: usize,
        scales: &'a mut [u8],
        bytes: &'a mut [u8],
    ) -> () {
        scales.fill(0); // for planes of no numbers
        let planes = values.chunks_exact(plane.max(1)).zip(bytes.chunks_exact_mut(plane.max(1)));
        for (to, (values, bytes)) in scales.as_chunks_mut().0.iter_mut().zip(planes) {
            let scale = scale(values.iter().fold(0, |most, &x| most.max(size(x))));
            *to = scale.to_le_bytes();
            quantise(values, scale, bytes);
        }
    }
}

vectorised! {
    /// Numbers of a plane whose scale is known.
    pub(super) fn to_steps<'a>(values: &'a [f32], scale: f32, bytes: &'a mut [u8]) -> () {
        quantise(values, scale, bytes);
    }
}

#[inline(always)]
fn quantise(values: &[f32], scale: f32, bytes: &mut [u8]) {
    let inverse = select_f32(scale != 0.0, 1.0 / scale, 0.0);
    for (to, x) in bytes.iter_mut().zip(values) {
        // The lowest byte of the integer, in two's complement.
        *to = (x * inverse + TO_INTEGER).to_bits() as u8;
    }
}

/// The scale of a plane with this largest size, by its bits; 0 where the plane counts as zeros. Where a number is not
/// finite, neither is the scale.
#[inline(always)]
pub(super) fn scale(largest: u32) -> f32 {
    select_f32(largest >= SMALLEST.to_bits(), f32::from_bits(largest) / STEPS, 0.0)
}

vectorised! {
    /// Bits of the largest size that was decoded.
    pub(super) fn from_f32<'a, F: Fn(f32, f32) -> f32>(bytes: &'a [u8], values: &'a mut [f32], put: &'a F) -> u32 {
        let mut most = 0;
        for (to, &from) in values.iter_mut().zip(bytes.as_chunks().0) {
            let x = f32::from_le_bytes(from);
            most = size(x).max(most);
            *to = put(*to, x);
        }
        most
    }
}

vectorised! {
    /// Bits of the largest size that was decoded.
    pub(super) fn from_bf16<'a, F: Fn(f32, f32) -> f32>(bytes: &'a [u8], values: &'a mut [f32], put: &'a F) -> u32 {
        let mut most = 0;
        for (to, &from) in values.iter_mut().zip(bytes.as_chunks().0) {
            let x = f32::from_bits(u32::from(u16::from_le_bytes(from)) << 16);
            most = size(x).max(most);
            *to = put(*to, x);
        }
        most
    }
}

vectorised! {
    /// Bits of the largest size that was decoded.
    pub(super) fn from_int8<'a, F: Fn(f32, f32) -> f32>(
        scales: &'a [u8],
        bytes: &'a [u8],
        plane: usize,
        values: &'a mut [f32],
        put: &'a F,
    ) -> u32 {
        let mut most = 0;
        let planes = values.chunks_exact_mut(plane.max(1)).zip(bytes.chunks_exact(plane.max(1)));
        for (&scale, (values, bytes)) in scales.as_chunks().0.iter().zip(planes) {
            let scale = f32::from_le_bytes(scale);
            for (to, &step) in values.iter_mut().zip(bytes) {
                let x = scale * f32::from(step.cast_signed());
                most = size(x).max(most);
                *to = put(*to, x);
            }
        }
        most
    }
}
