use std::ops::Range;

use super::super::columns::Images;
use super::super::geometry::Geometry;
use super::super::pieces::{Piece, divide};
use super::super::scratch::padded;
use super::{COLUMNS, images_together, positions_together};
use crate::gemm::{self, Kernel, MAX_WIDTH, Matrix, Output, Panels};
use crate::{Scratch, Threads};

/// The gradient made transposed, `[C·KH·KW, K]` per group, because the kernel writes along `K`; then turned round.
///
/// Threads divide its rows, so every element is one sum over all positions in order.
pub(super) fn run(
    threads: &Threads,
    kernel: &Kernel,
    geometry: &Geometry,
    dw: &mut [f32],
    mut batches: impl FnMut(&mut dyn FnMut(&[f32], &[f32])),
) {
    let (k, depth) = (geometry.outputs, geometry.depth());
    let mut sums = threads.scratch(dw.len());
    sums.fill(0.0);
    let unit = unit(geometry, threads.count());
    batches(&mut |x, dy| {
        let pieces = divide(&mut sums, [geometry.groups, depth, k], threads.count(), 1, unit);
        threads.for_each_part(pieces, |_, mut piece| {
            for group in piece.groups.clone() {
                Sum::new(kernel, geometry, x, dy, group, &mut piece).run(threads);
            }
        });
    });
    transpose(threads, &sums, [depth, k], dw);
}

/// Whole channels where there are enough of them: then no image is padded twice.
fn unit(geometry: &Geometry, threads: usize) -> usize {
    if geometry.inputs >= 4 * threads { geometry.taps() } else { 1 }
}

/// What [`run`] takes for `images` images or fewer.
pub(super) fn scratch(kernel: &Kernel, geometry: &Geometry, images: usize, threads: usize) -> Scratch {
    let (depth, taps, outputs) = (geometry.depth(), geometry.taps(), geometry.outputs);
    // As `divide` divides the rows of a single image.
    let parts = if threads == 1 { 1 } else { threads.div_ceil(geometry.groups) };
    let rows = depth.div_ceil(parts).next_multiple_of(unit(geometry, threads)).min(depth);
    let channels = (rows.div_ceil(taps) + 1).min(geometry.inputs);
    let (together, tile) = tiles(geometry, images);
    let packed = outputs.next_multiple_of(kernel.width()) * tile;
    let columns = (rows * tile).min(COLUMNS.max(tile));
    let each = Scratch::each([packed, columns, padded(geometry, together, channels)]);
    each.and(Scratch::shared([geometry.groups * outputs * depth]))
}

/// How many images are summed together, and how many of their positions at a time.
fn tiles(geometry: &Geometry, images: usize) -> (usize, usize) {
    let plane = geometry.output_plane();
    let together = images_together(geometry).min(images.max(1));
    (together, if together > 1 { together * plane } else { positions_together(plane) })
}

/// `[groups, rows, cols]` → `[groups, cols, rows]`.
fn transpose(threads: &Threads, from: &[f32], [rows, cols]: [usize; 2], to: &mut [f32]) {
    // A strip of columns: the lines read are used up while they are in the cache.
    const STRIP: usize = 16;
    threads.for_each_chunk(to, cols * rows, |group, to| {
        let from = &from[group * rows * cols..][..rows * cols];
        threads.for_each_chunk(to, STRIP * rows, |strip, to| {
            let columns =
                Matrix::new(from, rows, cols).columns(strip * STRIP..strip * STRIP + to.len() / rows);
            columns.pack(0..rows, 0..to.len() / rows, rows, to);
        });
    });
}

/// Some rows of one group's sums.
struct Sum<'a> {
    kernel: &'a Kernel,
    geometry: &'a Geometry,
    x: &'a [f32],
    dy: &'a [f32],
    group: usize,
    /// Rows of the sums: channel and tap.
    rows: Range<usize>,
    /// `[rows, K]`.
    data: &'a mut [f32],
}

