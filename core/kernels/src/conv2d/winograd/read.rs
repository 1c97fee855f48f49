//! From images to transformed tiles.

use pulp::{Simd, WithSimd};

use super::super::blocks::{self, LANES, Window};
use super::transform::{Transform, both_axes};

/// What tiles are cut from, and how they are transformed.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// `T×T` inputs that overlap by two: `Bᵀ d B`.
    Input,
    /// `M×M` gradients of outputs: `A dy Aᵀ`.
    OutputGradient,
}

/// One block of channels of some rows of tiles of one image.
pub(super) struct ReadTiles<'a, F, const M: usize, const T: usize> {
    pub transform: F,
    pub source: Source,
    /// From the block's first channel on.
    pub planes: &'a [f32],
    /// Elements of a channel.
    pub plane: usize,
    /// Channels in the block.
    pub count: usize,
    pub window: Window,
    /// Rows and columns of tiles.
    pub grid: [usize; 2],
    pub block: &'a mut [f32],
    /// Point `p` of tile `t` goes to `p · point_stride + t · tile_stride`.
    pub to: &'a mut [f32],
    pub tile_stride: usize,
    pub point_stride: usize,
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
