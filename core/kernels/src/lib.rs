//! CPU operators of a model graph, forward and backward side by side, one folder per operator.
//!
//! An operator is a struct of attributes that implements [`Operator`]; adding one touches its folder and one line in
//! [`registry`]. All images are `[N, C, H, W]`; results depend on the number of threads only through the fixed order of
//! partial sums, so the same thread count gives the same bits.

pub mod activation;
pub mod add;
pub mod add_relu;
pub mod batch_norm;
mod channels;
mod check;
pub mod compact;
pub mod conv2d;
pub mod conv_norm_relu;
pub mod denormals;
pub mod dropout;
mod elementwise;
pub mod flatten;
pub mod fused;
pub mod gemm;
pub mod group_norm;
pub mod group_norm_add_relu;
pub mod linear;
pub mod norm_add_relu;
pub mod operator;
pub mod parts;
pub mod pool;
mod precision;
pub mod registry;
pub mod relu_max_pool;
mod scratch;
pub mod select;
mod simd;
pub mod softmax_cross_entropy;
mod sums;
#[cfg(test)]
mod testing;
pub mod threads;
pub mod trace;
mod transpose;
#[cfg(test)]
mod vectors;

pub use fused::{Fused, Placed};
pub use operator::{
    Backward, Forward, GradInput, MAX_INPUTS, Mode, Operator, ParamSpec, Reads, Recompute, Saved, SavedLen,
    SavedMut,
};
pub use precision::Precision;
pub use registry::Op;
pub use scratch::Scratch;
pub use threads::Threads;

#[doc(hidden)]
pub use pulp; // for `vectorised!` in other crates
#[doc(hidden)]
pub use simd::dispatch;
