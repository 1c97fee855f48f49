//! Bounds on the SVD-channel entropy of a layer's output, from that of its input.
//!
//! Entropies are in bits; `R = 2^μ` is how many principal channels they ask for
//! ([`spectrum::channels_needed`](crate::spectrum::channels_needed) rounds it up). ReLU and max pooling have no rule: what
//! they do is measured.
//!
//! - Source: 3LegRace, the analysis of low-rank structure in CNNs. Its statements are about ranks; taken for entropies they
//!   are rules of thumb, to be read beside what is measured

/// A 1×1 convolution mixes channels, and average pooling mixes pixels: neither adds a principal channel.
pub fn after_pointwise(mu: f64) -> f64 {
    mu
}

/// Batch normalisation scales each channel, and adds a constant: one principal channel more.
pub fn after_batch_norm(mu: f64) -> f64 {
    (mu.exp2() + 1.0).log2()
}

/// A `k × k` convolution: about twice as many principal channels for `k = 3`, and never more than there are channels.
///
/// For other sizes, `(k + 1)/2` times as many: the straight line through `k = 1`, which adds none, and `k = 3`. The paper does
/// not speak of them.
pub fn after_convolution(mu: f64, [height, width]: [usize; 2], output_channels: usize) -> f64 {
    let factor = (height.max(width) + 1) as f64 / 2.0;
    (mu.exp2() * factor).min(output_channels.max(1) as f64).log2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_the_rules() {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(near(after_pointwise(2.5), 2.5));
        assert!(near(after_batch_norm(3.0).exp2(), 9.0));
        assert!(near(after_convolution(3.0, [3, 3], 64).exp2(), 16.0));
        assert!(near(after_convolution(3.0, [1, 1], 64), 3.0), "a 1×1 convolution keeps it");
        assert!(near(after_convolution(5.0, [3, 3], 40).exp2(), 40.0), "no more than all channels");
    }
}
