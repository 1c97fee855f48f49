#![allow(clippy::unwrap_used)] // a test that fails says why

use kernels::activation::Relu;
use kernels::add::Add;
use kernels::batch_norm::BatchNorm2d;
use kernels::{Mode, Threads, softmax_cross_entropy};
use model::{GraphBuilder, Norm, Parameters, zoo};
use tensor::Tensor;

use super::*;
use crate::{Executor, Pass};

const BATCH: usize = 4;

/// An architecture, or one with another norm, as in `resnet20+group`.
fn build(name: &str) -> Graph {
    let (name, norm) = name.split_once('+').unwrap_or((name, "batch"));
    let graph = zoo::build_with_width(name, [3, 32, 32].into(), 10, 8).unwrap();
    let parameters = Parameters::init(&graph, 5);
    norm.parse::<Norm>().unwrap().convert(&graph, parameters).unwrap().0
}

/// How many nodes there are of each operator, by name.
fn counts<'a>(graph: &Graph, names: &[&'a str]) -> Vec<(&'a str, usize)> {
    let count = |name| graph.nodes().iter().filter(|node| node.op.operator().name() == name).count();
    names.iter().map(|&name| (name, count(name))).collect()
}

fn numbers(graph: &Graph, names: &[&str]) -> Vec<usize> {
    counts(graph, names).into_iter().map(|(_, count)| count).collect()
}

#[test]
fn every_chain_of_training_is_fused() {
    let names =
        ["batch_norm2d+relu", "batch_norm2d+add+relu", "relu+max_pool2d", "batch_norm2d", "relu", "add"];
    let fused = |name| numbers(&for_training(&build(name)), &names);
    // What is left of ResNets are the norms of the shortcuts; of the others, those before a pooled ReLU.
    assert_eq!(fused("resnet18-cifar"), [9, 8, 0, 3, 0, 0]);
    assert_eq!(fused("resnet20"), [10, 9, 0, 2, 0, 0]);
    assert_eq!(fused("vgg16-bn-cifar"), [8, 0, 5, 5, 0, 0]);
    assert_eq!(fused("cnn-small"), [1, 0, 3, 3, 0, 0]);
}

#[test]
fn other_norms_are_fused_as_well() {
    let names = ["group_norm+relu", "group_norm+add+relu", "group_norm", "relu", "add"];
    assert_eq!(numbers(&for_training(&build("resnet20+group")), &names), [10, 9, 2, 0, 0]);
    assert_eq!(numbers(&for_inference(&build("resnet20+group")), &names), [10, 9, 2, 0, 0]);
    let names = ["batch_norm2d+relu", "batch_norm2d+add+relu", "frozen_norm2d", "relu", "add"];
    assert_eq!(numbers(&for_training(&build("resnet20+frozen")), &names), [10, 9, 2, 0, 0]);
}

#[test]
fn every_convolution_of_inference_is_fused() {
    let names = [
        "conv2d+batch_norm2d+relu",
        "conv2d+batch_norm2d+add+relu",
        "conv2d+batch_norm2d",
        "relu+max_pool2d",
        "conv2d",
        "batch_norm2d",
    ];
    let fused = |name| numbers(&for_inference(&build(name)), &names);
    assert_eq!(fused("resnet18-cifar"), [9, 8, 3, 0, 0, 0]);
    assert_eq!(fused("resnet20"), [10, 9, 2, 0, 0, 0]);
    assert_eq!(fused("vgg16-bn-cifar"), [8, 0, 5, 5, 0, 0]);
    assert_eq!(fused("cnn-small"), [1, 0, 3, 3, 0, 0]);
}

#[test]
fn inference_computes_the_same_bits() {
    for name in [
        "resnet18-cifar",
        "resnet20",
        "vgg16-bn-cifar",
        "cnn-small",
        "vgg11",
        "resnet20+group",
        "resnet20+frozen",
    ] {
        let graph = build(name);
        let fused = logits(Executor::for_inference(graph.clone(), BATCH));
        assert!(fused == logits(Executor::inference_as(graph.clone(), graph, BATCH)), "{name}");
        assert!(fused.iter().all(|x| x.is_finite()) && fused.iter().any(|&x| x != fused[0]), "{name}");
    }
}

fn logits(mut executor: Executor) -> Vec<f32> {
    let mut parameters = Parameters::init(executor.graph(), 5);
    fill(executor.input_mut(BATCH));
    executor.forward(&mut parameters, Pass { records: BATCH, mode: Mode::Eval }, &Threads::new(1)).to_vec()
}

