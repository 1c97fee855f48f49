//! Dense `f32` tensors, shapes and comparison with tolerance.
//!
//! Everything is contiguous and row-major; images are `[N, C, H, W]`.

mod aligned;
pub mod compare;
mod shape;
#[allow(clippy::module_inception)]
mod tensor;

pub use aligned::{Aligned, LINE};
pub use shape::{MAX_RANK, Shape, ShapeError};
pub use tensor::{Tensor, View, ViewMut};
