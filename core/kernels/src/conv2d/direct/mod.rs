//! Convolutions as one product per tap over channels-last copies of the images ([`lattice`]): for strides, where columns
//! would cost as much as the products they serve.

mod backward_input;
mod backward_weight;
mod forward;
mod lattice;
mod weights;

use std::ops::Range;

use self::lattice::Lattice;
use self::weights::{Layout, Weights};
use super::blocks::LANES;
use super::forward::Start;
use super::geometry::Geometry;
use super::pieces::{Piece, divide};
use crate::gemm::{self, Kernel, Matrix, Output};
use crate::{Scratch, Threads};

pub(super) use backward_input::backward_input;
pub(super) use backward_weight::backward_weight;
pub(super) use forward::forward;

/// Depth of one pass of the products: a panel of weights of this depth stays in the first-level cache.
const DEPTH: usize = 128;

/// Whether a convolution can be computed this way: the same stride of 1 or 2 along both axes, no dilation, one group.
pub(super) fn serves(geometry: &Geometry) -> bool {
    geometry.stride[0] == geometry.stride[1]
        && geometry.stride[0] <= 2
        && geometry.dilation == [1, 1]
        && geometry.groups == 1
        && Kernel::detected().width().is_multiple_of(LANES)
}

/// What the three passes take for so many images or fewer.
pub(super) fn scratch(geometry: &Geometry, images: usize, threads: usize) -> Scratch {
    forward::scratch(geometry, images)
        .or(backward_input::scratch(geometry, images))
        .or(backward_weight::scratch(geometry, images, threads))
}

/// The inputs, with a place for every element that a window reads.
fn input_lattice(geometry: &Geometry) -> Lattice {
    let ([top, left, ..], stride) = (geometry.padding, geometry.stride[0]);
    let reach = geometry.kernel.map(|taps| (taps - 1) / stride);
    Lattice {
        image: geometry.input,
        margin: [top, left],
        stride,
        phases: geometry.kernel.map(|taps| taps.min(stride)),
        rows: geometry.output[0] + reach[0],
        pitch: geometry.output[1] + reach[1],
    }
}

/// The outputs, at the pitch of the inputs.
fn output_lattice(geometry: &Geometry) -> Lattice {
    Lattice {
        image: geometry.output,
        margin: [0, 0],
        stride: 1,
        phases: [1, 1],
        rows: geometry.output[0],
        pitch: input_lattice(geometry).pitch,
    }
}

/// How far what a tap reads lies behind an output's position, in positions of the inputs' lattice.
fn shift(geometry: &Geometry, lattice: &Lattice, tap: usize) -> usize {
    let (stride, [i, j]) = (geometry.stride[0], [tap / geometry.kernel[1], tap % geometry.kernel[1]]);
    let phase = i % stride * lattice.phases[1] + j % stride;
    phase * lattice.phase_len() + i / stride * lattice.pitch + j / stride
}

/// Positions as runs that are worth a product each: all of them, or single rows where those are short.
fn runs(rows: usize, columns: usize, pitch: usize) -> impl Iterator<Item = Range<usize>> {
    // Up to a micro-kernel's columns, a row is one tile, and the positions between rows are left out.
    let short = columns <= Kernel::detected().cols();
    let all = if rows == 0 { 0 } else { (rows - 1) * pitch + columns };
    let (count, len) = if short { (rows, columns) } else { (1, all) };
    (0..count).map(move |row| row * pitch..row * pitch + len)
}

/// Elements of images copied at a time by each thread (1 MiB): they stay in the second-level cache.
const COPIED: usize = 1 << 18;

/// Images that are copied before they are multiplied, so that a tap's weights are read once for all of them.
fn together(image_len: usize) -> usize {
    (COPIED / image_len.max(1)).max(1)
}

/// A pass that makes images from images: copies of them, products for each phase of what is made, and the results' places.
struct Pass<'a> {
    weights: Weights<'a>,
    /// The images that are read, and their channels.
    read: Lattice,
    inputs: usize,
    /// The images that are made, and their channels.
    made: Lattice,
    outputs: usize,
    /// Columns of the positions that are made.
    columns: usize,
    start: Start<'a>,
}

