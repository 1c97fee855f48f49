//! Sums per channel in `f64`, in a fixed order: image by image, in lanes.

use crate::channels::Layout;
use crate::simd::vectorised;

/// Mean and biased variance of one channel.
#[derive(Clone, Copy)]
pub(crate) struct Moments {
    pub mean: f32,
    pub variance: f32,
}

impl Moments {
    /// `1/√(variance + eps)`.
    pub(crate) fn inverse_deviation(&self, eps: f32) -> f32 {
        inverse_deviation(self.variance, eps)
    }

    /// Moves the running statistics towards these, which are of `count` elements; of none, leaves them alone.
    pub(crate) fn update(&self, count: usize, momentum: f32, running_mean: &mut f32, running_var: &mut f32) {
        if count == 0 {
            return;
        }
        let n = count as f64;
        // Of one element there is no unbiased variance: the biased one (0) is taken.
        let unbiased = f64::from(self.variance) * n / (n - 1.0).max(1.0);
        let towards =
            |old: f32, new: f64| (f64::from(old) + f64::from(momentum) * (new - f64::from(old))) as f32;
        *running_mean = towards(*running_mean, f64::from(self.mean));
        *running_var = towards(*running_var, unbiased);
    }
}

/// `1/√(variance + eps)`.
pub(crate) fn inverse_deviation(variance: f32, eps: f32) -> f32 {
    (1.0 / (f64::from(variance) + f64::from(eps)).sqrt()) as f32
}

/// Mean and biased variance of one channel of `x`; zeros where it is empty.
///
/// In `f64`, the difference of `E[x²]` and `E[x]²` is exact enough for any `f32`: where the mean is 10⁶ deviations away,
/// it loses 10⁻⁴ of the variance, and the elements' own rounding is worth 0.06 deviations.
pub(crate) fn moments(x: &[f32], layout: Layout, channel: usize) -> Moments {
    let n = layout.count().max(1) as f64;
    let [sum, squares] = sums(layout, channel, x);
    let mean = sum / n;
    Moments { mean: mean as f32, variance: (squares / n - mean * mean).max(0.0) as f32 }
}

/// What the sums of a gradient are taken over.
#[derive(Clone, Copy)]
pub(crate) struct Gradient<'a> {
    pub x: &'a [f32],
    pub dy: &'a [f32],
    /// The output, which says where a ReLU let the gradient through.
    pub relu: Option<&'a [f32]>,
}

impl Gradient<'_> {
    /// `Σ g` and `Σ g·(x − mean)` of one channel, where `g` is `dy` behind the ReLU.
    pub(crate) fn sums(self, layout: Layout, channel: usize, mean: f32) -> [f64; 2] {
        match self.relu {
            Some(y) => masked_sums(layout, channel, self.x, self.dy, y, mean),
            None => gradient_sums(layout, channel, self.x, self.dy, mean),
        }
    }
}

const LANES: usize = 16;

/// Two sums side by side.
struct Lanes([[f64; LANES]; 2]);

impl Lanes {
    #[inline(always)]
    fn new() -> Self {
        Lanes([[0.0; LANES]; 2])
    }

    #[inline(always)]
    fn add(&mut self, terms: impl Fn(usize) -> [f64; 2], len: usize) {
        for l in 0..len {
            let [a, b] = terms(l);
            self.0[0][l] += a;
            self.0[1][l] += b;
        }
    }

    #[inline(always)]
    fn sums(mut self) -> [f64; 2] {
        let mut width = LANES;
        while width > 1 {
            width /= 2;
            for sum in &mut self.0 {
                for l in 0..width {
                    sum[l] += sum[l + width];
                }
            }
        }
        self.0.map(|sum| sum[0])
    }
}

vectorised! {
    /// `Σ x` and `Σ x²`.
    fn sums<'a>(layout: Layout, channel: usize, x: &'a [f32]) -> [f64; 2] {
        let mut lanes = Lanes::new();
        for at in layout.planes(channel) {
            let (whole, rest) = x[at].as_chunks::<LANES>();
            for x in whole {
                lanes.add(|l| [f64::from(x[l]), f64::from(x[l]) * f64::from(x[l])], LANES);
            }
            lanes.add(|l| [f64::from(rest[l]), f64::from(rest[l]) * f64::from(rest[l])], rest.len());
        }
        lanes.sums()
    }
}

vectorised! {
    fn gradient_sums<'a>(
        layout: Layout,
        channel: usize,
        x: &'a [f32],
        dy: &'a [f32],
        mean: f32,
    ) -> [f64; 2] {
        let mut lanes = Lanes::new();
        for at in layout.planes(channel) {
            let ((x, x_rest), (dy, dy_rest)) =
                (x[at.clone()].as_chunks::<LANES>(), dy[at].as_chunks::<LANES>());
            for (x, dy) in x.iter().zip(dy) {
                lanes.add(|l| terms(dy[l], x[l], mean), LANES);
            }
            lanes.add(|l| terms(dy_rest[l], x_rest[l], mean), x_rest.len());
        }
        lanes.sums()
    }
}

vectorised! {
    /// [`gradient_sums`] where `y` is positive.
    fn masked_sums<'a>(
        layout: Layout,
        channel: usize,
        x: &'a [f32],
        dy: &'a [f32],
        y: &'a [f32],
        mean: f32,
    ) -> [f64; 2] {
        let mut lanes = Lanes::new();
        let masked = |dy: f32, y: f32| if y > 0.0 { dy } else { 0.0 };
        for at in layout.planes(channel) {
            let ((x, x_rest), (dy, dy_rest)) =
                (x[at.clone()].as_chunks::<LANES>(), dy[at.clone()].as_chunks::<LANES>());
            let (y, y_rest) = y[at].as_chunks::<LANES>();
            for ((x, dy), y) in x.iter().zip(dy).zip(y) {
                lanes.add(|l| terms(masked(dy[l], y[l]), x[l], mean), LANES);
            }
            lanes.add(|l| terms(masked(dy_rest[l], y_rest[l]), x_rest[l], mean), x_rest.len());
        }
        lanes.sums()
    }
}

#[inline(always)]
fn terms(g: f32, x: f32, mean: f32) -> [f64; 2] {
    [f64::from(g), f64::from(g * (x - mean))]
}
