use super::super::columns::{Images, paired_len};
use super::super::forward::{Ends, Start, group_product};
use super::super::geometry::Geometry;
use super::super::pieces::{divide, images_together};
use super::super::scratch;
use super::in_pairs;
use crate::gemm::bf16::halves_of_rows;
use crate::gemm::{self, Kernel, Matrix};
use crate::{Scratch, Threads};

/// `y[n,k,h,w] = start + Σ_{c,i,j} x[n,c,h·s+i·d−p,w·s+j·d−p] · weight[k,c,i,j]`, of rounded `x` and `weight`; then what
/// `ends` says.
pub(in super::super) fn forward(
    threads: &Threads,
    geometry: &Geometry,
    x: &[f32],
    weight: &[f32],
    ends: Ends<'_>,
    y: &mut [f32],
) {
    let rows = geometry.groups * geometry.outputs;
    let mut weights = threads.scratch(rows * in_pairs(geometry).depth());
    halves_of_rows(threads, weight, geometry.depth(), geometry.taps(), &mut weights);
    convolve(threads, geometry, x, &weights, ends, y);
}

/// What [`forward`] takes for `images` images or fewer.
pub(super) fn scratch(geometry: &Geometry, images: usize) -> Scratch {
    let weights = geometry.groups * geometry.outputs * in_pairs(geometry).depth();
    convolve_scratch(geometry, images).and(Scratch::shared([weights]))
}

/// A convolution with weights in pairs, `[groups · outputs, depth]`.
pub(super) fn convolve(
    threads: &Threads,
    geometry: &Geometry,
    x: &[f32],
    weights: &[f32],
    ends: Ends<'_>,
    y: &mut [f32],
) {
    let (kernel, pairs) = (Kernel::bf16(), &in_pairs(geometry));
    let (k, depth) = (pairs.outputs, pairs.depth());
    let together = images_together(pairs, gemm::tile_rows(kernel, depth));
    let pieces = divide(y, [pairs.groups, k, pairs.output_plane()], threads.count(), together, kernel.cols());
    threads.for_each_part(pieces, |_, mut piece| {
        piece.begin(pairs, ends.start);
        for group in piece.groups.clone() {
            let right = Matrix::strided(&weights[group * k * depth..], [depth, k], [1, depth]);
            let right = right.columns(piece.channels.clone());
            let images = Images::paired(threads, pairs, geometry.inputs, x, piece.images.clone(), group);
            let keep = if matches!(ends.start, Start::Zero) { 0.0 } else { 1.0 };
            group_product(threads, kernel, pairs, &images, right, keep, &mut piece, group);
        }
        piece.finish(pairs, &ends.finish);
    });
}

/// What [`convolve`] takes for `images` images or fewer.
pub(super) fn convolve_scratch(geometry: &Geometry, images: usize) -> Scratch {
    let pairs = in_pairs(geometry);
    let (product, together) = scratch::product(Kernel::bf16(), &pairs, images);
    product.and(Scratch::each(paired_len(&pairs, together)))
}
