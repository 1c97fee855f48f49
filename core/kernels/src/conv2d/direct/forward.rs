use super::super::forward::Ends;
use super::super::geometry::Geometry;
use super::weights::{Layout, Weights};
use super::{Pass, input_lattice, output_lattice, pass_scratch, shift};
use crate::gemm::Kernel;
use crate::{Scratch, Threads};

/// See [`super::super::forward::forward`].
pub(in super::super) fn forward(
    threads: &Threads,
    geometry: &Geometry,
    x: &[f32],
    weight: &[f32],
    ends: Ends<'_>,
    y: &mut [f32],
) {
    let (c, k, taps) = (geometry.inputs, geometry.outputs, geometry.taps());
    let (read, made) = (input_lattice(geometry), output_lattice(geometry));
    let weights = Weights::new(threads, weight, [k, c, taps], false, Kernel::detected().width());
    let pass =
        Pass { weights, read, inputs: c, made, outputs: k, columns: geometry.output[1], start: ends.start };
    let taps = |_| (0..taps).map(|tap| [tap, shift(geometry, &read, tap)]);
    pass.run(threads, x, y, taps, |piece| piece.finish(geometry, &ends.finish));
}

/// What [`forward`] takes for so many images or fewer.
pub(super) fn scratch(geometry: &Geometry, images: usize) -> Scratch {
    let (widest, taps) = (Kernel::detected().width(), geometry.taps());
    let layout = Layout::new(taps, geometry.outputs, geometry.inputs, widest);
    pass_scratch(layout, input_lattice(geometry), output_lattice(geometry), images)
}
