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
    forward::scratch(geometry)
        .or(backward_input::scratch(geometry))
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

/// `out[position, lane] = Σ from[position + shift, c] · w[tap, c, lane]` over `taps`, which name a tap and its shift.
///
/// - Shapes: `from` `[positions, depth]`, `out` `[positions, width]`
fn products(
    weights: &Weights<'_>,
    panel: usize,
    lanes: usize,
    taps: impl Iterator<Item = [usize; 2]>,
    positions: Range<usize>,
    from: &[f32],
    out: &mut [f32],
) {
    let (depth, width) = (weights.layout.depth, weights.layout.width);
    let data = &mut out[positions.start * width..][..positions.len() * width];
    let mut out = Output { data, row_stride: 1, col_stride: width, place: |row| row, keep: 0.0 };
    for [tap, shift] in taps {
        let right = &from[(positions.start + shift) * depth..];
        let right = Matrix::strided(right, [depth, positions.len()], [1, depth]);
        let left = weights.tap(panel, tap);
        for k in (0..depth).step_by(DEPTH) {
            let slab = k..depth.min(k + DEPTH);
            let left = &left[slab.start * width..slab.end * width];
            let right = right.row_range(slab);
            gemm::multiply_packed(Kernel::detected(), left, width, 0..lanes, right, 1.0, &mut out);
            out.keep = 1.0;
        }
    }
}
