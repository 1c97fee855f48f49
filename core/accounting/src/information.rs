//! How much one Gaussian release can carry at all, whatever is done with it.

/// Upper bound on the information in one release of `k` numbers with `‖z‖₂ ≤ clip` and noise `N(0, σ²)`:
/// `k/2 · log₂(1 + clip²/(k σ²))` bits.
///
/// The capacity of `k` Gaussian channels that share a power of `clip²`. 0 for `k = 0`, infinite for `σ = 0`.
pub fn information_bound_bits(k: usize, clip: f64, sigma: f64) -> f64 {
    if k == 0 {
        return 0.0;
    }
    let ratio = clip / sigma;
    k as f64 / 2.0 * libm::log1p(ratio * ratio / k as f64) / std::f64::consts::LN_2
}

/// Share of the signs of a release that agree with the true ones, for a vector of `k` Gaussian numbers of norm `clip`
/// under noise `N(0, σ²)`: `1/2 + atan(clip/(σ√k))/π`.
pub fn sign_agreement(k: usize, clip: f64, sigma: f64) -> f64 {
    0.5 + libm::atan(clip / (sigma * (k as f64).sqrt())) / std::f64::consts::PI
}
