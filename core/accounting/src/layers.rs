//! One privacy budget shared out among the layers of a model, each of which releases a noised vector in every step.

use serde::{Deserialize, Serialize};

use crate::{AccountingError, Event, Loss, calibrate, checked};

/// What one layer releases about a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerRelease {
    /// L2 sensitivity Δ of one release: twice the clipping norm, where neighbours replace the record.
    pub sensitivity: f64,
    /// Numbers d of one release.
    pub numbers: u64,
    /// How often it is released, T.
    pub releases: u64,
}

/// How noise is shared out among layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseShare {
    /// Every release costs the same: `σ = Δ √(Σ T) / μ`.
    #[default]
    Equal,
    /// The least total squared error: `σ² = Δ/√d · Σ T Δ √d / μ²`.
    LeastError,
}

impl NoiseShare {
    /// The name in configurations and reports.
    pub fn name(self) -> &'static str {
        match self {
            NoiseShare::Equal => "equal",
            NoiseShare::LeastError => "least-error",
        }
    }

    /// σ of each layer's noise on a grid, so that all releases together, after `base`, stay within (ε, δ); rounded up.
    ///
    /// Gaussian releases compose as `Σ T_l (Δ_l/σ_l)² = μ²`, and the largest μ within (ε, δ) is known ([`calibrate`]). Noise of
    /// standard deviation `σ_l` on `d_l` numbers has the expected squared length `d_l σ_l²`. To minimise `Σ T_l d_l σ_l²`
    /// under that constraint, the derivatives by `σ_l²` are set equal: `T_l d_l = λ T_l Δ_l²/σ_l⁴`, so `σ_l² = √λ Δ_l/√d_l`, and
    /// the constraint gives `√λ = Σ T_l Δ_l √d_l / μ²`. The problem is convex in `1/σ_l²`, so that is its minimum. How often
    /// a layer is released changes nothing about its share: T is a factor of what it costs and of what it gains.
    ///
    /// - Units: σ in those of the sensitivities
    ///
    /// # Errors
    /// [`AccountingError::Parameter`] unless every layer has a finite, positive sensitivity, numbers and releases;
    /// [`AccountingError::Exhausted`] if `base` leaves no room for any noise.
    pub fn sigmas(
        self,
        layers: &[LayerRelease],
        base: Loss,
        epsilon: f64,
        delta: f64,
    ) -> Result<Vec<f64>, AccountingError> {
        let mut sampled = base;
        for &LayerRelease { sensitivity, numbers, releases } in layers {
            let good = sensitivity > 0.0 && sensitivity.is_finite();
            checked("a layer's sensitivity", sensitivity, good, "finite and positive")?;
            checked("a layer's numbers", numbers as f64, numbers > 0, "at least 1")?;
            checked("a layer's releases", releases as f64, releases > 0, "at least 1")?;
            sampled = sampled.and(&Event::lattice_sampling(numbers, releases))?;
        }
        // 1/μ, for all of it as if it were one release.
        let inverse = calibrate(sampled, 1, epsilon, delta)?;
        let root = |layer: &LayerRelease| (layer.numbers as f64).sqrt();
        let sum = |of: &dyn Fn(&LayerRelease) -> f64| layers.iter().map(of).sum::<f64>();
        let sigma = |layer: &LayerRelease| match self {
            NoiseShare::Equal => layer.sensitivity * sum(&|l| l.releases as f64).sqrt() * inverse,
            NoiseShare::LeastError => {
                let total = sum(&|l| l.releases as f64 * l.sensitivity * root(l));
                (layer.sensitivity / root(layer) * total).sqrt() * inverse
            }
        };
        // A margin for the roundings of the sums and roots above, and of charging the releases one by one.
        Ok(layers.iter().map(|layer| sigma(layer) * (1.0 + 1e-9)).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DELTA: f64 = 1e-5;

    fn error(layers: &[LayerRelease], sigmas: &[f64]) -> f64 {
        let one = |(l, s): (&LayerRelease, &f64)| l.releases as f64 * l.numbers as f64 * s * s;
        layers.iter().zip(sigmas).map(one).sum()
    }

    /// Everything charged as it is released.
    fn loss(layers: &[LayerRelease], sigmas: &[f64]) -> Loss {
        layers.iter().zip(sigmas).fold(Loss::default(), |loss, (layer, sigma)| {
            let event = Event::LatticeGaussian {
                noise_multiplier: (sigma / layer.sensitivity).next_down(),
                numbers: layer.numbers,
                count: layer.releases,
                clipped: true,
            };
            loss.and(&event).unwrap()
        })
    }

    fn layer(sensitivity: f64, numbers: u64, releases: u64) -> LayerRelease {
        LayerRelease { sensitivity, numbers, releases }
    }

    /// Against every way of sharing the budget in steps of one per cent.
    #[test]
    fn no_other_share_has_less_error() {
        let layers = [layer(2.0, 65_536, 100), layer(8.0, 4096, 100), layer(1.0, 512, 300)];
        let found = NoiseShare::LeastError.sigmas(&layers, Loss::default(), 8.0, DELTA).unwrap();
        let least = error(&layers, &found);
        let sampled = layers.iter().fold(Loss::default(), |loss, l| {
            loss.and(&Event::lattice_sampling(l.numbers, l.releases)).unwrap()
        });
        let mu = 1.0 / calibrate(sampled, 1, 8.0, DELTA).unwrap();
        let mut best = f64::INFINITY;
        for a in 1..99 {
            for b in 1..100 - a {
                let shares = [a, b, 100 - a - b].map(|share| f64::from(share) / 100.0);
                let sigma = |(l, share): (&LayerRelease, f64)| {
                    l.sensitivity * (l.releases as f64 / share).sqrt() / mu
                };
                let sigmas: Vec<f64> = layers.iter().zip(shares).map(sigma).collect();
                best = best.min(error(&layers, &sigmas));
            }
        }
        assert!(least <= best * (1.0 + 1e-8) && least > best * 0.999, "{least}, searched {best}");
        let equal = NoiseShare::Equal.sigmas(&layers, Loss::default(), 8.0, DELTA).unwrap();
        assert!(error(&layers, &equal) > 1.5 * least);
        // Equal shares: one noise multiplier for all.
        let multipliers: Vec<f64> = equal.iter().zip(&layers).map(|(s, l)| s / l.sensitivity).collect();
        assert!(multipliers.iter().all(|m| (m / multipliers[0] - 1.0).abs() < 1e-12), "{multipliers:?}");
    }

    #[test]
    fn one_layer_has_the_whole_budget() {
        for share in [NoiseShare::Equal, NoiseShare::LeastError] {
            let one = share.sigmas(&[layer(3.0, 10, 4)], Loss::default(), 2.0, DELTA).unwrap();
            let expected = 3.0 * crate::gaussian::sigma(2.0, DELTA, 2.0).unwrap();
            assert!((one[0] / expected - 1.0).abs() < 1e-6, "{one:?} {expected}");
        }
    }

    #[test]
    fn what_cannot_be_shared_is_refused() {
        let share = |layers: &[LayerRelease], base| NoiseShare::Equal.sigmas(layers, base, 1.0, DELTA);
        for bad in [layer(0.0, 1, 1), layer(f64::NAN, 1, 1), layer(1.0, 0, 1), layer(1.0, 1, 0)] {
            assert!(
                matches!(share(&[bad], Loss::default()), Err(AccountingError::Parameter { .. })),
                "{bad:?}"
            );
        }
        let spent = Loss::default().and(&Event::Pure { epsilon: 1.5 }).unwrap();
        let refused = share(&[layer(1.0, 1, 1)], spent);
        assert!(matches!(refused, Err(AccountingError::Exhausted { .. })), "{refused:?}");
        assert_eq!(share(&[], Loss::default()), Ok(vec![]));
    }

    proptest! {
        /// Charged release by release, everything is within the budget, and hardly less than it.
        #[test]
        fn all_layers_together_use_up_the_budget(
            sizes in proptest::collection::vec((0.1f64..20.0, 1u64..1 << 22, 1u64..5000), 1..12),
            epsilon in 0.1f64..12.0, pure in 0.0f64..0.09,
        ) {
            let layers: Vec<_> = sizes.into_iter().map(|(c, d, t)| layer(c, d, t)).collect();
            let base = Loss::default().and(&Event::Pure { epsilon: pure }).unwrap();
            for share in [NoiseShare::Equal, NoiseShare::LeastError] {
                let sigmas = share.sigmas(&layers, base, epsilon, DELTA).unwrap();
                let all = loss(&layers, &sigmas).and(&Event::Pure { epsilon: pure }).unwrap();
                prop_assert!(all.within(epsilon, DELTA), "{}", all.epsilon(DELTA));
                prop_assert!(all.epsilon(DELTA) > epsilon * (1.0 - 1e-6));
            }
        }
    }
}
