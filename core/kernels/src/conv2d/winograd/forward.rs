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
use super::{SLAB, stride};
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
    let images = x.len() / (geometry.inputs * geometry.input_plane()).max(1);
    let convolution = Convolution::new(geometry, transform, ends);
    if convolution.tiles(images) <= few_tiles(geometry) {
        convolution.run_few(threads, x, kernels, images, y);
    } else {
        convolution.run(threads, x, kernels, y);
    }
}

/// What [`convolve`] takes for so many images or fewer.
pub(super) fn scratch<const M: usize, const T: usize>(geometry: &Geometry, images: usize) -> Scratch {
    let tiling = Tiling::new(geometry, M);
    let layout = Layout::new([geometry.outputs, geometry.inputs], Kernel::detected().width());
    let each = tiling.all(1).tiles();
    let few = images.min(few_tiles(geometry) / each);
    let scratch = few_scratch::<T>(&tiling, few, layout);
    if few == images {
        return scratch;
    }
    let many = Scratch::each(lengths::<T>(&tiling, images, layout));
    scratch.or(many.and(Scratch::shared([layout.len(T * T)])))
}

/// Tiles up to which kernels are transformed where they are multiplied.
///
/// Transformed for all tiles, kernels are written once and read for each of two chunks or so, `36·C·K` each time; where
/// they are multiplied they stay in the cache, but transformed tiles are read for every panel, and all products kept.
pub(in super::super) fn few_tiles(geometry: &Geometry) -> usize {
    let [c, k] = [geometry.inputs, geometry.outputs];
    c * k / (c + 2 * k)
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

/// What [`Convolution::run_few`] takes.
fn few_scratch<const T: usize>(tiling: &Tiling, images: usize, layout: Layout) -> Scratch {
    let [tiles, products, weights] = few_lengths::<T>(tiling, images, layout);
    let slabs = layout.depth.div_ceil(SLAB);
    let shared = Scratch::shared([slabs * tiles, layout.panels * products]);
    shared.and(Scratch::each([weights.max(tiling.image_len())]))
}

/// Lengths of a slab's transformed tiles, of one panel's products, and of a panel's transformed kernels for a slab.
fn few_lengths<const T: usize>(tiling: &Tiling, images: usize, layout: Layout) -> [usize; 3] {
    let (tiles, slab) = (tiling.all(images).tiles(), layout.depth.min(SLAB));
    [tiles * slab, tiles * layout.width, slab * layout.width].map(|len| T * T * stride(len))
}

struct Convolution<'a, F, const M: usize, const T: usize> {
    kernel: &'a Kernel,
    geometry: &'a Geometry,
    tiling: Tiling,
    layout: Layout,
    transform: F,
    ends: Ends<'a>,
}

impl<'a, const M: usize, const T: usize, F: Transform<M, T>> Convolution<'a, F, M, T> {
    fn new(geometry: &'a Geometry, transform: F, ends: Ends<'a>) -> Self {
        let kernel = Kernel::detected();
        let layout = Layout::new([geometry.outputs, geometry.inputs], kernel.width());
        Convolution { kernel, geometry, tiling: Tiling::new(geometry, M), layout, transform, ends }
    }

    /// Tiles of so many images.
    fn tiles(&self, images: usize) -> usize {
        self.tiling.all(images).tiles()
    }

    /// With all kernels transformed first; threads divide images.
    fn run(&self, threads: &Threads, x: &[f32], kernels: Kernels<'_>, y: &mut [f32]) {
        let weights = Weights::new(threads, kernels, self.transform, self.layout);
        let sizes = [1, self.geometry.outputs, self.geometry.output_plane()];
        let pieces = divide(y, sizes, threads.count(), self.tiling.images_together(), self.layout.width);
        threads.for_each_part(pieces, |_, mut piece| {
            self.run_piece(threads, x, &weights, &mut piece);
            piece.finish(self.geometry, &self.ends.finish);
        });
    }

    fn run_piece(&self, threads: &Threads, x: &[f32], weights: &Weights<'_>, piece: &mut Piece<'_>) {
        let Layout { width, depth, .. } = self.layout;
        let lens = lengths::<T>(&self.tiling, piece.images.len(), self.layout);
        let [mut tiles, mut products, mut block] = lens.map(|len| threads.scratch(len));
        for i in 0..self.tiling.chunks(piece.images.len()) {
            let chunk = self.tiling.chunk(&piece.images, i);
            for start in (0..depth).step_by(slab(self.layout)) {
                let slab = start..depth.min(start + slab(self.layout));
                self.read(&chunk, &slab, x).run::<M, T>(&mut block, &mut tiles);
                for first in piece.channels.clone().step_by(width) {
                    let left = &weights.panel(first / width)[slab.start * width..];
                    let keep = if slab.start == 0 { 0.0 } else { 1.0 };
                    let left = (left, self.layout.point());
                    self.multiply(left, slab.len(), (&tiles, chunk.tiles()), keep, &mut products);
                    if slab.end == depth {
                        let lanes = width.min(piece.channels.end - first);
                        self.write(first, lanes, &chunk, (&products, chunk.tiles(), 0), &mut block, piece);
                    }
                }
            }
        }
    }

