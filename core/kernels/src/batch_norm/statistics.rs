//! Sums per channel, in a fixed order: image by image, block by block.

use crate::simd::vectorised;
use crate::{Threads, sums};

/// Mean and biased variance of one channel.
pub(super) struct Moments {
    pub count: usize,
    pub mean: f32,
    pub variance: f32,
}

impl Moments {
    /// `1/√(variance + eps)`.
    pub(super) fn inverse_deviation(&self, eps: f32) -> f32 {
        (1.0 / (f64::from(self.variance) + f64::from(eps)).sqrt()) as f32
    }

    /// Moves the running statistics towards these; an empty batch leaves them alone.
    pub(super) fn update(&self, momentum: f32, running_mean: &mut f32, running_var: &mut f32) {
        if self.count == 0 {
            return;
        }
        let n = self.count as f64;
        // Of one element there is no unbiased variance: the biased one (0) is taken.
        let unbiased = f64::from(self.variance) * n / (n - 1.0).max(1.0);
        let towards =
            |old: f32, new: f64| (f64::from(old) + f64::from(momentum) * (new - f64::from(old))) as f32;
        *running_mean = towards(*running_mean, f64::from(self.mean));
        *running_var = towards(*running_var, unbiased);
    }
}

/// Mean and biased variance of every channel into `out` `[C, 2]`.
///
/// Each block's squares are taken around the block's own mean while it is in the cache, and blocks are joined in `f64`
/// (Chan, Golub, LeVeque 1983): one pass over memory and no cancellation.
pub(super) fn moments(threads: &Threads, x: &[f32], plane: usize, out: &mut [f32]) {
    let channels = out.len() / 2;
    threads.for_each_chunk(out, 2, |c, out| {
        let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for block in sums::channel(x.len(), plane, channels, c) {
            let (n, (block_mean, block_squares)) = (block.len() as f64, block_moments(&x[block]));
            let (delta, total) = (block_mean - mean, count + n);
            mean += delta * n / total;
            squares += block_squares + delta * delta * count * n / total;
            count = total;
        }
        out.copy_from_slice(&[mean as f32, if count > 0.0 { (squares / count) as f32 } else { 0.0 }]);
    });
}

/// `Σ dy` and `Σ dy·(x − mean)/deviation` of every channel into `out` `[C, 2]`.
pub(super) fn gradient_sums(
    threads: &Threads,
    x: &[f32],
    dy: &[f32],
    plane: usize,
    used: &[f32],
    out: &mut [f32],
) {
    let channels = out.len() / 2;
    threads.for_each_chunk(out, 2, |c, out| {
        let (mean, inverse) = (used[2 * c], used[2 * c + 1]);
        let (mut plain, mut weighted) = (0.0, 0.0);
        for block in sums::channel(x.len(), plane, channels, c) {
            let (x, dy) = (&x[block.clone()], &dy[block]);
            plain += sums::block_sum(dy, dy, |dy, _| dy);
            weighted += sums::block_sum(x, dy, |x: f32, dy: f32| (x - mean) * dy);
        }
        out.copy_from_slice(&[plain as f32, (weighted * f64::from(inverse)) as f32]);
    });
}

vectorised! {
    fn block_moments<'a>(
        x: &'a [f32],
    ) -> (f64, f64) {
        let mean = sums::block(x, x, |x, _| x) / x.len() as f64;
        let near = mean as f32;
        let squares = sums::block(x, x, |x, _| (x - near) * (x - near));
        // `near` is the mean rounded: the correction is the square of that rounding.
        let off = mean - f64::from(near);
        (mean, squares - off * off * x.len() as f64)
    }
}
