//! The passes that write whole tensors, divided by planes.

use crate::simd::vectorised;
use crate::{GradInput, Threads};

/// What the input's gradient is made of.
#[derive(Clone, Copy)]
pub(super) struct Coefficients<'a> {
    /// Mean and inverse deviation per channel.
    pub used: &'a [f32],
    /// `Σ dy` and `Σ dy·(x − mean)/deviation` per channel.
    pub sums: &'a [f32],
    pub weight: &'a [f32],
    /// Elements per channel over which the statistics were taken; 0 where they are constants (evaluation).
    pub count: usize,
}

/// `y = (x − mean)/deviation · weight + bias`.
pub(super) fn normalise(
    threads: &Threads,
    x: &[f32],
    plane: usize,
    used: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let channels = weight.len();
    for_each_plane(threads, plane, y, |p, y| {
        let c = p % channels;
        let (mean, scale) = (used[2 * c], used[2 * c + 1] * weight[c]);
        normalise_plane(&x[p * plane..][..y.len()], mean, scale, bias[c], y);
    });
}

/// `dx = weight/deviation · (dy − Σdy/n − x̂·Σ(dy·x̂)/n)`; without the sums where `count` is 0.
pub(super) fn backward_input(
    threads: &Threads,
    x: &[f32],
    dy: &[f32],
    plane: usize,
    with: Coefficients<'_>,
    grad: &mut GradInput<'_>,
) {
    let accumulate = grad.accumulate;
    for_each_plane(threads, plane, grad.data, |p, out| {
        let at = p * plane..p * plane + out.len();
        let terms = with.terms(p % with.weight.len());
        backward_plane(&x[at.clone()], &dy[at], terms, out, accumulate);
    });
}

/// Runs `job(p, plane p)`, several planes to a part where they are small.
fn for_each_plane(
    threads: &Threads,
    plane: usize,
    data: &mut [f32],
    job: impl Fn(usize, &mut [f32]) + Send + Sync,
) {
    let together = (crate::elementwise::PART / plane.max(1)).max(1);
    threads.for_each_chunk(data, together * plane, |part, chunk| {
        for (i, plane) in chunk.chunks_mut(plane).enumerate() {
            job(part * together + i, plane);
        }
    });
}

vectorised! {
    fn normalise_plane<'a>(
        x: &'a [f32],
        mean: f32,
        scale: f32,
        bias: f32,
        y: &'a mut [f32],
    ) -> () {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (x - mean) * scale + bias;
        }
    }
}

/// `dx = a·dy + b·(x − mean) + c`.
struct Terms {
    a: f32,
    b: f32,
    c: f32,
    mean: f32,
}

impl Coefficients<'_> {
    fn terms(&self, channel: usize) -> Terms {
        let pair = |of: &[f32]| (of[2 * channel], of[2 * channel + 1]);
        let ((mean, inverse), (plain, weighted)) = (pair(self.used), pair(self.sums));
        let a = self.weight[channel] * inverse;
        let share = if self.count > 0 { a / self.count as f32 } else { 0.0 };
        Terms { a, b: -share * inverse * weighted, c: -share * plain, mean }
    }
}

vectorised! {
    fn backward_plane<'a>(
        x: &'a [f32],
        dy: &'a [f32],
        terms: Terms,
        out: &'a mut [f32],
        accumulate: bool,
    ) -> () {
        let Terms { a, b, c, mean } = terms;
        for ((out, &x), &dy) in out.iter_mut().zip(x).zip(dy) {
            let g = a * dy + b * (x - mean) + c;
            *out = if accumulate { *out + g } else { g };
        }
    }
}