impl<'a> Sum<'a> {
    fn new(
        kernel: &'a Kernel,
        geometry: &'a Geometry,
        x: &'a [f32],
        dy: &'a [f32],
        group: usize,
        piece: &'a mut Piece<'_>,
    ) -> Self {
        let rows = piece.channels.clone();
        let len = rows.len() * geometry.outputs;
        let at = (group - piece.groups.start) * len;
        Sum { kernel, geometry, x, dy, group, rows, data: &mut piece.data[at..at + len] }
    }

    fn run(mut self, threads: &Threads) {
        let kernel = self.kernel;
        let plane = self.geometry.output_plane();
        let n = self.dy.len() / (self.geometry.groups * self.geometry.outputs * plane);
        let (together, tile) = tiles(self.geometry, n);
        let mut packed = threads.scratch(self.geometry.outputs.next_multiple_of(kernel.width()) * tile);
        for first in (0..n).step_by(together) {
            let images = first..n.min(first + together);
            let positions = images.len() * plane;
            let source = self.images(threads, images.clone());
            for start in (0..positions).step_by(tile) {
                let tile = start..positions.min(start + tile);
                self.pack_gradient(kernel, images.start, tile.clone(), &mut packed);
                self.add(threads, kernel, &source, tile, &packed);
            }
        }
    }

    /// The channels that the rows need.
    fn images(&self, threads: &'a Threads, images: Range<usize>) -> Images<'a> {
        let taps = self.geometry.taps();
        let first = self.group * self.geometry.inputs;
        let channels = first + self.rows.start / taps..first + self.rows.end.div_ceil(taps);
        Images::new(threads, self.geometry, self.x, images, channels)
    }

    /// Panels of `dyᵀ`: row = output channel, depth = position of the tile.
    fn pack_gradient(&self, kernel: &Kernel, image: usize, tile: Range<usize>, packed: &mut [f32]) {
        let (plane, k, width) = (self.geometry.output_plane(), self.geometry.outputs, kernel.width());
        let panels = packed.chunks_mut(tile.len() * width);
        for (panel, row) in panels.zip((0..k).step_by(width)) {
            let mut position = tile.start;
            while position < tile.end {
                let (n, within) = (image + position / plane, position % plane);
                let len = (plane - within).min(tile.end - position);
                let at = (n * self.geometry.groups + self.group) * k * plane;
                let dy = Matrix::strided(&self.dy[at..at + k * plane], [k, plane], [plane, 1]);
                let out = &mut panel[(position - tile.start) * width..];
                dy.pack(row..k.min(row + width), within..within + len, width, out);
                position += len;
            }
        }
    }

    /// Adds one tile's products.
    fn add(
        &mut self,
        threads: &Threads,
        kernel: &Kernel,
        source: &Images<'_>,
        tile: Range<usize>,
        packed: &[f32],
    ) {
        let (k, len) = (self.geometry.outputs, tile.len());
        let step = (COLUMNS / len).max(1);
        let first = self.rows.start / self.geometry.taps() * self.geometry.taps();
        let mut columns = threads.scratch(step.min(self.rows.len()) * len);
        let mut data = &mut *self.data;
        for row in self.rows.clone().step_by(step) {
            let rows = row..self.rows.end.min(row + step);
            let (done, rest) = data.split_at_mut(rows.len() * k);
            data = rest;
            let columns = &mut columns[..rows.len() * len];
            for at in (0..len).step_by(MAX_WIDTH) {
                let positions = tile.start + at..tile.start + len.min(at + MAX_WIDTH);
                source.pack(positions, rows.start - first..rows.end - first, len, &mut columns[at..]);
            }
            let right = Matrix::strided(columns, [len, rows.len()], [1, len]);
            let place = |row: usize| row;
            let mut out = Output { data: done, row_stride: 1, col_stride: k, place, keep: 1.0 };
            gemm::multiply_packed(kernel, packed, kernel.width(), 0..k, right, 1.0, &mut out);
        }
    }
}
