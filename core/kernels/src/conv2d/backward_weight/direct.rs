use std::ops::Range;

use super::super::columns::Images;
use super::super::geometry::Geometry;
use super::super::pieces::{Piece, divide};
use super::super::scratch::padded;
use super::positions_together;
use crate::gemm::{self, Kernel, MAX_WIDTH, Matrix, Output, Panels};
use crate::{Scratch, Threads};

/// The gradient made as it lies in memory, from transposed columns and `dy` in place: for few columns.
///
/// Threads divide output channels, so every element is one sum over all positions in order.
pub(super) fn run(
    threads: &Threads,
    kernel: &Kernel,
    geometry: &Geometry,
    dw: &mut [f32],
    mut batches: impl FnMut(&mut dyn FnMut(&[f32], &[f32])),
) {
    dw.fill(0.0);
    batches(&mut |x, dy| add_batch(threads, kernel, geometry, x, dy, dw));
}

fn add_batch(threads: &Threads, kernel: &Kernel, geometry: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let (depth, plane) = (geometry.depth(), geometry.output_plane());
    let pieces = divide(dw, [geometry.groups, geometry.outputs, depth], threads.count(), 1, kernel.cols());
    let n = dy.len() / (geometry.groups * geometry.outputs * plane);
    let tile = positions_together(plane);
    threads.for_each_part(pieces, |_, mut piece| {
        let mut columns = threads.scratch(depth * tile);
        let mut packed = threads.scratch(depth.next_multiple_of(kernel.width()) * tile);
        for (group, image) in piece.groups.clone().flat_map(|g| (0..n).map(move |n| (g, n))) {
            let channels = group * geometry.inputs..(group + 1) * geometry.inputs;
            let images = Images::new(threads, geometry, x, image..image + 1, channels);
            for start in (0..plane).step_by(tile) {
                let positions = start..plane.min(start + tile);
                pack(kernel, depth, &images, positions.clone(), &mut columns, &mut packed);
                add(kernel, geometry, dy, image, group, positions, &packed, &mut piece);
            }
        }
    });
}

/// What [`run`] takes.
pub(super) fn scratch(kernel: &Kernel, geometry: &Geometry) -> Scratch {
    let (depth, tile) = (geometry.depth(), positions_together(geometry.output_plane()));
    let packed = depth.next_multiple_of(kernel.width()) * tile;
    Scratch::each([depth * tile, packed, padded(geometry, 1, geometry.inputs)])
}

/// Panels of the transposed columns: row = channel and tap, depth = position.
fn pack(
    kernel: &Kernel,
    depth: usize,
    images: &Images<'_>,
    positions: Range<usize>,
    columns: &mut [f32],
    packed: &mut [f32],
) {
    let (len, width) = (positions.len(), kernel.width());
    for at in (0..len).step_by(MAX_WIDTH) {
        let run = positions.start + at..positions.start + len.min(at + MAX_WIDTH);
        images.pack(run, 0..depth, len, &mut columns[at..depth * len]);
    }
    let columns = Matrix::new(&columns[..depth * len], depth, len);
    for (panel, row) in packed.chunks_mut(len * width).zip((0..depth).step_by(width)) {
        columns.pack(row..depth.min(row + width), 0..len, width, panel);
    }
}

/// Adds the products of one tile of one image.
#[allow(clippy::too_many_arguments)]
fn add(
    kernel: &Kernel,
    geometry: &Geometry,
    dy: &[f32],
    image: usize,
    group: usize,
    positions: Range<usize>,
    packed: &[f32],
    piece: &mut Piece<'_>,
) {
    let (depth, plane) = (geometry.depth(), geometry.output_plane());
    let first = (image * geometry.groups + group) * geometry.outputs + piece.channels.start;
    let sizes = [positions.len(), piece.channels.len()];
    let right = Matrix::strided(&dy[first * plane + positions.start..], sizes, [1, plane]);
    let at = (group - piece.groups.start) * piece.channels.len() * depth;
    let mut out =
        Output { data: &mut piece.data[at..], row_stride: 1, col_stride: depth, place: |row| row, keep: 1.0 };
    gemm::multiply_packed(kernel, packed, kernel.width(), 0..depth, right, 1.0, &mut out);
}
