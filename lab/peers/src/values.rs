//! The same weights, inputs and labels in every peer, from a formula; `pytorch.py` has it too.

use model::{Graph, Parameters};
use tensor::Shape;

use crate::protocol::Case;

/// SGD of a training step: learning rate, momentum, weight decay.
pub(crate) const SGD: (f32, f32, f32) = (0.01, 0.9, 5e-4);

/// Number of the tensor of output gradients in [`noise`]; 0 is the input, i + 1 the i-th parameter.
const GRADIENT: u32 = 1 << 20;

/// `len` numbers in [−scale, scale), those of tensor number `tensor`.
fn noise(tensor: u32, len: usize, scale: f32) -> Vec<f32> {
    let number = |i: u32| {
        let mut h = i.wrapping_add(tensor.wrapping_mul(0x9e37_79b9));
        h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
        h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
        h ^= h >> 16;
        ((h >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    (0..len as u32).map(number).collect()
}

/// The input of a case, `[batch, C, H, W]`.
pub(crate) fn input(case: &Case) -> Vec<f32> {
    noise(0, case.graph.input().batched(case.batch).len(), 1.0)
}

/// The gradient of the output of a case.
pub(crate) fn grad_output(case: &Case) -> Vec<f32> {
    noise(GRADIENT, case.graph.shape(case.graph.output(), case.batch).len(), 1.0)
}

/// One label per record.
pub(crate) fn labels(case: &Case) -> Vec<u32> {
    (0..case.batch).map(|i| (7 * i % case.graph.classes()) as u32).collect()
}

/// Parameter number `index` of a graph: weights of products by fan-in (He), norms 1, biases 0.
fn parameter(index: usize, name: &str, shape: Shape) -> Vec<f32> {
    let dims = shape.dims();
    match (name.ends_with("weight"), dims.len()) {
        (true, 1) => vec![1.0; shape.len()],
        (true, _) => {
            let fan_in: usize = dims[1..].iter().product();
            noise(index as u32 + 1, shape.len(), (6.0 / fan_in as f32).sqrt())
        }
        (false, _) => vec![0.0; shape.len()],
    }
}

/// The parameters of a graph, with the running statistics of fresh batch norms.
pub(crate) fn parameters(graph: &Graph) -> Parameters {
    let mut parameters = Parameters::init(graph, 0);
    for (i, (name, shape)) in graph.param_specs().into_iter().enumerate() {
        parameters.params[i].data_mut().copy_from_slice(&parameter(i, &name, shape));
    }
    parameters
}

/// The mean of absolute values.
pub(crate) fn mean_abs(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(x.abs())).sum::<f64>() / values.len().max(1) as f64
}
