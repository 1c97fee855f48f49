//! Residual networks of basic blocks (He et al. 2015), as torchvision names them.

use kernels::activation::Relu;
use kernels::add::Add;
use kernels::batch_norm::BatchNorm2d;
use kernels::conv2d::Conv2d;
use kernels::pool::MaxPool2d;

use super::{Net, Options};
use crate::GraphError;

/// ImageNet stem (7×7/2 and max pooling), four stages.
pub(super) fn imagenet(
    net: &mut Net,
    blocks: [usize; 4],
    classes: usize,
    options: Options,
) -> Result<(), GraphError> {
    let width = options.width.unwrap_or(64);
    stem(net, Conv2d::new(net.channels, width, 7).stride(2).padding(3))?;
    net.then("maxpool", MaxPool2d { kernel: [3; 2], stride: [2; 2], padding: [1; 2] })?;
    stages(net, width, &blocks, classes)
}

/// ResNet-18 with a 3×3 stem and no max pooling, for 32×32 images.
pub(super) fn cifar18(net: &mut Net, classes: usize, options: Options) -> Result<(), GraphError> {
    let width = options.width.unwrap_or(64);
    stem(net, Conv2d::new(net.channels, width, 3).padding(1))?;
    stages(net, width, &[2, 2, 2, 2], classes)
}

/// The ResNet-20 of section 4.2: three stages of 16, 32 and 64 channels.
///
/// Shortcuts that change shape are 1×1 convolutions with batch norm (the paper's option B).
pub(super) fn cifar20(net: &mut Net, classes: usize, options: Options) -> Result<(), GraphError> {
    let width = options.width.unwrap_or(16);
    stem(net, Conv2d::new(net.channels, width, 3).padding(1))?;
    stages(net, width, &[3, 3, 3], classes)
}

fn stem(net: &mut Net, conv: Conv2d) -> Result<(), GraphError> {
    net.channels = conv.out_channels;
    net.then("conv1", conv)?;
    net.then("bn1", BatchNorm2d::new(net.channels))?;
    net.then("relu", Relu)?;
    Ok(())
}

/// Stage `i` has `width · 2^i` channels; all but the first halve the map.
fn stages(net: &mut Net, width: usize, blocks: &[usize], classes: usize) -> Result<(), GraphError> {
    for (stage, &count) in blocks.iter().enumerate() {
        for block in 0..count {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            basic_block(net, &format!("layer{}.{block}", stage + 1), width << stage, stride)?;
        }
    }
    net.average(1)?;
    net.linear("fc", classes)
}

/// Two 3×3 convolutions beside a shortcut.
fn basic_block(net: &mut Net, name: &str, channels: usize, stride: usize) -> Result<(), GraphError> {
    let (input, in_channels) = (net.at, net.channels);
    net.then(format!("{name}.conv1"), Conv2d::new(in_channels, channels, 3).stride(stride).padding(1))?;
    net.then(format!("{name}.bn1"), BatchNorm2d::new(channels))?;
    net.then(format!("{name}.relu1"), Relu)?;
    net.then(format!("{name}.conv2"), Conv2d::new(channels, channels, 3).padding(1))?;
    let main = net.then(format!("{name}.bn2"), BatchNorm2d::new(channels))?;
    let mut shortcut = input;
    if stride != 1 || in_channels != channels {
        net.at = input;
        net.then(format!("{name}.downsample.0"), Conv2d::new(in_channels, channels, 1).stride(stride))?;
        shortcut = net.then(format!("{name}.downsample.1"), BatchNorm2d::new(channels))?;
    }
    net.at = net.builder.add(format!("{name}.add"), Add, &[main, shortcut])?;
    net.then(format!("{name}.relu2"), Relu)?;
    net.channels = channels;
    Ok(())
}
