//! Group normalisation in `f64`, two passes over each group.

/// Output; `x` `[n, c, plane]`.
pub(super) fn forward(
    [n, c, plane]: [usize; 3],
    groups: usize,
    eps: f64,
    x: &[f64],
    [weight, bias]: [&[f64]; 2],
) -> Vec<f64> {
    let len = c / groups * plane;
    let mut y = vec![0.0; n * c * plane];
    for (group, (x, y)) in x.chunks(len.max(1)).zip(y.chunks_mut(len.max(1))).enumerate() {
        let mean = x.iter().sum::<f64>() / len as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / len as f64;
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            let channel = (group * len + i) / plane % c;
            *y = (x - mean) / (variance + eps).sqrt() * weight[channel] + bias[channel];
        }
    }
    y
}
