//! Which way a convolution is computed, by its shape.

use super::geometry::Geometry;
use super::{direct, pointwise, winograd};
use crate::Precision;

/// Channels below which Winograd's vectors, of 16 channels, would be half empty.
const FEW: usize = 16;

/// Weights of a strided convolution up to which the direct way is faster (`cargo bench -p asymflow-kernels -- strided`):
/// columns are then packed for too few products, and the weights, read once per group of images, stay in the cache.
const WORTH_DIRECT: usize = 9 << 14;

/// Images that a way is chosen for.
const IMAGES: usize = 32;

/// Transformed weights that no cache holds (32 MiB).
const CACHED: f64 = (8 << 20) as f64;

/// A way to compute one pass of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One input channel per group: direct loops.
    Depthwise,
    /// A product with columns made on the fly.
    Columns,
    /// A product of images as they lie in memory, for 1×1 kernels.
    Pointwise,
    /// A product per tap over channels-last copies of the images.
    Direct,
    /// Winograd's `F(2×2, 3×3)`.
    Winograd2,
    /// Winograd's `F(4×4, 3×3)`.
    Winograd4,
    /// A product with columns of pairs, of operands rounded to bf16.
    Bf16,
}

impl Way {
    /// Every way, for tests and measurements.
    pub const ALL: [Way; 7] = [
        Way::Depthwise,
        Way::Columns,
        Way::Pointwise,
        Way::Direct,
        Way::Winograd2,
        Way::Winograd4,
        Way::Bf16,
    ];

    /// The way for each pass of a convolution, however many images it has: what an image becomes then does not depend on
    /// those beside it, to the bit.
    pub(super) fn of(geometry: &Geometry, precision: Precision) -> Way {
        if geometry.is_depthwise() {
            return Way::Depthwise;
        }
        if precision == Precision::Bf16 {
            return Way::Bf16;
        }
        if pointwise::serves(geometry) {
            return Way::Pointwise;
        }
        let wide = geometry.inputs.min(geometry.outputs) >= FEW;
        if wide && direct::serves(geometry) && geometry.stride != [1, 1] {
            let weights = geometry.outputs * geometry.depth();
            return if weights <= WORTH_DIRECT { Way::Direct } else { Way::Columns };
        }
        if !wide || !winograd::serves(geometry) {
            return Way::Columns;
        }
        let ways = [Way::Columns, Way::Winograd2, Way::Winograd4];
        let cost = |way: &Way| way.cost(geometry, IMAGES);
        ways.into_iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("there are three")
    }

    /// Time of a forward pass over so many images, in multiply-adds of a product in the cache.
    pub(super) fn forward_cost(self, geometry: &Geometry, images: usize) -> f64 {
        if matches!(self, Way::Winograd2 | Way::Winograd4) {
            return self.cost(geometry, IMAGES) * images as f64 / IMAGES as f64;
        }
        let [c, k] = [geometry.inputs, geometry.outputs].map(|n| n as f64);
        let positions = (images * geometry.output_plane()) as f64;
        let taps = (geometry.groups * geometry.taps()) as f64;
        match self {
            // No product: a vector per tap and output.
            Way::Depthwise => taps * 8.0 * positions * k,
            // Nothing is packed.
            Way::Pointwise => taps * positions * (c * k + 4.0 * c),
            _ => taps * positions * (c * k + 12.0 * c + 4.0 * k / geometry.taps() as f64),
        }
    }

    /// Time of a 3×3 convolution, forward or backward, in multiply-adds of a product in the cache.
    ///
    /// The constants are fitted to `cargo bench -p asymflow-kernels -- ways`, all three passes together (AVX-512); over
    /// those shapes the choice by this cost is on average 2.5 % slower than the best.
    fn cost(self, geometry: &Geometry, images: usize) -> f64 {
        let [c, k] = [geometry.inputs, geometry.outputs].map(|n| n as f64);
        let tiles = |side: usize| {
            let [rows, columns] = geometry.output.map(|len| len.div_ceil(side));
            (images * rows * columns) as f64
        };
        let (points, tiles) = match self {
            Way::Depthwise | Way::Columns | Way::Pointwise | Way::Direct | Way::Bf16 => {
                let positions = tiles(1);
                return 9.0 * (positions * c * k + 15.0 * c * k + 12.0 * positions * c);
            }
            Way::Winograd2 => (16.0, tiles(2)),
            Way::Winograd4 => (36.0, tiles(4)),
        };
        // Where tiles are many, transformed weights are written and read once; beyond the caches that is at the memory's
        // speed.
        let many = tiles > winograd::few_tiles(geometry) as f64;
        let beyond = if many { (points * c * k / CACHED).min(1.0) } else { 0.0 };
        points * (1.45 * tiles * c * k + (14.0 + 75.0 * beyond) * c * k + 17.0 * tiles * (c + k))
    }

    /// Whether this way can compute a convolution at all.
    pub(super) fn serves(self, geometry: &Geometry) -> bool {
        match self {
            Way::Depthwise => geometry.is_depthwise(),
            Way::Columns | Way::Bf16 => !geometry.is_depthwise(),
            Way::Pointwise => !geometry.is_depthwise() && pointwise::serves(geometry),
            Way::Direct => direct::serves(geometry),
            Way::Winograd2 | Way::Winograd4 => winograd::serves(geometry),
        }
    }
}
