//! The blocked product around the micro-kernel: panels packed into scratch memory that stays in the second-level cache.

use std::ops::Range;

use super::Matrix;
use super::kernel::{Kernel, Ready, Tile};
use crate::simd;
use crate::transpose::{BLOCK, transpose_block};

/// Elements of packed panels in one pass (512 KiB): they stay in the second-level cache.
const PACKED: usize = 128 * 1024;

/// A left operand that can be packed: a matrix, or the columns of a convolution made on the fly.
pub(crate) trait Panels {
    /// Writes rows `rows` (at most `width`) at depths `depth` into `out`: row `r` at depth `k` goes to
    /// `out[(k − depth.start)·width + r − rows.start]`. The rest of `out` is not used.
    fn pack(&self, rows: Range<usize>, depth: Range<usize>, width: usize, out: &mut [f32]);

    /// How many depths to pack for all panels before the next ones: few where each is a row far from the last, so that
    /// a memory page is read to its end.
    fn strip(&self) -> usize;
}

/// [`Panels::strip`] for rows that are copied.
pub(crate) const ROWS_STRIP: usize = 16;

/// Where a product goes: `data[place(r) + c·col_stride]`, for each panel's first row `r`; its other rows follow at
/// `row_stride`. What is there is multiplied by `keep` first.
pub(crate) struct Output<'a, F> {
    pub data: &'a mut [f32],
    pub row_stride: usize,
    pub col_stride: usize,
    pub place: F,
    pub keep: f32,
}

/// Length of the scratch memory of [`multiply`] for this many rows.
pub(crate) fn scratch_len(kernel: &Kernel, rows: usize, depth: usize) -> usize {
    let width = kernel.width();
    kernel.depth_block(depth) * rows.next_multiple_of(width).min(tile_rows(kernel, depth))
}

/// Rows that one pass packs: a multiple of the panel width.
pub(crate) fn tile_rows(kernel: &Kernel, depth: usize) -> usize {
    let width = kernel.width();
    (PACKED / (kernel.depth_block(depth) * width)).max(1) * width
}

/// `out = scale · left · right + keep · out` for the rows `rows` of `left`; `right` is `[depth, columns]`.
///
/// Each element is one chain of multiply-adds in order of depth, cut at the same places whatever the rows: the result
/// does not depend on how the rows are divided among calls.
pub(crate) fn multiply<F: Fn(usize) -> usize>(
    kernel: &Kernel,
    left: &impl Panels,
    rows: Range<usize>,
    right: Matrix<'_>,
    scale: f32,
    mut out: Output<'_, F>,
    scratch: &mut [f32],
) {
    let (depth, width) = (right.rows, kernel.width());
    if depth == 0 {
        return out.rescale(rows, right.cols);
    }
    let (depth_step, row_step) = (kernel.depth_block(depth), tile_rows(kernel, depth));
    for row in rows.clone().step_by(row_step) {
        let tile = row..rows.end.min(row + row_step);
        let keep = out.keep;
        for k in (0..depth).step_by(depth_step) {
            let slab = k..depth.min(k + depth_step);
            pack_tile(left, tile.clone(), slab.clone(), width, scratch);
            multiply_packed(kernel, scratch, width, tile.clone(), right.row_range(slab), scale, &mut out);
            out.keep = 1.0;
        }
        out.keep = keep;
    }
}

fn pack_tile(left: &impl Panels, rows: Range<usize>, slab: Range<usize>, width: usize, scratch: &mut [f32]) {
    for k in slab.clone().step_by(left.strip()) {
        let depth = k..slab.end.min(k.saturating_add(left.strip()));
        let panels = scratch.chunks_mut(slab.len() * width).zip(rows.clone().step_by(width));
        for (panel, row) in panels {
            let out = &mut panel[(k - slab.start) * width..];
            left.pack(row..rows.end.min(row + width), depth.clone(), width, out);
        }
    }
}

