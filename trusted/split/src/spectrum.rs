//! What singular values say: energy kept, rank for an energy, entropy.

/// Energy kept by the first `rank` singular values: `Σ_{i≤r} σ_i² / Σ σ_i²`; 1 if all are zero.
///
/// - Shapes: `singular` in descending order
pub fn energy_kept(singular: &[f64], rank: usize) -> f64 {
    let total: f64 = singular.iter().map(|s| s * s).sum();
    let kept: f64 = singular.iter().take(rank).map(|s| s * s).sum();
    if total > 0.0 { kept / total } else { 1.0 }
}

/// Smallest rank whose kept energy reaches `energy` in [0, 1]; all of them if none does.
pub fn rank_for_energy(singular: &[f64], energy: f64) -> usize {
    let total: f64 = singular.iter().map(|s| s * s).sum();
    let mut kept = 0.0;
    for (rank, s) in singular.iter().enumerate() {
        if kept >= energy * total {
            return rank;
        }
        kept += s * s;
    }
    singular.len()
}

/// SVD-channel entropy `μ = −log₂ Σ s̄_j²`, `s̄_j = σ_j / Σ σ`, in bits: between 0 and log₂ C; 0 if all are zero.
///
/// - Source: 3LegRace, Definition 1 (singular values not squared in `s̄`)
pub fn channel_entropy(singular: &[f64]) -> f64 {
    let sum: f64 = singular.iter().sum();
    if sum <= 0.0 {
        return 0.0;
    }
    -singular.iter().map(|s| (s / sum) * (s / sum)).sum::<f64>().log2()
}

/// Channels that an entropy of `mu` bits asks for: `⌈2^μ⌉`.
pub fn channels_needed(mu: f64) -> usize {
    // A full spectrum of C equal values has μ = log₂ C up to rounding.
    (mu.exp2() - 1e-9).ceil().max(0.0) as usize
}
