//! Burn on its pure-Rust CPU backend, Flex.

use anyhow::{Result, bail};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::loss::cross_entropy_with_logits;
use burn::tensor::module::{adaptive_avg_pool2d, batch_norm, batch_norm_train, conv2d, linear, max_pool2d};
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Gradients, Tensor, TensorData, activation};
use kernels::Op;
use kernels::conv2d::Conv2d;
use kernels::pool::MaxPool2d;
use model::{Graph, Node};

use super::{Peer, Work};
use crate::protocol::{Case, Pass};
use crate::values;

pub(super) const PEER: Peer = Peer { name: "burn", version, prepare };

fn version() -> String {
    "0.22 (flex)".to_owned()
}

/// The threads are those of rayon's global pool, whose number the environment says.
fn prepare(case: &Case, _threads: usize) -> Result<Work> {
    let trains = matches!(case.pass, Pass::ForwardBackward | Pass::Training);
    let device = if trains { Device::flex().autodiff() } else { Device::flex() };
    let mut net = Net::new(&case.graph, &device, trains)?;
    let dims: [usize; 4] = case.graph.input().batched(case.batch).dims().try_into()?;
    let x = Tensor::<4>::from_data(TensorData::new(values::input(case), dims), &device);
    match case.pass {
        Pass::Forward | Pass::Inference => Ok(Box::new(move |figure| {
            let y = net.forward(Value::Image(x.clone()))?;
            Ok(figure.then(|| y.mean_abs()))
        })),
        Pass::ForwardBackward => operator(case, net, x, &device),
        Pass::Training => Ok(training(case, net, x, &device)),
    }
}

fn operator(case: &Case, mut net: Net, x: Tensor<4>, device: &Device) -> Result<Work> {
    let dims: [usize; 4] = case.graph.shape(case.graph.output(), case.batch).dims().try_into()?;
    let dy = Tensor::<4>::from_data(TensorData::new(values::grad_output(case), dims), device);
    let x = x.require_grad();
    Ok(Box::new(move |figure| {
        let Value::Image(y) = net.forward(Value::Image(x.clone()))? else { bail!("no image") };
        // The gradient of Σ y · dy by y is dy; Burn begins at a scalar.
        let mut grads = (y * dy.clone()).sum().backward();
        let Param::Kernel(weight) = &net.params[0] else { bail!("no kernel") };
        let (Some(_dx), Some(dw)) = (x.grad_remove(&mut grads), weight.value.grad_remove(&mut grads)) else {
            bail!("a gradient is missing")
        };
        Ok(figure.then(|| mean_abs(dw)))
    }))
}

fn training(case: &Case, mut net: Net, x: Tensor<4>, device: &Device) -> Work {
    let (labels, classes) = (values::labels(case), case.graph.classes());
    let mut one_hot = vec![0.0f32; labels.len() * classes];
    labels.iter().enumerate().for_each(|(i, &label)| one_hot[i * classes + label as usize] = 1.0);
    let targets = Tensor::<2>::from_data(TensorData::new(one_hot, [labels.len(), classes]), device);
    Box::new(move |figure| {
        let Value::Rows(logits) = net.forward(Value::Image(x.clone()))? else { bail!("no logits") };
        let loss = cross_entropy_with_logits(logits, targets.clone());
        let mut grads = loss.backward();
        net.params.iter_mut().for_each(|param| param.update(&mut grads));
        Ok(figure.then(|| f64::from(loss.into_scalar::<f32>())))
    })
}

/// A value of the graph.
#[derive(Clone)]
enum Value {
    Image(Tensor<4>),
    Rows(Tensor<2>),
}

impl Value {
    fn mean_abs(self) -> f64 {
        match self {
            Value::Image(x) => mean_abs(x),
            Value::Rows(x) => mean_abs(x),
        }
    }
}

fn mean_abs<const D: usize>(x: Tensor<D>) -> f64 {
    values::mean_abs(&x.into_data().try_to_vec::<f32>().unwrap_or_default())
}

