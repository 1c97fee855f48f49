use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::super::blocks::{self, LANES, Window};
use super::super::geometry::Geometry;
use super::read::{ReadChunk, Source};
use super::tiles::{Chunk, Tiling};
use super::transform::{Transform, both_axes};
use super::weights::Layout;
use super::{SLAB, stride};
use crate::gemm::{self, Kernel, Matrix, Output};
use crate::simd;
use crate::{Scratch, Threads};

/// Gradient of 3×3 kernels: at every point a product of transformed gradients and inputs, summed over tiles.
///
/// Chunks are added one after the other whatever the number of threads, so the result does not depend on it.
pub(in super::super) fn backward_weight<const M: usize, const T: usize, F: Transform<M, T>>(
    threads: &Threads,
    geometry: &Geometry,
    x: &[f32],
    dy: &[f32],
    transform: F,
    dw: &mut [f32],
) {
    let (kernel, tiling) = (Kernel::detected(), Tiling::new(geometry, M));
    let layout = Layout::new([geometry.outputs, geometry.inputs], kernel.width());
    Sums { kernel, geometry, tiling, layout, transform }.run(threads, x, dy, dw);
}

/// What [`backward_weight`] takes for so many images or fewer.
pub(super) fn scratch<const M: usize, const T: usize>(
    geometry: &Geometry,
    images: usize,
    threads: usize,
) -> Scratch {
    let tiling = Tiling::new(geometry, M);
    let layout = Layout::new([geometry.outputs, geometry.inputs], Kernel::detected().width());
    let together = threads.min(tiling.chunks(images));
    let chunks = together * chunk_lens::<T>(&layout, tiling.largest_chunk(images)).iter().sum::<usize>();
    // Read and written one after the other.
    let block = tiling.block_len().max(geometry.depth() * LANES);
    Scratch::shared([layout.len(T * T), chunks]).and(Scratch::each([block]))
}

/// Transformed inputs of a slab, `[T·T, tiles, slab]`, and gradients, `[T·T, panels, tiles, width]`, of one chunk.
fn chunk_lens<const T: usize>(layout: &Layout, tiles: usize) -> [usize; 2] {
    let slab = layout.depth.min(SLAB);
    [T * T * stride(tiles * slab), T * T * stride(layout.panels * tiles * layout.width)]
}

struct Sums<'a, F, const M: usize, const T: usize> {
    kernel: &'a Kernel,
    geometry: &'a Geometry,
    tiling: Tiling,
    layout: Layout,
    transform: F,
}

