//! Convolutions of operands rounded to bf16: columns made of pairs of numbers, for [`crate::gemm::bf16`].
//!
//! Forward and input gradient sum over channels: a pair is one position of two channels, half of the channels apart. The
//! weight's gradient sums over images: a pair is one element of two images. Images of pairs are packed like any others.

mod backward_input;
mod backward_weight;
mod forward;
#[cfg(test)]
mod tests;

pub(super) use self::backward_input::backward_input;
pub(super) use self::backward_weight::backward_weight;
pub(super) use self::forward::forward;
use super::geometry::Geometry;
use crate::Scratch;
use crate::gemm::bf16::pairs_of;

/// The same convolution over pairs of input channels.
fn in_pairs(geometry: &Geometry) -> Geometry {
    Geometry { inputs: pairs_of(geometry.inputs), ..geometry.clone() }
}

/// What any pass over `images` images, or fewer, takes.
pub(super) fn scratch(geometry: &Geometry, images: usize, threads: usize) -> Scratch {
    forward::scratch(geometry, images)
        .or(backward_input::scratch(geometry, images))
        .or(backward_weight::scratch(geometry, images, threads))
}
