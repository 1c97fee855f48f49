//! Learning-rate schedules.

use serde::{Deserialize, Serialize};

/// How the rate falls over the epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Decay {
    Constant,
    /// `min + (base − min)·(1 + cos(π·epoch/epochs))/2`, as PyTorch's `CosineAnnealingLR`.
    Cosine {
        min: f64,
    },
    /// Multiplied by `gamma` at each of these epochs, as PyTorch's `MultiStepLR`.
    Step {
        milestones: Vec<usize>,
        gamma: f64,
    },
}

/// The learning rate as a function of epoch and step: linear warm-up by step, then [`Decay`] by epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub base: f64,
    pub epochs: usize,
    pub warmup_epochs: usize,
    pub decay: Decay,
}

impl Schedule {
    /// The rate of `step` (of `steps` in each epoch) of `epoch`, both from 0.
    pub fn rate(&self, epoch: usize, step: usize, steps: usize) -> f32 {
        let decayed = self.decayed(epoch);
        let warmup = self.warmup_epochs * steps;
        let done = epoch * steps + step + 1;
        if done >= warmup { decayed as f32 } else { (decayed * done as f64 / warmup as f64) as f32 }
    }

    fn decayed(&self, epoch: usize) -> f64 {
        match &self.decay {
            Decay::Constant => self.base,
            Decay::Cosine { min } => {
                let progress = epoch as f64 / self.epochs.max(1) as f64;
                min + (self.base - min) * (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0
            }
            Decay::Step { milestones, gamma } => {
                let passed = milestones.iter().filter(|&&m| epoch >= m).count();
                self.base * gamma.powi(passed as i32)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_rises_by_step_and_ends_at_the_base() {
        let schedule = Schedule { base: 1.0, epochs: 10, warmup_epochs: 2, decay: Decay::Constant };
        let rates: Vec<f32> = (0..4).map(|i| schedule.rate(i / 2, i % 2, 2)).collect();
        assert_eq!(rates, [0.25, 0.5, 0.75, 1.0]);
        assert_eq!(schedule.rate(5, 0, 2), 1.0);
    }

    #[test]
    fn steps_multiply_at_milestones() {
        let decay = Decay::Step { milestones: vec![2, 4], gamma: 0.1 };
        let schedule = Schedule { base: 1.0, epochs: 6, warmup_epochs: 0, decay };
        let rates: Vec<f32> = (0..6).map(|e| schedule.rate(e, 0, 1)).collect();
        for (rate, expected) in rates.iter().zip([1.0, 1.0, 0.1, 0.1, 0.01, 0.01]) {
            assert!((rate - expected).abs() < 1e-7, "{rates:?}");
        }
    }

    /// Reference: `vectors/optim` schedules, computed by PyTorch.
    #[test]
    fn vectors_schedules() {
        let Some(folder) = vectors::folder("optim") else { return };
        let index = vectors::index(&folder.join("optim.json"));
        let schedules = index["schedules"].as_object().expect("schedules is a map");
        assert!(!schedules.is_empty());
        for (name, case) in schedules {
            let epochs = case["T_max"].as_u64().expect("T_max") as usize;
            let decay = Decay::Cosine { min: case["eta_min"].as_f64().expect("eta_min") };
            let base = case["base_lr"].as_f64().expect("base_lr");
            let schedule = Schedule { base, epochs, warmup_epochs: 0, decay };
            for (epoch, rate) in case["lr_at_epoch_0_to_T"].as_array().expect("rates").iter().enumerate() {
                let error = (schedule.decayed(epoch) - rate.as_f64().expect("a rate")).abs();
                assert!(error <= 1e-12 * base, "{name} at epoch {epoch}: off by {error}");
            }
        }
    }
}
