use kernels::activation::{LeakyRelu, Prelu, Relu};
use kernels::add::Add;
use kernels::batch_norm::BatchNorm2d;
use kernels::conv2d::Conv2d;
use kernels::dropout::Dropout;
use kernels::flatten::Flatten;
use kernels::group_norm::GroupNorm;
use kernels::linear::Linear;
use kernels::pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};
use proptest::prelude::*;

use super::*;
use crate::zoo;

const INPUT: ValueId = ValueId::INPUT;

/// Encodes a graph description without any check, and decodes it with all of them.
fn decoded(raw: RawGraph) -> Result<Graph, GraphError> {
    // Postcard drops the message of a refusal, so the checks are called as its decoder calls them.
    let bytes = postcard::to_stdvec(&raw).unwrap();
    let refused = postcard::from_bytes::<Graph>(&bytes).is_err();
    let graph = Graph::try_from(raw);
    assert_eq!(graph.is_err(), refused);
    graph
}

fn raw(nodes: Vec<(&str, Op, Vec<ValueId>)>) -> RawGraph {
    let nodes: Vec<_> = nodes.into_iter().map(|(name, op, inputs)| (name.to_owned(), op, inputs)).collect();
    RawGraph { name: "hostile".into(), input: [2, 6, 6].into(), output: ValueId(nodes.len()), nodes }
}

fn one(op: impl Into<Op>) -> Result<Graph, GraphError> {
    decoded(raw(vec![("node", op.into(), vec![INPUT])]))
}

#[test]
fn every_architecture_survives_encoding() {
    for &architecture in zoo::ARCHITECTURES {
        let graph = zoo::build(architecture, [3, 64, 64].into(), 10).unwrap();
        let bytes = postcard::to_stdvec(&graph).unwrap();
        assert_eq!(postcard::from_bytes::<Graph>(&bytes).unwrap(), graph, "{architecture}");
    }
}

#[test]
fn operators_with_attributes_survive_encoding() {
    let mut builder = GraphBuilder::new("all", [4, 16, 16].into());
    let odd = Conv2d { padding: [1, 2, 0, 1], dilation: [2, 1], ..Conv2d::new(4, 6, 3).groups(2).bias(true) };
    let mut at = builder.add("conv", odd, &[INPUT]).unwrap();
    at = builder.add("leaky", LeakyRelu { slope: 0.2 }, &[at]).unwrap();
    at = builder.add("prelu", Prelu { parameters: 6 }, &[at]).unwrap();
    let pool = AvgPool2d { kernel: [2; 2], stride: [1; 2], padding: [1; 2], count_include_pad: true };
    at = builder.add("avg", pool, &[at]).unwrap();
    at = builder.add("adaptive", AdaptiveAvgPool2d { output: [3, 2] }, &[at]).unwrap();
    at = builder.add("flatten", Flatten, &[at]).unwrap();
    at = builder.add("dropout", Dropout { probability: 0.25 }, &[at]).unwrap();
    builder.add("fc", Linear::new(36, 3), &[at]).unwrap();
    let graph = builder.finish_at(at).unwrap();
    let bytes = postcard::to_stdvec(&graph).unwrap();
    assert_eq!(postcard::from_bytes::<Graph>(&bytes).unwrap(), graph);
    assert_eq!(graph.output(), at, "an output before the last node is kept");
    assert_eq!(graph.find("avg"), Some(3));
    assert_eq!(graph.consumers(at).collect::<Vec<_>>(), [7]);
}

#[test]
fn shape_order_name_and_output_errors() {
    let shape = one(Conv2d::new(5, 3, 3));
    assert!(matches!(shape, Err(GraphError::Shape { node, op: "conv2d", .. }) if node == "node"));
    assert!(
        matches!(one(Conv2d::new(2, 3, 9)), Err(GraphError::Shape { .. })),
        "a kernel larger than the map"
    );
    assert!(matches!(one(Add), Err(GraphError::Shape { .. })), "one input instead of two");
    let order = decoded(raw(vec![("a", Relu.into(), vec![ValueId(1)])]));
    assert_eq!(order, Err(GraphError::Order { node: "a".into(), value: 1 }));
    let far = decoded(raw(vec![("a", Relu.into(), vec![ValueId(usize::MAX)])]));
    assert_eq!(far, Err(GraphError::Order { node: "a".into(), value: usize::MAX }));
    let twice = decoded(raw(vec![("a", Relu.into(), vec![INPUT]), ("a", Relu.into(), vec![INPUT])]));
    assert_eq!(twice, Err(GraphError::Name { node: "a".into() }));
    let output = RawGraph { output: ValueId(2), ..raw(vec![("a", Relu.into(), vec![INPUT])]) };
    assert_eq!(decoded(output), Err(GraphError::Output { value: 2 }));
}

#[test]
fn input_errors() {
    for input in [&[][..], &[1, 2, 3, 4], &[0, 4, 4], &[3, 4, 0], &[1, 1 << 20, 1], &[1 << 24, 1 << 7, 1]] {
        let shape = Shape::new(input);
        let found = decoded(RawGraph { input: shape, ..raw(Vec::new()) });
        assert!(matches!(found, Err(GraphError::Input { shape: s, .. }) if s == shape), "{shape}: {found:?}");
    }
    assert!(decoded(RawGraph { input: [7].into(), ..raw(Vec::new()) }).is_ok());
}

