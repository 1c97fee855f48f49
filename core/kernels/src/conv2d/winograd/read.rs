//! From images to transformed tiles.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::super::blocks::{self, LANES, Window};
use super::stride;
use super::tiles::{Chunk, Tiling};
use super::transform::{Transform, both_axes};
use crate::simd;

/// What tiles are cut from, and how they are transformed.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// `T×T` inputs that overlap by two: `Bᵀ d B`.
    Input,
    /// `M×M` gradients of outputs: `A dy Aᵀ`.
    OutputGradient,
}

/// Some channels of the images of a chunk, as transformed tiles.
pub(super) struct ReadChunk<'a, F> {
    pub transform: F,
    pub source: Source,
    pub tiling: &'a Tiling,
    pub chunk: &'a Chunk,
    /// `[N, all, plane]`: all images, of which the chunk names some.
    pub images: &'a [f32],
    /// Channels of an image.
    pub all: usize,
    pub channels: Range<usize>,
    /// Channels of a panel, whole blocks.
    pub width: usize,
}

impl<F> ReadChunk<'_, F> {
    /// Writes `[T·T, panels, tiles, width]`, points [`stride`] apart; `block` is scratch memory of a block of channels.
    pub(super) fn run<const M: usize, const T: usize>(self, block: &mut [f32], to: &mut [f32])
    where
        F: Transform<M, T>,
    {
        let ReadChunk { transform, source, tiling, chunk, images, all, channels, width } = self;
        let window = match source {
            Source::Input => tiling.input_window(chunk),
            Source::OutputGradient => tiling.output_window(chunk),
        };
        let (plane, tiles) = (window.image[0] * window.image[1], chunk.tiles());
        let point_stride = stride(channels.len().div_ceil(width) * tiles * width);
        block[..window.len()].fill(0.0);
        for (n, image) in chunk.images.clone().enumerate() {
            for c in (0..channels.len()).step_by(LANES) {
                let tile = c / width * tiles + n * chunk.tiles_per_image();
                simd::dispatch(ReadTiles::<F, M, T> {
                    transform,
                    source,
                    planes: &images[(image * all + channels.start + c) * plane..],
                    plane,
                    count: LANES.min(channels.len() - c),
                    window,
                    grid: chunk.grid(),
                    block: &mut *block,
                    to: &mut to[tile * width + c % width..],
                    tile_stride: width,
                    point_stride,
                });
            }
        }
    }
}

/// One block of channels of some rows of tiles of one image.
struct ReadTiles<'a, F, const M: usize, const T: usize> {
    transform: F,
    source: Source,
    /// From the block's first channel on.
    planes: &'a [f32],
    /// Elements of a channel.
    plane: usize,
    /// Channels in the block.
    count: usize,
    window: Window,
    /// Rows and columns of tiles.
    grid: [usize; 2],
    block: &'a mut [f32],
    /// Point `p` of tile `t` goes to `p · point_stride + t · tile_stride`.
    to: &'a mut [f32],
    tile_stride: usize,
    point_stride: usize,
}

impl<const M: usize, const T: usize, F: Transform<M, T>> WithSimd for ReadTiles<'_, F, M, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        blocks::read(simd, self.planes, self.plane, self.count, self.window, self.block);
        let (transform, vectors) = (self.transform, LANES / S::F32_LANES);
        let (block, _) = S::as_simd_f32s(&*self.block);
        let (to, _) = S::as_mut_simd_f32s(self.to);
        let (tile_stride, point_stride) = (self.tile_stride / S::F32_LANES, self.point_stride / S::F32_LANES);
        let row = self.window.size[1] * vectors;
        for i in 0..self.grid[0] {
            for j in 0..self.grid[1] {
                let tile = &block[i * M * row + j * M * vectors..];
                let at = (i * self.grid[1] + j) * tile_stride;
                for v in 0..vectors {
                    match self.source {
                        Source::Input => both_axes::<S, T, T>(
                            simd,
                            #[inline(always)]
                            |d| transform.input(simd, d),
                            #[inline(always)]
                            |r, c| tile[r * row + c * vectors + v],
                            #[inline(always)]
                            |r, c, x| to[(r * T + c) * point_stride + at + v] = x,
                        ),
                        Source::OutputGradient => both_axes::<S, M, T>(
                            simd,
                            #[inline(always)]
                            |dy| transform.output_adjoint(simd, dy),
                            #[inline(always)]
                            |r, c| tile[r * row + c * vectors + v],
                            #[inline(always)]
                            |r, c, x| to[(r * T + c) * point_stride + at + v] = x,
                        ),
                    }
                }
            }
        }
    }
}
