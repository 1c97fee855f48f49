use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::super::blocks::{self, LANES, Window};
use super::super::forward::{Ends, Start};
use super::super::geometry::Geometry;
use super::super::pieces::{Piece, divide};
use super::read::{ReadChunk, Source};
use super::tiles::{Chunk, Tiling};
use super::transform::{Transform, both_axes};
use super::weights::{Kernels, Layout, Weights};
use super::{DEPTH, SLAB, stride};
use crate::gemm::{self, Kernel, Matrix, Output};
use crate::simd;
use crate::{Scratch, Threads};

/// The convolution of `x` with 3×3 kernels, in tiles of `M×M` outputs.
pub(in super::super) fn convolve<const M: usize, const T: usize, F: Transform<M, T>>(
    threads: &Threads,
    geometry: &Geometry,
    x: &[f32],
    kernels: Kernels<'_>,
    transform: F,
    ends: Ends<'_>,
    y: &mut [f32],
) {
    let kernel = Kernel::detected();
    let weights = Weights::new(threads, kernels, transform, kernel.width());
    let tiling = Tiling::new(geometry, M);
    let sizes = [1, geometry.outputs, geometry.output_plane()];
    let pieces = divide(y, sizes, threads.count(), tiling.images_together(), weights.layout.width);
    let convolution =
        Convolution { kernel, geometry, tiling, weights: &weights, transform, start: ends.start };
    threads.for_each_part(pieces, |_, mut piece| {
        convolution.run(threads, x, &mut piece);
        piece.finish(geometry, &ends.finish);
    });
}

/// What [`convolve`] takes for so many images or fewer.
pub(super) fn scratch<const M: usize, const T: usize>(geometry: &Geometry, images: usize) -> Scratch {
    let (tiling, widest) = (Tiling::new(geometry, M), Kernel::detected().width());
    let layout = Layout::new([geometry.outputs, geometry.inputs], widest);
    let each = lengths::<T>(&tiling, images, layout);
    Scratch::shared([layout.len(T * T)]).and(Scratch::each(each))
}

/// Lengths of a slab's transformed tiles, of one panel's products with them, and of a block of channels.
fn lengths<const T: usize>(tiling: &Tiling, images: usize, layout: Layout) -> [usize; 3] {
    let most = tiling.largest_chunk(images);
    [T * T * stride(most * slab(layout)), T * T * stride(most * layout.width), tiling.block_len()]
}

/// Input channels that are transformed and multiplied together: all, or where there is one panel of outputs, whose
/// products can be summed in the cache, as many as stay there.
fn slab(layout: Layout) -> usize {
    if layout.panels == 1 { layout.depth.min(SLAB) } else { layout.depth }
}

struct Convolution<'a, F, const M: usize, const T: usize> {
    kernel: &'a Kernel,
    geometry: &'a Geometry,
    tiling: Tiling,
    weights: &'a Weights<'a>,
    transform: F,
    start: Start<'a>,
}

