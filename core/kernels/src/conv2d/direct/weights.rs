//! Weights in panels for the matrix product, one matrix per tap.

use pulp::{Simd, WithSimd};

use super::super::blocks::{self, LANES};
use crate::Threads;
use crate::simd;
use crate::threads::ScratchGuard;
use crate::transpose::{OnLines, copy_lanes};

/// Sizes of matrices `[panels, taps, depth, width]`; the lanes of a panel are the channels that a product makes.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub taps: usize,
    pub panels: usize,
    /// Lanes of a panel, a multiple of [`LANES`].
    pub width: usize,
    /// Channels that a product reads, rounded up to whole blocks.
    pub depth: usize,
}

impl Layout {
    /// `widest` is the widest panel the product can read.
    pub(super) fn new(taps: usize, made: usize, read: usize, widest: usize) -> Self {
        let width = widest.min(made.next_multiple_of(LANES));
        Layout { taps, panels: made.div_ceil(width), width, depth: read.next_multiple_of(LANES) }
    }

    /// Elements of one tap of a panel.
    pub(super) fn tap(&self) -> usize {
        self.depth * self.width
    }

    /// Elements of all panels.
    pub(super) fn len(&self) -> usize {
        self.panels * self.taps * self.tap()
    }
}

/// The weight `[K, C, taps]` of a convolution, packed for products that make `K` from `C` or the other way round.
pub(super) struct Weights<'a> {
    data: ScratchGuard<'a>,
    pub layout: Layout,
}

impl<'a> Weights<'a> {
    /// `[K, C, taps]` are the `sizes` of `weight`; with `exchanged`, products make `C` from `K`.
    pub(super) fn new(
        threads: &'a Threads,
        weight: &[f32],
        sizes: [usize; 3],
        exchanged: bool,
        widest: usize,
    ) -> Self {
        let [k, c, taps] = sizes;
        let (made, read) = if exchanged { (c, k) } else { (k, c) };
        let layout = Layout::new(taps, made, read, widest);
        let mut data = threads.scratch(layout.len());
        threads.for_each_chunk(&mut data, taps * layout.tap(), |panel, data| {
            let first = panel * layout.width;
            simd::dispatch(Pack { weight, sizes, exchanged, layout, first, made, read, data });
        });
        Weights { data, layout }
    }

    /// One tap of one panel, `[depth, width]`.
    pub(super) fn tap(&self, panel: usize, tap: usize) -> &[f32] {
        let len = self.layout.tap();
        &self.data[(panel * self.layout.taps + tap) * len..][..len]
    }
}

/// Packs one panel.
struct Pack<'a> {
    weight: &'a [f32],
    sizes: [usize; 3],
    exchanged: bool,
    layout: Layout,
    /// First channel made.
    first: usize,
    made: usize,
    read: usize,
    /// `[taps, depth, width]`.
    data: &'a mut [f32],
}

impl WithSimd for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Pack { weight, sizes: [_, c, taps], exchanged, layout, first, made, read, data } = self;
        if read < layout.depth || made < first + layout.width {
            data.fill(0.0);
        }
        let mut block = OnLines::<{ LANES * LANES }>::zeros();
        for lane in (0..layout.width.min(made - first)).step_by(LANES) {
            let (from, count) = (first + lane, LANES.min(made - first - lane));
            // Rows are lanes; each run of a row is all taps of one channel, or of all.
            let (runs, stride) = if exchanged { (read, taps) } else { (1, c * taps) };
            for run in 0..runs {
                let (start, len) =
                    if exchanged { ((run * c + from) * taps, taps) } else { (from * c * taps, c * taps) };
                for at in (0..len).step_by(LANES) {
                    blocks::columns(simd, &weight[start + at..], stride, count, &mut block);
                    for (i, column) in block.chunks_exact(LANES).enumerate().take(len - at) {
                        let (channel, tap) = (run + (at + i) / taps, (at + i) % taps);
                        let to = (tap * layout.depth + channel) * layout.width + lane;
                        copy_lanes(column, &mut data[to..]);
                    }
                }
            }
        }
    }
}
