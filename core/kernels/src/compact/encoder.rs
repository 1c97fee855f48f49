//! A record that is encoded part by part.

use super::{Format, passes};
use crate::parts::Parts;

/// Some planes of a record that is being encoded.
pub struct Encoder<'a> {
    pub(super) format: Format,
    pub(super) channels: usize,
    pub(super) plane: usize,
    /// Empty unless the format has scales; the bits of the largest sizes until they are [measured](Encoder::measured).
    pub(super) scales: &'a mut [u8],
    pub(super) numbers: &'a mut [u8],
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

    /// Whether every number has to be [measured](Encoder::measure) before the first is [put](Encoder::put).
    pub fn measures(&self) -> bool {
        self.format == Format::Int8
    }

    /// Takes numbers of a plane into account for its scale; does nothing where there are no scales.
    pub fn measure(&mut self, channel: usize, values: &[f32]) {
        if let Some(most) = self.scales.as_chunks_mut().0.get_mut(channel) {
            *most = passes::largest(values, u32::from_le_bytes(*most)).to_le_bytes();
        }
    }

    /// Makes the scales, when everything was measured.
    pub fn measured(&mut self) {
        for most in self.scales.as_chunks_mut().0 {
            *most = passes::scale(u32::from_le_bytes(*most)).to_le_bytes();
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
