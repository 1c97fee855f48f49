use super::super::blocks::LANES;
use super::super::forward::Start;
use super::super::geometry::Geometry;
use super::super::pieces::divide;
use super::lattice::{Read, Write};
use super::weights::{Layout, Weights};
use super::{input_lattice, output_lattice, products, runs, shift};
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
    let pieces = divide(y, [1, k, plane], threads.count(), 1, width);
    threads.for_each_part(pieces, |_, piece| {
        let mut image = threads.scratch(inputs.positions() * depth);
        let mut made = threads.scratch(outputs.positions() * width);
        for c in (0..geometry.inputs).step_by(LANES) {
            pulp::Arch::new().dispatch(Read {
                lattice: inputs,
                planes: &x[(piece.images.start * geometry.inputs + c) * input_plane..],
                count: LANES.min(geometry.inputs - c),
                to: &mut image[c..],
                step: depth,
            });
        }
        for first in piece.channels.clone().step_by(width) {
            let lanes = width.min(piece.channels.end - first);
            for run in runs(geometry.output[0], geometry.output[1], outputs.pitch) {
                let taps = (0..taps).map(|tap| [tap, shift(geometry, &inputs, tap)]);
                products(&weights, first / width, lanes, taps, run, &image, &mut made);
            }
            for lane in (0..lanes).step_by(LANES) {
                pulp::Arch::new().dispatch(Write {
                    lattice: outputs,
                    from: &made[lane..],
                    step: width,
                    count: LANES.min(lanes - lane),
                    start,
                    channel: first + lane,
                    planes: &mut piece.data[(first + lane - piece.channels.start) * plane..],
                });
            }
        }
    });
}

/// What [`forward`] takes.
pub(super) fn scratch(geometry: &Geometry) -> Scratch {
    let (widest, taps) = (Kernel::detected().width(), geometry.taps());
    let layout = Layout::new(taps, geometry.outputs, geometry.inputs, widest);
    let image = input_lattice(geometry).positions() * layout.depth;
    let made = output_lattice(geometry).positions() * layout.width;
    Scratch::shared([layout.len()]).and(Scratch::each([image, made]))
}
