//! How much scratch memory the passes of a convolution take.

use super::geometry::Geometry;
use super::pieces::images_together;
use super::plan::Way;
use super::winograd::{self, F2, F4};
use super::{backward_input, backward_weight, bf16, depthwise, direct, pointwise};
use crate::gemm::{self, Kernel};
use crate::{Precision, Scratch};

/// The most that any pass over `images` images, or fewer, takes.
pub(super) fn most(geometry: &Geometry, images: usize, precision: Precision, threads: usize) -> Scratch {
    by(Way::of(geometry, precision), geometry, images, threads)
}

/// The most that a pass takes that is computed in this way.
pub(super) fn by(way: Way, geometry: &Geometry, images: usize, threads: usize) -> Scratch {
    match way {
        Way::Depthwise => depthwise::scratch(geometry),
        Way::Columns => convolve(geometry, images)
            .or(backward_input::scratch(geometry, images))
            .or(backward_weight::scratch(geometry, images, threads)),
        Way::Pointwise => pointwise::scratch(geometry, images, threads),
        Way::Bf16 => bf16::scratch(geometry, images, threads),
        Way::Direct => direct::scratch(geometry, images, threads),
        Way::Winograd2 => winograd::scratch(geometry, images, threads, F2),
        Way::Winograd4 => winograd::scratch(geometry, images, threads, F4),
    }
}

/// [`super::forward::convolve`].
pub(super) fn convolve(geometry: &Geometry, images: usize) -> Scratch {
    let (product, together) = product(Kernel::detected(), geometry, images);
    product.and(Scratch::each([padded(geometry, together, geometry.inputs)]))
}

/// The product of some images that go together, and how many they are.
pub(super) fn product(kernel: &Kernel, geometry: &Geometry, images: usize) -> (Scratch, usize) {
    let (depth, plane) = (geometry.depth(), geometry.output_plane());
    let together = images_together(geometry, gemm::tile_rows(kernel, depth)).min(images);
    let rows = together * plane;
    let joined = if plane > 4 * kernel.width() { 0 } else { geometry.outputs * rows };
    (Scratch::each([gemm::scratch_len(kernel, rows, depth), joined]), together)
}

/// Padded images of some channels; none where they are read as they are.
pub(super) fn padded(geometry: &Geometry, images: usize, channels: usize) -> usize {
    let (height, width) = (geometry.padded()[0], geometry.row_len());
    if geometry.padding == [0; 4] && geometry.stride[1] == 1 { 0 } else { images * channels * height * width }
}
