use pulp::{Simd, WithSimd};

use super::super::geometry::Geometry;
use super::blocks::{self, LANES, Window};
use super::read::{ReadTiles, Source};
use super::stride;
use super::tiles::{Chunk, Tiling};
use super::transform::{Transform, both_axes};
use crate::Threads;
use crate::gemm::{self, Kernel, Matrix, Output};

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
    let width = kernel.width().min(geometry.outputs.next_multiple_of(LANES));
    let sums = Sums { kernel, geometry, tiling, transform, width, panels: geometry.outputs.div_ceil(width) };
    sums.run(threads, x, dy, dw);
}

struct Sums<'a, F, const M: usize, const T: usize> {
    kernel: &'a Kernel,
    geometry: &'a Geometry,
    tiling: Tiling,
    transform: F,
    /// Output channels of a panel.
    width: usize,
    panels: usize,
}

impl<const M: usize, const T: usize, F: Transform<M, T>> Sums<'_, F, M, T> {
    fn run(&self, threads: &Threads, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let images = x.len() / (self.geometry.inputs * self.geometry.input_plane());
        let most = self.tiling.largest_chunk();
        let chunk_len = self.inputs_len(most) + self.gradients_len(most);
        // `[panels, T·T, depth, width]`.
        let mut sums = threads.scratch(self.panels * T * T * self.point_len());
        let mut transformed = threads.scratch(threads.count() * chunk_len);
        let mut keep = 0.0;
        let mut chunks = self.tiling.chunks(0..images);
        loop {
            let together: Vec<Chunk> = chunks.by_ref().take(threads.count()).collect();
            if together.is_empty() {
                break;
            }
            threads.for_each_chunk(&mut transformed[..together.len() * chunk_len], chunk_len, |i, to| {
                self.read(threads, x, dy, &together[i], to);
            });
            threads.for_each_chunk(&mut sums, self.point_len(), |i, sums| {
                for (chunk, from) in together.iter().zip(transformed.chunks(chunk_len)) {
                    let keep = if std::ptr::eq(chunk, &together[0]) { keep } else { 1.0 };
                    self.add(i / (T * T), i % (T * T), chunk.tiles(), from, keep, sums);
                }
            });
            keep = 1.0;
        }
        if keep == 0.0 {
            return dw.fill(0.0);
        }
        let panel = T * T * self.point_len();
        threads.for_each_chunk(dw, self.width * self.geometry.depth(), |i, dw| {
            self.write(threads, &sums[i * panel..][..panel], dw);
        });
    }

    /// Input channels, rounded up to whole blocks.
    fn depth(&self) -> usize {
        self.geometry.inputs.next_multiple_of(LANES)
    }

    /// One point's sums of one panel, `[depth, width]`.
    fn point_len(&self) -> usize {
        stride(self.depth() * self.width)
    }

    /// Transformed inputs `[T·T, tiles, depth]`.
    fn inputs_len(&self, tiles: usize) -> usize {
        T * T * stride(tiles * self.depth())
    }

    /// Transformed gradients `[T·T, panels, tiles, width]`.
    fn gradients_len(&self, tiles: usize) -> usize {
        T * T * stride(self.panels * tiles * self.width)
    }

    /// Transforms the tiles of one chunk.
    fn read(&self, threads: &Threads, x: &[f32], dy: &[f32], chunk: &Chunk, to: &mut [f32]) {
        let mut block = threads.scratch(self.tiling.block_len());
        let (tiles, depth, width) = (chunk.tiles(), self.depth(), self.width);
        let (inputs, gradients) = to.split_at_mut(self.inputs_len(tiles));
        for (n, image) in chunk.images.clone().enumerate() {
            let tile = n * chunk.tiles_per_image();
            for c in (0..self.geometry.inputs).step_by(LANES) {
                let (channels, plane) = (self.geometry.inputs, self.geometry.input_plane());
                pulp::Arch::new().dispatch(ReadTiles::<F, M, T> {
                    transform: self.transform,
                    source: Source::Input,
                    planes: &x[(image * channels + c) * plane..],
                    plane,
                    count: LANES.min(channels - c),
                    window: self.tiling.input_window(chunk),
                    grid: chunk.grid(),
                    block: &mut block,
                    to: &mut inputs[tile * depth + c..],
                    tile_stride: depth,
                    point_stride: stride(tiles * depth),
                });
            }
            for k in (0..self.geometry.outputs).step_by(LANES) {
                let (channels, plane) = (self.geometry.outputs, self.geometry.output_plane());
                pulp::Arch::new().dispatch(ReadTiles::<F, M, T> {
                    transform: self.transform,
                    source: Source::OutputGradient,
                    planes: &dy[(image * channels + k) * plane..],
                    plane,
                    count: LANES.min(channels - k),
                    window: self.tiling.output_window(chunk),
                    grid: chunk.grid(),
                    block: &mut block,
                    to: &mut gradients[(k / width * tiles + tile) * width + k % width..],
                    tile_stride: width,
                    point_stride: stride(self.panels * tiles * width),
                });
            }
        }
    }

    /// Adds one chunk's products at one point of one panel, `[depth, width]`.
    fn add(&self, panel: usize, point: usize, tiles: usize, from: &[f32], keep: f32, sums: &mut [f32]) {
        let (depth, width) = (self.depth(), self.width);
        let (inputs, gradients) = from.split_at(self.inputs_len(tiles));
        let left = &gradients[point * stride(self.panels * tiles * width) + panel * tiles * width..]
            [..tiles * width];
        let right = Matrix::strided(
            &inputs[point * stride(tiles * depth)..],
            [tiles, self.geometry.inputs],
            [depth, 1],
        );
        let lanes = width.min(self.geometry.outputs - panel * width);
        let mut out = Output { data: sums, row_stride: 1, col_stride: width, place: |row| row, keep };
        gemm::multiply_packed(self.kernel, left, width, 0..lanes, right, 1.0, &mut out);
    }

    /// The gradient of one panel's kernels, `[channels, C, 3, 3]`.
    fn write(&self, threads: &Threads, sums: &[f32], dw: &mut [f32]) {
        let len = self.geometry.depth();
        let mut block = threads.scratch(len * LANES);
        for (i, dw) in dw.chunks_mut(LANES * len).enumerate() {
            pulp::Arch::new().dispatch(WriteKernels::<F, M, T> {
                transform: self.transform,
                sums: &sums[i * LANES..],
                width: self.width,
                point_stride: self.point_len(),
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
