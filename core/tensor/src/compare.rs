//! Comparison with tolerance, for tests and checks.
//!
//! The error of a whole tensor is relative to its largest reference element, so that one rounding error beside an
//! exact zero does not fail a test, while a wrong element does.

/// Largest accepted error, relative to the largest absolute reference element, plus an absolute floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub relative: f32,
    pub absolute: f32,
}

impl Tolerance {
    pub const fn relative(relative: f32) -> Self {
        Tolerance { relative, absolute: 1e-12 }
    }
}

/// The worst element of a comparison that failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("element {index}: expected {expected}, found {found}; error {error:e} over the bound {bound:e}")]
pub struct Difference {
    pub index: usize,
    pub expected: f32,
    pub found: f32,
    pub error: f32,
    pub bound: f32,
}

/// `max |found − expected| / max |expected|`; infinite where lengths differ or anything is not finite.
pub fn worst_relative(found: &[f32], expected: &[f32]) -> f32 {
    if found.len() != expected.len() || found.iter().chain(expected).any(|x| !x.is_finite()) {
        return f32::INFINITY;
    }
    let scale = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let error = found.iter().zip(expected).fold(0.0f32, |m, (f, e)| m.max((f - e).abs()));
    if error == 0.0 { 0.0 } else { error / scale }
}

/// Checks every element of `found` against `expected`.
///
/// # Errors
/// The worst [`Difference`] if any error exceeds `relative · max|expected| + absolute`, a length differs, or a value is
/// not finite.
pub fn close(found: &[f32], expected: &[f32], tolerance: Tolerance) -> Result<(), Difference> {
    let scale = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let bound = tolerance.relative * scale + tolerance.absolute;
    if found.len() != expected.len() {
        let index = found.len().min(expected.len());
        return Err(Difference { index, expected: f32::NAN, found: f32::NAN, error: f32::INFINITY, bound });
    }
    let mut worst: Option<Difference> = None;
    for (index, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let error = if f.is_finite() && e.is_finite() { (f - e).abs() } else { f32::INFINITY };
        let fails = error > bound || !error.is_finite() || bound.is_nan();
        if fails && worst.as_ref().is_none_or(|w| error > w.error) {
            worst = Some(Difference { index, expected: e, found: f, error, bound });
        }
    }
    worst.map_or(Ok(()), Err)
}

/// [`close`], as an assertion that names what was compared.
///
/// # Panics
/// On any difference.
#[track_caller]
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: Tolerance) {
    if let Err(difference) = close(found, expected, tolerance) {
        panic!("{what}: {difference} (lengths {} and {})", found.len(), expected.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance::relative(1e-5);

    #[test]
    fn accepts_rounding_and_refuses_errors() {
        assert!(close(&[1.0, 2.000_01], &[1.0, 2.0], TOLERANCE).is_ok());
        assert!(close(&[1.0, 2.001], &[1.0, 2.0], TOLERANCE).is_err());
        assert!(close(&[0.1], &[0.0], TOLERANCE).is_err());
        assert!(close(&[1.0], &[1.0, 1.0], TOLERANCE).is_err());
        assert!(close(&[f32::NAN], &[f32::NAN], TOLERANCE).is_err());
        assert!(close(&[1.0], &[f32::NAN], TOLERANCE).is_err());
        assert!(close(&[f32::INFINITY], &[f32::INFINITY], TOLERANCE).is_err());
        assert_eq!(worst_relative(&[0.0], &[0.0]), 0.0);
        assert_eq!(worst_relative(&[1e-9], &[0.0]), f32::INFINITY);
        assert_eq!(worst_relative(&[1.0], &[]), f32::INFINITY);
    }

    #[test]
    #[should_panic(expected = "logits: element 1")]
    fn assertion_names_the_worst_element() {
        assert_close("logits", &[1.0, 3.0, 1.1], &[1.0, 1.0, 1.0], TOLERANCE);
    }
}
