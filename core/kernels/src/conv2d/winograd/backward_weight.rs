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
    let images = x.len() / (geometry.inputs * geometry.input_plane());
    let sums = Sums { kernel, geometry, tiling, layout, transform };
    if images == 0 {
        dw.fill(0.0);
    } else if tiling.all(images).tiles() <= few_tiles(geometry) {
        sums.run_few(threads, x, dy, images, dw);
    } else {
        sums.run(threads, x, dy, images, dw);
    }
}

/// Tiles up to which a panel's sums over all of them are made a slab at a time, and turned into kernels at once: all sums
/// are then more memory than all transformed tiles.
fn few_tiles(geometry: &Geometry) -> usize {
    let [c, k] = [geometry.inputs, geometry.outputs];
    c * k / (c + k)
}

/// What [`backward_weight`] takes for so many images or fewer.
pub(super) fn scratch<const M: usize, const T: usize>(
    geometry: &Geometry,
    images: usize,
    threads: usize,
) -> Scratch {
    let tiling = Tiling::new(geometry, M);
    let layout = Layout::new([geometry.outputs, geometry.inputs], Kernel::detected().width());
    // Read and written one after the other.
    let block = |read: usize| read.max(9 * SLAB * LANES);
    let few = images.min(few_tiles(geometry) / tiling.all(1).tiles());
    let [inputs, gradients] = few_lens::<T>(&layout, tiling.all(few).tiles());
    let few_scratch = Scratch::shared([layout.depth.div_ceil(SLAB) * inputs, layout.panels * gradients])
        .and(Scratch::each([block(tiling.image_len()), sums_len::<T>(&layout)]));
    if few == images {
        return few_scratch;
    }
    let together = threads.min(tiling.chunks(images));
    let chunks = together * chunk_lens::<T>(&layout, tiling.largest_chunk(images)).iter().sum::<usize>();
    let all = Scratch::shared([layout.len(T * T), chunks]).and(Scratch::each([block(tiling.block_len())]));
    all.or(few_scratch)
}

/// Transformed inputs of a slab, `[T·T, tiles, slab]`, and gradients of a panel, `[T·T, tiles, width]`, of all tiles.
fn few_lens<const T: usize>(layout: &Layout, tiles: usize) -> [usize; 2] {
    [layout.depth.min(SLAB), layout.width].map(|width| T * T * stride(tiles * width))
}

