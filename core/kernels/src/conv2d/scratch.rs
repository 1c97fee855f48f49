//! How much scratch memory the passes of a convolution take.

use super::geometry::Geometry;
use super::pieces::images_together;
use super::{backward_input, backward_weight};
use crate::Scratch;
use crate::gemm::{self, Kernel};

/// The most that any pass over `images` images, or fewer, takes.
pub(super) fn most(geometry: &Geometry, images: usize, threads: usize) -> Scratch {
    if geometry.is_depthwise() {
        return Scratch::each([padded(geometry, 1, 1)]);
    }
    convolve(geometry, images)
        .or(backward_input::scratch(geometry, images))
        .or(backward_weight::scratch(geometry, images, threads))
}

/// [`super::forward::convolve`].
pub(super) fn convolve(geometry: &Geometry, images: usize) -> Scratch {
    let (kernel, depth, plane) = (Kernel::detected(), geometry.depth(), geometry.output_plane());
    let together = images_together(geometry, gemm::tile_rows(kernel, depth)).min(images);
    let rows = together * plane;
    let joined = if plane > 4 * kernel.width() { 0 } else { geometry.outputs * rows };
    Scratch::each([
        padded(geometry, together, geometry.inputs),
        gemm::scratch_len(kernel, rows, depth),
        joined,
    ])
}

/// Padded images of some channels; none where nothing is padded.
pub(super) fn padded(geometry: &Geometry, images: usize, channels: usize) -> usize {
    let [height, width] = geometry.padded();
    // Depthwise kernels pad in any case.
    if geometry.padding == [0; 4] && !geometry.is_depthwise() {
        0
    } else {
        images * channels * height * width
    }
}
