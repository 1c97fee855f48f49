//! Loops over whole tensors, divided among threads.

use crate::simd::vectorised;
use crate::{GradInput, Threads};

/// Elements per part.
pub(crate) const PART: usize = 1 << 14;

/// `out[i] = f(a[i])`.
pub(crate) fn map(threads: &Threads, a: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32 + Send + Sync) {
    threads.for_each_chunk(out, PART, |part, out| {
        let a = &a[part * PART..][..out.len()];
        map_part(a, out, &f);
    });
}

/// `out[i] = f(a[i], b[i])`.
pub(crate) fn map2(
    threads: &Threads,
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
    f: impl Fn(f32, f32) -> f32 + Send + Sync,
) {
    gradient(threads, &mut GradInput { data: out, accumulate: false }, a, b, f);
}

/// `gradient[i] = a[i]`, or `+=` where the gradient accumulates.
pub(crate) fn pass_on(threads: &Threads, gradient: &mut GradInput<'_>, a: &[f32]) {
    self::gradient(threads, gradient, a, a, |a, _| a);
}

/// `gradient[i] = f(a[i], b[i])`, or `+=` where the gradient accumulates.
pub(crate) fn gradient(
    threads: &Threads,
    gradient: &mut GradInput<'_>,
    a: &[f32],
    b: &[f32],
    f: impl Fn(f32, f32) -> f32 + Send + Sync,
) {
    let accumulate = gradient.accumulate;
    threads.for_each_chunk(gradient.data, PART, |part, out| {
        let at = part * PART..part * PART + out.len();
        gradient_part(&a[at.clone()], &b[at], out, accumulate, &f);
    });
}

vectorised! {
    fn map_part<'a, F: Fn(f32) -> f32>(
        a: &'a [f32],
        out: &'a mut [f32],
        f: &'a F,
    ) -> () {
        for (y, &x) in out.iter_mut().zip(a) {
            *y = f(x);
        }
    }
}

vectorised! {
    fn gradient_part<'a, F: Fn(f32, f32) -> f32>(
        a: &'a [f32],
        b: &'a [f32],
        out: &'a mut [f32],
        accumulate: bool,
        f: &'a F,
    ) -> () {
        let pairs = out.iter_mut().zip(a.iter().zip(b));
        if accumulate {
            pairs.for_each(|(g, (&a, &b))| *g += f(a, b));
        } else {
            pairs.for_each(|(g, (&a, &b))| *g = f(a, b));
        }
    }
}