/// Sums of a panel over a slab, `[T·T, slab, width]`.
fn sums_len<const T: usize>(layout: &Layout) -> usize {
    T * T * stride(layout.depth.min(SLAB) * layout.width)
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
    /// A chunk of tiles after the other, into sums over all channels.
    fn run(&self, threads: &Threads, x: &[f32], dy: &[f32], images: usize, dw: &mut [f32]) {
        let images = 0..images;
        let chunks = self.tiling.chunks(images.len());
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
                    self.read_both(threads, [x, dy], &self.tiling.chunk(&images, first + i), &slab, to);
                });
                threads.for_each_chunk(&mut sums, layout.point(), |at, sums| {
                    let sums = &mut sums[slab.start * layout.width..];
                    for (i, from) in transformed.chunks(chunk_len).enumerate() {
                        let tiles = self.tiling.chunk(&images, first + i).tiles();
                        let keep = if first + i == 0 { 0.0 } else { 1.0 };
                        let [panel, point] = [at / (T * T), at % (T * T)];
                        let (inputs, gradients) = from.split_at(chunk_lens::<T>(&layout, tiles)[0]);
                        let inputs = &inputs[point * stride(tiles * depth(&slab))..];
                        let gradients = &gradients[point * stride(layout.panels * tiles * layout.width)..];
                        let own = [inputs, &gradients[panel * tiles * layout.width..]];
                        self.add(panel, tiles, &slab, own, keep, sums);
                    }
                });
            }
        }
        let panel = T * T * layout.point();
        threads.for_each_chunk(dw, layout.width * self.geometry.depth(), |i, dw| {
            let mut block = threads.scratch(9 * SLAB * LANES);
            for start in (0..self.geometry.inputs).step_by(SLAB) {
                let slab = start..self.geometry.inputs.min(start + SLAB);
                let sums = &sums[i * panel + start * layout.width..];
                self.write(sums, layout.point(), &slab, &mut block, dw);
            }
        });
    }

    /// For few tiles: all of them transformed first; then each panel's sums over a slab, and kernels from them at once.
    fn run_few(&self, threads: &Threads, x: &[f32], dy: &[f32], images: usize, dw: &mut [f32]) {
        let (layout, chunk) = (self.layout, self.tiling.all(images));
        let [c, k] = [self.geometry.inputs, self.geometry.outputs];
        let [slab_len, panel_len] = few_lens::<T>(&layout, chunk.tiles());
        let part = |i: usize, width: usize, end: usize| i * width..end.min((i + 1) * width);
        let read = |source, images, channels, width, to: &mut [f32]| {
            let mut block = threads.scratch(self.tiling.image_len());
            self.read(source, &chunk, images, channels, width).run::<M, T>(&mut block, to);
        };
        let mut inputs = threads.scratch(layout.depth.div_ceil(SLAB) * slab_len);
        threads.for_each_chunk(&mut inputs, slab_len, |i, to| {
            let slab = part(i, SLAB, c);
            read(Source::Input, x, slab.clone(), depth(&slab), to);
        });
        let mut gradients = threads.scratch(layout.panels * panel_len);
        threads.for_each_chunk(&mut gradients, panel_len, |i, to| {
            read(Source::OutputGradient, dy, part(i, layout.width, k), layout.width, to);
        });
        threads.for_each_chunk(dw, layout.width * self.geometry.depth(), |panel, dw| {
            let mut sums = threads.scratch(sums_len::<T>(&layout));
            let mut block = threads.scratch(9 * SLAB * LANES);
            let gradients = &gradients[panel * panel_len..];
            for (i, inputs) in inputs.chunks(slab_len).enumerate() {
                let (slab, tiles) = (part(i, SLAB, c), chunk.tiles());
                let point_len = stride(depth(&slab) * layout.width);
                for (point, sums) in sums.chunks_mut(point_len).enumerate().take(T * T) {
                    let inputs = &inputs[point * stride(tiles * depth(&slab))..];
                    let gradients = &gradients[point * stride(tiles * layout.width)..];
                    self.add(panel, tiles, &slab, [inputs, gradients], 0.0, sums);
                }
                self.write(&sums, point_len, &slab, &mut block, dw);
            }
        });
    }

    /// Transforms the tiles of one chunk: a slab of the inputs, and before the first the gradients.
    fn read_both(
        &self,
        threads: &Threads,
        [x, dy]: [&[f32]; 2],
        chunk: &Chunk,
        slab: &Range<usize>,
        to: &mut [f32],
    ) {
        let mut block = threads.scratch(self.tiling.block_len());
        let (inputs, gradients) = to.split_at_mut(chunk_lens::<T>(&self.layout, chunk.tiles())[0]);
        let (k, width) = (self.geometry.outputs, self.layout.width);
        self.read(Source::Input, chunk, x, slab.clone(), depth(slab)).run::<M, T>(&mut block, inputs);
        if slab.start == 0 {
            self.read(Source::OutputGradient, chunk, dy, 0..k, width).run::<M, T>(&mut block, gradients);
        }
    }

    fn read<'b>(
        &'b self,
        source: Source,
        chunk: &'b Chunk,
        images: &'b [f32],
        channels: Range<usize>,
        width: usize,
    ) -> ReadChunk<'b, F> {
        let all = match source {
            Source::Input => self.geometry.inputs,
            Source::OutputGradient => self.geometry.outputs,
        };
        ReadChunk {
            transform: self.transform,
            source,
            tiling: &self.tiling,
            chunk,
            images,
            all,
            channels,
            width,
        }
    }

    /// Adds products of some tiles with a slab at one point of one panel, `[slab, width]`.
    fn add(
        &self,
        panel: usize,
        tiles: usize,
        slab: &Range<usize>,
        [inputs, gradients]: [&[f32]; 2],
        keep: f32,
        sums: &mut [f32],
    ) {
        let width = self.layout.width;
        let right = Matrix::strided(inputs, [tiles, slab.len()], [depth(slab), 1]);
        let lanes = width.min(self.geometry.outputs - panel * width);
        let mut out = Output { data: sums, row_stride: 1, col_stride: width, place: |row| row, keep };
        gemm::multiply_packed(
            self.kernel,
            &gradients[..tiles * width],
            width,
            0..lanes,
            right,
            1.0,
            &mut out,
        );
    }

    /// The gradient of one panel's kernels, `[channels, C, 3, 3]`, from the slab's input channels.
    fn write(
        &self,
        sums: &[f32],
        point_stride: usize,
        slab: &Range<usize>,
        block: &mut [f32],
        dw: &mut [f32],
    ) {
        let row = self.geometry.depth();
        for (i, dw) in dw.chunks_mut(LANES * row).enumerate() {
            simd::dispatch(WriteKernels::<F, M, T> {
                transform: self.transform,
                sums: &sums[i * LANES..],
                width: self.layout.width,
                point_stride,
                channels: slab.len(),
                block: &mut *block,
                count: dw.len() / row,
                row,
                dw: &mut dw[9 * slab.start..],
            });
        }
    }
}

/// Channels of a slab, rounded up to whole blocks.
fn depth(slab: &Range<usize>) -> usize {
    slab.len().next_multiple_of(LANES)
}

/// The kernels from some input channels to one block of output channels: `Gᵀ u G` for every input channel.
struct WriteKernels<'a, F, const M: usize, const T: usize> {
    transform: F,
    /// `[T·T, depth, width]`, from the block's first lane on.
    sums: &'a [f32],
    width: usize,
    point_stride: usize,
    /// Input channels.
    channels: usize,
    block: &'a mut [f32],
    /// Output channels, up to 16.
    count: usize,
    /// From one output channel to the next.
    row: usize,
    /// From the first input channel on.
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
        let (len, row, dw) = (9 * self.channels, self.row, self.dw);
        let window = Window { image: [1, len], row: 0, margin: [0, 0], size: [1, len] };
        blocks::write(
            simd,
            self.block,
            self.count,
            window,
            #[inline(always)]
            |lane, at, values| dw[lane * row + at..][..values.len()].copy_from_slice(values),
        );
    }
}
