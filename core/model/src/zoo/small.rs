//! A small convolutional network for MNIST and 32×32 colour images.

use kernels::activation::Relu;
use kernels::batch_norm::BatchNorm2d;
use kernels::conv2d::Conv2d;
use kernels::pool::MaxPool2d;

use super::{Net, Options};
use crate::GraphError;

/// Four conv-norm-ReLU layers of 1, 1, 2 and 4 times the width with three 2×2 poolings, one linear layer.
///
/// The first layer keeps the resolution: it is where the delta flow splits.
pub(super) fn cnn(net: &mut Net, classes: usize, options: Options) -> Result<(), GraphError> {
    let width = options.width.unwrap_or(32);
    let factors = [1, 1, 2, 4];
    for (index, factor) in factors.into_iter().enumerate() {
        let (layer, channels) = (index + 1, width * factor);
        net.then(format!("conv{layer}"), Conv2d::new(net.channels, channels, 3).padding(1))?;
        net.then(format!("bn{layer}"), BatchNorm2d::new(channels))?;
        net.then(format!("relu{layer}"), Relu)?;
        if layer > 1 {
            net.then(format!("pool{layer}"), MaxPool2d { kernel: [2; 2], stride: [2; 2], padding: [0; 2] })?;
        }
        net.channels = channels;
    }
    net.average(1)?;
    net.linear("fc", classes)
}
