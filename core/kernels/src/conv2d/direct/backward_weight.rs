use pulp::{Simd, WithSimd};

use super::super::blocks::LANES;
use super::super::geometry::Geometry;
use super::lattice::Lattice;
use super::weights::Layout;
use super::{input_lattice, output_lattice, shift, together};
use crate::gemm::{self, Kernel, Matrix, Output};
use crate::simd;
use crate::transpose::{OnLines, copy_lanes, transpose_block};
use crate::{Scratch, Threads};

/// See [`super::super::backward_weight::backward_weight`]: a product per tap, summed over positions and images in order
/// whatever the number of threads.
pub(in super::super) fn backward_weight(
    threads: &Threads,
    geometry: &Geometry,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
) {
    let sums = Sums::new(geometry);
    let images = x.len() / (geometry.inputs * geometry.input_plane());
    if images == 0 {
        return dw.fill(0.0);
    }
    let together = sums.together(images, threads.count());
    let mut copies = threads.scratch(together * sums.image_len());
    let mut products = threads.scratch(sums.layout.len());
    for first in (0..images).step_by(together) {
        let copies = &mut copies[..together.min(images - first) * sums.image_len()];
        threads.for_each_chunk(copies, sums.image_len(), |i, to| sums.copy(first + i, x, dy, to));
        threads.for_each_chunk(&mut products, sums.layout.tap(), |i, products| {
            for (n, copy) in copies.chunks(sums.image_len()).enumerate() {
                let keep = if first + n == 0 { 0.0 } else { 1.0 };
                sums.add(i / sums.layout.taps, i % sums.layout.taps, copy, keep, products);
            }
        });
    }
    let panel = sums.layout.taps * sums.layout.tap();
    threads.for_each_chunk(dw, sums.layout.width * geometry.depth(), |i, dw| {
        let (layout, channels) = (sums.layout, geometry.inputs);
        simd::dispatch(WriteKernels { sums: &products[i * panel..], layout, channels, dw });
    });
}

/// What [`backward_weight`] takes for so many images or fewer.
pub(super) fn scratch(geometry: &Geometry, images: usize, threads: usize) -> Scratch {
    let sums = Sums::new(geometry);
    Scratch::shared([sums.together(images, threads) * sums.image_len(), sums.layout.len()])
}

struct Sums<'a> {
    geometry: &'a Geometry,
    inputs: Lattice,
    outputs: Lattice,
    /// `[panels, taps, C, width]`.
    layout: Layout,
}

impl<'a> Sums<'a> {
    fn new(geometry: &'a Geometry) -> Self {
        let (inputs, outputs) = (input_lattice(geometry), output_lattice(geometry));
        let widest = Kernel::detected().width();
        let layout = Layout::new(geometry.taps(), geometry.outputs, geometry.inputs, widest);
        Sums { geometry, inputs, outputs, layout }
    }

    /// Images that are copied before they are multiplied.
    fn together(&self, images: usize, threads: usize) -> usize {
        together(self.image_len()).saturating_mul(threads).clamp(1, images.max(1))
    }

    /// Gradients' channels, rounded up to whole blocks.
    fn gradients(&self) -> usize {
        self.geometry.outputs.next_multiple_of(LANES)
    }

    /// Elements of one image's copies: inputs, then gradients.
    fn image_len(&self) -> usize {
        self.inputs.positions() * self.layout.depth + self.outputs.positions() * self.gradients()
    }

    fn copy(&self, image: usize, x: &[f32], dy: &[f32], to: &mut [f32]) {
        let (inputs, gradients) = to.split_at_mut(self.inputs.positions() * self.layout.depth);
        let (c, k) = (self.geometry.inputs, self.geometry.outputs);
        self.inputs.read(&x[image * c * self.geometry.input_plane()..], c, inputs, self.layout.depth);
        self.outputs.read(&dy[image * k * self.geometry.output_plane()..], k, gradients, self.gradients());
    }

    /// Adds one image's products of one tap of one panel, `[C, width]`.
    fn add(&self, panel: usize, tap: usize, copy: &[f32], keep: f32, products: &mut [f32]) {
        let (inputs, gradients) = copy.split_at(self.inputs.positions() * self.layout.depth);
        let Layout { width, depth, .. } = self.layout;
        // The positions between rows, where gradients are 0, are summed too.
        let positions = (self.outputs.rows - 1) * self.outputs.pitch + self.geometry.output[1];
        let right = &inputs[shift(self.geometry, &self.inputs, tap) * depth..];
        let right = Matrix::strided(right, [positions, self.geometry.inputs], [depth, 1]);
        let left = &gradients[panel * width..];
        let lanes = width.min(self.geometry.outputs - panel * width);
        let mut out = Output { data: products, row_stride: 1, col_stride: width, place: |row| row, keep };
        gemm::multiply_packed(Kernel::detected(), left, self.gradients(), 0..lanes, right, 1.0, &mut out);
    }
}

/// Puts one panel's sums `[taps, C, width]` into the order of the weight, `[channels, C, taps]`.
struct WriteKernels<'a> {
    sums: &'a [f32],
    layout: Layout,
    channels: usize,
    dw: &'a mut [f32],
}

impl WithSimd for WriteKernels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let WriteKernels { sums, layout, channels, dw } = self;
        let len = channels * layout.taps;
        let (mut block, mut lanes) =
            (OnLines::<{ LANES * LANES }>::zeros(), OnLines::<{ LANES * LANES }>::zeros());
        for (i, dw) in dw.chunks_mut(LANES * len).enumerate() {
            for at in (0..len).step_by(LANES) {
                let run = LANES.min(len - at);
                for (e, to) in block.chunks_exact_mut(LANES).enumerate().take(run) {
                    let (channel, tap) = ((at + e) / layout.taps, (at + e) % layout.taps);
                    let from = (tap * layout.depth + channel) * layout.width + i * LANES;
                    copy_lanes(&sums[from..], to);
                }
                transpose_block(simd, &*block, LANES, &mut *lanes, LANES);
                for (row, values) in dw.chunks_mut(len).zip(lanes.chunks_exact(LANES)) {
                    row[at..at + run].copy_from_slice(&values[..run]);
                }
            }
        }
    }
}
