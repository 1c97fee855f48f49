use super::super::forward::Start;
use super::super::geometry::Geometry;
use super::lattice::Lattice;
use super::weights::{Layout, Weights};
use super::{Pass, pass_scratch};
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
    let (c, k, [_, across]) = (geometry.inputs, geometry.outputs, geometry.kernel);
    let [read, made] = lattices(geometry);
    let weights = Weights::new(threads, weight, [k, c, geometry.taps()], true, Kernel::detected().width());
    let (columns, start) =
        (made.pitch - read.margin[1], if dx.accumulate { Start::Keep } else { Start::Zero });
    let pass = Pass { weights, read, inputs: k, made, outputs: c, columns, start };
    let taps = |phase: usize| {
        (0..geometry.taps()).filter_map(move |tap| {
            let at = [tap / across, tap % across];
            let of_phase = at.map(|i| i % made.stride) == [phase / made.phases[1], phase % made.phases[1]];
            let back = [0, 1].map(|axis| read.margin[axis] - at[axis] / made.stride);
            of_phase.then_some([tap, back[0] * made.pitch + back[1]])
        })
    };
    pass.run(threads, dy, dx.data, taps, |_| ());
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
    let [read, made] = lattices(geometry);
    pass_scratch(layout, read, made, images)
}
