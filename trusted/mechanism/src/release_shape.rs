//! The shape in which a residual leaves.

use std::fmt;

use serde::{Deserialize, Serialize};
use tensor::ShapeError;

/// How a residual `[C, H, W]` becomes the `k` numbers that are noised.
///
/// Written `full`, `mean` or `pooled:P`. Fewer numbers carry more signal each at equal ε.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum ReleaseShape {
    /// Every number: `C·H·W`.
    Full,
    /// Mean over channels: `H·W`.
    Mean,
    /// Mean over channels, then over windows that tile the map `P` by `P`: `P·P`.
    Pooled(usize),
}

/// A text that names no shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no shape of a release; known: full, mean, pooled:P with P at least 1, as in pooled:4")]
pub struct UnknownShape(pub String);

impl ReleaseShape {
    /// Channels, height and width of the released numbers, for a residual `[C, H, W]`.
    ///
    /// # Errors
    /// [`ShapeError::Attribute`] if windows do not tile the residual.
    pub fn output(self, [c, h, w]: [usize; 3]) -> Result<[usize; 3], ShapeError> {
        let what = "pooled release";
        match self {
            ReleaseShape::Full => Ok([c, h, w]),
            ReleaseShape::Mean => Ok([1, h, w]),
            ReleaseShape::Pooled(0) => {
                Err(ShapeError::Attribute { what, value: 0, reason: "at least one number must leave" })
            }
            ReleaseShape::Pooled(p) if h % p == 0 && w % p == 0 => Ok([1, p, p]),
            ReleaseShape::Pooled(p) => {
                Err(ShapeError::Attribute { what, value: p, reason: "it must divide height and width" })
            }
        }
    }

    /// Reduces one residual; NaN and infinities count as 0.
    ///
    /// - Shapes: `data` `[C, H, W]` → `out`, as long as [`ReleaseShape::output`] says, overwritten
    pub(crate) fn reduce(self, [c, h, w]: [usize; 3], data: &[f32], out: &mut [f64]) {
        let [tall, wide] = match self {
            ReleaseShape::Full => {
                out.iter_mut().zip(data).for_each(|(o, &x)| *o = finite(x));
                return;
            }
            ReleaseShape::Mean => [1, 1],
            ReleaseShape::Pooled(p) => [(h / p).max(1), (w / p).max(1)],
        };
        out.fill(0.0);
        let width = w / wide;
        for (row, pixels) in data.chunks_exact(w.max(1)).enumerate() {
            let into = &mut out[(row % h) / tall * width..][..width];
            for (sum, pixels) in into.iter_mut().zip(pixels.chunks_exact(wide)) {
                *sum += pixels.iter().map(|&x| finite(x)).sum::<f64>();
            }
        }
        let count = (c * tall * wide) as f64;
        out.iter_mut().for_each(|sum| *sum /= count);
    }
}

fn finite(x: f32) -> f64 {
    if x.is_finite() { f64::from(x) } else { 0.0 }
}

impl fmt::Display for ReleaseShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReleaseShape::Full => f.write_str("full"),
            ReleaseShape::Mean => f.write_str("mean"),
            ReleaseShape::Pooled(p) => write!(f, "pooled:{p}"),
        }
    }
}

impl std::str::FromStr for ReleaseShape {
    type Err = UnknownShape;

    fn from_str(text: &str) -> Result<Self, UnknownShape> {
        match text {
            "full" => Ok(ReleaseShape::Full),
            "mean" => Ok(ReleaseShape::Mean),
            _ => text
                .strip_prefix("pooled:")
                .and_then(|p| p.parse().ok())
                .filter(|&p| p > 0)
                .map(ReleaseShape::Pooled)
                .ok_or_else(|| UnknownShape(text.to_owned())),
        }
    }
}

impl TryFrom<String> for ReleaseShape {
    type Error = UnknownShape;

    fn try_from(text: String) -> Result<Self, UnknownShape> {
        text.parse()
    }
}

impl From<ReleaseShape> for String {
    fn from(shape: ReleaseShape) -> String {
        shape.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduced(shape: ReleaseShape, size: [usize; 3], data: &[f32]) -> Vec<f64> {
        let mut out = vec![f64::NAN; shape.output(size).unwrap().iter().product()];
        shape.reduce(size, data, &mut out);
        out
    }

    #[test]
    fn reduces_to_means() {
        let size = [2, 2, 4];
        let data: Vec<f32> = (0..16).map(|i| i as f32).collect();
        assert_eq!(reduced(ReleaseShape::Full, size, &data), (0..16).map(f64::from).collect::<Vec<_>>());
        assert_eq!(reduced(ReleaseShape::Mean, size, &data), (4..12).map(f64::from).collect::<Vec<_>>());
        assert_eq!(reduced(ReleaseShape::Pooled(2), size, &data), [4.5, 6.5, 8.5, 10.5]);
        assert_eq!(reduced(ReleaseShape::Pooled(1), size, &data), [7.5]);
        let square: Vec<f32> = (0..32).map(|i| i as f32).collect();
        assert_eq!(
            reduced(ReleaseShape::Pooled(4), [2, 4, 4], &square),
            reduced(ReleaseShape::Mean, [2, 4, 4], &square)
        );
        assert_eq!(reduced(ReleaseShape::Mean, [0, 2, 2], &[]).len(), 4);
    }

    #[test]
    fn what_is_not_a_number_counts_as_zero() {
        let data = [f32::NAN, 4.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 2.0, 2.0, 2.0];
        assert_eq!(reduced(ReleaseShape::Pooled(1), [2, 2, 2], &data), [(f64::from(f32::MAX) + 10.0) / 8.0]);
        assert_eq!(reduced(ReleaseShape::Full, [1, 1, 2], &data[..2]), [0.0, 4.0]);
    }

    #[test]
    fn names_read_back_and_others_are_refused() {
        for (shape, name) in [
            (ReleaseShape::Full, "full"),
            (ReleaseShape::Mean, "mean"),
            (ReleaseShape::Pooled(4), "pooled:4"),
        ] {
            assert_eq!((shape.to_string().as_str(), name.parse()), (name, Ok(shape)));
        }
        for bad in ["", "Full", "pooled", "pooled:", "pooled:0", "pooled:-1", "pooled:x"] {
            assert_eq!(bad.parse::<ReleaseShape>(), Err(UnknownShape(bad.into())));
        }
        assert!(ReleaseShape::Pooled(3).output([1, 6, 8]).is_err());
        assert!(ReleaseShape::Pooled(0).output([1, 6, 8]).is_err());
    }
}