#[test]
fn attribute_errors() {
    let pool = MaxPool2d { kernel: [2; 2], stride: [2; 2], padding: [0; 2] };
    let refused: Vec<Op> = vec![
        Conv2d::new(2, 2, 3).groups(0).into(),
        Conv2d::new(2, 2, 0).into(),
        Conv2d::new(2, 0, 1).into(),
        Conv2d::new(2, 2, 3).stride(0).into(),
        Conv2d { dilation: [0, 1], ..Conv2d::new(2, 2, 3) }.into(),
        BatchNorm2d { eps: 0.0, ..BatchNorm2d::new(2) }.into(),
        BatchNorm2d { eps: f32::NAN, ..BatchNorm2d::new(2) }.into(),
        BatchNorm2d { momentum: 1.5, ..BatchNorm2d::new(2) }.into(),
        GroupNorm { eps: 0.0, ..GroupNorm::new(1, 2) }.into(),
        GroupNorm::new(3, 2).into(),
        GroupNorm::new(0, 2).into(),
        LeakyRelu { slope: f32::INFINITY }.into(),
        Prelu { parameters: 0 }.into(),
        Dropout { probability: 1.0 }.into(),
        MaxPool2d { stride: [0, 1], ..pool.clone() }.into(),
        MaxPool2d { kernel: [0, 1], ..pool }.into(),
        AdaptiveAvgPool2d { output: [0, 1] }.into(),
        Linear::new(0, 1).into(),
    ];
    for op in refused {
        let found = one(op.clone());
        assert!(matches!(found, Err(GraphError::Attribute { .. })), "{op:?}: {found:?}");
    }
}

#[test]
fn limit_errors() {
    let huge = usize::MAX;
    let refused: Vec<Op> = vec![
        Conv2d::new(2, huge, 1).into(),
        Conv2d::new(huge, huge, huge).into(),
        Conv2d::new(2, 1 << 24, 7).padding(3).into(),
        Conv2d::new(2, 2, 3).padding(huge / 2).into(),
        Conv2d { dilation: [huge, 1], ..Conv2d::new(2, 2, 3).padding(9) }.into(),
        Conv2d::new(2, 2, 1).stride(huge).into(),
        BatchNorm2d::new(huge).into(),
        GroupNorm::new(1, huge).into(),
        Prelu { parameters: huge }.into(),
        Linear::new(72, 1 << 24).bias(true).into(),
        AdaptiveAvgPool2d { output: [huge, huge] }.into(),
        Conv2d::new(2, 1 << 24, 1).padding(1 << 10).into(),
        AvgPool2d { kernel: [1; 2], stride: [1; 2], padding: [huge; 2], count_include_pad: true }.into(),
    ];
    for op in refused {
        let found = one(op.clone());
        assert!(matches!(found, Err(GraphError::Limit { .. })), "{op:?}: {found:?}");
    }
    // An output that grows with every node stops at the bound on one axis.
    let conv = Conv2d::new(2, 2, 1).padding(limits::MAX_SPATIAL / 4);
    let mut builder = GraphBuilder::new("grow", [2, 1, 1].into());
    let mut at = Ok(INPUT);
    for n in 0..3 {
        at = at.and_then(|v| builder.add(format!("pad{n}"), conv.clone(), &[v]));
    }
    assert!(matches!(at, Err(GraphError::Limit { what: "spatial axis" | "output elements", .. })), "{at:?}");
}

#[test]
fn size_errors() {
    let long = "x".repeat(MAX_NAME + 1);
    let node = decoded(raw(vec![(&long, Relu.into(), vec![INPUT])]));
    assert_eq!(node, Err(GraphError::LongName { length: MAX_NAME + 1 }));
    let graph = decoded(RawGraph { name: long, ..raw(Vec::new()) });
    assert_eq!(graph, Err(GraphError::LongName { length: MAX_NAME + 1 }));
    let names: Vec<String> = (0..=MAX_NODES).map(|n| format!("{n}")).collect();
    let nodes = names.iter().map(|name| (name.as_str(), Relu.into(), vec![INPUT])).collect();
    assert_eq!(Graph::try_from(raw(nodes)), Err(GraphError::Nodes));
    let wide = |n: usize| Linear::new(if n == 0 { 1 << 10 } else { 1 << 15 }, 1 << 15);
    let mut builder = GraphBuilder::new("wide", [1 << 10].into());
    let mut at = Ok(INPUT);
    for n in 0..4 {
        at = at.and_then(|v| builder.add(format!("fc{n}"), wide(n), &[v]));
    }
    assert_eq!(at, Err(GraphError::Parameters));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = postcard::from_bytes::<Graph>(&bytes);
    }

    #[test]
    fn mutated_graphs_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
    ) {
        let graph = zoo::build("resnet20", [3, 16, 16].into(), 10).unwrap();
        let mut bytes = postcard::to_stdvec(&graph).unwrap();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(graph) = postcard::from_bytes::<Graph>(&bytes) {
            prop_assert!(graph.macs() < u64::MAX && graph.param_count() <= limits::MAX_PARAMETERS);
        }
    }
}
