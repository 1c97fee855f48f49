//! Orthogonality regularisation of convolutions: `λ·‖W Wᵀ − I‖²`.

use kernels::gemm::{self, Matrix, multiply};
use kernels::{Op, Scratch, Threads};
use model::Graph;
use tensor::Tensor;

/// Adds the gradient of `weight · Σ ‖W Wᵀ − I‖²` over the convolutions of `graph` to `grads`.
///
/// `W` is a kernel as a matrix of output channels by everything else, or its transpose where that has fewer rows (more
/// output channels than inputs cannot be orthonormal).
///
/// - Gradient: `4·(W Wᵀ − I)·W`
/// - Source: Delta's training code (flows.md, section 2)
pub(crate) fn add_gradient(
    graph: &Graph,
    params: &[Tensor],
    grads: &mut [Tensor],
    weight: f32,
    threads: &Threads,
) {
    for node in graph.nodes() {
        if !matches!(node.op, Op::Conv2d(_)) {
            continue;
        }
        let index = node.params.start;
        let kernel = params[index].data();
        let outputs = params[index].shape().dims()[0];
        let inputs = kernel.len() / outputs.max(1);
        let matrix = Matrix::new(kernel, outputs, inputs);
        let (wide, rows) = if outputs <= inputs { (matrix, outputs) } else { (matrix.transposed(), inputs) };
        let mut excess = threads.scratch(rows * rows);
        multiply(threads, 1.0, wide, wide.transposed(), 0.0, &mut excess);
        excess.iter_mut().step_by(rows + 1).for_each(|diagonal| *diagonal -= 1.0);
        let excess = Matrix::new(&excess, rows, rows);
        let grad = grads[index].data_mut();
        if outputs <= inputs {
            multiply(threads, 4.0 * weight, excess, wide, 1.0, grad);
        } else {
            // (E·Wᵀ)ᵀ = W·E, since E is symmetric.
            multiply(threads, 4.0 * weight, matrix, excess, 1.0, grad);
        }
    }
}

/// Scratch memory of [`add_gradient`].
pub(crate) fn scratch(graph: &Graph) -> Scratch {
    let of_kernel = |node: &model::Node| {
        let Op::Conv2d(conv) = &node.op else { return Scratch::NONE };
        let inputs = conv.in_channels / conv.groups * conv.kernel[0] * conv.kernel[1];
        let (rows, columns) = (conv.out_channels.min(inputs), conv.out_channels.max(inputs));
        let square = gemm::scratch([rows, columns, rows]);
        let gradient = gemm::scratch([rows, rows, columns]).or(gemm::scratch([columns, rows, rows]));
        square.or(gradient).and(Scratch::shared([rows * rows]))
    };
    graph.nodes().iter().map(of_kernel).fold(Scratch::NONE, Scratch::or)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::conv2d::Conv2d;
    use model::{GraphBuilder, Parameters, ValueId};
    use tensor::Shape;

    fn penalty(kernel: &[f32], outputs: usize) -> f64 {
        let inputs = kernel.len() / outputs;
        let at = |o: usize, i: usize| f64::from(kernel[o * inputs + i]);
        let (rows, inner) = (outputs.min(inputs), outputs.max(inputs));
        let entry = |a: usize, b: usize| -> f64 {
            let term = |k: usize| if outputs <= inputs { at(a, k) * at(b, k) } else { at(k, a) * at(k, b) };
            (0..inner).map(term).sum::<f64>() - if a == b { 1.0 } else { 0.0 }
        };
        (0..rows).flat_map(|a| (0..rows).map(move |b| (a, b))).map(|(a, b)| entry(a, b).powi(2)).sum()
    }

    #[test]
    fn gradient_agrees_with_central_differences() {
        for (inputs, outputs, kernel) in [(2, 3, 2), (1, 5, 1), (3, 3, 1)] {
            let mut builder = GraphBuilder::new("g", Shape::from([inputs, 4, 4]));
            builder.add("conv", Conv2d::new(inputs, outputs, kernel), &[ValueId::INPUT]).unwrap();
            let graph = builder.finish();
            let mut parameters = Parameters::init(&graph, 3);
            let mut grads = vec![Tensor::zeros(parameters.params[0].shape())];
            add_gradient(&graph, &parameters.params, &mut grads, 0.5, &Threads::new(1));
            for i in 0..grads[0].data().len() {
                let value = parameters.params[0].data()[i];
                let mut shifted = |by: f32| {
                    parameters.params[0].data_mut()[i] = value + by;
                    let result = penalty(parameters.params[0].data(), outputs);
                    parameters.params[0].data_mut()[i] = value;
                    result
                };
                let difference = 0.5 * (shifted(1e-2) - shifted(-1e-2)) / 2e-2;
                let found = f64::from(grads[0].data()[i]);
                assert!((difference - found).abs() < 1e-2 * (1.0 + found.abs()), "{difference} {found}");
            }
        }
    }
}
