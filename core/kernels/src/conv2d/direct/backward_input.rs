use super::super::blocks::LANES;
use super::super::forward::Start;
use super::super::geometry::Geometry;
use super::super::pieces::divide;
use super::lattice::{Lattice, Read, Write};
use super::weights::{Layout, Weights};
use super::{products, runs};
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
    let pieces = divide(dx.data, [1, c, input_plane], threads.count(), 1, width);
    threads.for_each_part(pieces, |_, piece| {
        let mut image = threads.scratch(gradients.positions() * depth);
        let mut made = threads.scratch(inputs.positions() * width);
        for channel in (0..k).step_by(LANES) {
            pulp::Arch::new().dispatch(Read {
                lattice: gradients,
                planes: &dy[(piece.images.start * k + channel) * plane..],
                count: LANES.min(k - channel),
                to: &mut image[channel..],
                step: depth,
            });
        }
        for first in piece.channels.clone().step_by(width) {
            let lanes = width.min(piece.channels.end - first);
            let phases = made.chunks_mut(inputs.phase_len() * width).take(inputs.phases.iter().product());
            for (phase, made) in phases.enumerate() {
                let phase = [phase / inputs.phases[1], phase % inputs.phases[1]];
                for run in runs(inputs.rows, inputs.pitch - gradients.margin[1], inputs.pitch) {
                    let taps = (0..geometry.taps()).filter_map(|tap| {
                        let at = [tap / across, tap % across];
                        let back = [0, 1].map(|axis| gradients.margin[axis].wrapping_sub(at[axis] / stride));
                        (at.map(|i| i % stride) == phase).then(|| [tap, back[0] * inputs.pitch + back[1]])
                    });
                    products(&weights, first / width, lanes, taps, run, &image, made);
                }
            }
            for lane in (0..lanes).step_by(LANES) {
                pulp::Arch::new().dispatch(Write {
                    lattice: inputs,
                    from: &made[lane..],
                    step: width,
                    count: LANES.min(lanes - lane),
                    start,
                    channel: first + lane,
                    planes: &mut piece.data[(first + lane - piece.channels.start) * input_plane..],
                });
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

/// What [`backward_input`] takes.
pub(super) fn scratch(geometry: &Geometry) -> Scratch {
    let (widest, taps) = (Kernel::detected().width(), geometry.taps());
    let layout = Layout::new(taps, geometry.inputs, geometry.outputs, widest);
    let [gradients, inputs] = lattices(geometry);
    let each = [gradients.positions() * layout.depth, inputs.positions() * layout.width];
    Scratch::shared([layout.len()]).and(Scratch::each(each))
}
