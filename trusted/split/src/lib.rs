//! Splits a batch of activations into a small part that stays trusted and a residual, exactly.
//!
//! - [`channels`]: the rank-r split over channels, `X = Û V + residual`, per sample
//! - [`Dct`]: block DCT over space, low frequencies as a smaller image
//! - [`AsymmetricSplit`]: both, for a batch, forward and backward
//! - [`spectrum`]: energy kept, rank for an energy, SVD-channel entropy
//!
//! Everything here is private: a basis computed from a record says something about the record.

mod asymmetric;
pub mod channels;
mod dct;
mod dense;
mod eigen;
mod gram;
pub mod spectrum;

pub use asymmetric::{AsymmetricSplit, Method, SplitConfig, SplitError, SplitOutput};
pub use dct::Dct;
