//! Delta's split of a batch: principal channels at low resolution, and the rest.

use kernels::gemm::{self, Matrix, multiply};
use kernels::parts::Chunks;
use kernels::{Scratch, Threads};
use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError, View};

use crate::Dct;
use crate::channels::{exact_basis, light_basis, light_macs, light_scratch};

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
    /// Rounds of the light method per channel, at least 1; each costs `min(C, H·W)²` multiply-adds.
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
    #[error("principal channels are not found without iterations: ask for at least 1")]
    Iterations,
    /// The buffer for encoded residuals is not theirs.
    #[error("the residuals of {records} records take {expected} bytes as {format}, the buffer holds {found}")]
    Encoded {
        /// The format's name.
        format: &'static str,
        /// Records of the batch.
        records: usize,
        /// Bytes they take.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// A state that another basis has.
    #[error(
        "the state of a shared basis of {channels} channels and rank {rank} is {expected} finite numbers, not these {found}: \
         it was made with another model or rank, or is damaged"
    )]
    State {
        /// Channels of the basis.
        channels: usize,
        /// Its rank.
        rank: usize,
        /// Numbers of its state.
        expected: usize,
        /// Numbers that were given.
        found: usize,
    },
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

/// Splits samples of one shape: `X = Û · up(principal) + residual`, exactly.
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
        let SplitConfig { rank, iterations, block, keep, .. } = config;
        let [c, h, w] = checked_rank(rank, sample)?;
        if iterations == 0 {
            return Err(SplitError::Iterations);
        }
        let dct = Dct::new(block, keep)?;
        let low = dct.low_size([h, w])?;
        Ok(AsymmetricSplit { config, dct, sample: [c, h, w], low })
    }

    /// What it keeps.
    pub fn config(&self) -> &SplitConfig {
        &self.config
    }

    /// Shape of one sample, `[C, H, W]`.
    pub fn sample_shape(&self) -> Shape {
        Shape::from(self.sample)
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

    /// Multiply-adds of splitting one sample by the light method, residual and main part included.
    pub fn macs(&self) -> u64 {
        let [c, h, w] = self.sample;
        let (r, p, low) = (self.config.rank, h * w, self.low[0] * self.low[1]);
        let decomposition = light_macs([c, p], r, self.config.iterations);
        let dct = 2 * r * self.low[1] * (h * self.dct.block() + self.low[0] * self.dct.block());
        (decomposition + 2 * r * c * p + dct + r * c * low) as u64
    }

    /// Splits a batch.
    ///
    /// - Shapes: `x` `[N, C, H, W]`
    /// - Privacy: none: everything stays in the enclave
    ///
    /// # Errors
    /// [`SplitError::Shape`] if a buffer has another length than its shape says.
    pub fn forward(&self, x: View<'_>, output: SplitOutput<'_>, threads: &Threads) -> Result<(), SplitError> {
        let n = batch(x.shape, self.sample_shape(), "input of a split")?;
        let SplitOutput { principal, basis, main, residual } = output;
        let principal = samples(principal, n, self.principal_shape())?;
        let basis = samples(basis, n, self.basis_shape())?;
        let main = optional_samples(main, n, self.main_shape())?;
        let residual = optional_samples(residual, n, self.sample_shape())?;
        let len = self.sample_shape().len();
        let parts = ((principal, basis), (main, residual));
        threads.for_each_part(parts, |i, ((principal, basis), (main, residual))| {
            self.split_one(threads, &x.data[i * len..][..len], principal, basis, main, residual);
        });
        Ok(())
    }

    /// Scratch memory that a pass over `batch` samples takes, either way; the exact method allocates beside it.
    pub fn scratch(&self, batch: usize) -> Scratch {
        let ([c, h, w], r, low) = (self.sample, self.config.rank, self.low[0] * self.low[1]);
        let images = Scratch::each([r * h * w]);
        let widths = self.dct.scratch(r, [h, w]).or(gemm::scratch([r, c, h * w]).in_each());
        let expand = widths.or(gemm::scratch([c, r, h * w]).in_each()).and(images);
        let forward =
            light_scratch([c, h * w], r).or(expand.clone()).or(gemm::scratch([c, r, low]).in_each());
        let backward =
            gemm::scratch([r, c, low]).in_each().or(expand).and(Scratch::shared([batch * r * low]));
        forward.or(backward)
    }

    fn split_one(
        &self,
        threads: &Threads,
        x: &[f32],
        principal: &mut [f32],
        basis: &mut [f32],
        main: Option<&mut [f32]>,
        residual: Option<&mut [f32]>,
    ) {
        let ([c, h, w], r) = (self.sample, self.config.rank);
        match self.config.method {
            Method::Light => light_basis(threads, x, [c, h * w], r, self.config.iterations, basis),
            Method::Exact => exact_basis(x, [c, h * w], r, basis),
        }
        let u = Matrix::new(basis, c, r);
        let mut images = threads.scratch(r * h * w);
        multiply(threads, 1.0, u.transposed(), Matrix::new(x, c, h * w), 0.0, &mut images);
        self.dct.low(threads, &images, [h, w], principal);
        if let Some(main) = main {
            multiply(threads, 1.0, u, Matrix::new(principal, r, self.low[0] * self.low[1]), 0.0, main);
        }
        if let Some(residual) = residual {
            self.dct.up(threads, principal, [h, w], &mut images);
            residual.copy_from_slice(x);
            multiply(threads, -1.0, u, Matrix::new(&images, r, h * w), 1.0, residual);
        }
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
        let n = batch(grad_main.shape, self.main_shape(), "gradient of the main part")?;
        let (c, r, low) = (self.sample[0], self.config.rank, self.low[0] * self.low[1]);
        checked_len(basis.len(), n, self.basis_shape())?;
        let mut principal = threads.scratch(n * r * low);
        threads.for_each_chunk(&mut principal, r * low, |i, principal| {
            let (basis, grad) = (&basis[i * c * r..][..c * r], &grad_main.data[i * c * low..][..c * low]);
            let u = Matrix::new(basis, c, r);
            multiply(threads, 1.0, u.transposed(), Matrix::new(grad, c, low), 0.0, principal);
        });
        let shape = self.principal_shape().batched(n);
        self.expand(basis, View { shape, data: &principal }, grad_input, threads)
    }

    /// The main part at full size, `Û · up(principal)`: what the residual lacks. Also the gradient of the principal
    /// channels with respect to the input, with the basis held constant.
    ///
    /// - Shapes: `basis` `[N, C, r]`, `principal` `[N, r, h, w]` → `expanded` `[N, C, H, W]`, overwritten
    ///
    /// # Errors
    /// [`SplitError::Shape`] if a buffer has another length than its shape says.
    pub fn expand(
        &self,
        basis: &[f32],
        principal: View<'_>,
        expanded: &mut [f32],
        threads: &Threads,
    ) -> Result<(), SplitError> {
        let n = batch(principal.shape, self.principal_shape(), "principal channels")?;
        let ([c, h, w], r) = (self.sample, self.config.rank);
        checked_len(basis.len(), n, self.basis_shape())?;
        checked_len(expanded.len(), n, self.sample_shape())?;
        let len = self.principal_shape().len();
        threads.for_each_chunk(expanded, c * h * w, |i, expanded| {
            let (basis, principal) = (&basis[i * c * r..][..c * r], &principal.data[i * len..][..len]);
            let mut images = threads.scratch(r * h * w);
            self.dct.up(threads, principal, [h, w], &mut images);
            multiply(threads, 1.0, Matrix::new(basis, c, r), Matrix::new(&images, r, h * w), 0.0, expanded);
        });
        Ok(())
    }
}