impl<const M: usize, const T: usize, F: Transform<M, T>> Sums<'_, F, M, T> {
    fn run(&self, threads: &Threads, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let images = 0..x.len() / (self.geometry.inputs * self.geometry.input_plane());
        let chunks = self.tiling.chunks(images.len());
        if chunks == 0 {
            return dw.fill(0.0);
        }
        let (layout, together) = (self.layout, threads.count().min(chunks));
        let most = self.tiling.largest_chunk(images.len());
        let chunk_len = chunk_lens::<T>(&layout, most).iter().sum::<usize>();
        let mut sums = threads.scratch(layout.len(T * T));
        let mut transformed = threads.scratch(together * chunk_len);
        for first in (0..chunks).step_by(together) {
            let transformed = &mut transformed[..together.min(chunks - first) * chunk_len];
            for start in (0..self.geometry.inputs).step_by(SLAB) {
                let slab = start..self.geometry.inputs.min(start + SLAB);
                threads.for_each_chunk(transformed, chunk_len, |i, to| {
                    self.read(threads, x, dy, &self.tiling.chunk(&images, first + i), &slab, to);
                });
                threads.for_each_chunk(&mut sums, layout.point(), |at, sums| {
                    let sums = &mut sums[slab.start * layout.width..];
                    for (i, from) in transformed.chunks(chunk_len).enumerate() {
                        let tiles = self.tiling.chunk(&images, first + i).tiles();
                        let keep = if first + i == 0 { 0.0 } else { 1.0 };
                        self.add([at / (T * T), at % (T * T)], slab.len(), tiles, from, keep, sums);
                    }
                });
            }
        }
        let panel = T * T * layout.point();
        threads.for_each_chunk(dw, layout.width * self.geometry.depth(), |i, dw| {
            self.write(threads, &sums[i * panel..][..panel], dw);
        });
    }

    /// Transforms the tiles of one chunk: a slab of the inputs, and before the first the gradients.
    fn read(
        &self,
        threads: &Threads,
        x: &[f32],
        dy: &[f32],
        chunk: &Chunk,
        slab: &Range<usize>,
        to: &mut [f32],
    ) {
        let mut block = threads.scratch(self.tiling.block_len());
        let (inputs, gradients) = to.split_at_mut(chunk_lens::<T>(&self.layout, chunk.tiles())[0]);
        let (transform, tiling) = (self.transform, &self.tiling);
        let read = |source, images, all, channels, width| ReadChunk {
            transform,
            source,
            tiling,
            chunk,
            images,
            all,
            channels,
            width,
        };
        let (c, k, lanes) = (self.geometry.inputs, self.geometry.outputs, slab.len().next_multiple_of(LANES));
        read(Source::Input, x, c, slab.clone(), lanes).run::<M, T>(&mut block, inputs);
        if slab.start == 0 {
            read(Source::OutputGradient, dy, k, 0..k, self.layout.width).run::<M, T>(&mut block, gradients);
        }
    }

    /// Adds one chunk's products with `channels` of a slab at one point of one panel, `[channels, width]`.
    fn add(
        &self,
        [panel, point]: [usize; 2],
        channels: usize,
        tiles: usize,
        from: &[f32],
        keep: f32,
        sums: &mut [f32],
    ) {
        let (Layout { panels, width, .. }, depth) = (self.layout, channels.next_multiple_of(LANES));
        let (inputs, gradients) = from.split_at(chunk_lens::<T>(&self.layout, tiles)[0]);
        let left =
            &gradients[point * stride(panels * tiles * width) + panel * tiles * width..][..tiles * width];
        let right = Matrix::strided(&inputs[point * stride(tiles * depth)..], [tiles, channels], [depth, 1]);
        let lanes = width.min(self.geometry.outputs - panel * width);
        let mut out = Output { data: sums, row_stride: 1, col_stride: width, place: |row| row, keep };
        gemm::multiply_packed(self.kernel, left, width, 0..lanes, right, 1.0, &mut out);
    }

    /// The gradient of one panel's kernels, `[channels, C, 3, 3]`.
    fn write(&self, threads: &Threads, sums: &[f32], dw: &mut [f32]) {
        let len = self.geometry.depth();
        let mut block = threads.scratch(len * LANES);
        for (i, dw) in dw.chunks_mut(LANES * len).enumerate() {
            simd::dispatch(WriteKernels::<F, M, T> {
                transform: self.transform,
                sums: &sums[i * LANES..],
                width: self.layout.width,
                point_stride: self.layout.point(),
                channels: self.geometry.inputs,
                block: &mut block,
                dw,
            });
        }
    }
}

/// The kernels of one block of output channels: `Gᵀ u G` for every input channel.
struct WriteKernels<'a, F, const M: usize, const T: usize> {
    transform: F,
    /// `[T·T, depth, width]`, from the block's first lane on.
    sums: &'a [f32],
    width: usize,
    point_stride: usize,
    /// `C`.
    channels: usize,
    block: &'a mut [f32],
    /// `[up to 16, C, 3, 3]`.
    dw: &'a mut [f32],
}

impl<const M: usize, const T: usize, F: Transform<M, T>> WithSimd for WriteKernels<'_, F, M, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (transform, vectors) = (self.transform, LANES / S::F32_LANES);
        let (width, point) = (self.width / S::F32_LANES, self.point_stride / S::F32_LANES);
        {
            let (sums, _) = S::as_simd_f32s(self.sums);
            let (block, _) = S::as_mut_simd_f32s(&mut *self.block);
            for c in 0..self.channels {
                for v in 0..vectors {
                    both_axes::<S, T, 3>(
                        simd,
                        #[inline(always)]
                        |u| transform.kernel_adjoint(simd, u),
                        #[inline(always)]
                        |i, j| sums[(i * T + j) * point + c * width + v],
                        #[inline(always)]
                        |i, j, g| block[(9 * c + 3 * i + j) * vectors + v] = g,
                    );
                }
            }
        }
        let (len, dw) = (9 * self.channels, self.dw);
        let window = Window { image: [1, len], row: 0, margin: [0, 0], size: [1, len] };
        blocks::write(
            simd,
            self.block,
            dw.len() / len,
            window,
            #[inline(always)]
            |lane, at, values| dw[lane * len + at..][..values.len()].copy_from_slice(values),
        );
    }
}
