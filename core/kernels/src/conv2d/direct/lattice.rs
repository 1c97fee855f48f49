//! Channels-last copies of images, with rows and columns sorted by their remainder modulo the stride.
//!
//! What one tap of a kernel reads for consecutive outputs then lies at a constant distance, so that a convolution is one
//! product per tap over all positions of an image, without columns.

use pulp::{Simd, WithSimd};

use super::super::blocks::{LANES, columns};
use super::super::forward::Start;
use crate::simd;
use crate::transpose::{OnLines, copy_lanes, transpose_block};

/// Where the elements of an image lie in a buffer `[phases, rows, pitch, channels]`.
#[derive(Clone, Copy)]
pub(super) struct Lattice {
    /// Height and width of the image.
    pub image: [usize; 2],
    /// Rows above and columns left of it.
    pub margin: [usize; 2],
    /// Step between elements of a phase, along both axes.
    pub stride: usize,
    /// Phases along both axes; of later ones nothing is kept.
    pub phases: [usize; 2],
    pub rows: usize,
    /// Positions from one row to the next.
    pub pitch: usize,
}

impl Lattice {
    /// Positions of all phases.
    pub(super) fn positions(&self) -> usize {
        self.phases[0] * self.phases[1] * self.phase_len()
    }

    /// Positions of one phase.
    pub(super) fn phase_len(&self) -> usize {
        self.rows * self.pitch
    }

    /// Copies the first `channels` planes into this order, `step` elements to a position.
    pub(super) fn read(&self, planes: &[f32], channels: usize, to: &mut [f32], step: usize) {
        let plane = self.image[0] * self.image[1];
        for c in (0..channels).step_by(LANES) {
            let (planes, count) = (&planes[c * plane..], LANES.min(channels - c));
            simd::dispatch(Read { lattice: *self, planes, count, to: &mut to[c..], step });
        }
    }

    /// Copies the first `channels` of the `step` of each position into planes; `channel` is the first, for the start.
    pub(super) fn write(
        &self,
        from: &[f32],
        step: usize,
        channels: usize,
        start: Start<'_>,
        channel: usize,
        planes: &mut [f32],
    ) {
        let plane = self.image[0] * self.image[1];
        for c in (0..channels).step_by(LANES) {
            let (planes, count) = (&mut planes[c * plane..], LANES.min(channels - c));
            let (lattice, from, channel) = (*self, &from[c..], channel + c);
            simd::dispatch(Write { lattice, from, step, count, start, channel, planes });
        }
    }

    /// Phase and index of an element's row or column, if it is kept.
    #[inline(always)]
    fn along(&self, axis: usize, at: usize) -> Option<[usize; 2]> {
        let at = at + self.margin[axis];
        let [phase, index] = match self.stride {
            1 => [0, at],
            2 => [at % 2, at / 2],
            s => [at % s, at / s],
        };
        let end = [self.rows, self.pitch][axis];
        (phase < self.phases[axis] && index < end).then_some([phase, index])
    }

    /// First position of an image's row, in phase 0 of its columns.
    #[inline(always)]
    fn row(&self, y: usize) -> Option<usize> {
        self.along(0, y).map(|[phase, row]| phase * self.phases[1] * self.phase_len() + row * self.pitch)
    }

    /// Calls `job(i, position)` for the `len` columns from `x` on of the row that starts at `row`, but for those that are
    /// not kept.
    #[inline(always)]
    fn columns(&self, row: usize, x: usize, len: usize, mut job: impl FnMut(usize, usize)) {
        for first in 0..self.stride.min(len) {
            let Some([phase, index]) = self.along(1, x + first) else { continue };
            let (position, count) = (row + phase * self.phase_len() + index, self.pitch - index);
            for (i, position) in (first..len).step_by(self.stride).zip(position..position + count) {
                job(i, position);
            }
        }
    }
}

/// Copies one block of channels of an image into a lattice; what the image does not fill becomes 0.
struct Read<'a> {
    lattice: Lattice,
    /// From the block's first channel on.
    planes: &'a [f32],
    /// Channels of the block.
    count: usize,
    /// From the block's first channel on.
    to: &'a mut [f32],
    /// Elements from one position to the next.
    step: usize,
}

impl WithSimd for Read<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Read { lattice, planes, count, to, step } = self;
        for position in to.chunks_mut(step).take(lattice.positions()) {
            copy_lanes(&[0.0; LANES], position);
        }
        let [height, width] = lattice.image;
        let mut block = OnLines::<{ LANES * LANES }>::zeros();
        for y in 0..height {
            let Some(row) = lattice.row(y) else { continue };
            for x in (0..width).step_by(LANES) {
                columns(simd, &planes[y * width + x..], height * width, count, &mut block);
                lattice.columns(
                    row,
                    x,
                    LANES.min(width - x),
                    #[inline(always)]
                    |i, position| copy_lanes(&block[i * LANES..], &mut to[position * step..]),
                );
            }
        }
    }
}

/// Copies one block of channels of a lattice into an image; what the lattice does not have is 0.
struct Write<'a> {
    lattice: Lattice,
    /// From the block's first channel on.
    from: &'a [f32],
    /// Elements from one position to the next.
    step: usize,
    /// Channels of the block.
    count: usize,
    start: Start<'a>,
    /// First channel, for the start.
    channel: usize,
    /// From the block's first channel on.
    planes: &'a mut [f32],
}

impl WithSimd for Write<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Write { lattice, from, step, count, start, channel, planes } = self;
        let [height, width] = lattice.image;
        let (mut block, mut lanes) =
            (OnLines::<{ LANES * LANES }>::zeros(), OnLines::<{ LANES * LANES }>::zeros());
        for y in 0..height {
            let row = lattice.row(y);
            for x in (0..width).step_by(LANES) {
                let len = LANES.min(width - x);
                if row.is_none() || lattice.phases[1] < lattice.stride {
                    block.fill(0.0);
                }
                if let Some(row) = row {
                    lattice.columns(
                        row,
                        x,
                        len,
                        #[inline(always)]
                        |i, position| copy_lanes(&from[position * step..], &mut block[i * LANES..]),
                    );
                }
                transpose_block(simd, &*block, LANES, &mut *lanes, LANES);
                for (lane, values) in lanes.chunks_exact(LANES).enumerate().take(count) {
                    let to = &mut planes[lane * height * width + y * width + x..][..len];
                    start.put(channel + lane, &values[..len], to);
                }
            }
        }
    }
}