/// `[C, H, W]` of a sample, if it has so many principal channels.
pub(crate) fn checked_rank(rank: usize, sample: Shape) -> Result<[usize; 3], SplitError> {
    let &[c, h, w] = sample.dims() else {
        return Err(ShapeError::Rank { what: "sample of a split", expected: 3, found: sample }.into());
    };
    let most = c.min(h * w);
    if rank == 0 || rank > most {
        return Err(SplitError::Rank { rank, channels: c, pixels: h * w, most });
    }
    Ok([c, h, w])
}

/// Batch size of `shape`, if it is a batch of `sample`.
pub(crate) fn batch(shape: Shape, sample: Shape, what: &'static str) -> Result<usize, SplitError> {
    let n = shape.dims().first().copied().unwrap_or(0);
    let expected = sample.batched(n);
    if shape == expected { Ok(n) } else { Err(ShapeError::Mismatch { what, expected, found: shape }.into()) }
}

pub(crate) fn checked_len(found: usize, n: usize, sample: Shape) -> Result<usize, SplitError> {
    let expected = n * sample.len();
    if found == expected {
        Ok(sample.len())
    } else {
        Err(ShapeError::Length { shape: sample.batched(n), expected, found }.into())
    }
}

pub(crate) fn samples(data: &mut [f32], n: usize, sample: Shape) -> Result<Chunks<'_, f32>, SplitError> {
    let len = checked_len(data.len(), n, sample)?;
    Ok(Chunks { data, len })
}

/// The samples of a buffer that may be absent.
fn optional_samples(
    data: Option<&mut [f32]>,
    n: usize,
    sample: Shape,
) -> Result<Option<Chunks<'_, f32>>, SplitError> {
    data.map(|data| samples(data, n, sample)).transpose()
}
