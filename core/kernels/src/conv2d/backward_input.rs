use super::columns::{Images, add_back};
use super::forward::{Start, convolve};
use super::geometry::Geometry;
use super::pieces::{Piece, divide};
use super::scratch;
use crate::gemm::{self, Kernel, MAX_WIDTH, Matrix, Output};
use crate::{GradInput, Scratch, Threads};

/// Gradient of the input.
///
/// `dx[n,c,h,w] = Σ_{k,i,j} dy[n,k,(h+p−i·d)/s,(w+p−j·d)/s] · weight[k,c,i,j]`, over terms whose index is whole and in
/// range.
pub(super) fn backward_input(
    threads: &Threads,
    geometry: &Geometry,
    dy: &[f32],
    weight: &[f32],
    dx: &mut GradInput<'_>,
) {
    match convolution(geometry) {
        Some(transposed) => as_convolution(threads, geometry, &transposed, dy, weight, dx),
        None => by_columns(threads, geometry, dy, weight, dx),
    }
}

/// The convolution of `dy` that gives `dx`, where that is the way: with few input channels, columns of `dy` would cost more
/// than the products they serve.
pub(super) fn convolution(geometry: &Geometry) -> Option<Geometry> {
    geometry.transposed().filter(|_| geometry.inputs >= FEW || geometry.taps() == 1)
}

/// What [`backward_input`] takes for `images` images or fewer.
pub(super) fn scratch(geometry: &Geometry, images: usize) -> Scratch {
    match convolution(geometry) {
        Some(transposed) => {
            let turned = geometry.groups * geometry.outputs * geometry.depth();
            scratch::convolve(&transposed, images).and(Scratch::shared([turned]))
        }
        None => columns_scratch(Kernel::detected(), geometry, geometry.outputs, images),
    }
}

/// What [`group_columns`] takes for the images of a piece, of `images` in all; `outputs` are the depth of its product.
pub(super) fn columns_scratch(
    kernel: &Kernel,
    geometry: &Geometry,
    outputs: usize,
    images: usize,
) -> Scratch {
    let columns = geometry.depth();
    let together = columns_together(geometry).min(images);
    let rows = together * geometry.output_plane();
    // Fewer columns are made in longer steps: at most this much.
    let made = (columns * rows).min(COLUMNS + columns * MAX_WIDTH);
    let (height, width) = (geometry.padded()[0], geometry.row_len());
    let product = gemm::scratch_len(kernel, rows, outputs);
    Scratch::each([product, made, together * geometry.inputs * height * width])
}

/// Images whose columns are made together: where planes are small, whole images share a tile; else a piece is one image.
/// Either way the order in which columns are added back is the same for any number of threads.
pub(super) fn columns_together(geometry: &Geometry) -> usize {
    (MAX_WIDTH / geometry.output_plane()).max(1)
}

/// Input channels below which the columns' gradient is the cheaper way.
const FEW: usize = 16;

/// With stride 1: the convolution of `dy` with the kernels turned by 180°.
fn as_convolution(
    threads: &Threads,
    geometry: &Geometry,
    transposed: &Geometry,
    dy: &[f32],
    weight: &[f32],
    dx: &mut GradInput<'_>,
) {
    let start = if dx.accumulate { Start::Keep } else { Start::Zero };
    let (c, k, taps) = (geometry.inputs, geometry.outputs, geometry.taps());
    let group_len = c * k * taps;
    if taps == 1 {
        let weights = |group: usize| Matrix::new(&weight[group * group_len..][..group_len], k, c);
        return convolve(threads, transposed, dy, weights, start.into(), dx.data);
    }
    // `[K, C, taps]` → `[C, K, taps reversed]` in each group.
    let mut turned = threads.scratch(weight.len());
    threads.for_each_chunk(&mut turned, k * taps, |row, turned| {
        let (group, channel) = (row / c, row % c);
        let source = weight[group * group_len + channel * taps..].chunks(c * taps);
        for (turned, source) in turned.chunks_mut(taps).zip(source) {
            turned.iter_mut().zip(source[..taps].iter().rev()).for_each(|(to, &x)| *to = x);
        }
    });
    let (turned, depth) = (&*turned, k * taps);
    let weights =
        |group: usize| Matrix::strided(&turned[group * group_len..][..group_len], [depth, c], [1, depth]);
    convolve(threads, transposed, dy, weights, start.into(), dx.data);
}

