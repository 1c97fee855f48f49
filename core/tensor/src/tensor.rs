use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Shape, ShapeError};

/// An owned, dense, row-major tensor of `f32`.
///
/// `Debug` prints the shape only: a tensor may hold private data.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Tensor {
    shape: Shape,
    data: Vec<f32>,
}

/// A borrowed tensor.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub shape: Shape,
    pub data: &'a [f32],
}

/// A mutably borrowed tensor.
pub struct ViewMut<'a> {
    pub shape: Shape,
    pub data: &'a mut [f32],
}

impl Tensor {
    pub fn zeros(shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        Tensor { shape, data: vec![0.0; shape.len()] }
    }

    /// A tensor over `data`.
    ///
    /// # Errors
    /// [`ShapeError::Length`] if `data` does not have exactly the shape's number of elements.
    pub fn from_vec(shape: impl Into<Shape>, data: Vec<f32>) -> Result<Self, ShapeError> {
        let shape = shape.into();
        if data.len() != shape.len() {
            return Err(ShapeError::Length { shape, expected: shape.len(), found: data.len() });
        }
        Ok(Tensor { shape, data })
    }

    /// A tensor whose element `i` (row-major) is `f(i)`.
    pub fn from_fn(shape: impl Into<Shape>, f: impl FnMut(usize) -> f32) -> Self {
        let shape = shape.into();
        Tensor { shape, data: (0..shape.len()).map(f).collect() }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn data(&self) -> &[f32] {
        &self.data
    }

    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    pub fn into_vec(self) -> Vec<f32> {
        self.data
    }

    pub fn view(&self) -> View<'_> {
        View { shape: self.shape, data: &self.data }
    }

    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { shape: self.shape, data: &mut self.data }
    }

    /// Elements of record `n` of a batch.
    pub fn record(&self, n: usize) -> &[f32] {
        let len = self.shape.record_len();
        &self.data[n * len..(n + 1) * len]
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`ShapeError::Length`] if the number of elements differs.
    pub fn reshaped(self, shape: impl Into<Shape>) -> Result<Self, ShapeError> {
        Tensor::from_vec(shape, self.data)
    }
}

impl<'a> View<'a> {
    /// # Errors
    /// [`ShapeError::Length`] if `data` does not have exactly the shape's number of elements.
    pub fn new(shape: Shape, data: &'a [f32]) -> Result<Self, ShapeError> {
        if data.len() != shape.len() {
            return Err(ShapeError::Length { shape, expected: shape.len(), found: data.len() });
        }
        Ok(View { shape, data })
    }

    pub fn to_tensor(&self) -> Tensor {
        Tensor { shape: self.shape, data: self.data.to_vec() }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor{}", self.shape)
    }
}
