use super::columns::Images;
use super::geometry::Geometry;
use super::pieces::{Piece, divide, images_together};
use crate::Threads;
use crate::gemm::{self, Kernel, Matrix, Output};
use crate::simd::vectorised;

/// What an output holds before the products are added.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    Zero,
    /// One value per output channel.
    Bias(&'a [f32]),
    /// What is there.
    Keep,
}

impl Start<'_> {
    /// Puts finished values of one channel into their place.
    #[inline(always)]
    pub(super) fn put(self, channel: usize, values: &[f32], to: &mut [f32]) {
        match self {
            Start::Zero => to.copy_from_slice(values),
            Start::Bias(bias) => to.iter_mut().zip(values).for_each(|(to, &x)| *to = x + bias[channel]),
            Start::Keep => to.iter_mut().zip(values).for_each(|(to, &x)| *to += x),
        }
    }
}

/// What is done to an output once its products are added, while it is in the cache:
/// `y = relu((y − mean) · scale + bias + skip)`, of which any part may be absent.
#[derive(Clone, Copy, Default)]
pub(crate) struct Finish<'a> {
    /// Mean, scale and bias of each channel, `[K, 3]`; empty for none.
    pub affine: &'a [f32],
    /// What is added, in the shape of the output; empty for none.
    pub skip: &'a [f32],
    /// Whether negative values become 0.
    pub relu: bool,
}

/// What is done around the products of a pass.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    pub start: Start<'a>,
    pub finish: Finish<'a>,
}

impl<'a> From<Start<'a>> for Ends<'a> {
    /// Nothing afterwards.
    fn from(start: Start<'a>) -> Self {
        Ends { start, finish: Finish::default() }
    }
}

impl Finish<'_> {
    /// For plane `p` of the output, `[N·K, plane]`, of which a channel is `p` modulo `channels`.
    pub(super) fn plane(&self, p: usize, channels: usize, y: &mut [f32]) {
        if self.affine.is_empty() && self.skip.is_empty() && !self.relu {
            return;
        }
        let affine = self.affine.as_chunks::<3>().0.get(p % channels).copied().unwrap_or([0.0, 1.0, 0.0]);
        let skip = self.skip.get(p * y.len()..(p + 1) * y.len()).unwrap_or_default();
        finish(affine, skip, self.relu, y);
    }
}

vectorised! {
    fn finish<'a>(affine: [f32; 3], skip: &'a [f32], relu: bool, y: &'a mut [f32]) -> () {
        let ([mean, scale, bias], floor) = (affine, if relu { 0.0 } else { f32::NEG_INFINITY });
        let positive = |y: f32| if y <= floor { floor } else { y };
        if skip.is_empty() {
            for y in y {
                *y = positive((*y - mean) * scale + bias);
            }
        } else {
            for (y, &skip) in y.iter_mut().zip(skip) {
                *y = positive((*y - mean) * scale + bias + skip);
            }
        }
    }
}

impl Piece<'_> {
    /// [`Finish`] for all its planes.
    pub(super) fn finish(&mut self, geometry: &Geometry, finish: &Finish<'_>) {
        let (channels, plane) = (geometry.groups * geometry.outputs, geometry.output_plane());
        let mut planes = self.data.chunks_mut(plane);
        for image in self.images.clone() {
            for group in self.groups.clone() {
                for (channel, y) in self.channels.clone().zip(&mut planes) {
                    finish.plane(image * channels + group * geometry.outputs + channel, channels, y);
                }
            }
        }
    }
}

/// `y[n,k,h,w] = start + Σ_{c,i,j} x[n,c,h·s+i·d−p,w·s+j·d−p] · weight[k,c,i,j]`.
pub(super) fn forward(
    threads: &Threads,
    geometry: &Geometry,
    x: &[f32],
    weight: &[f32],
    ends: Ends<'_>,
    y: &mut [f32],
) {
    let (k, depth) = (geometry.outputs, geometry.depth());
    let weights =
        |group: usize| Matrix::strided(&weight[group * k * depth..][..k * depth], [depth, k], [1, depth]);
    convolve(threads, geometry, x, weights, ends, y);
}

