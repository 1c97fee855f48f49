//! Formats in which numbers of outsourced layers cross: what the trusted side encodes, the accelerator decodes, and the
//! other way round.
//!
//! A record is `[C, P]`: `C` planes of `P` numbers. Everything is little-endian, runs in time that depends on sizes alone,
//! and is made of the same bits by any vector instructions.
//!
//! | format | bytes of a record | error of one number `x` |
//! |---|---|---|
//! | `f32` | 4CP | none |
//! | `bf16` | 2CP | at most `2⁻⁸·abs(x)`, for normal `x` |
//! | `int8` | C scales in `f32`, then CP signed bytes | at most half a scale: `max(abs(plane))/254` |
//!
//! NaN and infinity are never an error here; what they become is refused by [`Format::decode`], as are numbers that
//! rounding to bf16 takes beyond the largest.

mod encoder;
mod passes;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use encoder::{Encoder, Encoders};

/// The largest size of a number that [`Format::decode`] lets through: products with it and sums of them stay finite.
pub const LARGEST: f32 = 1e30;

/// Planes whose largest number is smaller than this count as zeros in `int8`: the inverse of a scale stays finite.
pub const SMALLEST: f32 = 1e-30;

/// How numbers of outsourced layers cross.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As they are.
    #[default]
    F32,
    /// The upper half of their bits, rounded to nearest, ties to even.
    Bf16,
    /// Multiples, −127 to 127, of a scale per plane: its largest number over 127. A plane of zeros has scale 0.
    Int8,
}

impl Format {
    /// Every format, the most exact first.
    pub const ALL: [Format; 3] = [Format::F32, Format::Bf16, Format::Int8];

    /// As configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::Bf16 => "bf16",
            Format::Int8 => "int8",
        }
    }

    /// Bytes of one record of `channels` planes of `plane` numbers.
    pub fn encoded_len(self, channels: usize, plane: usize) -> usize {
        self.scales_len(channels) + self.number_len() * channels * plane
    }

    /// Bytes of one number.
    pub(crate) fn number_len(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::Bf16 => 2,
            Format::Int8 => 1,
        }
    }

    /// Bytes before the numbers.
    fn scales_len(self, channels: usize) -> usize {
        match self {
            Format::F32 | Format::Bf16 => 0,
            Format::Int8 => 4 * channels,
        }
    }

    /// Encodes one record.
    ///
    /// - Shapes: `values` `[C, P]` → `bytes`, [`Format::encoded_len`] of them, all overwritten
    ///
    /// # Panics
    /// If `bytes` has another length, or `values` does not divide into planes.
    pub fn encode(self, values: &[f32], channels: usize, bytes: &mut [u8]) {
        let plane = self.plane(values.len(), channels, bytes.len());
        let (scales, numbers) = bytes.split_at_mut(self.scales_len(channels));
        match self {
            Format::F32 => passes::to_f32(values, numbers),
            Format::Bf16 => passes::to_bf16(values, numbers),
            Format::Int8 => passes::to_int8(values, plane, scales, numbers),
        }
    }

    /// Encodes a record part by part, as its numbers are made.
    ///
    /// # Panics
    /// If `bytes` is no record of `channels` planes of `plane` numbers.
    pub fn encoder(self, channels: usize, plane: usize, bytes: &mut [u8]) -> Encoder<'_> {
        assert!(bytes.len() == self.encoded_len(channels, plane), "{} bytes for a record", bytes.len());
        let (scales, numbers) = bytes.split_at_mut(self.scales_len(channels));
        scales.fill(0);
        Encoder { format: self, channels, plane, scales, numbers }
    }

    /// Decodes one record; whether every number is finite and at most [`LARGEST`] in size. What `false` was returned for is
    /// not to be used.
    ///
    /// - Shapes: `bytes`, [`Format::encoded_len`] of them → `values` `[C, P]`, overwritten
    ///
    /// # Panics
    /// If `bytes` has another length, or `values` does not divide into planes.
    #[must_use]
    pub fn decode(self, bytes: &[u8], channels: usize, values: &mut [f32]) -> bool {
        self.decode_by(bytes, channels, values, &|_, x| x)
    }

    /// As [`Format::decode`], added to what is there.
    ///
    /// # Panics
    /// As [`Format::decode`].
    #[must_use]
    pub fn decode_add(self, bytes: &[u8], channels: usize, values: &mut [f32]) -> bool {
        self.decode_by(bytes, channels, values, &|before, x| before + x)
    }

    /// Decodes into `put(what is there, number)`.
    #[inline]
    fn decode_by(
        self,
        bytes: &[u8],
        channels: usize,
        values: &mut [f32],
        put: &impl Fn(f32, f32) -> f32,
    ) -> bool {
        let plane = self.plane(values.len(), channels, bytes.len());
        let (scales, numbers) = bytes.split_at(self.scales_len(channels));
        let largest = match self {
            Format::F32 => passes::from_f32(numbers, values, put),
            Format::Bf16 => passes::from_bf16(numbers, values, put),
            Format::Int8 => passes::from_int8(scales, numbers, plane, values, put),
        };
        largest <= LARGEST.to_bits()
    }

    /// Numbers of a plane.
    fn plane(self, values: usize, channels: usize, bytes: usize) -> usize {
        let plane = values / channels.max(1);
        assert!(plane * channels == values, "{values} numbers in {channels} planes");
        assert!(bytes == self.encoded_len(channels, plane), "{bytes} bytes for {values} numbers");
        plane
    }
}
