//! Depthwise convolutions without dilation: vectors of neighbouring outputs, several rows at a time.
//!
//! Rows are taken apart by column as for pooling, so that every stride reads neighbouring numbers.

use pulp::{Simd, WithSimd};

use super::geometry::Geometry;
use crate::pool::phases::{LANES, Phases, load, load_mut, load_some, store_some};
use crate::pool::{Attributes, Plane};
use crate::simd::vectorised;

/// Rows of outputs in registers at once: the latency of a product is hidden, and a weight is read once for all.
const ROWS: usize = 4;

/// The windows of a convolution on its input's planes.
pub(super) fn windows(geometry: &Geometry) -> Phases {
    let Geometry { kernel, stride, padding: [top, left, ..], input, output, .. } = *geometry;
    Phases::new(Attributes { kernel, stride, padding: [top, left] }, Plane { input, output })
}

/// The windows of the input's gradient on the output's planes, with the kernel turned around; `None` where the stride is
/// not 1 or the padding wider than the kernel.
pub(super) fn turned(geometry: &Geometry) -> Option<Phases> {
    let Geometry { kernel, stride, padding: [top, left, ..], input, output, .. } = *geometry;
    let padding = [(kernel[0] - 1).checked_sub(top)?, (kernel[1] - 1).checked_sub(left)?];
    let plane = Plane { input: output, output: input };
    (stride == [1; 2]).then(|| Phases::new(Attributes { kernel, stride, padding }, plane))
}

vectorised! {
    /// Takes a plane apart, with zeros around it.
    pub(super) fn split<'a>(windows: Phases, x: &'a [f32], phases: &'a mut [f32]) -> () {
        windows.split(x, 0.0, phases);
    }
}

vectorised! {
    /// Puts a plane together.
    pub(super) fn join<'a>(windows: Phases, phases: &'a [f32], dx: &'a mut [f32], accumulate: bool) -> () {
        windows.join(phases, dx, accumulate);
    }
}

/// `y[o] += Σ_tap weight(tap) · x(o, tap)` of one plane.
pub(super) struct Correlate<'a> {
    pub windows: Phases,
    pub phases: &'a [f32],
    pub kernel: &'a [f32],
    /// From the last tap to the first.
    pub turned: bool,
    pub y: &'a mut [f32],
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Correlate { windows, phases, kernel, turned, y } = self;
        let ([height, width], down) = (windows.output(), windows.down());
        for top in (0..height).step_by(ROWS) {
            let rows = ROWS.min(height - top);
            // Rows beyond the last are computed from the last, and not stored.
            let below = [0, 1, 2, 3].map(|row: usize| row.min(rows - 1) * down);
            for start in (0..width).step_by(S::F32_LANES) {
                let at = |row: usize| {
                    let first = (top + row) * width;
                    first + start..first + width.min(start + S::F32_LANES)
                };
                let mut sums = [simd.splat_f32s(0.0); ROWS];
                // Always over all rows, so that the sums live in registers.
                for row in 0..ROWS {
                    if row < rows {
                        sums[row] = load_some(simd, &y[at(row)]);
                    }
                }
                for (tap, (from, _)) in windows.elements(top, start).enumerate() {
                    let tap = if turned { kernel.len() - 1 - tap } else { tap };
                    let weight = simd.splat_f32s(kernel[tap]);
                    for row in 0..ROWS {
                        let x = load::<S>(phases, from + below[row]);
                        sums[row] = simd.mul_add_e_f32s(x, weight, sums[row]);
                    }
                }
                for row in 0..ROWS {
                    if row < rows {
                        store_some(simd, &mut y[at(row)], sums[row]);
                    }
                }
            }
        }
    }
}

/// `phases(o, tap) += weight(tap) · dy[o]` of one plane.
pub(super) struct Scatter<'a> {
    pub windows: Phases,
    pub dy: &'a [f32],
    pub kernel: &'a [f32],
    pub phases: &'a mut [f32],
}

impl WithSimd for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Scatter { windows, dy, kernel, phases } = self;
        let [height, width] = windows.output();
        for y in 0..height {
            for start in (0..width).step_by(S::F32_LANES) {
                let dy = load_some(simd, &dy[y * width + start..y * width + width.min(start + S::F32_LANES)]);
                for ((to, _), &weight) in windows.elements(y, start).zip(kernel) {
                    let to = load_mut::<S>(phases, to);
                    *to = simd.mul_add_e_f32s(dy, simd.splat_f32s(weight), *to);
                }
            }
        }
    }
}

/// `dw[tap] += Σ_o dy[o] · x(o, tap)` of one plane.
pub(super) struct WeightGradient<'a> {
    pub windows: Phases,
    pub phases: &'a [f32],
    pub dy: &'a [f32],
    pub dw: &'a mut [f32],
    /// At least [`padded_len`] numbers.
    pub scratch: &'a mut [f32],
}

/// Length of an output plane whose rows are filled up to whole vectors.
pub(super) fn padded_len(windows: Phases) -> usize {
    let [height, width] = windows.output();
    height * width.next_multiple_of(LANES)
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let WeightGradient { windows, phases, dy, dw, scratch } = self;
        let [height, width] = windows.output();
        let (padded, down) = (width.next_multiple_of(LANES), windows.down());
        for (to, from) in scratch.chunks_exact_mut(padded).zip(dy.chunks_exact(width)) {
            to[..width].copy_from_slice(from);
            to[width..].fill(0.0);
        }
        for (dw, (from, _)) in dw.iter_mut().zip(windows.elements(0, 0)) {
            let mut sums = [simd.splat_f32s(0.0); ROWS];
            for start in (0..width).step_by(S::F32_LANES) {
                let mut y = 0;
                while y + ROWS <= height {
                    for (row, sum) in sums.iter_mut().enumerate() {
                        let x = load::<S>(phases, from + (y + row) * down + start);
                        *sum = simd.mul_add_e_f32s(x, load::<S>(scratch, (y + row) * padded + start), *sum);
                    }
                    y += ROWS;
                }
                for y in y..height {
                    let x = load::<S>(phases, from + y * down + start);
                    sums[0] = simd.mul_add_e_f32s(x, load::<S>(scratch, y * padded + start), sums[0]);
                }
            }
            let [a, b, c, d] = sums;
            *dw += simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)));
        }
    }
}