/// A convolution whose weights, `[depth, outputs]` per group, may lie in memory in any order.
pub(super) fn convolve<'w>(
    threads: &Threads,
    geometry: &Geometry,
    x: &[f32],
    weights: impl Fn(usize) -> Matrix<'w> + Send + Sync,
    ends: Ends<'_>,
    y: &mut [f32],
) {
    let (kernel, depth) = (Kernel::detected(), geometry.depth());
    let together = images_together(geometry, gemm::tile_rows(kernel, depth));
    let sizes = [geometry.groups, geometry.outputs, geometry.output_plane()];
    let pieces = divide(y, sizes, threads.count(), together, kernel.cols());
    threads.for_each_part(pieces, |_, mut piece| {
        piece.begin(geometry, ends.start);
        for group in piece.groups.clone() {
            let right = weights(group).columns(piece.channels.clone());
            let channels = group * geometry.inputs..(group + 1) * geometry.inputs;
            let images = Images::new(threads, geometry, x, piece.images.clone(), channels);
            let keep = if matches!(ends.start, Start::Zero) { 0.0 } else { 1.0 };
            group_product(threads, kernel, geometry, &images, right, keep, &mut piece, group);
        }
        piece.finish(geometry, &ends.finish);
    });
}

impl Piece<'_> {
    /// Fills every plane with its bias.
    pub(super) fn begin(&mut self, geometry: &Geometry, start: Start<'_>) {
        let Start::Bias(bias) = start else { return };
        let first = self.groups.start * geometry.outputs + self.channels.start;
        let channels = self.groups.len() * self.channels.len();
        for (i, plane) in self.data.chunks_mut(geometry.output_plane()).enumerate() {
            plane.fill(bias[first + i % channels]);
        }
    }
}

/// The product of one group of a piece.
#[allow(clippy::too_many_arguments)]
pub(super) fn group_product(
    threads: &Threads,
    kernel: &Kernel,
    geometry: &Geometry,
    images: &Images<'_>,
    right: Matrix<'_>,
    keep: f32,
    piece: &mut Piece<'_>,
    group: usize,
) {
    let (plane, count) = (geometry.output_plane(), piece.images.len());
    let image = piece.groups.len() * piece.channels.len() * plane;
    let data = &mut piece.data[(group - piece.groups.start) * piece.channels.len() * plane..];
    let rows = count * plane;
    let mut scratch = threads.scratch(gemm::scratch_len(kernel, rows, geometry.depth()));
    if count == 1 || plane.is_multiple_of(kernel.width()) {
        // No panel straddles two images.
        let place = |row: usize| row / plane * image + row % plane;
        let out = Output { data, row_stride: 1, col_stride: plane, place, keep };
        return gemm::multiply_panels(kernel, images, 0..rows, right, 1.0, out, &mut scratch);
    }
    if plane > 4 * kernel.width() {
        for n in 0..count {
            let place = |row: usize| n * image + row - n * plane;
            let out = Output { data, row_stride: 1, col_stride: plane, place, keep };
            gemm::multiply_panels(kernel, images, n * plane..(n + 1) * plane, right, 1.0, out, &mut scratch);
        }
        return;
    }
    let mut joined = threads.scratch(right.cols() * rows);
    let mut each_plane = |joined: &mut [f32], job: fn(&mut [f32], &mut [f32])| {
        for (channel, joined) in joined.chunks_mut(rows).enumerate() {
            for (n, joined) in joined.chunks_mut(plane).enumerate() {
                job(joined, &mut data[n * image + channel * plane..][..plane]);
            }
        }
    };
    if keep != 0.0 {
        each_plane(&mut joined, |joined, plane| joined.copy_from_slice(plane));
    }
    let out = Output { data: &mut joined, row_stride: 1, col_stride: rows, place: |row| row, keep };
    gemm::multiply_panels(kernel, images, 0..rows, right, 1.0, out, &mut scratch);
    each_plane(&mut joined, |joined, plane| plane.copy_from_slice(joined));
}
