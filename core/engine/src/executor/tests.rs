#![allow(clippy::unwrap_used)] // a test that fails says why

use kernels::activation::{LeakyRelu, Prelu, Relu};
use kernels::add::Add;
use kernels::batch_norm::BatchNorm2d;
use kernels::conv2d::Conv2d;
use kernels::dropout::Dropout;
use kernels::flatten::Flatten;
use kernels::linear::Linear;
use kernels::pool::{AvgPool2d, MaxPool2d};
use model::{GraphBuilder, zoo};
use tensor::Shape;

use super::*;

/// Every kind of node, a value with two consumers, one read twice, and one that nobody reads.
fn many_kinds() -> Graph {
    let mut g = GraphBuilder::new("many kinds", Shape::from([3, 8, 8]));
    let conv = g.add("conv", Conv2d::new(3, 4, 3).padding(1).bias(true), &[ValueId::INPUT]).unwrap();
    let norm = g.add("norm", BatchNorm2d::new(4), &[conv]).unwrap();
    let relu = g.add("relu", Relu, &[norm]).unwrap();
    g.add("unread", Relu, &[conv]).unwrap();
    let twice = g.add("twice", Add, &[relu, relu]).unwrap();
    let leaky = g.add("leaky", LeakyRelu { slope: 0.1 }, &[twice]).unwrap();
    let sum = g.add("sum", Add, &[leaky, conv]).unwrap();
    let pooled = pooled(&mut g, sum);
    let flat = g.add("flat", Flatten, &[pooled]).unwrap();
    let dropped = g.add("dropout", Dropout { probability: 0.5 }, &[flat]).unwrap();
    g.add("linear", Linear::new(4 * 4, 5).bias(true), &[dropped]).unwrap();
    g.finish()
}

fn pooled(g: &mut GraphBuilder, value: ValueId) -> ValueId {
    let max = MaxPool2d { kernel: [2; 2], stride: [2; 2], padding: [0; 2] };
    let max = g.add("max", max, &[value]).unwrap();
    let prelu = g.add("prelu", Prelu { parameters: 4 }, &[max]).unwrap();
    let average = AvgPool2d { kernel: [2; 2], stride: [2; 2], padding: [0; 2], count_include_pad: true };
    g.add("average", average, &[prelu]).unwrap()
}

fn graphs() -> Vec<Graph> {
    let small = |name| zoo::build(name, Shape::from([3, 32, 32]), 10).unwrap();
    vec![many_kinds(), small("resnet20"), small("cnn-small")]
}

/// An executor in which no two buffers share memory.
fn apart(graph: &Graph, batch: usize) -> Executor {
    let mut timeline = Timeline::default();
    let mut plan = Plan::forward_as(graph.clone(), fuse::for_training(graph), batch, &mut timeline);
    plan.backward(false, &mut timeline);
    Executor::in_own_arena(&plan, &timeline.lay_out_apart()).with_gradients()
}

/// Bits of everything a few steps compute. Memory starts each step full of NaN: nothing may be read before it is written.
fn steps(mut executor: Executor, graph: &Graph) -> Vec<Vec<f32>> {
    let mut parameters = Parameters::init(graph, 1);
    let threads = Threads::new(1);
    let mut found = Vec::new();
    for (step, records) in [4usize, 3, 4].into_iter().enumerate() {
        executor.arena.floats.fill(f32::NAN);
        executor.arena.indices.fill(u32::MAX);
        let input = executor.input_mut(records).iter_mut().enumerate();
        input.for_each(|(i, x)| *x = ((i * 7 + step) % 11) as f32 / 5.0 - 1.0);
        let pass = Pass { records, mode: Mode::Train { seed: step as u64 } };
        let output = executor.forward(&mut parameters, pass, &threads).to_vec();
        let grad: Vec<f32> = output.iter().map(|x| 0.1 * x).collect();
        found.push(executor.backward(&parameters, &grad, pass, true, &threads).unwrap().to_vec());
        found.extend(executor.grad_params().iter().map(|g| g.data().to_vec()));
        found.push(output);
    }
    found.extend(parameters.buffers.iter().map(|b| b.data().to_vec()));
    assert!(found.iter().flatten().all(|x| x.is_finite()), "{}", graph.name());
    found
}

#[test]
fn shared_memory_gives_the_bits_of_memory_of_its_own() {
    for graph in graphs() {
        let (shared, own) = (Executor::for_training(graph.clone(), 4), apart(&graph, 4));
        assert!(shared.bytes() < own.bytes(), "{}", graph.name());
        assert_eq!(steps(shared, &graph), steps(own, &graph), "{}", graph.name());
    }
}

#[test]
fn inference_gives_the_bits_of_training_executors() {
    for graph in graphs() {
        let mut parameters = Parameters::init(&graph, 1);
        let logits = |mut executor: Executor, parameters: &mut Parameters| {
            executor.arena.floats.fill(f32::NAN);
            executor.input_mut(2).iter_mut().enumerate().for_each(|(i, x)| *x = (i % 5) as f32 - 2.0);
            executor.forward(parameters, Pass { records: 2, mode: Mode::Eval }, &Threads::new(1)).to_vec()
        };
        let (small, large) =
            (Executor::for_inference(graph.clone(), 2), Executor::for_training(graph.clone(), 2));
        assert!(small.arena.bytes() < large.arena.bytes(), "{}", graph.name());
        assert_eq!(logits(small, &mut parameters), logits(large, &mut parameters), "{}", graph.name());
    }
}

#[test]
fn computing_again_gives_the_same_bits_in_less_memory() {
    for graph in graphs() {
        let [kept, again] =
            [false, true].map(|recompute| Executor::for_training_within(graph.clone(), 4, recompute));
        // In the smallest graphs, the peak is elsewhere.
        let least = if graph.name() == "resnet20" { 0.85 } else { 1.0 };
        let share = again.arena.bytes() as f64 / kept.arena.bytes() as f64;
        assert!(share <= least, "{}: {share}", graph.name());
        assert_eq!(steps(again, &graph), steps(kept, &graph), "{}", graph.name());
    }
}
