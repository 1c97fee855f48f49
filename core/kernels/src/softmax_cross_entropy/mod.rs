//! Softmax, its cross-entropy with integer labels, and the gradient of both.
//!
//! Every row is shifted by its maximum, so that no exponential overflows; exponentials and sums are `f64`. Neither
//! logits nor labels decide a branch or an address.

mod exponential;

use self::exponential::{exp, ln};
use crate::select::{pick, select_f64, select_u64};

/// Mean cross-entropy of `logits` `[N, K]` with `labels` `[N]`, in nats; writes `grad = (softmax − onehot)/N` `[N, K]`.
///
/// 0 for an empty batch. A label that is no class gives a NaN, as does a NaN among the logits.
///
/// # Panics
/// If a slice does not have the length its shape says.
pub fn loss_and_gradient(logits: &[f32], labels: &[u32], classes: usize, grad: &mut [f32]) -> f32 {
    assert!(Some(logits.len()) == labels.len().checked_mul(classes), "logits are [labels, classes]");
    assert!(grad.len() == logits.len(), "the gradient has the shape of the logits");
    if labels.is_empty() {
        return 0.0;
    }
    if classes == 0 {
        return f32::NAN;
    }
    let share = 1.0 / labels.len() as f64;
    let rows = logits.chunks_exact(classes).zip(grad.chunks_exact_mut(classes));
    let total: f64 =
        rows.zip(labels).map(|((row, grad), &label)| sample(row, label as usize, share, grad)).sum();
    (total * share) as f32
}

/// Row-wise softmax of `logits` `[N, K]` into `probabilities` `[N, K]`.
///
/// # Panics
/// If the slices have different lengths, or a length that is no multiple of `classes`.
pub fn softmax(logits: &[f32], classes: usize, probabilities: &mut [f32]) {
    assert!(logits.len() == probabilities.len(), "the probabilities have the shape of the logits");
    if logits.is_empty() {
        return;
    }
    assert!(classes > 0 && logits.len().is_multiple_of(classes), "logits are [N, classes]");
    for (row, out) in logits.chunks_exact(classes).zip(probabilities.chunks_exact_mut(classes)) {
        let (max, sum) = partition(row);
        for (p, &x) in out.iter_mut().zip(row) {
            *p = (exp(f64::from(x) - max) / sum) as f32;
        }
    }
}

/// How many rows of `logits` `[N, K]` have their largest number, of equal ones the first, at the label; a NaN is none.
pub fn correct(logits: &[f32], labels: &[u32], classes: usize) -> usize {
    let right = |(row, &label): (&[f32], &u32)| {
        let (label, chosen) = (label as usize, pick(row, label as usize));
        let beats = |(k, &x): (usize, &f32)| (x > chosen) | ((x == chosen) & (k < label));
        let beaten = row.iter().enumerate().fold(false, |beaten, other| beaten | beats(other));
        select_u64(!beaten & !chosen.is_nan() & (label < row.len()), 1, 0)
    };
    logits.chunks_exact(classes.max(1)).zip(labels).map(right).sum::<u64>() as usize
}

/// Loss of one sample; writes its gradient times `share`.
fn sample(row: &[f32], label: usize, share: f64, grad: &mut [f32]) -> f64 {
    let (max, sum) = partition(row);
    let known = select_f64(label < row.len(), 0.0, f64::NAN);
    for (k, (g, &x)) in grad.iter_mut().zip(row).enumerate() {
        let target = select_f64(k == label, 1.0, known);
        *g = ((exp(f64::from(x) - max) / sum - target) * share) as f32;
    }
    ln(sum) + max - f64::from(pick(row, label)) + known
}

/// The row's maximum and `Σ exp(x − maximum)`.
fn partition(row: &[f32]) -> (f64, f64) {
    let max = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
    (max, row.iter().map(|&x| exp(f64::from(x) - max)).sum())
}

#[cfg(test)]
mod tests;
