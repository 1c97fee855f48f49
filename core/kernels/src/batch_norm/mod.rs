//! Batch normalisation over `[N, C, H, W]`.

mod passes;
mod statistics;

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use self::passes::Coefficients;
use self::statistics::Moments;
use crate::{Backward, Forward, Mode, Operator, ParamSpec, Reads, Recompute, SavedLen, Scratch, check};

/// Batch normalisation with affine parameters and running statistics, as PyTorch's `BatchNorm2d`.
///
/// In training, `y = (x − mean)/√(var + eps) · weight + bias` with the batch's mean and biased variance per channel; the
/// running variance takes the unbiased one. In evaluation, the running statistics stand in for the batch's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm2d {
    /// Channels of the input.
    pub channels: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Weight of the new batch in the running statistics (PyTorch's convention).
    pub momentum: f32,
}

impl BatchNorm2d {
    /// PyTorch's defaults: eps 1e-5, momentum 0.1.
    pub fn new(channels: usize) -> Self {
        BatchNorm2d { channels, eps: 1e-5, momentum: 0.1 }
    }
}

impl Operator for BatchNorm2d {
    fn name(&self) -> &'static str {
        "batch_norm2d"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let input = check::one("batch_norm2d", inputs)?;
        let [_, found, ..] = input.nchw("batch_norm2d")?;
        if found != self.channels {
            return Err(ShapeError::Channels { what: "batch_norm2d", expected: self.channels, found });
        }
        check::attribute("batch_norm2d channels", found, found > 0, "there must be one")?;
        let eps = self.eps.is_finite() && self.eps >= 0.0;
        check::attribute("batch_norm2d eps", 0, eps, "it must be finite and not negative")?;
        let momentum = (0.0..=1.0).contains(&self.momentum);
        check::attribute("batch_norm2d momentum", 0, momentum, "it must be from 0 to 1")?;
        Ok(input)
    }

    fn params(&self) -> Vec<ParamSpec> {
        ["weight", "bias"].map(|name| check::param(name, &[self.channels])).to_vec()
    }

    fn buffers(&self) -> Vec<ParamSpec> {
        ["running_mean", "running_var"].map(|name| check::param(name, &[self.channels])).to_vec()
    }

    /// Mean and `1/√(var + eps)` of the batch, per channel.
    fn saved_len(&self, _inputs: &[Shape]) -> SavedLen {
        SavedLen { floats: self.channels.saturating_mul(2), indices: 0 }
    }

    fn backward_reads(&self) -> Reads {
        Reads::INPUTS
    }

    fn scratch(&self, _inputs: &[Shape], _threads: usize) -> Scratch {
        Scratch::shared([2 * self.channels; 2])
    }

    fn forward(&self, pass: Forward<'_>) {
        let (x, [plane, channels]) = (pass.inputs[0], planes(pass.inputs[0].shape));
        let saved = &mut pass.saved.floats[..2 * channels];
        if let (Mode::Train { .. }, [running_mean, running_var]) = (pass.mode, &mut *pass.buffers) {
            let mut moments = pass.threads.scratch(2 * channels);
            statistics::moments(pass.threads, x.data, plane, &mut moments);
            for (c, (moments, saved)) in moments.chunks(2).zip(saved.chunks_mut(2)).enumerate() {
                let moments =
                    Moments { count: x.data.len() / channels, mean: moments[0], variance: moments[1] };
                saved.copy_from_slice(&[moments.mean, moments.inverse_deviation(self.eps)]);
                moments.update(
                    self.momentum,
                    &mut running_mean.data_mut()[c],
                    &mut running_var.data_mut()[c],
                );
            }
        } else {
            running(self.eps, pass.buffers[0].data(), pass.buffers[1].data(), saved);
        }
        let (weight, bias) = (pass.params[0].data(), pass.params[1].data());
        passes::normalise(pass.threads, x.data, plane, saved, weight, bias, pass.output.data);
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn recompute(&self, pass: Recompute<'_>) {
        let (x, [plane, channels]) = (pass.inputs[0], planes(pass.inputs[0].shape));
        let (weight, bias) = (pass.params[0].data(), pass.params[1].data());
        let saved = &pass.saved.floats[..2 * channels];
        passes::normalise(pass.threads, x.data, plane, saved, weight, bias, pass.output.data);
    }

    fn backward(&self, pass: Backward<'_>) {
        let (x, [plane, channels]) = (pass.inputs[0], planes(pass.inputs[0].shape));
        let train = matches!(pass.mode, Mode::Train { .. });
        let mut used = pass.threads.scratch(2 * channels);
        if train {
            used.copy_from_slice(&pass.saved.floats[..2 * channels]);
        } else {
            running(self.eps, pass.buffers[0].data(), pass.buffers[1].data(), &mut used);
        }
        let frozen = pass.grad_params.iter().all(|g| g.data().is_empty());
        let mut sums = pass.threads.scratch(2 * channels);
        if train || !frozen {
            statistics::gradient_sums(pass.threads, x.data, pass.grad_output.data, plane, &used, &mut sums);
        } else {
            sums.fill(0.0);
        }
        for (to, which) in pass.grad_params.iter_mut().zip([1, 0]) {
            to.data_mut().iter_mut().zip(sums.chunks(2)).for_each(|(to, sums)| *to = sums[which]);
        }
        if let Some(grad) = &mut pass.grad_inputs[0] {
            let count = if train { x.data.len() / channels } else { 0 };
            let coefficients =
                Coefficients { used: &used, sums: &sums, weight: pass.params[0].data(), count };
            passes::backward_input(pass.threads, x.data, pass.grad_output.data, plane, coefficients, grad);
        }
    }
}

/// `H·W` and `C`.
fn planes(shape: Shape) -> [usize; 2] {
    match *shape.dims() {
        [_, c, h, w] => [h * w, c],
        _ => [0, 1],
    }
}

/// Running mean and `1/√(running variance + eps)` per channel, in the layout of the saved ones.
fn running(eps: f32, mean: &[f32], variance: &[f32], out: &mut [f32]) {
    for (out, (&mean, &variance)) in out.chunks_mut(2).zip(mean.iter().zip(variance)) {
        let moments = Moments { count: 0, mean, variance };
        out.copy_from_slice(&[mean, moments.inverse_deviation(eps)]);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;
