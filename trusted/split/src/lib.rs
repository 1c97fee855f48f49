//! Splits activations into a small part that stays trusted and a residual, exactly.
//!
//! - [`ChannelSplit`]: principal channels of each record of a batch, and the residual, encoded
//! - [`SharedBasis`]: one running basis for all records of a layer
//! - [`AsymmetricSplit`]: channels and space together (delta), forward and backward
//! - [`spectrum`]: energy kept, rank for an energy, SVD-channel entropy
//! - [`channels`]: bases of one record, `X = Û V + residual`; [`Dct`]: low frequencies as a smaller image
//!
//! Everything here is private: a basis computed from a record says something about the record.

mod asymmetric;
mod channel_split;
pub mod channels;
mod dct;
mod dense;
mod eigen;
mod gram;
mod pixels;
mod record;
mod shared;
pub mod spectrum;
mod subspace;

pub use asymmetric::{AsymmetricSplit, Method, SplitConfig, SplitError, SplitOutput};
pub use channel_split::{ChannelSplit, Finding};
pub use dct::Dct;
pub use shared::SharedBasis;
