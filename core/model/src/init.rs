//! Initial parameters, as PyTorch and torchvision draw them, from a public seed.
//!
//! Every parameter has a stream of its own, derived from the seed and its name, so that a change elsewhere in the graph
//! leaves it as it was, and every machine draws the same numbers.

use std::f64::consts::TAU;

use kernels::Op;
use sha2::{Digest, Sha256};
use tensor::{Shape, Tensor};

use crate::{Graph, Node, Parameters};

/// PyTorch's initial slope of PReLU.
const PRELU_SLOPE: f32 = 0.25;
/// Standard deviation of torchvision's VGG classifiers.
const VGG_LINEAR: f64 = 0.01;

impl Parameters {
    /// Initial parameters from a public `seed`.
    ///
    /// Convolutions and linear layers as PyTorch draws them by default, `U(±1/√fan_in)`, but as torchvision does where
    /// the graph's name begins with `resnet` or `vgg`: convolutions `N(0, 2/fan_out)`, and for VGG zero biases and
    /// linear weights `N(0, 0.01²)`. The two halves of a factored convolution (`.low`, `.up`) together keep the
    /// variance of one. Batch and group norm start as the identity, PReLU with slope 0.25.
    pub fn init(graph: &Graph, seed: u64) -> Self {
        let mut parameters = Parameters { params: Vec::new(), buffers: Vec::new() };
        for node in graph.nodes() {
            let operator = node.op.operator();
            let fan_in = operator.params().first().map_or(1, |weight| weight.shape.record_len());
            for spec in operator.params() {
                let law = law(graph.name(), node, spec.name, spec.shape, fan_in);
                let stream = Stream::new(seed, &format!("{}.{}", node.name, spec.name));
                parameters.params.push(draw(law, spec.shape, stream));
            }
            for spec in operator.buffers() {
                let value = if spec.name == "running_var" { 1.0 } else { 0.0 };
                parameters.buffers.push(Tensor::from_fn(spec.shape, |_| value));
            }
        }
        parameters
    }
}

/// How one parameter is drawn.
#[derive(Clone, Copy)]
enum Law {
    Constant(f32),
    /// Uniform on ±bound.
    Uniform(f64),
    /// Normal with this standard deviation.
    Normal(f64),
}

fn law(family: &str, node: &Node, parameter: &str, shape: Shape, fan_in: usize) -> Law {
    let (vgg, resnet) = (family.starts_with("vgg"), family.starts_with("resnet"));
    let (conv, weight) = (matches!(node.op, Op::Conv2d(_)), parameter == "weight");
    match node.op {
        Op::BatchNorm2d(_) | Op::GroupNorm(_) => Law::Constant(if weight { 1.0 } else { 0.0 }),
        Op::Prelu(_) => Law::Constant(PRELU_SLOPE),
        _ if vgg && !weight => Law::Constant(0.0),
        _ if conv && weight && node.name.ends_with(".low") => Law::Normal((1.0 / fan_in as f64).sqrt()),
        _ if conv && weight && node.name.ends_with(".up") => Law::Normal((2.0 / fan_in as f64).sqrt()),
        _ if conv && weight && (vgg || resnet) => Law::Normal((2.0 / fan_out(shape) as f64).sqrt()),
        Op::Linear(_) if vgg => Law::Normal(VGG_LINEAR),
        _ => Law::Uniform(1.0 / (fan_in as f64).sqrt()),
    }
}

/// Outputs times kernel size, as PyTorch counts it (groups are ignored).
fn fan_out(shape: Shape) -> usize {
    shape.dims().first().copied().unwrap_or(1)
        * shape.dims().get(2..).unwrap_or_default().iter().product::<usize>()
}

fn draw(law: Law, shape: Shape, mut stream: Stream) -> Tensor {
    match law {
        Law::Constant(value) => Tensor::from_fn(shape, |_| value),
        Law::Uniform(bound) => Tensor::from_fn(shape, |_| (bound * (2.0 * stream.uniform() - 1.0)) as f32),
        Law::Normal(deviation) => Tensor::from_fn(shape, |_| (deviation * stream.normal()) as f32),
    }
}

/// SplitMix64 from a hashed starting point. Public randomness only: it is no cryptographic generator.
struct Stream {
    state: u64,
    spare: Option<f64>,
}

