//! Ours, as the enclave uses it.

use anyhow::Result;
use engine::{Executor, Learner, OptimiserConfig, Pass as EnginePass};
use kernels::{Backward, Forward, GradInput, Mode, Operator, Saved, SavedMut, Threads, gemm};
use tensor::Tensor;

use super::{Peer, Work};
use crate::protocol::{Case, Pass};
use crate::values;

pub(super) const PEER: Peer = Peer { name: "asymflow", version, prepare };

const TRAIN: Mode = Mode::Train { seed: 1 };

fn version() -> String {
    format!("{} ({})", env!("CARGO_PKG_VERSION"), gemm::instruction_set())
}

fn prepare(case: &Case, threads: usize) -> Result<Work> {
    let threads = Threads::new(threads);
    match case.pass {
        Pass::Forward | Pass::ForwardBackward => operator(case, threads),
        Pass::Inference => Ok(inference(case, threads)),
        Pass::Training => training(case, threads),
    }
}

fn inference(case: &Case, threads: Threads) -> Work {
    let (batch, input) = (case.batch, values::input(case));
    let mut parameters = values::parameters(&case.graph);
    let mut executor = Executor::for_inference(case.graph.clone(), batch);
    Box::new(move |figure| {
        executor.input_mut(batch).copy_from_slice(&input);
        let pass = EnginePass { records: batch, mode: Mode::Eval };
        let logits = executor.forward(&mut parameters, pass, &threads);
        Ok(figure.then(|| values::mean_abs(logits)))
    })
}

fn training(case: &Case, threads: Threads) -> Result<Work> {
    let (rate, momentum, weight_decay) = values::SGD;
    let optimiser = OptimiserConfig::Sgd { momentum, weight_decay, nesterov: false };
    let (batch, input, labels) = (case.batch, values::input(case), values::labels(case));
    let mut learner = Learner::new(case.graph.clone(), values::parameters(&case.graph), optimiser, batch)?;
    Ok(Box::new(move |figure| {
        learner.input_mut(batch).copy_from_slice(&input);
        let pass = EnginePass { records: batch, mode: TRAIN };
        let (_, loss) = learner.train_step(&labels, pass, rate, &threads);
        Ok(figure.then_some(f64::from(loss)))
    }))
}

/// The only node of a graph, on results allocated once.
fn operator(case: &Case, threads: Threads) -> Result<Work> {
    let backward = case.pass == Pass::ForwardBackward;
    let (graph, batch) = (case.graph.clone(), case.batch);
    let op = graph.nodes()[0].op.clone();
    let shapes = graph.input_shapes(0, batch);
    let output_shape = graph.shape(graph.output(), batch);
    let x = Tensor::from_vec(shapes[0], values::input(case))?;
    let dy = Tensor::from_vec(output_shape, values::grad_output(case))?;
    let params = values::parameters(&graph).params;
    let lengths = op.operator().saved_len(&shapes);
    let (mut floats, mut indices) = (vec![0.0; lengths.floats], vec![0; lengths.indices]);
    let (mut y, mut dx) = (Tensor::zeros(output_shape), Tensor::zeros(shapes[0]));
    let mut dw: Vec<Tensor> = params.iter().map(|p| Tensor::zeros(p.shape())).collect();
    Ok(Box::new(move |figure| {
        let op: &dyn Operator = op.operator();
        op.forward(Forward {
            inputs: &[x.view()],
            params: &params,
            buffers: &mut [],
            output: y.view_mut(),
            saved: SavedMut { floats: &mut floats, indices: &mut indices },
            mode: TRAIN,
            threads: &threads,
        });
        if !backward {
            return Ok(figure.then(|| values::mean_abs(y.data())));
        }
        op.backward(Backward {
            inputs: &[x.view()],
            params: &params,
            buffers: &[],
            output: y.view(),
            grad_output: dy.view(),
            saved: Saved { floats: &floats, indices: &indices },
            grad_inputs: &mut [Some(GradInput { data: dx.data_mut(), accumulate: false })],
            grad_params: &mut dw,
            mode: TRAIN,
            threads: &threads,
        });
        Ok(figure.then(|| values::mean_abs(dw[0].data())))
    }))
}
