//! The only way out of the enclave: clip, noise, release, ledger, boundary types.
//!
//! Nothing that depends on private data leaves except as a [`Released`] value, which only this crate makes and only
//! after the [`ledger`] was charged; as a [`Public`] value, which was declared so; or as an [`Unprotected`] one, whose
//! kind the configuration allows by name. An accelerator link accepts `impl` [`Crossing`] and nothing else.

mod bit_release;
mod boundary;
mod gradient_release;
mod label_release;
mod lattice;
mod noise;
mod norm_quantile;
mod permissions;
mod receipt;
mod record_release;
mod release_shape;
mod signs;
#[cfg(test)]
mod tests;
mod vector_release;
mod writer;

pub use bit_release::{BitRelease, BitReleaseConfig, PlainBits, ReleaseError, UnusableMechanism};
pub use boundary::{Crossing, Payload, Private, Public, Released, Unprotected};
pub use gradient_release::{Answered, GradientRelease, GradientReleaseConfig};
pub use label_release::LabelRelease;
pub use noise::NoiseKey;
pub use norm_quantile::NormQuantile;
pub use permissions::{Permissions, Refused, UnknownKind};
pub use receipt::Receipt;
pub use record_release::RecordRelease;
pub use release_shape::{ReleaseShape, UnknownShape};
pub use vector_release::{Encoding, VectorRelease, VectorReleaseConfig};
pub use writer::{Budget, ChargeError, InvalidBudget, LedgerStore, LedgerWriter, StoreError};
