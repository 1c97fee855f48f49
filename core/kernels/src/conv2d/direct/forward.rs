use super::super::forward::Start;
use super::super::geometry::Geometry;
use super::super::pieces::divide;
use super::weights::{Layout, Weights};
use super::{Products, input_lattice, output_lattice, shift, together};
use crate::gemm::Kernel;
use crate::{Scratch, Threads};

/// See [`super::super::forward::forward`].
pub(in super::super) fn forward(
    threads: &Threads,
    geometry: &Geometry,
    x: &[f32],
    weight: &[f32],
    start: Start<'_>,
    y: &mut [f32],
) {
    let (inputs, outputs) = (input_lattice(geometry), output_lattice(geometry));
    let (c, k, taps) = (geometry.inputs, geometry.outputs, geometry.taps());
    let weights = Weights::new(threads, weight, [k, c, taps], false, Kernel::detected().width());
    let (depth, width) = (weights.layout.depth, weights.layout.width);
    let (input_plane, plane) = (geometry.input_plane(), geometry.output_plane());
    let (image_len, made_len) = (inputs.positions() * depth, outputs.positions() * width);
    let pieces = divide(y, [1, k, plane], threads.count(), together(image_len), width);
    threads.for_each_part(pieces, |_, piece| {
        let images = piece.images.len();
        let mut copies = threads.scratch(images * image_len);
        let mut made = threads.scratch(images * made_len);
        for (image, copy) in piece.images.clone().zip(copies.chunks_mut(image_len)) {
            inputs.read(&x[image * c * input_plane..], c, copy, depth);
        }
        for first in piece.channels.clone().step_by(width) {
            let lanes = width.min(piece.channels.end - first);
            let products = Products {
                weights: &weights,
                panel: first / width,
                lanes,
                from: &copies,
                from_len: image_len,
                rows: geometry.output[0],
                columns: geometry.output[1],
                pitch: outputs.pitch,
            };
            let taps = (0..taps).map(|tap| [tap, shift(geometry, &inputs, tap)]);
            products.run(taps, &mut made, made_len);
            let own = first - piece.channels.start;
            let planes = piece.data.chunks_mut(piece.channels.len() * plane);
            for (made, planes) in made.chunks(made_len).zip(planes) {
                outputs.write(made, width, lanes, start, first, &mut planes[own * plane..]);
            }
        }
    });
}

/// What [`forward`] takes for so many images or fewer.
pub(super) fn scratch(geometry: &Geometry, images: usize) -> Scratch {
    let (widest, taps) = (Kernel::detected().width(), geometry.taps());
    let layout = Layout::new(taps, geometry.outputs, geometry.inputs, widest);
    let image = input_lattice(geometry).positions() * layout.depth;
    let made = output_lattice(geometry).positions() * layout.width;
    let images = together(image).min(images);
    Scratch::shared([layout.len()]).and(Scratch::each([images * image, images * made]))
}
