//! Convolutions as one product per tap over channels-last copies of the images ([`lattice`]): for strides, where columns
//! would cost as much as the products they serve.

mod backward_input;
mod backward_weight;
mod forward;
mod lattice;
mod weights;

use std::ops::Range;

use self::lattice::Lattice;
use self::weights::Weights;
use super::blocks::LANES;
use super::geometry::Geometry;
use crate::Scratch;
use crate::gemm::{self, Kernel, Matrix, Output};

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

/// Products of some images with one panel of weights.
struct Products<'a> {
    weights: &'a Weights<'a>,
    panel: usize,
    lanes: usize,
    /// Copies of the images, `[positions, depth]` each; elements of one.
    from: &'a [f32],
    from_len: usize,
    /// Rows and columns of the positions that are made, and how far rows are apart.
    rows: usize,
    columns: usize,
    pitch: usize,
}

impl Products<'_> {
    /// `out[position, lane] = Σ from[position + shift, c] · w[tap, c, lane]` over `taps`, which name a tap and its shift.
    ///
    /// - Shapes: `out` `[positions, width]` from the first image's on, `out_len` elements apart
    fn run(&self, taps: impl Iterator<Item = [usize; 2]>, out: &mut [f32], out_len: usize) {
        let (depth, width) = (self.weights.layout.depth, self.weights.layout.width);
        let mut keep = 0.0;
        for [tap, shift] in taps {
            let left = self.weights.tap(self.panel, tap);
            for k in (0..depth).step_by(DEPTH) {
                let slab = k..depth.min(k + DEPTH);
                let left = &left[slab.start * width..slab.end * width];
                for (image, out) in out.chunks_mut(out_len).enumerate().take(self.from.len() / self.from_len)
                {
                    for run in runs(self.rows, self.columns, self.pitch) {
                        let at = image * self.from_len + (run.start + shift) * depth;
                        let right = Matrix::strided(&self.from[at..], [depth, run.len()], [1, depth]);
                        let right = right.row_range(slab.clone());
                        let data = &mut out[run.start * width..run.end * width];
                        let mut out =
                            Output { data, row_stride: 1, col_stride: width, place: |row| row, keep };
                        let kernel = Kernel::detected();
                        gemm::multiply_packed(kernel, left, width, 0..self.lanes, right, 1.0, &mut out);
                    }
                }
                keep = 1.0;
            }
        }
    }
}
