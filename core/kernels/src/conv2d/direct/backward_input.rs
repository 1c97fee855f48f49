use super::super::forward::Start;
use super::super::geometry::Geometry;
use super::super::pieces::divide;
use super::lattice::Lattice;
use super::weights::{Layout, Weights};
use super::{Products, together};
use crate::gemm::Kernel;
use crate::{GradInput, Scratch, Threads};

/// See [`super::super::backward_input::backward_input`]: one convolution of `dy` for each phase of the input.
pub(in super::super) fn backward_input(
    threads: &Threads,
    geometry: &Geometry,
    dy: &[f32],
    weight: &[f32],
    dx: &mut GradInput<'_>,
) {
    let [gradients, inputs] = lattices(geometry);
    let (c, k, [_, across]) = (geometry.inputs, geometry.outputs, geometry.kernel);
    let weights = Weights::new(threads, weight, [k, c, geometry.taps()], true, Kernel::detected().width());
    let (depth, width) = (weights.layout.depth, weights.layout.width);
    let (input_plane, plane) = (geometry.input_plane(), geometry.output_plane());
    let (stride, start) = (inputs.stride, if dx.accumulate { Start::Keep } else { Start::Zero });
    let (image_len, made_len) = (gradients.positions() * depth, inputs.positions() * width);
    let pieces = divide(dx.data, [1, c, input_plane], threads.count(), together(image_len), width);
    threads.for_each_part(pieces, |_, piece| {
        let images = piece.images.len();
        let mut copies = threads.scratch(images * image_len);
        let mut made = threads.scratch(images * made_len);
        for (image, copy) in piece.images.clone().zip(copies.chunks_mut(image_len)) {
            gradients.read(&dy[image * k * plane..], k, copy, depth);
        }
        for first in piece.channels.clone().step_by(width) {
            let lanes = width.min(piece.channels.end - first);
            let products = Products {
                weights: &weights,
                panel: first / width,
                lanes,
                from: &copies,
                from_len: image_len,
                rows: inputs.rows,
                columns: inputs.pitch - gradients.margin[1],
                pitch: inputs.pitch,
            };
            for phase in 0..inputs.phases.iter().product() {
                let taps = (0..geometry.taps()).filter_map(|tap| {
                    let at = [tap / across, tap % across];
                    let of_phase =
                        at.map(|i| i % stride) == [phase / inputs.phases[1], phase % inputs.phases[1]];
                    let back = [0, 1].map(|axis| gradients.margin[axis] - at[axis] / stride);
                    of_phase.then_some([tap, back[0] * inputs.pitch + back[1]])
                });
                products.run(taps, &mut made[phase * inputs.phase_len() * width..], made_len);
            }
            let own = first - piece.channels.start;
            let planes = piece.data.chunks_mut(piece.channels.len() * input_plane);
            for (made, planes) in made.chunks(made_len).zip(planes) {
                inputs.write(made, width, lanes, start, first, &mut planes[own * input_plane..]);
            }
        }
    });
}

/// The gradients of the outputs, with a margin as wide as taps reach back; and the inputs, by phase, at the same pitch.
///
/// Phases that no tap reads are left out: their gradient is 0.
fn lattices(geometry: &Geometry) -> [Lattice; 2] {
    let ([top, left, ..], stride) = (geometry.padding, geometry.stride[0]);
    let margin = geometry.kernel.map(|taps| (taps - 1) / stride);
    let [rows, columns] = [(0, top), (1, left)].map(|(axis, p)| (p + geometry.input[axis] - 1) / stride + 1);
    let pitch = columns + margin[1];
    let gradients =
        Lattice { image: geometry.output, margin, stride: 1, phases: [1, 1], rows: rows + margin[0], pitch };
    let phases = geometry.kernel.map(|taps| taps.min(stride));
    let inputs = Lattice { image: geometry.input, margin: [top, left], stride, phases, rows, pitch };
    [gradients, inputs]
}

/// What [`backward_input`] takes for so many images or fewer.
pub(super) fn scratch(geometry: &Geometry, images: usize) -> Scratch {
    let (widest, taps) = (Kernel::detected().width(), geometry.taps());
    let layout = Layout::new(taps, geometry.inputs, geometry.outputs, widest);
    let [gradients, inputs] = lattices(geometry);
    let (image, made) = (gradients.positions() * layout.depth, inputs.positions() * layout.width);
    let images = together(image).min(images);
    Scratch::shared([layout.len()]).and(Scratch::each([images * image, images * made]))
}
