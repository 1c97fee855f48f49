//! Checks that several operators' `infer` share.

use tensor::{Shape, ShapeError};

use crate::ParamSpec;

/// The only input.
pub(crate) fn one(what: &'static str, inputs: &[Shape]) -> Result<Shape, ShapeError> {
    match *inputs {
        [input] => Ok(input),
        _ => Err(ShapeError::Inputs { what, expected: 1, found: inputs.len() }),
    }
}

/// An attribute, if `allowed`.
pub(crate) fn attribute(
    what: &'static str,
    value: usize,
    allowed: bool,
    reason: &'static str,
) -> Result<(), ShapeError> {
    if allowed { Ok(()) } else { Err(ShapeError::Attribute { what, value, reason }) }
}

/// Positions of a window of `kernel` steps of `dilation` along an axis, moved by `stride`.
///
/// # Errors
/// [`ShapeError::Attribute`] for a zero; [`ShapeError::Window`] if the window does not fit once, or on overflow.
pub(crate) fn positions(
    what: &'static str,
    axis: usize,
    [kernel, stride, dilation]: [usize; 3],
    [before, after]: [usize; 2],
) -> Result<usize, ShapeError> {
    attribute(what, kernel, kernel > 0, "a kernel has at least one element")?;
    attribute(what, stride, stride > 0, "a stride is at least 1")?;
    attribute(what, dilation, dilation > 0, "a dilation is at least 1")?;
    let padding = before.saturating_add(after);
    let window = (kernel - 1).saturating_mul(dilation).saturating_add(1);
    let error = ShapeError::Window { what, window, axis, padding };
    // The limit keeps every index, also of a padded row, far from overflow.
    let padded = axis.checked_add(padding).filter(|&p| p <= MAX_AXIS).ok_or(error.clone())?;
    let room = padded.checked_sub(window).ok_or(error)?;
    attribute(what, stride, stride <= MAX_AXIS, "larger than any axis")?;
    Ok(room / stride + 1)
}

/// Longest padded axis.
const MAX_AXIS: usize = 1 << 24;

/// A parameter of these axis lengths; an empty one where they are too large to be a shape, which `infer` refuses.
pub(crate) fn param(name: &'static str, dims: &[usize]) -> ParamSpec {
    ParamSpec::new(name, Shape::try_new(dims).unwrap_or_else(|_| Shape::from([0])))
}
