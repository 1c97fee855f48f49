//! Convolution with what follows it in inference: batch norm, residual connection, ReLU.

use tensor::{Shape, ShapeError};

use crate::add::Add;
use crate::batch_norm::{BatchNorm2d, inverse_deviation};
use crate::channels::Layout;
use crate::conv2d::Conv2d;
use crate::simd::vectorised;
use crate::{Backward, Forward, Mode, Operator, ParamSpec, Reads, SavedLen, Scratch, Threads};

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
        self.conv.scratch(&inputs[..1], threads)
    }

    /// # Panics
    /// In training: batch statistics are not made here.
    fn forward(&self, pass: Forward<'_>) {
        assert!(pass.mode == Mode::Eval, "a graph that was rewritten for inference runs in evaluation mode");
        let (own, norm) = pass.params.split_at(1 + usize::from(self.conv.bias));
        let layout = Layout::of(pass.output.shape);
        let Forward { inputs, output, saved, mode, threads, .. } = pass;
        let shape = output.shape;
        let y = output.data;
        self.conv.forward(Forward {
            inputs: &inputs[..1],
            params: own,
            buffers: &mut [],
            output: tensor::ViewMut { shape, data: &mut *y },
            saved,
            mode,
            threads,
        });
        let affine = |c: usize| match (&self.norm, norm, &*pass.buffers) {
            (Some(op), [weight, bias], [mean, variance]) => {
                let scale = inverse_deviation(variance.data()[c], op.eps) * weight.data()[c];
                [mean.data()[c], scale, bias.data()[c]]
            }
            _ => [0.0, 1.0, 0.0],
        };
        finish(threads, layout, affine, inputs.get(1).map(|skip| skip.data), self.relu, y);
    }

    /// # Panics
    /// Always: inference has no gradients.
    fn backward(&self, _: Backward<'_>) {
        unreachable!("a graph that was rewritten for inference has no backward pass");
    }
}

/// `y = relu((y − mean) · scale + bias + skip)`, in place; `affine(c)` is mean, scale and bias of a channel.
fn finish(
    threads: &Threads,
    layout: Layout,
    affine: impl Fn(usize) -> [f32; 3] + Send + Sync,
    skip: Option<&[f32]>,
    relu: bool,
    y: &mut [f32],
) {
    let plane = layout.plane.max(1);
    let together = (crate::elementwise::PART / plane).max(1);
    threads.for_each_chunk(y, together * plane, |part, y| {
        for (i, y) in y.chunks_mut(plane).enumerate() {
            let p = part * together + i;
            let skip = skip.map_or(&[][..], |skip| &skip[p * plane..][..y.len()]);
            finish_plane(affine(p % layout.channels), skip, relu, y);
        }
    });
}

vectorised! {
    fn finish_plane<'a>(
        affine: [f32; 3],
        skip: &'a [f32],
        relu: bool,
        y: &'a mut [f32],
    ) -> () {
        let ([mean, scale, bias], floor) = (affine, if relu { 0.0 } else { f32::NEG_INFINITY });
        let positive = |y: f32| if y <= floor { floor } else { y };
        if skip.is_empty() {
            for y in y {
                *y = positive((*y - mean) * scale + bias);
            }
        } else {
            for (y, &skip) in y.iter_mut().zip(skip) {
                *y = positive((*y - mean) * scale + bias + skip);
            }
        }
    }
}

#[cfg(test)]
mod tests;
