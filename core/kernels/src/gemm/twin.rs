//! The product as a triple loop.

/// `scale · a · b + keep · c`, all row-major, summed in `f64`; `a` is `[m, k]`, `b` `[k, n]`.
pub(crate) fn multiply(
    [m, n, k]: [usize; 3],
    scale: f32,
    a: &[f32],
    b: &[f32],
    keep: f32,
    c: &[f32],
) -> Vec<f32> {
    let element = |i: usize, j: usize| -> f64 {
        let sum: f64 = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum();
        let kept = if keep == 0.0 { 0.0 } else { f64::from(keep) * f64::from(c[i * n + j]) };
        f64::from(scale) * sum + kept
    };
    (0..m * n).map(|e| element(e / n, e % n) as f32).collect()
}
