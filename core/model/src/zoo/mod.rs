//! Known architectures by name, with torchvision's structure and parameter names.

mod resnet;
mod small;
mod vgg;

use kernels::Op;
use kernels::flatten::Flatten;
use kernels::linear::Linear;
use kernels::pool::AdaptiveAvgPool2d;
use tensor::Shape;

use crate::{Graph, GraphBuilder, GraphError, ValueId};

/// Names that [`build`] knows.
pub const ARCHITECTURES: &[&str] = &[
    "resnet18",
    "resnet34",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vgg11-bn",
    "vgg13-bn",
    "vgg16-bn",
    "vgg19-bn",
    "resnet18-cifar",
    "resnet20",
    "vgg16-bn-cifar",
    "cnn-small",
];

/// What can be changed about an architecture; `None` is the published value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Channels of the first stage: 64 for ImageNet's ResNet and VGG, 16 for `resnet20`, 32 for `cnn-small`.
    pub width: Option<usize>,
    /// Side of the adaptive average pooling before the classifier of an ImageNet VGG: 7.
    pub pool: Option<usize>,
    /// Width of the two hidden linear layers of an ImageNet VGG: 4096.
    pub hidden: Option<usize>,
}

/// An architecture that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZooError {
    #[error("unknown architecture `{name}`; did you mean `{nearest}`? Known: {}", ARCHITECTURES.join(", "))]
    Unknown { name: String, nearest: &'static str },
    #[error("an architecture takes images [C, H, W], not records of shape {found}")]
    Input { found: Shape },
    #[error("a classifier needs at least one class")]
    Classes,
    #[error("`{architecture}` with this input or these options: {source}")]
    Graph { architecture: &'static str, source: GraphError },
}

/// The architecture called `architecture` for images `[C, H, W]`.
///
/// # Errors
/// [`ZooError`] for an unknown name, and where the images are too small for the architecture.
pub fn build(architecture: &str, input: Shape, classes: usize) -> Result<Graph, ZooError> {
    build_with(architecture, input, classes, Options::default())
}

/// [`build`] with `width` channels in the first stage.
///
/// # Errors
/// As [`build`].
pub fn build_with_width(
    architecture: &str,
    input: Shape,
    classes: usize,
    width: usize,
) -> Result<Graph, ZooError> {
    build_with(architecture, input, classes, Options { width: Some(width), ..Options::default() })
}

/// [`build`] with changed widths.
///
/// # Errors
/// As [`build`].
pub fn build_with(
    architecture: &str,
    input: Shape,
    classes: usize,
    options: Options,
) -> Result<Graph, ZooError> {
    let known = ARCHITECTURES.iter().find(|&&known| known == architecture);
    let &name = known.ok_or_else(|| unknown(architecture))?;
    let [channels, _, _] = *input.dims() else { return Err(ZooError::Input { found: input }) };
    if classes == 0 {
        return Err(ZooError::Classes);
    }
    let build = || {
        let mut net = Net::new(name, input, channels)?;
        match name {
            "resnet18" => resnet::imagenet(&mut net, [2, 2, 2, 2], classes, options)?,
            "resnet34" => resnet::imagenet(&mut net, [3, 4, 6, 3], classes, options)?,
            "resnet18-cifar" => resnet::cifar18(&mut net, classes, options)?,
            "resnet20" => resnet::cifar20(&mut net, classes, options)?,
            "cnn-small" => small::cnn(&mut net, classes, options)?,
            "vgg16-bn-cifar" => vgg::cifar16(&mut net, classes, options)?,
            vgg => vgg::imagenet(&mut net, vgg, classes, options)?,
        }
        Ok(net.builder.finish())
    };
    build().map_err(|source| ZooError::Graph { architecture: name, source })
}

fn unknown(name: &str) -> ZooError {
    let nearest = ARCHITECTURES.iter().min_by_key(|known| distance(known, name)).copied().unwrap_or_default();
    ZooError::Unknown { name: name.chars().take(64).collect(), nearest }
}

/// Levenshtein distance of the first 64 characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A chain of layers under construction: the value at its end and that value's channels.
struct Net {
    builder: GraphBuilder,
    at: ValueId,
    channels: usize,
}

impl Net {
    fn new(name: &str, input: Shape, channels: usize) -> Result<Self, GraphError> {
        Ok(Net { builder: GraphBuilder::try_new(name, input)?, at: ValueId::INPUT, channels })
    }

    fn then(&mut self, name: impl Into<String>, op: impl Into<Op>) -> Result<ValueId, GraphError> {
        self.at = self.builder.add(name, op, &[self.at])?;
        Ok(self.at)
    }

    fn average(&mut self, side: usize) -> Result<(), GraphError> {
        self.then("avgpool", AdaptiveAvgPool2d { output: [side; 2] })?;
        self.then("flatten", Flatten)?;
        Ok(())
    }

    fn linear(&mut self, name: &str, out_features: usize) -> Result<(), GraphError> {
        let in_features = self.builder.shape(self.at).len();
        self.then(name, Linear::new(in_features, out_features).bias(true))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
