//! Channels in blocks of [`LANES`]: `[row, column, lane]`, so that one vector holds the same element of 16 channels.

use std::ops::Range;

use pulp::Simd;

use crate::transpose::{BLOCK, OnLines, copy_lanes, transpose_block};

/// Channels in a block.
pub(super) const LANES: usize = BLOCK;

/// Some rows of an image with a margin around it; what lies outside the image reads as zero and is not written.
#[derive(Clone, Copy)]
pub(super) struct Window {
    /// Height and width of the image.
    pub image: [usize; 2],
    /// First row, counted from the margin's top.
    pub row: usize,
    /// Rows above and columns left of the image.
    pub margin: [usize; 2],
    /// Rows and columns of the window; it has all columns of the image.
    pub size: [usize; 2],
}

impl Window {
    /// Elements of a block of this size.
    pub(super) fn len(&self) -> usize {
        self.size[0] * self.size[1] * LANES
    }

    /// Rows of the window that lie inside the image.
    fn inside(&self) -> Range<usize> {
        let start = self.margin[0].saturating_sub(self.row).min(self.size[0]);
        let end = (self.image[0] + self.margin[0]).saturating_sub(self.row);
        start..end.clamp(start, self.size[0])
    }

    /// The elements of the image's plane that lie inside the window, and where the first is in the window.
    #[inline(always)]
    fn elements(&self) -> (Range<usize>, Place) {
        let (rows, width) = (self.inside(), self.image[1]);
        let first = if rows.is_empty() { 0 } else { self.row + rows.start - self.margin[0] };
        let at = (rows.start * self.size[1] + self.margin[1]) * LANES;
        let skip = (self.size[1] - width) * LANES;
        (first * width..(first + rows.len()) * width, Place { at, left: width, width, skip })
    }
}

/// The place of an element in a block, row by row.
struct Place {
    at: usize,
    /// Elements left in this row.
    left: usize,
    width: usize,
    /// From the end of a row to the start of the next.
    skip: usize,
}

impl Place {
    #[inline(always)]
    fn next(&mut self) -> usize {
        let at = self.at;
        (self.at, self.left) = (at + LANES, self.left - 1);
        if self.left == 0 {
            (self.at, self.left) = (self.at + self.skip, self.width);
        }
        at
    }
}

/// Reads `count` channels, `plane` elements apart, through a window: `block[row, column, lane]`. The margin is not
/// touched.
#[inline(always)]
pub(super) fn read<S: Simd>(
    simd: S,
    planes: &[f32],
    plane: usize,
    count: usize,
    window: Window,
    block: &mut [f32],
) {
    let (elements, mut place) = window.elements();
    let mut found = OnLines::<{ LANES * LANES }>::zeros();
    for start in elements.clone().step_by(LANES) {
        columns(simd, &planes[start..], plane, count, &mut found);
        for column in found.chunks_exact(LANES).take(elements.end - start) {
            copy_lanes(column, &mut block[place.next()..]);
        }
    }
}

/// Writes `count` channels of a block through a window; `store(lane, start in its plane, values)` puts a run away.
#[inline(always)]
pub(super) fn write<S: Simd>(
    simd: S,
    block: &[f32],
    count: usize,
    window: Window,
    mut store: impl FnMut(usize, usize, &[f32]),
) {
    let (elements, mut place) = window.elements();
    let (mut found, mut lanes) =
        (OnLines::<{ LANES * LANES }>::zeros(), OnLines::<{ LANES * LANES }>::zeros());
    for start in elements.clone().step_by(LANES) {
        let run = LANES.min(elements.end - start);
        for column in found.chunks_exact_mut(LANES).take(run) {
            copy_lanes(&block[place.next()..], column);
        }
        transpose_block(simd, &*found, LANES, &mut *lanes, LANES);
        for (lane, values) in lanes.chunks_exact(LANES).enumerate().take(count) {
            store(lane, start, &values[..run]);
        }
    }
}

/// The first 16 elements of `count` rows, `stride` elements apart, transposed: `columns[element][row]`.
///
/// Rows may overlap. What lies beyond the end of `rows`, and beyond the last row, is 0.
#[inline(always)]
pub(super) fn columns<S: Simd>(
    simd: S,
    rows: &[f32],
    stride: usize,
    count: usize,
    columns: &mut [f32; LANES * LANES],
) {
    if count == LANES && rows.len() >= (LANES - 1) * stride + LANES {
        return transpose_block(simd, rows, stride, columns, LANES);
    }
    let mut block = OnLines::<{ LANES * LANES }>::zeros();
    for (lane, row) in block.chunks_exact_mut(LANES).enumerate().take(count) {
        let from = &rows[lane * stride..];
        let len = from.len().min(LANES);
        row[..len].copy_from_slice(&from[..len]);
    }
    transpose_block(simd, &*block, LANES, columns, LANES);
}