fn fill(input: &mut [f32]) {
    input.iter_mut().enumerate().for_each(|(i, x)| *x = ((i * 7919 % 1009) as f32) / 500.0 - 1.0);
}

#[test]
fn a_fused_node_is_called_after_its_parts_and_reads_their_parameters() {
    let graph = build("resnet18-cifar");
    let fused = for_training(&graph);
    let node = &fused.nodes()[fused.find("layer2.0.bn2+add+relu2").unwrap()];
    let norm = &graph.nodes()[graph.find("layer2.0.bn2").unwrap()];
    assert_eq!((&node.params, &node.buffers, node.origin), (&norm.params, &norm.buffers, norm.origin));
    let shapes = |graph: &Graph| graph.param_specs().into_iter().map(|(_, shape)| shape).collect::<Vec<_>>();
    assert_eq!(shapes(&fused), shapes(&graph));
}

/// Logits, gradients of parameters and input, and running statistics after one step.
type Step = (Vec<f32>, Vec<Tensor>, Vec<f32>, Vec<Tensor>);

fn step(mut executor: Executor, mode: Mode, threads: usize) -> Step {
    let mut parameters = Parameters::init(executor.graph(), 5);
    let (pass, threads) = (Pass { records: BATCH, mode }, Threads::new(threads));
    fill(executor.input_mut(BATCH));
    let logits = executor.forward(&mut parameters, pass, &threads).to_vec();
    let mut grad = vec![0.0; logits.len()];
    softmax_cross_entropy::loss_and_gradient(&logits, &[1, 0, 7, 3], 10, &mut grad);
    let dx = executor.backward(&parameters, &grad, pass, true, &threads).unwrap().to_vec();
    (logits, executor.grad_params().to_vec(), dx, parameters.buffers)
}

#[test]
fn training_computes_the_same_bits() {
    for name in
        ["resnet18-cifar", "resnet20", "vgg16-bn-cifar", "cnn-small", "resnet20+group", "resnet20+frozen"]
    {
        let graph = build(name);
        for (mode, threads) in [(Mode::Train { seed: 3 }, 1), (Mode::Train { seed: 3 }, 2), (Mode::Eval, 1)] {
            let fused = step(Executor::for_training(graph.clone(), BATCH), mode, threads);
            let apart = step(Executor::training_as(graph.clone(), graph.clone(), BATCH), mode, threads);
            assert!(fused == apart, "{name}, {mode:?}, {threads} threads");
        }
    }
}

/// Dropout draws from the node's place in the model, not in what runs.
#[test]
fn randomness_is_keyed_by_the_model() {
    let graph = zoo::build_with_width("vgg11-bn", [3, 32, 32].into(), 10, 4).unwrap();
    let mode = Mode::Train { seed: 9 };
    let fused = step(Executor::for_training(graph.clone(), BATCH), mode, 1);
    assert!(fused == step(Executor::training_as(graph.clone(), graph, BATCH), mode, 1));
}

/// `relu(bn(x)) + bn(x)`, whose norm is read twice, and a graph that ends with a norm.
#[test]
fn what_something_else_reads_stays() {
    let norm =
        |builder: &mut GraphBuilder| builder.add("bn", BatchNorm2d::new(2), &[ValueId::INPUT]).unwrap();
    let mut builder = GraphBuilder::new("twice", [2, 4, 4].into());
    let bn = norm(&mut builder);
    let relu = builder.add("relu", Relu, &[bn]).unwrap();
    builder.add("add", Add, &[relu, bn]).unwrap();
    let graph = builder.finish();
    assert_eq!(for_training(&graph), graph);

    let mut builder = GraphBuilder::new("output", [2, 4, 4].into());
    let bn = norm(&mut builder);
    builder.add("relu", Relu, &[bn]).unwrap();
    let graph = builder.finish_at(bn).unwrap();
    assert_eq!(for_training(&graph), graph);
}

#[test]
fn a_fused_graph_is_no_model() {
    let graph = build("cnn-small");
    let fused = for_training(&graph);
    assert!(serde_json::to_string(&graph).is_ok());
    assert!(serde_json::to_string(&fused).is_err());
    let mut builder = GraphBuilder::new("fused", [3, 32, 32].into());
    let found = builder.add("add", Op::Fused(Fused::AddRelu(AddRelu)), &[ValueId::INPUT, ValueId::INPUT]);
    assert!(matches!(found, Err(model::GraphError::Attribute { .. })), "{found:?}");
}
