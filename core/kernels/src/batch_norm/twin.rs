//! Batch normalisation in `f64`, two passes over each channel.

/// Output, mean and biased variance per channel; `x` `[n, c, plane]`. Statistics are the batch's unless given.
pub(super) fn forward(
    [n, c, plane]: [usize; 3],
    eps: f64,
    x: &[f64],
    [weight, bias]: [&[f64]; 2],
    given: Option<[&[f64]; 2]>,
) -> (Vec<f64>, [Vec<f64>; 2]) {
    let channel = |k: usize| (0..n).flat_map(move |i| (0..plane).map(move |p| (i * c + k) * plane + p));
    let count = (n * plane) as f64;
    let mut statistics = [vec![0.0; c], vec![0.0; c]];
    for k in 0..c {
        let mean = channel(k).map(|i| x[i]).sum::<f64>() / count;
        let variance = channel(k).map(|i| (x[i] - mean).powi(2)).sum::<f64>() / count;
        statistics[0][k] = given.map_or(mean, |g| g[0][k]);
        statistics[1][k] = given.map_or(variance, |g| g[1][k]);
    }
    let [mean, variance] = &statistics;
    let y = |i: usize| {
        let k = i / plane % c;
        (x[i] - mean[k]) / (variance[k] + eps).sqrt() * weight[k] + bias[k]
    };
    ((0..n * c * plane).map(y).collect(), statistics)
}
