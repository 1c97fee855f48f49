//! One record with its basis: projected, and its residual encoded.

use std::ops::Range;

use kernels::Threads;
use kernels::compact::Encoder;

use crate::pixels::{TOGETHER, block_len, blocks, project, residual};

/// Blocks of pixels that several threads project at once.
pub(crate) const BLOCKS_AT_ONCE: usize = 16;

/// A record `x` `[C, P]`, and a basis `[C, r]`.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    pub x: &'a [f32],
    pub size: [usize; 2],
    pub basis: &'a [f32],
}

impl Record<'_> {
    /// Writes `V = Ûᵀ X` `[r, P]`, and encodes `X − Û V`, in one pass over the record; numbers that have to be measured
    /// before are made twice.
    pub(crate) fn split(&self, threads: &Threads, principal: &mut [f32], encoder: Option<Encoder<'_>>) {
        let [c, p] = self.size;
        let mut rows = threads.scratch(TOGETHER * block_len(c).min(p));
        let Some(mut encoder) = encoder else {
            return blocks(c, p).for_each(|pixels| self.project(pixels, principal));
        };
        for pixels in blocks(c, p) {
            self.project(pixels.clone(), principal);
            match encoder.measures() {
                true => self.measure(principal, 0, pixels, &mut rows, &mut encoder),
                false => self.put(principal, 0, pixels, &mut rows, &mut encoder),
            }
        }
        if encoder.measures() {
            encoder.measured();
            blocks(c, p).for_each(|pixels| self.put(principal, 0, pixels, &mut rows, &mut encoder));
        }
    }

    /// [`Record::split`] by all threads: they divide the pixels, then the channels.
    pub(crate) fn split_among(&self, threads: &Threads, principal: &mut [f32], encoder: Option<Encoder<'_>>) {
        self.project_among(threads, principal);
        let Some(encoder) = encoder else { return };
        let ([c, p], principal) = (self.size, &*principal);
        let together = c.div_ceil(threads.count()).next_multiple_of(TOGETHER);
        threads.for_each_part(encoder.by_channels(together), |part, mut encoder| {
            let (first, encoder) = (part * together, &mut encoder);
            let mut rows = threads.scratch(TOGETHER * block_len(c).min(p));
            if encoder.measures() {
                blocks(c, p).for_each(|pixels| self.measure(principal, first, pixels, &mut rows, encoder));
                encoder.measured();
            }
            blocks(c, p).for_each(|pixels| self.put(principal, first, pixels, &mut rows, encoder));
        });
    }

    fn project(&self, pixels: Range<usize>, principal: &mut [f32]) {
        let p = self.size[1];
        project(self.x, self.size, pixels.clone(), self.basis, &mut principal[pixels.start..], p);
    }

    fn project_among(&self, threads: &Threads, principal: &mut [f32]) {
        let [c, p] = self.size;
        let (rank, block) = (self.basis.len() / c, block_len(c).min(p));
        let mut at_once = threads.scratch(rank * block * BLOCKS_AT_ONCE.min(p.div_ceil(block)));
        for from in (0..p).step_by(block * BLOCKS_AT_ONCE) {
            let pixels = |i: usize| from + i * block..p.min(from + (i + 1) * block);
            let len = (p - from).div_ceil(block).min(BLOCKS_AT_ONCE) * rank * block;
            threads.for_each_chunk(&mut at_once[..len], rank * block, |i, v| {
                project(self.x, self.size, pixels(i), self.basis, v, block);
            });
            for (i, v) in at_once[..len].chunks_exact(rank * block).enumerate() {
                let pixels = pixels(i);
                for (to, v) in principal.chunks_exact_mut(p).zip(v.chunks_exact(block)) {
                    to[pixels.clone()].copy_from_slice(&v[..pixels.len()]);
                }
            }
        }
    }

    /// Measures the residual of an encoder's planes, the first of which is channel `first`.
    fn measure(
        &self,
        principal: &[f32],
        first: usize,
        pixels: Range<usize>,
        rows: &mut [f32],
        encoder: &mut Encoder<'_>,
    ) {
        let channels = first..first + encoder.channels();
        self.residual(principal, channels, pixels, rows, |c, values| encoder.measure(c - first, values));
    }

    /// Encodes the residual, likewise.
    fn put(
        &self,
        principal: &[f32],
        first: usize,
        pixels: Range<usize>,
        rows: &mut [f32],
        encoder: &mut Encoder<'_>,
    ) {
        let (channels, from) = (first..first + encoder.channels(), pixels.start);
        self.residual(principal, channels, pixels, rows, |c, values| encoder.put(c - first, from, values));
    }

    /// Calls `each(channel, numbers)` with the residual of some channels and pixels.
    fn residual(
        &self,
        principal: &[f32],
        channels: Range<usize>,
        pixels: Range<usize>,
        rows: &mut [f32],
        mut each: impl FnMut(usize, &[f32]),
    ) {
        for first in channels.clone().step_by(TOGETHER) {
            let some = first..channels.end.min(first + TOGETHER);
            let rows = &mut rows[..some.len() * pixels.len()];
            residual(self.x, self.size[1], [some, pixels.clone()], self.basis, principal, rows);
            rows.chunks_exact(pixels.len()).enumerate().for_each(|(i, row)| each(first + i, row));
        }
    }
}
