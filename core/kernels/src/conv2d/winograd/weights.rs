//! Transformed kernels `G g Gᵀ`, in panels for the matrix product.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::super::blocks::{self, LANES};
use super::stride;
use super::transform::{Transform, both_axes};
use crate::Threads;
use crate::simd;
use crate::threads::ScratchGuard;
use crate::transpose::{OnLines, copy_lanes};

/// The weight of a convolution, `[K, C, 3, 3]`, as it is or as its input's gradient needs it.
#[derive(Clone, Copy)]
pub(in super::super) struct Kernels<'a> {
    pub data: &'a [f32],
    /// The second axis, `C`.
    pub channels: usize,
    /// Exchange the first two axes and turn each kernel by 180°.
    pub turned: bool,
}

/// Sizes of matrices `[panels, T·T points, depth, width]`, where the lanes of a panel are output channels.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub panels: usize,
    /// Lanes of a panel, a multiple of [`LANES`].
    pub width: usize,
    /// Input channels, rounded up to whole blocks.
    pub depth: usize,
}

impl Layout {
    /// For these output and input channels; `widest` is the widest panel the product can read.
    pub(super) fn new([outputs, inputs]: [usize; 2], widest: usize) -> Self {
        let width = widest.min(outputs.next_multiple_of(LANES));
        Layout { panels: outputs.div_ceil(width), width, depth: inputs.next_multiple_of(LANES) }
    }

    /// From one point of a panel to the next.
    pub(super) fn point(&self) -> usize {
        stride(self.depth * self.width)
    }

    /// Elements of all panels.
    pub(super) fn len(&self, points: usize) -> usize {
        self.panels * points * self.point()
    }
}

/// Transformed kernels.
pub(super) struct Weights<'a> {
    data: ScratchGuard<'a>,
    points: usize,
    layout: Layout,
}

impl Kernels<'_> {
    /// Transforms the kernels from input channels `depth` (whole blocks) to the `width` output channels from `first` on.
    ///
    /// - Shapes: `to` `[T·T, depth, width]`, points `point` apart
    pub(super) fn panel<const M: usize, const T: usize, F: Transform<M, T>>(
        self,
        transform: F,
        width: usize,
        first: usize,
        depth: Range<usize>,
        point: usize,
        to: &mut [f32],
    ) {
        simd::dispatch(Panel { kernels: self, transform, first, width, depth, point, data: to });
    }

    /// Output and input channels of the convolution made with them.
    pub(super) fn sizes(&self) -> [usize; 2] {
        let rows = self.data.len() / (9 * self.channels).max(1);
        if self.turned { [self.channels, rows] } else { [rows, self.channels] }
    }

    /// The kernels from up to 16 input channels from `c` on to `count` output channels from `k` on:
    /// `taps[9·channel + tap][lane]`, zero beyond the last of either.
    #[inline(always)]
    fn read<S: Simd>(&self, simd: S, k: usize, count: usize, c: usize, taps: &mut [f32; 9 * LANES * LANES]) {
        let (row, inputs) = (9 * self.channels, LANES.min(self.sizes()[1] - c));
        if count < LANES || inputs < LANES {
            taps.fill(0.0);
        }
        let mut columns = OnLines::<{ LANES * LANES }>::zeros();
        if self.turned {
            for (i, taps) in taps.chunks_exact_mut(9 * LANES).enumerate().take(inputs) {
                blocks::columns(simd, &self.data[(c + i) * row + 9 * k..], 9, count, &mut columns);
                for (tap, column) in taps.chunks_exact_mut(LANES).rev().zip(columns.chunks_exact(LANES)) {
                    copy_lanes(column, tap);
                }
            }
        } else {
            let used = &mut taps[..9 * inputs * LANES];
            for (i, taps) in used.chunks_mut(LANES * LANES).enumerate() {
                blocks::columns(simd, &self.data[k * row + 9 * c + i * LANES..], row, count, &mut columns);
                taps.copy_from_slice(&columns[..taps.len()]);
            }
        }
    }
}

impl<'a> Weights<'a> {
    /// Transforms every kernel.
    pub(super) fn new<const M: usize, const T: usize, F: Transform<M, T>>(
        threads: &'a Threads,
        kernels: Kernels<'_>,
        transform: F,
        layout: Layout,
    ) -> Self {
        let mut data = threads.scratch(layout.len(T * T));
        threads.for_each_chunk(&mut data, T * T * layout.point(), |panel, data| {
            let point = layout.point();
            kernels.panel(transform, layout.width, panel * layout.width, 0..layout.depth, point, data);
        });
        Weights { data, points: T * T, layout }
    }

    /// One panel, `[points, depth, width]`, [`Layout::point`] apart.
    pub(super) fn panel(&self, panel: usize) -> &[f32] {
        &self.data[panel * self.points * self.layout.point()..][..self.points * self.layout.point()]
    }
}

/// One panel of transformed kernels.
struct Panel<'a, F, const M: usize, const T: usize> {
    kernels: Kernels<'a>,
    transform: F,
    /// First output channel, and how many.
    first: usize,
    width: usize,
    /// Input channels.
    depth: Range<usize>,
    /// `[T·T, depth, width]`, points `point` apart.
    point: usize,
    data: &'a mut [f32],
}

impl<const M: usize, const T: usize, F: Transform<M, T>> WithSimd for Panel<'_, F, M, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [outputs, _] = self.kernels.sizes();
        let (to, _) = S::as_mut_simd_f32s(self.data);
        let (transform, width) = (self.transform, self.width);
        let (vectors, point) = (LANES / S::F32_LANES, self.point / S::F32_LANES);
        let mut taps = OnLines::<{ 9 * LANES * LANES }>::zeros();
        for c in self.depth.clone().step_by(LANES) {
            for lane in (0..width).step_by(LANES) {
                let k = self.first + lane;
                match outputs.checked_sub(k) {
                    Some(left @ 1..) => self.kernels.read(simd, k, left.min(LANES), c, &mut taps),
                    _ => taps.fill(0.0),
                }
                let (taps, _) = S::as_simd_f32s(&*taps);
                for (i, taps) in taps.chunks_exact(9 * vectors).enumerate() {
                    for v in 0..vectors {
                        let at = ((c - self.depth.start + i) * width + lane) / S::F32_LANES + v;
                        both_axes::<S, 3, T>(
                            simd,
                            #[inline(always)]
                            |g| transform.kernel(simd, g),
                            #[inline(always)]
                            |i, j| taps[(3 * i + j) * vectors + v],
                            #[inline(always)]
                            |i, j, u| to[(i * T + j) * point + at] = u,
                        );
                    }
                }
            }
        }
    }
}
