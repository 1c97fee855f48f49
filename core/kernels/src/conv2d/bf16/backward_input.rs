use super::super::backward_input::{columns_scratch, columns_together, convolution, group_columns};
use super::super::columns::{Images, paired_len};
use super::super::forward::Start;
use super::super::geometry::Geometry;
use super::super::pieces::divide;
use super::forward::{convolve, convolve_scratch};
use super::in_pairs;
use crate::gemm::bf16::{halves, pairs_of};
use crate::gemm::{Kernel, Matrix, Panels};
use crate::{GradInput, Scratch, Threads};

/// Gradient of the input, of rounded `dy` and `weight`.
pub(in super::super) fn backward_input(
    threads: &Threads,
    geometry: &Geometry,
    dy: &[f32],
    weight: &[f32],
    dx: &mut GradInput<'_>,
) {
    let turned = turned(threads, geometry, weight, convolution(geometry).is_some());
    match convolution(geometry) {
        Some(transposed) => {
            let start = if dx.accumulate { Start::Keep } else { Start::Zero };
            convolve(threads, &transposed, dy, &turned, start.into(), dx.data);
        }
        None => by_columns(threads, geometry, dy, &turned, dx),
    }
}

/// What [`backward_input`] takes for `images` images or fewer.
pub(super) fn scratch(geometry: &Geometry, images: usize) -> Scratch {
    let turned = geometry.groups * pairs_of(geometry.outputs) * geometry.depth();
    let weights = Scratch::shared([turned, turned]);
    match convolution(geometry) {
        Some(transposed) => convolve_scratch(&transposed, images).and(weights),
        None => {
            let of_output = in_pairs(&geometry.of_output());
            let product = columns_scratch(Kernel::bf16(), geometry, of_output.inputs, images);
            let together = columns_together(geometry).min(images);
            product.and(Scratch::each(paired_len(&of_output, together))).and(weights)
        }
    }
}

/// Weights in pairs of output channels: `[K, C, taps]` → `[C, ⌈K/2⌉, taps reversed]` in each group to convolve with, else
/// `[C, taps, ⌈K/2⌉]`.
fn turned<'a>(
    threads: &'a Threads,
    geometry: &Geometry,
    weight: &[f32],
    to_convolve: bool,
) -> impl std::ops::Deref<Target = [f32]> + use<'a> {
    let (depth, taps, pairs) = (geometry.depth(), geometry.taps(), pairs_of(geometry.outputs));
    let group_len = pairs * depth;
    let mut paired = threads.scratch(geometry.groups * group_len);
    let mut turned = threads.scratch(geometry.groups * group_len);
    threads.for_each_chunk(&mut paired, group_len, |group, paired| {
        halves(&weight[group * geometry.outputs * depth..][..geometry.outputs * depth], depth, paired);
    });
    // A few rows of the result to a job.
    const ROWS: usize = 16;
    let unit = if to_convolve { taps } else { 1 };
    for (paired, turned) in paired.chunks(group_len).zip(turned.chunks_mut(group_len)) {
        let matrix = Matrix::new(paired, pairs, depth);
        threads.for_each_chunk(turned, ROWS * pairs * unit, |part, turned| {
            let rows = turned.len() / (pairs * unit);
            if unit == 1 {
                matrix.columns(part * ROWS..part * ROWS + rows).pack(0..pairs, 0..rows, pairs, turned);
                return;
            }
            for (row, turned) in turned.chunks_mut(pairs * taps).enumerate() {
                let source = paired[(part * ROWS + row) * taps..].chunks(depth);
                for (turned, source) in turned.chunks_mut(taps).zip(source) {
                    turned.iter_mut().zip(source[..taps].iter().rev()).for_each(|(to, &x)| *to = x);
                }
            }
        });
    }
    turned
}

/// With any stride: the gradient of the columns, `Wᵀ·dy`, added back to where the columns came from.
fn by_columns(threads: &Threads, geometry: &Geometry, dy: &[f32], weights: &[f32], dx: &mut GradInput<'_>) {
    let of_output = &in_pairs(&geometry.of_output());
    let (pairs, depth) = (of_output.inputs, geometry.depth());
    let sizes = [geometry.groups, geometry.inputs, geometry.input_plane()];
    let accumulate = dx.accumulate;
    let pieces = divide(dx.data, sizes, threads.count(), columns_together(geometry), 1);
    threads.for_each_part(pieces, |_, mut piece| {
        for group in piece.groups.clone() {
            let images =
                Images::paired(threads, of_output, geometry.outputs, dy, piece.images.clone(), group);
            let right = Matrix::strided(&weights[group * pairs * depth..], [pairs, depth], [1, pairs]);
            group_columns(threads, Kernel::bf16(), geometry, &images, right, &mut piece, group, accumulate);
        }
    });
}
