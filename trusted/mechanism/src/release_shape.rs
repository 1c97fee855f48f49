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

    /// Numbers that [`ReleaseShape::reduce`] needs to work in.
    pub(crate) fn scratch_len(self, [_, h, w]: [usize; 3]) -> usize {
        match self {
            ReleaseShape::Full => 0,
            ReleaseShape::Mean | ReleaseShape::Pooled(_) => h * w,
        }
    }

    /// Reduces one residual; NaN and infinities count as 0.
    ///
    /// - Shapes: `data` `[C, H, W]` → as [`ReleaseShape::output`] says
    pub(crate) fn reduce<'a>(
        self,
        [c, h, w]: [usize; 3],
        data: &'a [f32],
        scratch: &'a mut [f64],
    ) -> Reduced<'a> {
        if self == ReleaseShape::Full {
            return Reduced::All(data);
        }
        let plane = &mut scratch[..h * w];
        plane.fill(0.0);
        data.chunks_exact((h * w).max(1)).for_each(|channel| add_finite(channel, plane));
        plane.iter_mut().for_each(|sum| *sum /= c.max(1) as f64);
        match self {
            ReleaseShape::Pooled(p) => Reduced::Means(pool(plane, [h, w], p)),
            _ => Reduced::Means(plane),
        }
    }
}

/// The numbers of one record that leave; all are finite.
#[derive(Clone, Copy)]
pub(crate) enum Reduced<'a> {
    /// The residual itself, read with 0 for what is not finite: no copy is made of it.
    All(&'a [f32]),
    /// Means of it.
    Means(&'a [f64]),
}

impl Reduced<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Reduced::All(data) => data.len(),
            Reduced::Means(means) => means.len(),
        }
    }

    /// L2 norm; double precision holds the squares of all single-precision numbers, so no sum overflows.
    pub(crate) fn norm(&self) -> f64 {
        match self {
            Reduced::All(data) => sum_of_finite_squares(data).sqrt(),
            Reduced::Means(means) => norm(means),
        }
    }

    /// Copies the numbers from place `first` on.
    pub(crate) fn copy(&self, first: usize, out: &mut [f64]) {
        match self {
            Reduced::All(data) => copy_finite(&data[first..][..out.len()], out),
            Reduced::Means(means) => out.copy_from_slice(&means[first..][..out.len()]),
        }
    }
}

/// L2 norm of finite numbers.
pub(crate) fn norm(numbers: &[f64]) -> f64 {
    numbers.iter().map(|z| z * z).sum::<f64>().sqrt()
}

/// Averages windows that tile a plane `[H, W]` `P` by `P`, to its front: no number is overwritten before it was read.
fn pool(plane: &mut [f64], [h, w]: [usize; 2], p: usize) -> &[f64] {
    let (tall, wide) = (h / p, w / p);
    for i in 0..p {
        for j in 0..p {
            let window = (0..tall).flat_map(|y| (0..wide).map(move |x| (i * tall + y) * w + j * wide + x));
            plane[i * p + j] = window.map(|at| plane[at]).sum::<f64>() / (tall * wide) as f64;
        }
    }
    &plane[..p * p]
}

kernels::vectorised! {
    fn sum_of_finite_squares<'a>(x: &'a [f32]) -> f64 {
        // As many sums at once as hide the latency of an addition; always in this order.
        let mut sums = [0.0; 32];
        let square = |x: f32| if x.is_finite() { f64::from(x) * f64::from(x) } else { 0.0 };
        let (blocks, rest) = x.as_chunks::<32>();
        for block in blocks {
            sums.iter_mut().zip(block).for_each(|(sum, &x)| *sum += square(x));
        }
        sums.iter().sum::<f64>() + rest.iter().map(|&x| square(x)).sum::<f64>()
    }
}

kernels::vectorised! {
    /// `out[i] = x[i]` where `x[i]` is finite, else 0.
    fn copy_finite<'a>(x: &'a [f32], out: &'a mut [f64]) -> () {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = if x.is_finite() { f64::from(x) } else { 0.0 };
        }
    }
}

kernels::vectorised! {
    /// `sum[i] += x[i]` where `x[i]` is finite.
    fn add_finite<'a>(x: &'a [f32], sum: &'a mut [f64]) -> () {
        for (sum, &x) in sum.iter_mut().zip(x) {
            *sum += if x.is_finite() { f64::from(x) } else { 0.0 };
        }
    }
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
        let mut scratch = vec![f64::NAN; shape.scratch_len(size)];
        let reduced = shape.reduce(size, data, &mut scratch);
        assert_eq!(reduced.len(), shape.output(size).unwrap().iter().product::<usize>());
        let mut out = vec![f64::NAN; reduced.len()];
        reduced.copy(0, &mut out);
        assert!((reduced.norm() - norm(&out)).abs() <= 1e-12 * norm(&out));
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
