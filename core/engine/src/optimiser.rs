//! SGD and AdamW, as PyTorch defines them.

use kernels::denormals::Flushed;
use serde::{Deserialize, Serialize};
use tensor::Tensor;

/// Which update rule, and its constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum OptimiserConfig {
    /// Weight decay is added to the gradient; `v ← momentum·v + g`; the step is `v`, or `g + momentum·v` (Nesterov).
    Sgd { momentum: f32, weight_decay: f32, nesterov: bool },
    /// Decoupled weight decay; bias-corrected moments.
    AdamW { beta1: f32, beta2: f32, eps: f32, weight_decay: f32 },
}

impl OptimiserConfig {
    /// Numbers kept per parameter.
    pub fn copies(&self) -> usize {
        match self {
            OptimiserConfig::Sgd { momentum: 0.0, .. } => 0,
            OptimiserConfig::Sgd { .. } => 1,
            OptimiserConfig::AdamW { .. } => 2,
        }
    }
}

/// An optimiser with its state, one entry per parameter tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimiser {
    config: OptimiserConfig,
    /// Momentum buffers (SGD), or first and second moments one after the other (AdamW).
    state: Vec<Tensor>,
    steps: u64,
}

impl Optimiser {
    /// A fresh optimiser for these parameters.
    pub fn new(config: OptimiserConfig, params: &[Tensor]) -> Self {
        let state =
            (0..config.copies()).flat_map(|_| params.iter().map(|p| Tensor::zeros(p.shape()))).collect();
        Optimiser { config, state, steps: 0 }
    }

    /// Whether this state belongs to such an optimiser over such parameters.
    pub fn fits(&self, config: &OptimiserConfig, params: &[Tensor]) -> bool {
        let fresh = Optimiser::new(config.clone(), params);
        fresh.config == self.config
            && fresh.state.len() == self.state.len()
            && fresh.state.iter().zip(&self.state).all(|(a, b)| a.shape() == b.shape())
    }

    /// State tensors, for encoding.
    pub fn state(&self) -> &[Tensor] {
        &self.state
    }

    /// State tensors, without the rest.
    pub fn into_state(self) -> Vec<Tensor> {
        self.state
    }

    /// Number of updates made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// An optimiser as [`Optimiser::new`], with its state replaced.
    ///
    /// `None` if `state` does not have the tensors such an optimiser keeps.
    pub fn restored(
        config: OptimiserConfig,
        params: &[Tensor],
        state: Vec<Tensor>,
        steps: u64,
    ) -> Option<Self> {
        let restored = Optimiser { config: config.clone(), state, steps };
        restored.fits(&config, params).then_some(restored)
    }

    /// One update of `params` with `grads` (same shapes) at learning rate `rate`.
    pub fn step(&mut self, params: &mut [Tensor], grads: &[Tensor], rate: f32) {
        // Momentum of what is no longer trained fades away through the denormal numbers.
        let _flushed = Flushed::new();
        self.steps += 1;
        let count = params.len();
        for (i, (param, grad)) in params.iter_mut().zip(grads).enumerate() {
            let (param, grad) = (param.data_mut(), grad.data());
            match self.config {
                OptimiserConfig::Sgd { momentum: 0.0, weight_decay, .. } => {
                    for (p, g) in param.iter_mut().zip(grad) {
                        *p -= rate * (g + weight_decay * *p);
                    }
                }
                OptimiserConfig::Sgd { momentum, weight_decay, nesterov } => {
                    let velocity = self.state[i].data_mut();
                    sgd(param, grad, velocity, rate, (momentum, weight_decay, nesterov));
                }
                OptimiserConfig::AdamW { beta1, beta2, eps, weight_decay } => {
                    let (first, second) = self.state.split_at_mut(count);
                    let moments = (first[i].data_mut(), second[i].data_mut());
                    adamw(param, grad, moments, rate, (beta1, beta2, eps, weight_decay), self.steps);
                }
            }
        }
    }
}

