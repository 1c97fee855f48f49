//! VGG (Simonyan and Zisserman 2014), as torchvision numbers its layers.

use kernels::activation::Relu;
use kernels::batch_norm::BatchNorm2d;
use kernels::conv2d::Conv2d;
use kernels::dropout::Dropout;
use kernels::flatten::Flatten;
use kernels::pool::MaxPool2d;

use super::{Net, Options};
use crate::GraphError;

/// Convolutions per stage of configurations A, B, D and E.
const CONFIGURATIONS: [(&str, [usize; 5]); 4] = [
    ("vgg11", [1, 1, 2, 2, 2]),
    ("vgg13", [2, 2, 2, 2, 2]),
    ("vgg16", [2, 2, 3, 3, 3]),
    ("vgg19", [2, 2, 4, 4, 4]),
];

/// torchvision's VGG: `name` is `vggN` or `vggN-bn`.
pub(super) fn imagenet(
    net: &mut Net,
    name: &str,
    classes: usize,
    options: Options,
) -> Result<(), GraphError> {
    let plain = name.trim_end_matches("-bn");
    let configuration = CONFIGURATIONS.iter().find(|(known, _)| *known == plain);
    let (_, stages) = configuration.expect("the list of architectures holds only these VGGs");
    features(net, stages, plain != name, options.width.unwrap_or(64))?;
    net.average(options.pool.unwrap_or(7))?;
    let hidden = options.hidden.unwrap_or(4096);
    for first in [0, 3] {
        net.linear(&format!("classifier.{first}"), hidden)?;
        net.then(format!("classifier.{}", first + 1), Relu)?;
        net.then(format!("classifier.{}", first + 2), Dropout { probability: 0.5 })?;
    }
    net.linear("classifier.6", classes)
}

/// VGG-16 with batch norm and one linear layer, for 32×32 images.
pub(super) fn cifar16(net: &mut Net, classes: usize, options: Options) -> Result<(), GraphError> {
    features(net, &CONFIGURATIONS[2].1, true, options.width.unwrap_or(64))?;
    net.then("flatten", Flatten)?;
    net.linear("classifier", classes)
}

/// Stages of 3×3 convolutions, each ended by 2×2 max pooling; channels double up to eight times the width.
fn features(net: &mut Net, stages: &[usize; 5], norm: bool, width: usize) -> Result<(), GraphError> {
    let mut index = 0;
    let mut name = || {
        index += 1;
        format!("features.{}", index - 1)
    };
    for (stage, &convs) in stages.iter().enumerate() {
        for _ in 0..convs {
            let channels = width << stage.min(3);
            net.then(name(), Conv2d::new(net.channels, channels, 3).padding(1).bias(true))?;
            if norm {
                net.then(name(), BatchNorm2d::new(channels))?;
            }
            net.then(name(), Relu)?;
            net.channels = channels;
        }
        net.then(name(), MaxPool2d { kernel: [2; 2], stride: [2; 2], padding: [0; 2] })?;
    }
    Ok(())
}