impl<const M: usize, const T: usize, F: Transform<M, T>> Convolution<'_, F, M, T> {
    fn run(&self, threads: &Threads, x: &[f32], piece: &mut Piece<'_>) {
        let Layout { width, depth, .. } = self.weights.layout;
        let lens = lengths::<T>(&self.tiling, piece.images.len(), self.weights.layout);
        let [mut tiles, mut products, mut block] = lens.map(|len| threads.scratch(len));
        for i in 0..self.tiling.chunks(piece.images.len()) {
            let chunk = self.tiling.chunk(&piece.images, i);
            for start in (0..depth).step_by(slab(self.weights.layout)) {
                let slab = start..depth.min(start + slab(self.weights.layout));
                self.read(&chunk, &slab, x).run::<M, T>(&mut block, &mut tiles);
                for first in piece.channels.clone().step_by(width) {
                    let lanes = width.min(piece.channels.end - first);
                    self.multiply(first / width, lanes, &slab, chunk.tiles(), &tiles, &mut products);
                    if slab.end == depth {
                        self.write(first, lanes, &chunk, &products, &mut block, piece);
                    }
                }
            }
        }
    }

    fn read<'a>(&'a self, chunk: &'a Chunk, slab: &Range<usize>, x: &'a [f32]) -> ReadChunk<'a, F> {
        ReadChunk {
            transform: self.transform,
            source: Source::Input,
            tiling: &self.tiling,
            chunk,
            images: x,
            all: self.geometry.inputs,
            channels: slab.start..slab.end.min(self.geometry.inputs),
            width: slab.len(),
        }
    }

    /// One panel's products `[T·T, tiles, width]`: `Σ_c u · v` at every point, over the channels of a slab and, after the
    /// first, those before it.
    fn multiply(
        &self,
        panel: usize,
        lanes: usize,
        slab: &Range<usize>,
        tiles: usize,
        from: &[f32],
        products: &mut [f32],
    ) {
        let (depth, width) = (slab.len(), self.weights.layout.width);
        for point in 0..T * T {
            let left = &self.weights.panel(panel, point)[slab.start * width..];
            let right = Matrix::strided(&from[point * stride(tiles * depth)..], [depth, tiles], [1, depth]);
            let data = &mut products[point * stride(tiles * width)..][..tiles * width];
            let keep = if slab.start == 0 { 0.0 } else { 1.0 };
            let mut out = Output { data, row_stride: 1, col_stride: width, place: |row| row, keep };
            for k in (0..depth).step_by(DEPTH) {
                let k = k..depth.min(k + DEPTH);
                let left = &left[k.start * width..k.end * width];
                let right = right.row_range(k);
                gemm::multiply_packed(self.kernel, left, width, 0..lanes, right, 1.0, &mut out);
                out.keep = 1.0;
            }
        }
    }

    /// Transforms one panel's products back and puts them in their places.
    fn write(
        &self,
        first: usize,
        lanes: usize,
        chunk: &Chunk,
        products: &[f32],
        block: &mut [f32],
        piece: &mut Piece<'_>,
    ) {
        let (plane, width) = (self.geometry.output_plane(), self.weights.layout.width);
        for (n, image) in chunk.images.clone().enumerate() {
            for lane in (0..lanes).step_by(LANES) {
                let channel = first + lane - piece.channels.start;
                let at = ((image - piece.images.start) * piece.channels.len() + channel) * plane;
                simd::dispatch(WriteTiles::<F, M, T> {
                    transform: self.transform,
                    products: &products[n * chunk.tiles_per_image() * width + lane..],
                    tile_stride: width,
                    point_stride: stride(chunk.tiles() * width),
                    grid: chunk.grid(),
                    block: &mut *block,
                    window: self.tiling.output_window(chunk),
                    count: LANES.min(lanes - lane),
                    plane,
                    start: self.start,
                    channel: first + lane,
                    to: &mut piece.data[at..],
                });
            }
        }
    }
}

/// One block of channels of some rows of tiles of one image: `Aᵀ m A` of every tile, put together and written.
struct WriteTiles<'a, F, const M: usize, const T: usize> {
    transform: F,
    /// Point `p` of tile `t` is at `p · point_stride + t · tile_stride`.
    products: &'a [f32],
    tile_stride: usize,
    point_stride: usize,
    /// Rows and columns of tiles.
    grid: [usize; 2],
    block: &'a mut [f32],
    window: Window,
    /// Channels in the block.
    count: usize,
    /// Elements of a channel.
    plane: usize,
    start: Start<'a>,
    /// First output channel.
    channel: usize,
    /// From the block's first channel on.
    to: &'a mut [f32],
}

impl<const M: usize, const T: usize, F: Transform<M, T>> WithSimd for WriteTiles<'_, F, M, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        self.transform(simd);
        let (plane, start, first, to) = (self.plane, self.start, self.channel, self.to);
        blocks::write(
            simd,
            self.block,
            self.count,
            self.window,
            #[inline(always)]
            |lane, at, values| start.put(first + lane, values, &mut to[lane * plane + at..][..values.len()]),
        );
    }
}

impl<const M: usize, const T: usize, F: Transform<M, T>> WriteTiles<'_, F, M, T> {
    #[inline(always)]
    fn transform<S: Simd>(&mut self, simd: S) {
        let (transform, vectors) = (self.transform, LANES / S::F32_LANES);
        let (tile_stride, point_stride) = (self.tile_stride / S::F32_LANES, self.point_stride / S::F32_LANES);
        let row = self.window.size[1] * vectors;
        let (products, _) = S::as_simd_f32s(self.products);
        let (block, _) = S::as_mut_simd_f32s(&mut *self.block);
        for i in 0..self.grid[0] {
            for j in 0..self.grid[1] {
                let at = (i * self.grid[1] + j) * tile_stride;
                let tile = &mut block[i * M * row + j * M * vectors..];
                for v in 0..vectors {
                    both_axes::<S, T, M>(
                        simd,
                        #[inline(always)]
                        |m| transform.output(simd, m),
                        #[inline(always)]
                        |r, c| products[(r * T + c) * point_stride + at + v],
                        #[inline(always)]
                        |r, c, x| tile[r * row + c * vectors + v] = x,
                    );
                }
            }
        }
    }
}
