use super::super::backward_weight;
use super::super::geometry::Geometry;
use crate::gemm::Kernel;
use crate::gemm::bf16::{halves_by, pairs_of};
use crate::{Scratch, Threads};

/// Numbers of `x` and `dy` that are paired at a time.
const PAIRED: usize = 1 << 21;

/// Gradient of the weight, of rounded `x` and `dy`.
pub(in super::super) fn backward_weight(
    threads: &Threads,
    geometry: &Geometry,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
) {
    let [x_image, dy_image] = image_lengths(geometry);
    let images = x.len() / x_image;
    let together = together(geometry, images);
    let pairs = pairs_of(together);
    let (mut xs, mut dys) = (threads.scratch(pairs * x_image), threads.scratch(pairs * dy_image));
    backward_weight::sum(threads, Kernel::bf16(), geometry, dw, |sum| {
        let chunks = x.chunks(together * x_image).zip(dy.chunks(together * dy_image));
        for (x, dy) in chunks {
            let pairs = pairs_of(x.len() / x_image);
            let (xs, dys) = (&mut xs[..pairs * x_image], &mut dys[..pairs * dy_image]);
            halves_by(threads, x, x_image, xs);
            halves_by(threads, dy, dy_image, dys);
            sum(xs, dys);
        }
    });
}

/// What [`backward_weight`] takes for `images` images or fewer.
pub(super) fn scratch(geometry: &Geometry, images: usize, threads: usize) -> Scratch {
    let pairs = pairs_of(together(geometry, images));
    let paired = Scratch::shared(image_lengths(geometry).map(|len| pairs * len));
    backward_weight::sum_scratch(Kernel::bf16(), geometry, pairs, threads).and(paired)
}

/// Elements of one image of `x`, and of one of `dy`.
fn image_lengths(geometry: &Geometry) -> [usize; 2] {
    let of_group = [geometry.inputs * geometry.input_plane(), geometry.outputs * geometry.output_plane()];
    of_group.map(|len| geometry.groups * len)
}

/// An even number of images that are paired together, or all of them.
fn together(geometry: &Geometry, images: usize) -> usize {
    let image: usize = image_lengths(geometry).iter().sum();
    // Never so few that their positions would not fill a pass.
    let fill = 2 * backward_weight::images_together(geometry);
    (PAIRED / image).next_multiple_of(2).max(fill).min(images.max(1))
}