/// A parameter with its momentum.
struct Trained<const D: usize> {
    value: Tensor<D>,
    velocity: Option<Tensor<D>>,
}

enum Param {
    Kernel(Trained<4>),
    /// `[in, out]`, as Burn stores it.
    Matrix(Trained<2>),
    Vector(Trained<1>),
}

impl Param {
    fn new(tensor: &tensor::Tensor, device: &Device, trains: bool) -> Result<Self> {
        let data = tensor.data().to_vec();
        Ok(match *tensor.shape().dims() {
            [a, b, c, d] => Param::Kernel(Trained::new(TensorData::new(data, [a, b, c, d]), device, trains)),
            [a, b] => {
                let stored = Tensor::<2>::from_data(TensorData::new(data, [a, b]), device).transpose();
                Param::Matrix(Trained::new(stored.into_data(), device, trains))
            }
            [a] => Param::Vector(Trained::new(TensorData::new(data, [a]), device, trains)),
            _ => bail!("a parameter of shape {}", tensor.shape()),
        })
    }

    fn update(&mut self, grads: &mut Gradients) {
        match self {
            Param::Kernel(param) => param.update(grads),
            Param::Matrix(param) => param.update(grads),
            Param::Vector(param) => param.update(grads),
        }
    }
}

impl<const D: usize> Trained<D> {
    fn new(data: TensorData, device: &Device, trains: bool) -> Self {
        let value = Tensor::from_data(data, device);
        Trained { value: if trains { value.require_grad() } else { value }, velocity: None }
    }

    /// SGD with momentum.
    fn update(&mut self, grads: &mut Gradients) {
        let (rate, momentum, decay) = values::SGD;
        let Some(gradient) = self.value.grad_remove(grads) else { return };
        let value = self.value.clone().inner();
        let step = gradient + value.clone() * decay;
        let step = match self.velocity.take() {
            Some(velocity) => velocity * momentum + step,
            None => step,
        };
        self.value = Tensor::from_inner(value - step.clone() * rate).require_grad();
        self.velocity = Some(step);
    }
}

/// A model graph with its parameters and running statistics.
struct Net {
    graph: Graph,
    params: Vec<Param>,
    /// Mean and variance of each batch norm.
    running: Vec<Option<[Tensor<1>; 2]>>,
    dropout: Vec<Option<Dropout>>,
    trains: bool,
}

impl Net {
    fn new(graph: &Graph, device: &Device, trains: bool) -> Result<Self> {
        let params = values::parameters(graph).params;
        let running = |node: &Node| match &node.op {
            Op::BatchNorm2d(norm) => {
                Some([Tensor::zeros([norm.channels], device), Tensor::ones([norm.channels], device)])
            }
            _ => None,
        };
        let dropout = |node: &Node| match &node.op {
            Op::Dropout(dropout) => Some(DropoutConfig::new(f64::from(dropout.probability)).init()),
            _ => None,
        };
        Ok(Net {
            graph: graph.clone(),
            params: params.iter().map(|p| Param::new(p, device, trains)).collect::<Result<_>>()?,
            running: graph.nodes().iter().map(running).collect(),
            dropout: graph.nodes().iter().map(dropout).collect(),
            trains,
        })
    }

    fn forward(&mut self, x: Value) -> Result<Value> {
        let mut computed = vec![Some(x)];
        for n in 0..self.graph.nodes().len() {
            let node = self.graph.nodes()[n].clone();
            // A value that nobody reads later is moved, so that Burn may work in place.
            let mut take = |v: &model::ValueId| {
                let last = self.graph.consumers(*v).all(|consumer| consumer <= n);
                if last { computed[v.0].take() } else { computed[v.0].clone() }
            };
            let inputs: Vec<Value> = node.inputs.iter().filter_map(&mut take).collect();
            let value = self.node(n, &node, inputs)?;
            computed.push(Some(value));
        }
        computed[self.graph.output().0].take().ok_or_else(|| anyhow::anyhow!("no output"))
    }