/// Elements of the columns' gradient made at a time.
const COLUMNS: usize = 128 * 1024;

/// With any stride: the gradient of the columns, `Wᵀ·dy`, added back to where the columns came from.
fn by_columns(threads: &Threads, geometry: &Geometry, dy: &[f32], weight: &[f32], dx: &mut GradInput<'_>) {
    let (k, depth, of_output) = (geometry.outputs, geometry.depth(), geometry.of_output());
    let sizes = [geometry.groups, geometry.inputs, geometry.input_plane()];
    let accumulate = dx.accumulate;
    let pieces = divide(dx.data, sizes, threads.count(), columns_together(geometry), 1);
    threads.for_each_part(pieces, |_, mut piece| {
        for group in piece.groups.clone() {
            let channels = group * k..(group + 1) * k;
            let gradient = Images::new(threads, &of_output, dy, piece.images.clone(), channels);
            let right = Matrix::new(&weight[group * k * depth..][..k * depth], k, depth);
            let kernel = Kernel::detected();
            group_columns(threads, kernel, geometry, &gradient, right, &mut piece, group, accumulate);
        }
    });
}

/// One group of a piece; `weights` are `[outputs, depth]`.
#[allow(clippy::too_many_arguments)]
pub(super) fn group_columns(
    threads: &Threads,
    kernel: &Kernel,
    geometry: &Geometry,
    gradient: &Images<'_>,
    weights: Matrix<'_>,
    piece: &mut Piece<'_>,
    group: usize,
    accumulate: bool,
) {
    let columns = piece.channels.start * geometry.taps()..piece.channels.end * geometry.taps();
    let right = weights.columns(columns.clone());

    let rows = piece.images.len() * geometry.output_plane();
    let step = (COLUMNS / columns.len()).next_multiple_of(MAX_WIDTH).min(rows);
    let mut scratch = threads.scratch(gemm::scratch_len(kernel, step, right.rows()));
    let mut made = threads.scratch(columns.len() * step);
    let image_stride = piece.channels.len() * geometry.padded()[0] * geometry.row_len();
    let mut padded = threads.scratch(piece.images.len() * image_stride);
    padded.fill(0.0);
    for row in (0..rows).step_by(step) {
        let tile = row..rows.min(row + step);
        let place = |r: usize| r - row;
        let out = Output { data: &mut made, row_stride: 1, col_stride: step, place, keep: 0.0 };
        gemm::multiply_panels(kernel, gradient, tile.clone(), right, 1.0, out, &mut scratch);
        add_back(geometry, tile, image_stride, &made, step, &mut padded);
    }
    crop(geometry, &padded, piece, group, accumulate);
}

/// Copies (or adds) the padded planes of one group, without their padding, to the piece.
fn crop(geometry: &Geometry, padded: &[f32], piece: &mut Piece<'_>, group: usize, accumulate: bool) {
    let ([height, _], [h, w], width) = (geometry.padded(), geometry.input, geometry.row_len());
    let ([top, left, ..], across) = (geometry.padding, geometry.stride[1]);
    let (channels, plane) = (piece.channels.len(), geometry.input_plane());
    let image = piece.groups.len() * channels * plane;
    for (p, from) in padded.chunks(height * width).enumerate() {
        let at = p / channels * image + ((group - piece.groups.start) * channels + p % channels) * plane;
        let rows = piece.data[at..][..plane].chunks_mut(w).zip(from[top * width..].chunks(width)).take(h);
        for (to, from) in rows {
            for first in 0..across.min(w) {
                let from = &from[geometry.in_row(first + left)..];
                let to = to[first..].iter_mut().step_by(across).zip(from);
                if accumulate {
                    to.for_each(|(to, &x)| *to += x);
                } else {
                    to.for_each(|(to, &x)| *to = x);
                }
            }
        }
    }
}
