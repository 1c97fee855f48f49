//! 3×3 convolutions of stride 1 by Winograd's minimal filtering: few products, made as one matrix product per point.
//!
//! Tiles are transformed with 16 channels side by side in a vector (`blocks`), in chunks that stay in the cache (`tiles`).

mod backward_weight;
mod forward;
mod read;
mod tiles;
mod transform;
mod weights;

use super::blocks::LANES;
use super::forward::Start;
use super::geometry::Geometry;
use crate::gemm::Kernel;
use crate::{GradInput, Scratch, Threads};

pub(super) use backward_weight::backward_weight;
pub(super) use forward::{convolve, few_tiles};
pub(super) use transform::{F2, F4, Transform};
pub(super) use weights::Kernels;

/// Input channels that are summed in one pass of the products: their panel of weights stays in the first-level cache, their
/// transformed tiles in the second.
const SLAB: usize = 64;

/// Elements from one point's matrix to the next: a block more than it holds, so that the points, which are written
/// together, do not fall on the same lines of the cache.
fn stride(len: usize) -> usize {
    len + LANES
}

/// Whether a convolution can be computed this way: 3×3, stride 1, padding no larger than a kernel's reach, one group.
pub(super) fn serves(geometry: &Geometry) -> bool {
    geometry.kernel == [3, 3]
        && geometry.stride == [1, 1]
        && geometry.dilation == [1, 1]
        && geometry.groups == 1
        && geometry.padding.into_iter().all(|p| p <= 2)
        && Kernel::detected().width().is_multiple_of(LANES)
}

/// Gradient of the input: the convolution of `dy` with the kernels turned by 180°.
pub(super) fn backward_input<const M: usize, const T: usize, F: Transform<M, T>>(
    threads: &Threads,
    geometry: &Geometry,
    dy: &[f32],
    weight: &[f32],
    transform: F,
    dx: &mut GradInput<'_>,
) {
    let transposed = geometry.transposed().expect("`serves` asks for stride 1 and little padding");
    let start = if dx.accumulate { Start::Keep } else { Start::Zero };
    let kernels = Kernels { data: weight, channels: geometry.inputs, turned: true };
    convolve(threads, &transposed, dy, kernels, transform, start.into(), dx.data);
}

/// What the three passes take for so many images or fewer.
pub(super) fn scratch<const M: usize, const T: usize, F: Transform<M, T>>(
    geometry: &Geometry,
    images: usize,
    threads: usize,
    _: F,
) -> Scratch {
    let transposed = geometry.transposed().expect("`serves` asks for stride 1 and little padding");
    forward::scratch::<M, T>(geometry, images)
        .or(forward::scratch::<M, T>(&transposed, images))
        .or(backward_weight::scratch::<M, T>(geometry, images, threads))
}