/// [`multiply`] for panels of `width` rows (no more than the kernel's) that are packed already, one after the other, with
/// the depth of `right`.
pub(crate) fn multiply_packed<F: Fn(usize) -> usize>(
    kernel: &Kernel,
    packed: &[f32],
    width: usize,
    rows: Range<usize>,
    right: Matrix<'_>,
    scale: f32,
    out: &mut Output<'_, F>,
) {
    let depth = right.rows;
    let mut ready: Option<Ready<'_>> = None;
    for col in (0..right.cols).step_by(kernel.cols()) {
        let cols = kernel.cols().min(right.cols - col);
        let block = &right.data[col * right.col_stride..];
        // What one was ready for ends before the next begins.
        drop(ready.take_if(|ready| ready.cols() != cols));
        let ready = &*ready.get_or_insert_with(|| kernel.begin(cols));
        for (panel, row) in packed.chunks(depth * width).zip(rows.clone().step_by(width)) {
            ready.run(Tile {
                rows: width.min(rows.end - row),
                cols,
                depth,
                left: panel,
                left_stride: width,
                right: block,
                right_strides: [right.row_stride, right.col_stride],
                dst: &mut out.data[(out.place)(row) + col * out.col_stride..],
                dst_strides: [out.row_stride, out.col_stride],
                dst_scale: out.keep,
                scale,
            });
        }
    }
}

impl<F: Fn(usize) -> usize> Output<'_, F> {
    /// A product of depth 0: what is there, times `keep`.
    fn rescale(&mut self, rows: Range<usize>, cols: usize) {
        for row in rows {
            for col in 0..cols {
                // Panels start at multiples of the width, so any row is its own panel's first.
                let element = &mut self.data[(self.place)(row) + col * self.col_stride];
                *element = if self.keep == 0.0 { 0.0 } else { self.keep * *element };
            }
        }
    }
}

impl Panels for Matrix<'_> {
    fn pack(&self, rows: Range<usize>, depth: Range<usize>, width: usize, out: &mut [f32]) {
        let at = |r: usize, k: usize| r * self.row_stride + k * self.col_stride;
        let count = rows.len();
        if self.row_stride == 1 {
            for (line, k) in out.chunks_mut(width).zip(depth) {
                line[..count].copy_from_slice(&self.data[at(rows.start, k)..][..count]);
            }
        } else {
            let from = self.data.get(at(rows.start, depth.start)..).unwrap_or_default();
            let strides = [self.row_stride, self.col_stride];
            transpose(from, strides, [count, depth.len()], width, out);
        }
    }

    fn strip(&self) -> usize {
        if self.row_stride == 1 { ROWS_STRIP } else { usize::MAX }
    }
}

/// `out[k·width + r] = from[r·strides[0] + k·strides[1]]`.
fn transpose(from: &[f32], strides: [usize; 2], sizes: [usize; 2], width: usize, out: &mut [f32]) {
    simd::dispatch(Transpose { from, strides, sizes, width, out });
}

struct Transpose<'a> {
    from: &'a [f32],
    strides: [usize; 2],
    sizes: [usize; 2],
    width: usize,
    out: &'a mut [f32],
}

impl pulp::WithSimd for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let Transpose { from, strides, sizes: [rows, depth], width, out } = self;
        for (strip, k) in out.chunks_mut(BLOCK * width).zip((0..depth).step_by(BLOCK)) {
            let steps = BLOCK.min(depth - k);
            for r in (0..rows).step_by(BLOCK) {
                let count = BLOCK.min(rows - r);
                if strides[1] == 1 && steps == BLOCK && count == BLOCK {
                    transpose_block(simd, &from[r * strides[0] + k..], strides[0], &mut strip[r..], width);
                    continue;
                }
                for (line, k) in strip.chunks_mut(width).zip(k..k + steps) {
                    for (i, to) in line[r..r + count].iter_mut().enumerate() {
                        *to = from[(r + i) * strides[0] + k * strides[1]];
                    }
                }
            }
        }
    }
}