fn sgd(param: &mut [f32], grad: &[f32], velocity: &mut [f32], rate: f32, rule: (f32, f32, bool)) {
    let (momentum, weight_decay, nesterov) = rule;
    for ((p, g), v) in param.iter_mut().zip(grad).zip(velocity) {
        let g = g + weight_decay * *p;
        *v = momentum * *v + g;
        *p -= rate * if nesterov { g + momentum * *v } else { *v };
    }
}

fn adamw(
    param: &mut [f32],
    grad: &[f32],
    moments: (&mut [f32], &mut [f32]),
    rate: f32,
    rule: (f32, f32, f32, f32),
    steps: u64,
) {
    let (beta1, beta2, eps, weight_decay) = rule;
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(steps as f64);
    let step_size = (f64::from(rate) / correction(beta1)) as f32;
    let root = correction(beta2).sqrt() as f32;
    for (((p, g), m), v) in param.iter_mut().zip(grad).zip(moments.0).zip(moments.1) {
        *p *= 1.0 - rate * weight_decay;
        *m = beta1 * *m + (1.0 - beta1) * g;
        *v = beta2 * *v + (1.0 - beta2) * g * g;
        *p -= step_size * *m / (v.sqrt() / root + eps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::compare::{Tolerance, assert_close};

    const TOLERANCE: Tolerance = Tolerance::relative(1e-5);

    fn config(case: &serde_json::Value) -> OptimiserConfig {
        let number = |key: &str| case[key].as_f64().unwrap_or(0.0) as f32;
        match case["optimizer"].as_str() {
            Some("SGD") => OptimiserConfig::Sgd {
                momentum: number("momentum"),
                weight_decay: number("weight_decay"),
                nesterov: case["nesterov"].as_bool().unwrap_or(false),
            },
            Some("AdamW") => OptimiserConfig::AdamW {
                beta1: case["betas"][0].as_f64().expect("betas") as f32,
                beta2: case["betas"][1].as_f64().expect("betas") as f32,
                eps: number("eps"),
                weight_decay: number("weight_decay"),
            },
            other => panic!("unknown optimiser {other:?} in the index"),
        }
    }

    /// Reference: `vectors/optim`, computed by PyTorch.
    #[test]
    fn vectors_optimisers() {
        let Some(folder) = vectors::folder("optim") else { return };
        let index = vectors::index(&folder.join("optim.json"));
        let tensors = vectors::tensors(&folder.join("optim.safetensors"));
        let cases = index["optimizers"].as_object().expect("optimizers is a map");
        assert!(!cases.is_empty());
        for (name, case) in cases {
            let names: Vec<&String> = case["params"].as_object().expect("params").keys().collect();
            let load = |suffix: &str| -> Vec<Tensor> {
                let load_one = |param: &&String| {
                    let (shape, data) = tensors.f32(&format!("{name}/{param}/{suffix}"));
                    Tensor::from_vec(tensor::Shape::new(&shape), data).expect("the file is consistent")
                };
                names.iter().map(load_one).collect()
            };
            let mut params = load("param0");
            let mut optimiser = Optimiser::new(config(case), &params);
            let rate = case["lr"].as_f64().expect("lr") as f32;
            for step in 1..=case["steps"].as_u64().expect("steps") {
                optimiser.step(&mut params, &load(&format!("grad{step}")), rate);
                for ((param, found), expected) in names.iter().zip(&params).zip(load(&format!("param{step}")))
                {
                    let what = format!("{name}/{param} after step {step}");
                    assert_close(&what, found.data(), expected.data(), TOLERANCE);
                }
            }
        }
    }

    #[test]
    fn state_of_another_shape_is_refused() {
        let config = OptimiserConfig::Sgd { momentum: 0.9, weight_decay: 0.0, nesterov: false };
        let params = [Tensor::zeros([2, 3])];
        assert!(Optimiser::restored(config.clone(), &params, vec![Tensor::zeros([2, 3])], 4).is_some());
        assert!(Optimiser::restored(config.clone(), &params, vec![Tensor::zeros([3, 2])], 4).is_none());
        assert!(Optimiser::restored(config, &params, vec![], 4).is_none());
    }
}
