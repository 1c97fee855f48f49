//! The layer as nested loops in `f64`.

/// `y = x·wᵀ + b`; `x` `[n, i]`, `w` `[o, i]`.
pub(super) fn forward([n, i, o]: [usize; 3], x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    let element = |r: usize, c: usize| -> f64 {
        let sum: f64 = (0..i).map(|k| x[r * i + k] * w[c * i + k]).sum();
        sum + b.get(c).copied().unwrap_or(0.0)
    };
    (0..n * o).map(|e| element(e / o, e % o)).collect()
}