    fn node(&mut self, n: usize, node: &Node, inputs: Vec<Value>) -> Result<Value> {
        let params = &self.params[node.params.clone()];
        let mut inputs = inputs.into_iter();
        Ok(match (&node.op, inputs.next(), inputs.next()) {
            (Op::Conv2d(conv), Some(Value::Image(x)), _) => Value::Image(convolution(conv, x, params)?),
            (Op::BatchNorm2d(norm), Some(Value::Image(x)), _) => {
                let [Param::Vector(weight), Param::Vector(bias)] = params else { bail!("no norm") };
                let Some(running) = &mut self.running[n] else { bail!("no statistics") };
                let affine = [weight.value.clone(), bias.value.clone()];
                Value::Image(normalised(x, affine, running, (norm.eps, norm.momentum), self.trains))
            }
            (Op::Linear(_), Some(Value::Rows(x)), _) => {
                let [Param::Matrix(weight), Param::Vector(bias)] = params else { bail!("no matrix") };
                Value::Rows(linear(x, weight.value.clone(), Some(bias.value.clone())))
            }
            (Op::Relu(_), Some(Value::Image(x)), _) => Value::Image(activation::relu(x)),
            (Op::Relu(_), Some(Value::Rows(x)), _) => Value::Rows(activation::relu(x)),
            (Op::MaxPool2d(pool), Some(Value::Image(x)), _) => Value::Image(max_pool(pool, x)),
            (Op::AdaptiveAvgPool2d(pool), Some(Value::Image(x)), _) => {
                Value::Image(adaptive_avg_pool2d(x, pool.output))
            }
            (Op::Add(_), Some(Value::Image(a)), Some(Value::Image(b))) => Value::Image(a + b),
            (Op::Flatten(_), Some(Value::Image(x)), _) => Value::Rows(x.flatten(1, 3)),
            (Op::Dropout(_), Some(Value::Rows(x)), _) => {
                Value::Rows(self.dropout[n].as_ref().map_or(x.clone(), |dropout| dropout.forward(x)))
            }
            (other, ..) => bail!("`{}` is not known to this peer", other.operator().name()),
        })
    }
}

fn convolution(conv: &Conv2d, x: Tensor<4>, params: &[Param]) -> Result<Tensor<4>> {
    let [top, left, bottom, right] = conv.padding;
    let padding = [(top, bottom), (left, right)];
    let options = ConvOptions::new_with_padding(conv.stride, padding, conv.dilation, conv.groups);
    let bias = match params.get(1) {
        Some(Param::Vector(bias)) => Some(bias.value.clone()),
        _ => None,
    };
    let Param::Kernel(weight) = &params[0] else { bail!("no kernel") };
    Ok(conv2d(x, weight.value.clone(), bias, options))
}

fn normalised(
    x: Tensor<4>,
    [weight, bias]: [Tensor<1>; 2],
    running: &mut [Tensor<1>; 2],
    (eps, momentum): (f32, f32),
    trains: bool,
) -> Tensor<4> {
    if !trains {
        let [mean, variance] = running.clone();
        return batch_norm(x, weight, bias, mean, variance, f64::from(eps));
    }
    let result = batch_norm_train(x, weight, bias, f64::from(eps));
    for (running, new) in running.iter_mut().zip([result.mean, result.variance]) {
        *running = running.clone() * (1.0 - momentum) + new * momentum;
    }
    result.output
}

fn max_pool(pool: &MaxPool2d, x: Tensor<4>) -> Tensor<4> {
    let options = MaxPoolOptions {
        kernel_size: pool.kernel,
        stride: pool.stride,
        padding: pool.padding.map(|p| (p, p)),
        dilation: [1, 1],
        ceil_mode: false,
    };
    max_pool2d(x, options)
}
