//! A record that is encoded part by part.

use super::{Format, passes};
use crate::parts::Parts;

/// Some planes of a record that is being encoded.
pub struct Encoder<'a> {
    pub(super) format: Format,
    pub(super) channels: usize,
    pub(super) plane: usize,
    /// Empty unless the format has scales.
    pub(super) scales: &'a mut [u8],
    pub(super) numbers: &'a mut [u8],
}

/// The largest size of a plane's numbers, so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Largest(u32);

impl Largest {
    /// Of these numbers too.
    #[must_use]
    pub fn of(self, values: &[f32]) -> Self {
        Largest(passes::largest(values, self.0))
    }
}

impl<'a> Encoder<'a> {
    /// How numbers are encoded.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Number of planes.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Sets the largest size of a plane's numbers, before any of them is put where [`Format::needs_largest`]; elsewhere this
    /// does nothing.
    ///
    /// # Panics
    /// If there is no such plane.
    pub fn set_largest(&mut self, channel: usize, largest: Largest) {
        if self.format.needs_largest() {
            self.scales[4 * channel..][..4].copy_from_slice(&passes::scale(largest.0).to_le_bytes());
        }
    }

    /// Puts numbers of a plane, from pixel `from` on.
    ///
    /// # Panics
    /// If they do not fit the plane.
    pub fn put(&mut self, channel: usize, from: usize, values: &[f32]) {
        let len = self.format.number_len();
        assert!(from + values.len() <= self.plane, "{} numbers from {from} on", values.len());
        let bytes = &mut self.numbers[(channel * self.plane + from) * len..][..values.len() * len];
        match self.format {
            Format::F32 => passes::to_f32(values, bytes),
            Format::Bf16 => passes::to_bf16(values, bytes),
            Format::Int8 => {
                let scale = f32::from_le_bytes(self.scales.as_chunks().0[channel]);
                passes::to_steps(values, scale, bytes);
            }
        }
    }

    /// The planes, `together` at a time.
    pub fn by_channels(self, together: usize) -> Encoders<'a> {
        Encoders { encoder: self, together: together.max(1) }
    }
}

/// Planes of a record, some at a time.
pub struct Encoders<'a> {
    encoder: Encoder<'a>,
    together: usize,
}

impl<'a> Parts for Encoders<'a> {
    type Part = Encoder<'a>;

    fn count(&self) -> usize {
        self.encoder.channels.div_ceil(self.together)
    }

    fn divide(self, at: usize) -> (Self, Self) {
        let Encoders { encoder: Encoder { format, channels, plane, scales, numbers }, together } = self;
        let first = (at * together).min(channels);
        let (scales, other_scales) = scales.split_at_mut(format.scales_len(first));
        let (numbers, other_numbers) = numbers.split_at_mut(format.number_len() * first * plane);
        let part = |channels, scales, numbers| Encoders {
            encoder: Encoder { format, channels, plane, scales, numbers },
            together,
        };
        (part(first, scales, numbers), part(channels - first, other_scales, other_numbers))
    }

    fn only(self) -> Encoder<'a> {
        self.encoder
    }
}
