//! Block DCT-II: the low frequencies of each block as a smaller image.

use std::f64::consts::PI;

use kernels::gemm::{self, Matrix, multiply};
use kernels::{Scratch, Threads};

use crate::SplitError;

/// Keeps the `keep × keep` low frequencies of every `block × block` block.
///
/// With the orthonormal DCT-II matrices `D_n` and `P = D_keepᵀ · D_block[..keep]` (`[keep, block]`, orthonormal rows),
/// a block `B` becomes `L = P B Pᵀ`, and `Pᵀ L P` is its low-frequency part at full size. The small image is not
/// rescaled: a constant grows by `block/keep`.
#[derive(Clone, Debug)]
pub struct Dct {
    block: usize,
    keep: usize,
    /// `P`, `[keep, block]`.
    p: Vec<f32>,
}

impl Dct {
    /// # Errors
    /// [`SplitError::Dct`] unless `1 ≤ keep ≤ block`.
    pub fn new(block: usize, keep: usize) -> Result<Self, SplitError> {
        if keep == 0 || keep > block {
            return Err(SplitError::Dct { block, keep });
        }
        let element = |i: usize, j: usize| -> f64 {
            (0..keep).map(|f| dct_element(keep, f, i) * dct_element(block, f, j)).sum()
        };
        let p = (0..keep * block).map(|at| element(at / block, at % block) as f32).collect();
        Ok(Dct { block, keep, p })
    }

    /// Side of a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Frequencies kept per axis.
    pub fn keep(&self) -> usize {
        self.keep
    }

    /// Height and width of the small image: `[H·keep/block, W·keep/block]`.
    ///
    /// # Errors
    /// [`SplitError::Blocks`] if blocks do not tile the image.
    pub fn low_size(&self, [height, width]: [usize; 2]) -> Result<[usize; 2], SplitError> {
        let tiles = |side: usize| side > 0 && side.is_multiple_of(self.block);
        if !tiles(height) || !tiles(width) {
            return Err(SplitError::Blocks { block: self.block, height, width });
        }
        Ok([height / self.block * self.keep, width / self.block * self.keep])
    }

    /// Scratch memory of [`Dct::low`] and [`Dct::up`] over `n` channels, inside a job.
    pub(crate) fn scratch(&self, n: usize, [h, w]: [usize; 2]) -> Scratch {
        let low_w = w / self.block * self.keep;
        let sides = [(self.block, self.keep), (self.keep, self.block)];
        let along = sides.map(|(from, to)| gemm::scratch([n * h * w / self.block, from, to]));
        let across = sides.map(|(from, to)| gemm::scratch([to, from, low_w]));
        let products = along.into_iter().chain(across).fold(Scratch::NONE, Scratch::or);
        products.and(Scratch::each([n * h * low_w])).in_each()
    }

    /// The small images of several channels.
    ///
    /// - Shapes: `images` `[n, H, W]` → `low` `[n, H·keep/block, W·keep/block]`, overwritten; `size` is `[H, W]`
    ///
    /// # Panics
    /// If blocks do not tile the images or a buffer has another length.
    pub fn low(&self, threads: &Threads, images: &[f32], size: [usize; 2], low: &mut [f32]) {
        let [h, w] = size;
        let [_, low_w] = self.low_size(size).expect("blocks tile the images");
        let p = Matrix::new(&self.p, self.keep, self.block);
        // Along W, all rows at once: [n·H·W/block, block] · Pᵀ.
        let mut narrow = threads.scratch(images.len() / w * low_w);
        let blocks = Matrix::new(images, images.len() / self.block, self.block);
        multiply(threads, 1.0, blocks, p.transposed(), 0.0, &mut narrow);
        // Along H, one band of blocks at a time: P · [block, low_w].
        let bands = narrow.chunks_exact(self.block * low_w).zip(low.chunks_exact_mut(self.keep * low_w));
        assert_eq!(bands.len(), images.len() / (h * w) * (h / self.block), "bands of blocks");
        for (from, to) in bands {
            multiply(threads, 1.0, p, Matrix::new(from, self.block, low_w), 0.0, to);
        }
    }

    /// The low-frequency parts at full size: the adjoint of [`Dct::low`], and its inverse on images that have no others.
    ///
    /// - Shapes: `low` `[n, H·keep/block, W·keep/block]` → `images` `[n, H, W]`, overwritten; `size` is `[H, W]`
    ///
    /// # Panics
    /// If blocks do not tile the images or a buffer has another length.
    pub fn up(&self, threads: &Threads, low: &[f32], size: [usize; 2], images: &mut [f32]) {
        let [h, w] = size;
        let [_, low_w] = self.low_size(size).expect("blocks tile the images");
        let p = Matrix::new(&self.p, self.keep, self.block);
        let mut narrow = threads.scratch(images.len() / w * low_w);
        let bands = low.chunks_exact(self.keep * low_w).zip(narrow.chunks_exact_mut(self.block * low_w));
        assert_eq!(bands.len(), images.len() / (h * w) * (h / self.block), "bands of blocks");
        for (from, to) in bands {
            multiply(threads, 1.0, p.transposed(), Matrix::new(from, self.keep, low_w), 0.0, to);
        }
        let blocks = Matrix::new(&narrow, narrow.len() / self.keep, self.keep);
        multiply(threads, 1.0, blocks, p, 0.0, images);
    }
}

/// Element (frequency, position) of the orthonormal DCT-II matrix of size `n`.
fn dct_element(n: usize, frequency: usize, position: usize) -> f64 {
    let scale = if frequency == 0 { 1.0 / n as f64 } else { 2.0 / n as f64 };
    scale.sqrt() * (PI * (2 * position + 1) as f64 * frequency as f64 / (2 * n) as f64).cos()
}
