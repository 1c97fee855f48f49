use std::fmt;

use serde::{Deserialize, Serialize};

/// Largest number of axes a [`Shape`] can have.
pub const MAX_RANK: usize = 4;

/// Axis lengths of a dense row-major tensor, at most [`MAX_RANK`] of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<usize>", into = "Vec<usize>")]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

/// Two shapes, or a shape and a buffer, do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    #[error("a shape has at most {MAX_RANK} axes, this one has {axes}")]
    TooManyAxes { axes: usize },
    #[error("{shape} has {expected} elements, the buffer holds {found}")]
    Length { shape: Shape, expected: usize, found: usize },
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch { what: &'static str, expected: Shape, found: Shape },
    #[error("{what}: expected {expected} axes, found {found}")]
    Rank { what: &'static str, expected: usize, found: Shape },
    #[error("{what}: expected {expected} channels, found {found}")]
    Channels { what: &'static str, expected: usize, found: usize },
    #[error("{what}: a window of {window} does not fit an axis of {axis} with padding {padding}")]
    Window { what: &'static str, window: usize, axis: usize, padding: usize },
    #[error("{what}: {value} is not allowed ({reason})")]
    Attribute { what: &'static str, value: usize, reason: &'static str },
    #[error("{what}: expected {expected} inputs, found {found}")]
    Inputs { what: &'static str, expected: usize, found: usize },
    #[error("the number of elements of {shape} overflows")]
    Overflow { shape: Shape },
}

impl Shape {
    /// A shape from its axis lengths.
    ///
    /// # Errors
    /// [`ShapeError::TooManyAxes`] beyond [`MAX_RANK`]; [`ShapeError::Overflow`] if the element count overflows.
    pub fn try_new(dims: &[usize]) -> Result<Self, ShapeError> {
        if dims.len() > MAX_RANK {
            return Err(ShapeError::TooManyAxes { axes: dims.len() });
        }
        let mut shape = Shape { dims: [0; MAX_RANK], rank: dims.len() as u8 };
        shape.dims[..dims.len()].copy_from_slice(dims);
        // The product of the non-zero axes must fit, so that no prefix or suffix product can overflow.
        dims.iter()
            .filter(|&&d| d > 0)
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .filter(|&n| n <= isize::MAX as usize / size_of::<f32>())
            .ok_or(ShapeError::Overflow { shape })?;
        Ok(shape)
    }

    /// A shape known to be small; for literals and shapes derived from valid ones.
    ///
    /// # Panics
    /// Where [`Shape::try_new`] is an error.
    pub fn new(dims: &[usize]) -> Self {
        Self::try_new(dims).expect("axis lengths of a literal shape are small")
    }

    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of one record: the product of all axes but the first.
    pub fn record_len(&self) -> usize {
        self.dims().iter().skip(1).product()
    }

    /// The same record shape with another batch size.
    pub fn with_batch(mut self, n: usize) -> Self {
        self.dims[0] = n;
        self
    }

    /// `[C, H, W]` → `[n, C, H, W]`: this shape as one record of a batch of `n`.
    ///
    /// # Panics
    /// If the result would have more than [`MAX_RANK`] axes.
    pub fn batched(&self, n: usize) -> Self {
        assert!(self.rank() < MAX_RANK, "a batch of {self} has more than {MAX_RANK} axes");
        let mut dims = [n; MAX_RANK];
        dims[1..=self.rank()].copy_from_slice(self.dims());
        Self::new(&dims[..=self.rank()])
    }

    /// `[n, C, H, W]` → `[C, H, W]`: the shape of one record.
    pub fn record(&self) -> Self {
        Self::new(&self.dims()[1..])
    }

    /// `[N, C, H, W]` as four numbers.
    ///
    /// # Errors
    /// [`ShapeError::Rank`] if there are not four axes.
    pub fn nchw(&self, what: &'static str) -> Result<[usize; 4], ShapeError> {
        match *self.dims() {
            [n, c, h, w] => Ok([n, c, h, w]),
            _ => Err(ShapeError::Rank { what, expected: 4, found: *self }),
        }
    }

    /// `[N, F]` as two numbers.
    ///
    /// # Errors
    /// [`ShapeError::Rank`] if there are not two axes.
    pub fn nf(&self, what: &'static str) -> Result<[usize; 2], ShapeError> {
        match *self.dims() {
            [n, f] => Ok([n, f]),
            _ => Err(ShapeError::Rank { what, expected: 2, found: *self }),
        }
    }
}

impl<const R: usize> From<[usize; R]> for Shape {
    fn from(dims: [usize; R]) -> Self {
        Self::new(&dims)
    }
}

impl TryFrom<Vec<usize>> for Shape {
    type Error = ShapeError;

    fn try_from(dims: Vec<usize>) -> Result<Self, ShapeError> {
        Self::try_new(&dims)
    }
}

impl From<Shape> for Vec<usize> {
    fn from(shape: Shape) -> Self {
        shape.dims().to_vec()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_and_batch() {
        let image = Shape::from([3, 8, 9]);
        let batch = image.batched(5);
        assert_eq!(batch.dims(), [5, 3, 8, 9]);
        assert_eq!(batch.record(), image);
        assert_eq!(batch.record_len(), 216);
        assert_eq!(batch.with_batch(2).len(), 432);
        assert_eq!(Shape::from([]).len(), 1);
        assert!(Shape::from([0, 3]).is_empty());
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert_eq!(Shape::try_new(&[1; 5]), Err(ShapeError::TooManyAxes { axes: 5 }));
        assert!(matches!(Shape::try_new(&[usize::MAX, 2]), Err(ShapeError::Overflow { .. })));
        assert!(matches!(Shape::try_new(&[0, usize::MAX, 2]), Err(ShapeError::Overflow { .. })));
        assert!(matches!(Shape::from([1, 2]).nchw("x"), Err(ShapeError::Rank { .. })));
    }
}
