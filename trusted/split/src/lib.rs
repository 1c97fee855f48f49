//! Splits activations into a small part that stays trusted and a residual, exactly.
//!
//! - [`ChannelSplit`]: principal channels of each record of a batch, and the residual, encoded
//! - [`SharedBasis`]: one running basis for all records of a layer
//! - [`weights`]: kernels that read principal channels, and their gradient
//! - [`AsymmetricSplit`]: channels and space together (delta), forward and backward
//! - [`channels`]: bases of one record, `X = Û V + residual`; [`Dct`]: low frequencies as a smaller image
//! - [`Moments`], [`Curve`], [`spectrum`], [`entropy`]: energy kept, rank for an energy, SVD-channel entropy
//!
//! Everything here is private: a basis computed from a record says something about the record.

mod asymmetric;
mod channel_split;
pub mod channels;
mod dct;
mod dense;
mod eigen;
pub mod entropy;
mod gram;
mod moments;
mod pixels;
mod record;
mod shared;
pub mod spectrum;
mod subspace;
pub mod weights;

pub use asymmetric::{AsymmetricSplit, Method, SplitConfig, SplitError, SplitOutput};
pub use channel_split::{ChannelSplit, Finding};
pub use dct::Dct;
pub use moments::{Curve, Moments};
pub use shared::SharedBasis;
pub use weights::{add_kernel_gradient, transform_kernels};
