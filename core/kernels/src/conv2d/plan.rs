//! Which way a convolution is computed, by its shape.

use super::geometry::Geometry;
use super::winograd;

/// A way to compute one pass of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One input channel per group: direct loops.
    Depthwise,
    /// A product with columns made on the fly.
    Columns,
    /// Winograd's `F(2×2, 3×3)`.
    Winograd2,
    /// Winograd's `F(4×4, 3×3)`.
    Winograd4,
}

impl Way {
    /// Every way, for tests and measurements.
    pub const ALL: [Way; 4] = [Way::Depthwise, Way::Columns, Way::Winograd2, Way::Winograd4];

    /// The way of the forward pass.
    pub(super) fn forward(geometry: &Geometry) -> Way {
        Way::of(geometry)
    }

    /// The way of the input's gradient.
    pub(super) fn backward_input(geometry: &Geometry) -> Way {
        Way::of(geometry)
    }

    /// The way of the weight's gradient.
    pub(super) fn backward_weight(geometry: &Geometry) -> Way {
        Way::of(geometry)
    }

    fn of(geometry: &Geometry) -> Way {
        if geometry.is_depthwise() {
            Way::Depthwise
        } else if winograd::serves(geometry) && geometry.inputs.min(geometry.outputs) >= 16 {
            Way::Winograd4
        } else {
            Way::Columns
        }
    }

    /// Whether this way can compute a convolution at all.
    pub(super) fn serves(self, geometry: &Geometry) -> bool {
        match self {
            Way::Depthwise => geometry.is_depthwise(),
            Way::Columns => !geometry.is_depthwise(),
            Way::Winograd2 | Way::Winograd4 => winograd::serves(geometry),
        }
    }
}
