mod direct;
mod transposed;

use super::geometry::Geometry;
use crate::gemm::Kernel;
use crate::{Scratch, Threads};

/// Output positions summed in one pass of the product.
const POSITIONS: usize = 256;

/// Elements of columns made at a time (512 KiB): they stay in the second-level cache.
const COLUMNS: usize = 128 * 1024;

/// Smallest output plane whose positions fill a pass without those of the next image.
const LARGE_PLANE: usize = 64;

/// Gradient of the weight.
///
/// `dw[k,c,i,j] = Σ_{n,h,w} dy[n,k,h,w] · x[n,c,h·s+i·d−p,w·s+j·d−p]`.
pub(super) fn backward_weight(threads: &Threads, geometry: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    sum(threads, Kernel::detected(), geometry, dw, |sum| sum(x, dy));
}

/// The gradient as a sum over batches: `batches` calls what it is given for each, with `x` and `dy`.
pub(super) fn sum(
    threads: &Threads,
    kernel: &Kernel,
    geometry: &Geometry,
    dw: &mut [f32],
    batches: impl FnMut(&mut dyn FnMut(&[f32], &[f32])),
) {
    if is_direct(geometry) {
        direct::run(threads, kernel, geometry, dw, batches);
    } else {
        transposed::run(threads, kernel, geometry, dw, batches);
    }
}

/// Images whose positions are summed together.
pub(super) fn images_together(geometry: &Geometry) -> usize {
    POSITIONS.div_ceil(geometry.output_plane())
}

/// One operand has to be transposed: the smaller one.
fn is_direct(geometry: &Geometry) -> bool {
    geometry.depth() < geometry.outputs && geometry.output_plane() >= LARGE_PLANE
}

/// What [`backward_weight`] takes for `images` images or fewer.
pub(super) fn scratch(geometry: &Geometry, images: usize, threads: usize) -> Scratch {
    sum_scratch(Kernel::detected(), geometry, images, threads)
}

/// What [`sum`] takes for batches of `images` images or fewer.
pub(super) fn sum_scratch(kernel: &Kernel, geometry: &Geometry, images: usize, threads: usize) -> Scratch {
    if is_direct(geometry) {
        direct::scratch(kernel, geometry)
    } else {
        transposed::scratch(kernel, geometry, images, threads)
    }
}

/// About [`POSITIONS`] of a plane, in tiles of equal size: a short last one would be as expensive as a long one.
fn positions_together(plane: usize) -> usize {
    plane.div_ceil(plane.div_ceil(POSITIONS))
}