impl Pass<'_> {
    /// `taps(phase)` names the taps that make a phase, each with the shift of what it reads.
    ///
    /// - Shapes: `from` `[N, inputs, plane]`, `to` `[N, outputs, plane]`
    fn run<I: Iterator<Item = [usize; 2]>>(
        &self,
        threads: &Threads,
        from: &[f32],
        to: &mut [f32],
        taps: impl Fn(usize) -> I + Send + Sync,
        finish: impl Fn(&mut Piece<'_>) + Send + Sync,
    ) {
        let (depth, width) = (self.weights.layout.depth, self.weights.layout.width);
        let (from_len, made_len) = (self.read.positions() * depth, self.made.positions() * width);
        let plane = |lattice: &Lattice| lattice.image[0] * lattice.image[1];
        let (from_plane, to_plane) = (plane(&self.read), plane(&self.made));
        let pieces = divide(to, [1, self.outputs, to_plane], threads.count(), together(from_len), width);
        threads.for_each_part(pieces, |_, mut piece| {
            let mut copies = threads.scratch(piece.images.len() * from_len);
            let mut made = threads.scratch(piece.images.len() * made_len);
            for (image, copy) in piece.images.clone().zip(copies.chunks_mut(from_len)) {
                self.read.read(&from[image * self.inputs * from_plane..], self.inputs, copy, depth);
            }
            for first in piece.channels.clone().step_by(width) {
                let lanes = width.min(piece.channels.end - first);
                for phase in 0..self.made.phases.iter().product() {
                    let made = &mut made[phase * self.made.phase_len() * width..];
                    self.multiply(first / width, lanes, taps(phase), (&copies, from_len), (made, made_len));
                }
                let own = (first - piece.channels.start) * to_plane;
                let planes = piece.data.chunks_mut(piece.channels.len() * to_plane);
                for (made, planes) in made.chunks(made_len).zip(planes) {
                    self.made.write(made, width, lanes, self.start, first, &mut planes[own..]);
                }
            }
            finish(&mut piece);
        });
    }

    /// `out[position, lane] = Σ from[position + shift, c] · w[tap, c, lane]` over `taps`, for one panel.
    ///
    /// - Shapes: `from` `[positions, depth]` and `out` `[positions, width]` of each image, with elements from one image to
    ///   the next
    fn multiply(
        &self,
        panel: usize,
        lanes: usize,
        taps: impl Iterator<Item = [usize; 2]>,
        (from, from_len): (&[f32], usize),
        (out, out_len): (&mut [f32], usize),
    ) {
        let (depth, width) = (self.weights.layout.depth, self.weights.layout.width);
        let mut keep = 0.0;
        for [tap, shift] in taps {
            let left = self.weights.tap(panel, tap);
            for k in (0..depth).step_by(DEPTH) {
                let slab = k..depth.min(k + DEPTH);
                let left = &left[slab.start * width..slab.end * width];
                for (from, out) in from.chunks(from_len).zip(out.chunks_mut(out_len)) {
                    for run in runs(self.made.rows, self.columns, self.made.pitch) {
                        let right = &from[(run.start + shift) * depth..];
                        let right = Matrix::strided(right, [depth, run.len()], [1, depth]);
                        let data = &mut out[run.start * width..run.end * width];
                        let mut out =
                            Output { data, row_stride: 1, col_stride: width, place: |row| row, keep };
                        let (kernel, right) = (Kernel::detected(), right.row_range(slab.clone()));
                        gemm::multiply_packed(kernel, left, width, 0..lanes, right, 1.0, &mut out);
                    }
                }
                keep = 1.0;
            }
        }
    }
}

/// What a [`Pass`] takes for so many images or fewer.
fn pass_scratch(layout: Layout, read: Lattice, made: Lattice, images: usize) -> Scratch {
    let (from, to) = (read.positions() * layout.depth, made.positions() * layout.width);
    let images = together(from).min(images);
    Scratch::shared([layout.len()]).and(Scratch::each([images * from, images * to]))
}