impl Stream {
    fn new(seed: u64, name: &str) -> Self {
        let digest =
            Sha256::new_with_prefix(b"asymflow init").chain_update(seed.to_le_bytes()).chain_update(name);
        let start = digest.finalize();
        let first = start.first_chunk().expect("a SHA-256 has more than eight bytes");
        Stream { state: u64::from_le_bytes(*first), spare: None }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform on [0, 1), 53 bits.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller; `libm`, because the system's functions differ between systems.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        let angle = TAU * self.uniform();
        self.spare = Some(radius * libm::sin(angle));
        radius * libm::cos(angle)
    }
}

#[cfg(test)]
mod tests {
    use kernels::batch_norm::BatchNorm2d;
    use kernels::conv2d::Conv2d;

    use super::*;
    use crate::{GraphBuilder, ValueId, zoo};

    fn moments(tensor: &Tensor) -> (f64, f64, f32) {
        let n = tensor.data().len() as f64;
        let mean = tensor.data().iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let square = tensor.data().iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n;
        let largest = tensor.data().iter().fold(0.0f32, |m, x| m.max(x.abs()));
        (mean, (square - mean * mean).sqrt(), largest)
    }

    fn tensor(graph: &Graph, name: &str) -> Tensor {
        let parameters = Parameters::init(graph, 3);
        assert!(parameters.fits(graph));
        parameters.named(graph).find(|(found, _)| found == name).unwrap().1.clone()
    }

    #[test]
    fn default_is_pytorchs_uniform() {
        let graph = zoo::build("cnn-small", [3, 16, 16].into(), 10).unwrap();
        let bound = 1.0 / (32.0f64 * 9.0).sqrt();
        let (mean, deviation, largest) = moments(&tensor(&graph, "conv3.weight"));
        assert!(mean.abs() < bound * 0.02 && (deviation * 3f64.sqrt() / bound - 1.0).abs() < 0.02);
        assert!(f64::from(largest) <= bound && f64::from(largest) > bound * 0.999);
        assert!(moments(&tensor(&graph, "fc.bias")).2 <= (1.0 / 128f32.sqrt()));
        assert_eq!(tensor(&graph, "bn1.weight").data(), [1.0; 32]);
        assert_eq!(tensor(&graph, "bn1.bias").data(), [0.0; 32]);
        assert_eq!(tensor(&graph, "bn1.running_mean").data(), [0.0; 32]);
        assert_eq!(tensor(&graph, "bn1.running_var").data(), [1.0; 32]);
    }

    #[test]
    fn resnet_and_vgg_are_torchvisions() {
        let resnet = zoo::build("resnet18-cifar", [3, 32, 32].into(), 10).unwrap();
        let (mean, deviation, largest) = moments(&tensor(&resnet, "layer2.0.conv1.weight"));
        let expected = (2.0 / (128.0 * 9.0f64)).sqrt();
        assert!((deviation / expected - 1.0).abs() < 0.02 && mean.abs() < expected * 0.02);
        assert!(f64::from(largest) > 3.5 * expected, "a normal law has tails");
        let vgg = zoo::build("vgg16-bn-cifar", [3, 32, 32].into(), 10).unwrap();
        assert!((moments(&tensor(&vgg, "classifier.weight")).1 / 0.01 - 1.0).abs() < 0.05);
        assert_eq!(tensor(&vgg, "features.0.bias").data(), [0.0; 64]);
    }

    #[test]
    fn a_stream_depends_on_seed_and_name_alone() {
        let graph = |first: usize| {
            let mut builder = GraphBuilder::new("g", [2, 4, 4].into());
            let a = builder.add("a", Conv2d::new(2, first, 3).padding(1), &[ValueId::INPUT]).unwrap();
            builder.add("norm", BatchNorm2d::new(first), &[a]).unwrap();
            builder.add("b", Conv2d::new(2, 2, 3).padding(1), &[ValueId::INPUT]).unwrap();
            builder.finish()
        };
        let (small, large) = (graph(2), graph(5));
        assert_eq!(Parameters::init(&small, 1), Parameters::init(&small, 1));
        assert_ne!(Parameters::init(&small, 1), Parameters::init(&small, 2));
        assert_eq!(Parameters::init(&small, 1).params.last(), Parameters::init(&large, 1).params.last());
        assert_ne!(
            Parameters::init(&small, 1).params[0],
            *Parameters::init(&small, 1).params.last().unwrap()
        );
    }
}
