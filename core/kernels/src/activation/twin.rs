//! Leaky ReLU of one element; the slope is 0 for ReLU.

pub(super) fn forward(x: f32, slope: f32) -> f32 {
    if x > 0.0 { x } else { slope * x }
}

/// Derivatives by `x` and by the slope.
pub(super) fn backward(x: f32, slope: f32) -> [f32; 2] {
    if x > 0.0 { [1.0, 0.0] } else { [slope, x] }
}
