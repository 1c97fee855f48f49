//! One record with its basis: projected, and its residual encoded.

use std::ops::Range;

use kernels::compact::Encoder;
use kernels::{Scratch, Threads};

use crate::pixels::{Blocks, TOGETHER, project, residual};

/// Blocks of pixels that several threads project at once.
const BLOCKS_AT_ONCE: usize = 16;

/// A record `x` `[C, P]`, and a basis `[C, r]`.
pub(crate) struct Record<'a> {
    x: &'a [f32],
    size: [usize; 2],
    basis: &'a [f32],
    blocks: Blocks,
}

/// What one thread works in: a block's principal channels, and a few channels of its residual.
struct Buffers<'a> {
    v: &'a mut [f32],
    rows: &'a mut [f32],
}

/// Scratch memory of [`Record::split`] and [`Record::split_among`], inside and outside of a job.
pub(crate) fn scratch(size: [usize; 2], rank: usize) -> Scratch {
    let blocks = Blocks::new(size, rank);
    let buffers = Scratch::each([blocks.principal_len(), TOGETHER * blocks.stride()]);
    buffers.or(Scratch::shared([blocks.principal_len() * BLOCKS_AT_ONCE.min(blocks.count())]))
}

impl<'a> Record<'a> {
    pub(crate) fn new(x: &'a [f32], size: [usize; 2], basis: &'a [f32]) -> Self {
        Record { x, size, basis, blocks: Blocks::new(size, basis.len() / size[0]) }
    }

    /// Writes `V = Ûᵀ X` `[r, P]`, and encodes `X − Û V`, in one pass over the record; where numbers have to be measured
    /// first, in two.
    pub(crate) fn split(&self, threads: &Threads, principal: &mut [f32], mut encoder: Option<Encoder<'_>>) {
        self.with_buffers(threads, |buffers| {
            for pixels in self.blocks.iter() {
                self.project(pixels.clone(), buffers.v);
                self.keep(pixels.clone(), buffers.v, principal);
                match &mut encoder {
                    Some(encoder) if encoder.measures() => self.measure(0, pixels, buffers, encoder),
                    Some(encoder) => self.put(0, pixels, buffers, encoder),
                    None => {}
                }
            }
            if let Some(mut encoder) = encoder.filter(Encoder::measures) {
                encoder.measured();
                self.put_all(principal, 0, buffers, &mut encoder);
            }
        });
    }

    /// [`Record::split`] by all threads: they divide the pixels, then the channels.
    pub(crate) fn split_among(&self, threads: &Threads, principal: &mut [f32], encoder: Option<Encoder<'_>>) {
        self.project_among(threads, principal);
        let Some(encoder) = encoder else { return };
        let principal = &*principal;
        let together = self.size[0].div_ceil(threads.count()).next_multiple_of(TOGETHER);
        threads.for_each_part(encoder.by_channels(together), |part, mut encoder| {
            self.with_buffers(threads, |buffers| {
                let first = part * together;
                if encoder.measures() {
                    for pixels in self.blocks.iter() {
                        self.fetch(pixels.clone(), principal, buffers.v);
                        self.measure(first, pixels, buffers, &mut encoder);
                    }
                    encoder.measured();
                }
                self.put_all(principal, first, buffers, &mut encoder);
            });
        });
    }

    fn with_buffers(&self, threads: &Threads, job: impl FnOnce(&mut Buffers<'_>)) {
        let mut v = threads.scratch(self.blocks.principal_len());
        let mut rows = threads.scratch(TOGETHER * self.blocks.stride());
        job(&mut Buffers { v: &mut v, rows: &mut rows });
    }

    fn project(&self, pixels: Range<usize>, v: &mut [f32]) {
        project(self.x, self.size, pixels, self.basis, v, self.blocks.stride());
    }

    fn project_among(&self, threads: &Threads, principal: &mut [f32]) {
        let (blocks, len) = (self.blocks, self.blocks.principal_len());
        let mut at_once = threads.scratch(len * BLOCKS_AT_ONCE.min(blocks.count()));
        for first in (0..blocks.count()).step_by(BLOCKS_AT_ONCE) {
            let some = &mut at_once[..len * BLOCKS_AT_ONCE.min(blocks.count() - first)];
            threads.for_each_chunk(some, len, |i, v| self.project(blocks.pixels(first + i), v));
            for (i, v) in some.chunks_exact(len).enumerate() {
                self.keep(blocks.pixels(first + i), v, principal);
            }
        }
    }

    /// Puts a block's principal channels where they belong.
    fn keep(&self, pixels: Range<usize>, v: &[f32], principal: &mut [f32]) {
        let rows = principal.chunks_exact_mut(self.size[1]).zip(v.chunks_exact(self.blocks.stride()));
        rows.for_each(|(to, v)| to[pixels.clone()].copy_from_slice(&v[..pixels.len()]));
    }

    /// Gets a block's principal channels back.
    fn fetch(&self, pixels: Range<usize>, principal: &[f32], v: &mut [f32]) {
        let rows = principal.chunks_exact(self.size[1]).zip(v.chunks_exact_mut(self.blocks.stride()));
        rows.for_each(|(from, v)| v[..pixels.len()].copy_from_slice(&from[pixels.clone()]));
    }

    /// Measures the residual of an encoder's planes, the first of which is channel `first`, in a block.
    fn measure(
        &self,
        first: usize,
        pixels: Range<usize>,
        buffers: &mut Buffers<'_>,
        encoder: &mut Encoder<'_>,
    ) {
        let channels = first..first + encoder.channels();
        self.residual(channels, pixels, buffers, |c, values| encoder.measure(c - first, values));
    }

    /// Encodes it, likewise.
    fn put(&self, first: usize, pixels: Range<usize>, buffers: &mut Buffers<'_>, encoder: &mut Encoder<'_>) {
        let (channels, from) = (first..first + encoder.channels(), pixels.start);
        self.residual(channels, pixels, buffers, |c, values| encoder.put(c - first, from, values));
    }

    fn put_all(&self, principal: &[f32], first: usize, buffers: &mut Buffers<'_>, encoder: &mut Encoder<'_>) {
        for pixels in self.blocks.iter() {
            self.fetch(pixels.clone(), principal, buffers.v);
            self.put(first, pixels, buffers, encoder);
        }
    }

    /// Calls `each(channel, numbers)` with the residual of some channels of a block.
    fn residual(
        &self,
        channels: Range<usize>,
        pixels: Range<usize>,
        buffers: &mut Buffers<'_>,
        mut each: impl FnMut(usize, &[f32]),
    ) {
        let stride = self.blocks.stride();
        for first in channels.clone().step_by(TOGETHER) {
            let some = [first..channels.end.min(first + TOGETHER), pixels.clone()];
            residual(self.x, self.size, some.clone(), [self.basis, buffers.v], stride, buffers.rows);
            let rows = some[0].clone().zip(buffers.rows.chunks_exact(stride));
            rows.for_each(|(c, row)| each(c, &row[..pixels.len()]));
        }
    }
}