    /// For few tiles: all of them transformed first, and kernels where they are multiplied; threads divide panels.
    fn run_few(&self, threads: &Threads, x: &[f32], kernels: Kernels<'_>, images: usize, y: &mut [f32]) {
        let Layout { width, depth, panels } = self.layout;
        let (chunk, lens) = (self.tiling.all(images), few_lengths::<T>(&self.tiling, images, self.layout));
        let [slab_len, panel_len, weights_len] = lens;
        let slab = |i: usize| i * SLAB..depth.min((i + 1) * SLAB);
        let mut tiles = threads.scratch(depth.div_ceil(SLAB) * slab_len);
        threads.for_each_chunk(&mut tiles, slab_len, |i, to| {
            let mut block = threads.scratch(self.tiling.image_len());
            self.read(&chunk, &slab(i), x).run::<M, T>(&mut block, to);
        });
        let mut products = threads.scratch(panels * panel_len);
        threads.for_each_chunk(&mut products, panel_len, |panel, products| {
            let mut weights = threads.scratch(weights_len);
            for (i, tiles) in tiles.chunks(slab_len).enumerate() {
                let (slab, keep) = (slab(i), if i == 0 { 0.0 } else { 1.0 });
                let point = stride(slab.len() * width);
                kernels.panel(self.transform, width, panel * width, slab.clone(), point, &mut weights);
                self.multiply((&weights, point), slab.len(), (tiles, chunk.tiles()), keep, products);
            }
        });
        let sizes = [1, self.geometry.outputs, self.geometry.output_plane()];
        threads.for_each_part(divide(y, sizes, threads.count(), 1, width), |_, mut piece| {
            let mut block = threads.scratch(self.tiling.image_len());
            for first in piece.channels.clone().step_by(width) {
                let (own, lanes) =
                    (&products[first / width * panel_len..], width.min(piece.channels.end - first));
                let before = chunk.tiles_per_image() * piece.images.start;
                let (own, chunk) = ((own, chunk.tiles(), before), chunk.only(&piece.images));
                self.write(first, lanes, &chunk, own, &mut block, &mut piece);
            }
            piece.finish(self.geometry, &self.ends.finish);
        });
    }

    fn read<'b>(&'b self, chunk: &'b Chunk, slab: &Range<usize>, x: &'b [f32]) -> ReadChunk<'b, F> {
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

    /// One panel's products `[T·T, tiles, width]`: `Σ_c u · v` at every point, over the channels of a slab and, with
    /// `keep` 1, those before it.
    ///
    /// - Shapes: `left` `[T·T, slab, width]` with elements from one point to the next; `tiles` `[T·T, tiles, slab]`
    fn multiply(
        &self,
        (left, left_point): (&[f32], usize),
        slab: usize,
        (from, tiles): (&[f32], usize),
        keep: f32,
        products: &mut [f32],
    ) {
        let width = self.layout.width;
        for point in 0..T * T {
            let left = &left[point * left_point..];
            let right = Matrix::strided(&from[point * stride(tiles * slab)..], [slab, tiles], [1, slab]);
            let data = &mut products[point * stride(tiles * width)..][..tiles * width];
            let mut out = Output { data, row_stride: 1, col_stride: width, place: |row| row, keep };
            // Cut at the same places whether tiles are few or many: the bits are the same.
            for k in (0..slab).step_by(SLAB) {
                let k = k..slab.min(k + SLAB);
                let left = &left[k.start * width..k.end * width];
                let right = right.row_range(k);
                gemm::multiply_packed(self.kernel, left, width, 0..width, right, 1.0, &mut out);
                out.keep = 1.0;
            }
        }
    }

    /// Transforms a chunk's products with one panel back and puts them in their places; `products` are of `all` tiles, of
    /// which `before` come before the chunk's.
    fn write(
        &self,
        first: usize,
        lanes: usize,
        chunk: &Chunk,
        (products, all, before): (&[f32], usize, usize),
        block: &mut [f32],
        piece: &mut Piece<'_>,
    ) {
        let (plane, width) = (self.geometry.output_plane(), self.layout.width);
        for (n, image) in chunk.images.clone().enumerate() {
            for lane in (0..lanes).step_by(LANES) {
                let channel = first + lane - piece.channels.start;
                let at = ((image - piece.images.start) * piece.channels.len() + channel) * plane;
                simd::dispatch(WriteTiles::<F, M, T> {
                    transform: self.transform,
                    products: &products[(before + n * chunk.tiles_per_image()) * width + lane..],
                    tile_stride: width,
                    point_stride: stride(all * width),
                    grid: chunk.grid(),
                    block: &mut *block,
                    window: self.tiling.output_window(chunk),
                    count: LANES.min(lanes - lane),
                    plane,
                    start: self.ends.start,
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
