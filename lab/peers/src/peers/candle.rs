//! candle on the CPU.

use anyhow::{Context, Result, bail};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{BatchNorm, ModuleT};
use kernels::Op;
use kernels::conv2d::Conv2d;
use kernels::pool::MaxPool2d;
use model::{Graph, Node};

use super::{Peer, Work};
use crate::protocol::{Case, Pass};
use crate::values;

pub(super) const PEER: Peer = Peer { name: "candle", version, prepare };

fn version() -> String {
    "0.11".to_owned()
}

/// The threads are those of rayon's global pool, whose number the environment says.
fn prepare(case: &Case, _threads: usize) -> Result<Work> {
    let net = Net::new(&case.graph)?;
    let shape = case.graph.input().batched(case.batch);
    let x = Tensor::from_vec(values::input(case), shape.dims(), &Device::Cpu)?;
    match case.pass {
        Pass::Forward | Pass::Inference => {
            let net = net.without_gradients()?;
            Ok(Box::new(move |figure| {
                let y = net.forward(&x, false)?;
                if figure { mean_abs(&y).map(Some) } else { Ok(None) }
            }))
        }
        Pass::ForwardBackward => operator(case, net, x),
        Pass::Training => training(case, net, x),
    }
}

fn operator(case: &Case, net: Net, x: Tensor) -> Result<Work> {
    let x = Var::from_tensor(&x)?;
    let shape = case.graph.shape(case.graph.output(), case.batch);
    let dy = Tensor::from_vec(values::grad_output(case), shape.dims(), &Device::Cpu)?;
    Ok(Box::new(move |figure| {
        // The gradient of Σ y · dy by y is dy; candle begins at a scalar.
        let grads = (net.forward(&x, true)? * &dy)?.sum_all()?.backward()?;
        let dw = grads.get(&net.params[0]).context("no gradient of the weight")?;
        grads.get(&x).context("no gradient of the input")?;
        if figure { mean_abs(dw).map(Some) } else { Ok(None) }
    }))
}

fn training(case: &Case, net: Net, x: Tensor) -> Result<Work> {
    let labels = Tensor::from_vec(values::labels(case), case.batch, &Device::Cpu)?;
    let mut velocity: Vec<Option<Tensor>> = vec![None; net.params.len()];
    Ok(Box::new(move |figure| {
        let loss = candle_nn::loss::cross_entropy(&net.forward(&x, true)?, &labels)?;
        update(&net.params, &loss.backward()?, &mut velocity)?;
        if figure { Ok(Some(f64::from(loss.to_scalar::<f32>()?))) } else { Ok(None) }
    }))
}

/// SGD with momentum, which candle's optimiser does not have.
fn update(params: &[Var], grads: &GradStore, velocity: &mut [Option<Tensor>]) -> Result<()> {
    let (rate, momentum, decay) = values::SGD;
    for (param, velocity) in params.iter().zip(velocity) {
        let gradient = grads.get(param).context("a parameter without a gradient")?;
        let step = (gradient + (param.as_tensor() * f64::from(decay))?)?;
        let step = match velocity.take() {
            Some(velocity) => ((velocity * f64::from(momentum))? + step)?,
            None => step,
        };
        param.set(&(param.as_tensor() - (&step * f64::from(rate))?)?)?;
        *velocity = Some(step.detach());
    }
    Ok(())
}

/// A model graph with its parameters.
struct Net {
    graph: Graph,
    params: Vec<Var>,
    /// What the nodes read: the parameters, or copies that record no gradients.
    read: Vec<Tensor>,
    norms: Vec<Option<BatchNorm>>,
}

impl Net {
    fn new(graph: &Graph) -> Result<Self> {
        let params = values::parameters(graph).params;
        let var = |p: &tensor::Tensor| Var::from_slice(p.data(), p.shape().dims(), &Device::Cpu);
        let params = params.iter().map(var).collect::<candle_core::Result<Vec<_>>>()?;
        let read = params.iter().map(|p| p.as_tensor().clone()).collect();
        Net { graph: graph.clone(), params, read, norms: Vec::new() }.with_norms()
    }

