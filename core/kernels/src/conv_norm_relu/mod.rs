//! Convolution with what follows it in inference: batch norm, residual connection, ReLU.

use tensor::{Shape, ShapeError, Tensor};

use crate::add::Add;
use crate::batch_norm::{BatchNorm2d, inverse_deviation};
use crate::conv2d::{Conv2d, Finish};
use crate::{Backward, Forward, Mode, Operator, ParamSpec, Reads, SavedLen, Scratch};

/// `y = relu(norm(conv(x)) + skip)` in evaluation; of what follows the convolution, any part may be absent.
///
/// The same bits as its parts one after the other. Made by a rewrite of a graph for inference, never part of a model.
///
/// Shapes: `x` `[N, C, H, W]`, `skip` and `y` as the convolution's output; parameters are the convolution's, then the
/// norm's; buffers are the norm's.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvNormRelu {
    pub conv: Conv2d,
    /// The norm of the convolution's output, with its running statistics.
    pub norm: Option<BatchNorm2d>,
    /// Whether there is a second input to add.
    pub add: bool,
    /// Whether negative sums become 0.
    pub relu: bool,
}

impl Operator for ConvNormRelu {
    fn name(&self) -> &'static str {
        match (self.norm.is_some(), self.add, self.relu) {
            (false, false, false) => "conv2d",
            (false, false, true) => "conv2d+relu",
            (false, true, false) => "conv2d+add",
            (false, true, true) => "conv2d+add+relu",
            (true, false, false) => "conv2d+batch_norm2d",
            (true, false, true) => "conv2d+batch_norm2d+relu",
            (true, true, false) => "conv2d+batch_norm2d+add",
            (true, true, true) => "conv2d+batch_norm2d+add+relu",
        }
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let (x, skip) = match inputs {
            [x, skip] if self.add => (std::slice::from_ref(x), Some(*skip)),
            _ => (inputs, None),
        };
        let mut output = self.conv.infer(x)?;
        if let Some(norm) = &self.norm {
            output = norm.infer(&[output])?;
        }
        match (self.add, skip) {
            (false, _) => Ok(output),
            (true, Some(skip)) => Add.infer(&[output, skip]),
            (true, None) => Err(ShapeError::Inputs { what: self.name(), expected: 2, found: inputs.len() }),
        }
    }

    fn params(&self) -> Vec<ParamSpec> {
        self.conv.params().into_iter().chain(self.norm.iter().flat_map(|norm| norm.params())).collect()
    }

    fn buffers(&self) -> Vec<ParamSpec> {
        self.norm.iter().flat_map(|norm| norm.buffers()).collect()
    }

    fn saved_len(&self, inputs: &[Shape]) -> SavedLen {
        self.conv.saved_len(&inputs[..1])
    }

    fn macs(&self, inputs: &[Shape]) -> u64 {
        inputs.first().map_or(0, |x| self.conv.macs(&[*x]))
    }

    fn backward_reads(&self) -> Reads {
        Reads::NOTHING
    }

    fn scratch(&self, inputs: &[Shape], threads: usize) -> Scratch {
        let affine = Scratch::shared([self.affine_len(self.conv.out_channels)]);
        self.conv.scratch(&inputs[..1], threads).and(affine)
    }

    /// # Panics
    /// In training: batch statistics are not made here.
    fn forward(&self, pass: Forward<'_>) {
        assert!(pass.mode == Mode::Eval, "a graph that was rewritten for inference runs in evaluation mode");
        let (own, norm) = pass.params.split_at(1 + usize::from(self.conv.bias));
        let mut affine = pass.threads.scratch(self.affine_len(self.conv.out_channels));
        self.write_affine(norm, pass.buffers, &mut affine);
        let skip = pass.inputs.get(1).map_or(&[][..], |skip| skip.data);
        let finish = Finish { affine: &affine, skip, relu: self.relu };
        let inputs = &pass.inputs[..1];
        self.conv.forward_with(None, Forward { inputs, params: own, buffers: &mut [], ..pass }, finish);
    }

    /// # Panics
    /// Always: inference has no gradients.
    fn backward(&self, _: Backward<'_>) {
        unreachable!("a graph that was rewritten for inference has no backward pass");
    }
}

impl ConvNormRelu {
    /// [`Operator::forward`] where a part of the convolution's products is in `output` already: the products of this input
    /// and these weights are added to it, then comes what follows.
    ///
    /// Without a norm also in training.
    pub fn forward_onto(&self, pass: Forward<'_>) {
        assert!(pass.mode == Mode::Eval || self.norm.is_none(), "batch statistics are not made here");
        let (own, norm) = pass.params.split_at(1 + usize::from(self.conv.bias));
        let bias = own.get(1).map_or(&[][..], |bias| bias.data());
        let mut affine = pass.threads.scratch(self.onto_affine_len());
        if self.norm.is_some() {
            self.write_affine(norm, pass.buffers, &mut affine);
            // The bias comes before the mean is taken off.
            affine.chunks_mut(3).zip(bias).for_each(|(affine, bias)| affine[0] -= bias);
        } else {
            affine
                .chunks_mut(3)
                .zip(bias)
                .for_each(|(affine, &bias)| affine.copy_from_slice(&[0.0, 1.0, bias]));
        }
        let skip = pass.inputs.get(1).map_or(&[][..], |skip| skip.data);
        let finish = Finish { affine: &affine, skip, relu: self.relu };
        let inputs = &pass.inputs[..1];
        self.conv.forward_onto(Forward { inputs, params: own, buffers: &mut [], ..pass }, finish);
    }

    /// Scratch memory of [`ConvNormRelu::forward_onto`].
    pub fn onto_scratch(&self, input: Shape, threads: usize) -> Scratch {
        self.conv.scratch(&[input], threads).and(Scratch::shared([self.onto_affine_len()]))
    }

    fn onto_affine_len(&self) -> usize {
        let channels = if self.conv.bias { 3 * self.conv.out_channels } else { 0 };
        self.affine_len(self.conv.out_channels).max(channels)
    }

    /// Mean, scale and bias of each channel, from the norm's parameters and running statistics.
    fn write_affine(&self, params: &[Tensor], buffers: &[Tensor], affine: &mut [f32]) {
        if let (Some(op), [weight, bias], [mean, variance]) = (&self.norm, params, buffers) {
            for (c, affine) in affine.chunks_mut(3).enumerate() {
                let scale = inverse_deviation(variance.data()[c], op.eps) * weight.data()[c];
                affine.copy_from_slice(&[mean.data()[c], scale, bias.data()[c]]);
            }
        }
    }

    /// Mean, scale and bias of each channel, where there is a norm.
    fn affine_len(&self, channels: usize) -> usize {
        if self.norm.is_some() { 3 * channels } else { 0 }
    }
}

#[cfg(test)]
mod tests;
