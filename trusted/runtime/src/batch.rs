//! What a step computes outside of the model.

use kernels::softmax_cross_entropy;

/// Labels, logits and gradients of a step; kept, so that the next step allocates nothing.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) labels: Vec<u32>,
    /// Logits of the trusted part alone, `[N, K]`.
    pub(crate) own: Vec<f32>,
    /// Logits of the accelerator's part, where it takes part.
    pub(crate) residual: Vec<f32>,
    /// Logits of both parts.
    pub(crate) logits: Vec<f32>,
    /// Gradient of the loss with respect to the trusted part's logits.
    pub(crate) grad: Vec<f32>,
    own_grad: Vec<f32>,
}

impl Batch {
    /// Takes the labels of a step's records; logits and gradients become zeros, but for the accelerator's.
    pub(crate) fn begin(&mut self, labels: impl Iterator<Item = u32>, classes: usize) {
        self.labels.clear();
        self.labels.extend(labels);
        for numbers in [&mut self.own, &mut self.logits, &mut self.grad, &mut self.own_grad] {
            numbers.clear();
            numbers.resize(self.labels.len() * classes, 0.0);
        }
    }

    /// Mean loss of the sum of both parts' logits, or of the trusted part's alone, and its gradient.
    pub(crate) fn loss(&mut self, both: bool, classes: usize) -> f32 {
        self.logits.copy_from_slice(&self.own);
        if both {
            self.logits.iter_mut().zip(&self.residual).for_each(|(sum, r)| *sum += r);
        }
        softmax_cross_entropy::loss_and_gradient(&self.logits, &self.labels, classes, &mut self.grad)
    }

    /// Replaces a `share` of the merged loss's gradient by that of the trusted part's own loss, so that the trusted part
    /// stays good alone.
    pub(crate) fn mix_own_loss(&mut self, share: f32, classes: usize) {
        if share > 0.0 {
            softmax_cross_entropy::loss_and_gradient(&self.own, &self.labels, classes, &mut self.own_grad);
            self.grad.iter_mut().zip(&self.own_grad).for_each(|(g, o)| *g += share * (o - *g));
        }
    }
}
