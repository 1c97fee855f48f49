//! The `asymml` flow: of what a convolution reads, the low-rank part stays here and the residual leaves.
//!
//! `X = U V + R` for each record. The accelerator applies the convolution to `R`, the enclave applies it to `U V` by kernels
//! that were multiplied by `U`, and adds both; all that lies between convolutions stays here. The split is exact, so that
//! without noise, and in a format that does not round, the sum is the convolution of `X`. (AsymML, equations 3 to 6.)
//!
//! The graph is rewritten: a value that is split gets a node `split`, which makes `V` of it, and every convolution that reads
//! it reads `V` instead. Both kinds of nodes are [`engine::Elsewhere`]: [`layers::Layers`] computes them, and exchanges with
//! the accelerator piece by piece of a batch, so that both work at the same time ([`exchange::Exchange`]).

pub(crate) mod calibrate;
pub(crate) mod cost;
pub(crate) mod decode;
pub(crate) mod exchange;
pub(crate) mod layers;
pub(crate) mod model;
pub(crate) mod noise;
pub(crate) mod placements;
pub(crate) mod plan;
pub(crate) mod rewrite;
pub(crate) mod session;
#[cfg(test)]
mod tests;