    fn without_gradients(mut self) -> Result<Self> {
        self.read =
            self.params.iter().map(|p| p.as_tensor().copy().map(|t| t.detach())).collect::<Result<_, _>>()?;
        self.with_norms()
    }

    fn with_norms(mut self) -> Result<Self> {
        let norms = self.graph.nodes().iter().map(|node| match &node.op {
            Op::BatchNorm2d(norm) => {
                let (zeros, ones) = (
                    Tensor::zeros(norm.channels, DType::F32, &Device::Cpu)?,
                    Tensor::ones(norm.channels, DType::F32, &Device::Cpu)?,
                );
                let [weight, bias] = [0, 1].map(|i| self.read[node.params.start + i].clone());
                let eps = f64::from(norm.eps);
                BatchNorm::new(norm.channels, zeros, ones, weight, bias, eps).map(Some)
            }
            _ => Ok(None),
        });
        self.norms = norms.collect::<candle_core::Result<_>>()?;
        Ok(self)
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut computed = vec![Some(x.clone())];
        for (n, node) in self.graph.nodes().iter().enumerate() {
            let inputs: Vec<Tensor> = node.inputs.iter().filter_map(|v| computed[v.0].clone()).collect();
            computed.push(Some(self.node(n, node, &inputs, train)?));
            // What nobody reads any more goes.
            for value in &node.inputs {
                if self.graph.consumers(*value).all(|consumer| consumer <= n) {
                    computed[value.0] = None;
                }
            }
        }
        computed[self.graph.output().0].take().context("no output")
    }

    fn node(&self, n: usize, node: &Node, inputs: &[Tensor], train: bool) -> Result<Tensor> {
        let params = &self.read[node.params.clone()];
        let x = &inputs[0];
        Ok(match &node.op {
            Op::Conv2d(conv) => convolution(conv, x, params)?,
            Op::BatchNorm2d(_) => self.norms[n].as_ref().context("no norm")?.forward_t(x, train)?,
            Op::Linear(_) => x.matmul(&params[0].t()?)?.broadcast_add(&params[1])?,
            Op::Relu(_) => x.relu()?,
            Op::MaxPool2d(pool) => max_pool(pool, x)?,
            Op::AdaptiveAvgPool2d(pool) => average(pool.output, x)?,
            Op::Add(_) => (x + &inputs[1])?,
            Op::Flatten(_) => x.flatten_from(1)?,
            Op::Dropout(dropout) if train => candle_nn::ops::dropout(x, dropout.probability)?,
            Op::Dropout(_) => x.clone(),
            other => bail!("`{}` is not known to this peer", other.operator().name()),
        })
    }
}

fn convolution(conv: &Conv2d, x: &Tensor, params: &[Tensor]) -> Result<Tensor> {
    let y = x.conv2d(&params[0], conv.padding[0], conv.stride[0], conv.dilation[0], conv.groups)?;
    match params.get(1) {
        Some(bias) => Ok(y.broadcast_add(&bias.reshape((1, conv.out_channels, 1, 1))?)?),
        None => Ok(y),
    }
}

/// Padding by zeros: in these models the input comes from a ReLU, so that no zero is above a maximum.
fn max_pool(pool: &MaxPool2d, x: &Tensor) -> Result<Tensor> {
    let [y, z] = pool.padding;
    let padded = x.pad_with_zeros(2, y, y)?.pad_with_zeros(3, z, z)?;
    let ([ky, kx], [sy, sx]) = (pool.kernel, pool.stride);
    Ok(padded.max_pool2d_with_stride((ky, kx), (sy, sx))?)
}

fn average([height, width]: [usize; 2], x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    match (h % height, w % width, h == height && w == width) {
        (_, _, true) => Ok(x.clone()),
        (0, 0, _) => Ok(x.avg_pool2d((h / height, w / width))?),
        _ => bail!("an adaptive average pooling whose windows differ"),
    }
}

fn mean_abs(tensor: &Tensor) -> Result<f64> {
    Ok(values::mean_abs(&tensor.flatten_all()?.to_vec1::<f32>()?))
}
