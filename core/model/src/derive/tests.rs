use kernels::activation::Relu;
use kernels::add::Add;
use kernels::flatten::Flatten;
use kernels::linear::Linear;
use kernels::pool::MaxPool2d;

use super::*;
use crate::{Parameters, zoo};

const CIFAR: [usize; 3] = [3, 32, 32];

fn zoo(name: &str, input: [usize; 3]) -> (Graph, ValueId) {
    let graph = zoo::build(name, input.into(), 10).unwrap();
    let at = split_point(&graph).unwrap();
    (graph, at)
}

fn name_at(graph: &Graph, at: ValueId) -> &str {
    &graph.nodes()[at.node().unwrap()].name
}

#[test]
fn splits_after_the_first_activation_or_its_max_pooling() {
    for (name, input, node, shape) in [
        ("resnet18-cifar", CIFAR, "relu", [64, 32, 32]),
        ("resnet20", CIFAR, "relu", [16, 32, 32]),
        ("cnn-small", [1, 28, 28], "relu1", [32, 28, 28]),
        ("vgg16-bn-cifar", CIFAR, "features.2", [64, 32, 32]),
        ("resnet34", [3, 224, 224], "maxpool", [64, 56, 56]),
        ("vgg11", [3, 64, 64], "features.2", [64, 32, 32]),
    ] {
        let (graph, at) = zoo(name, input);
        assert_eq!((name_at(&graph, at), graph.shape(at, 1).record()), (node, shape.into()), "{name}");
    }
}

#[test]
fn backbone_and_rest_make_up_the_whole() {
    for &architecture in zoo::ARCHITECTURES {
        let graph = zoo::build(architecture, [3, 64, 64].into(), 10).unwrap();
        let at = split_point(&graph).unwrap();
        let (backbone, rest) = (backbone(&graph, at).unwrap(), rest(&graph, at).unwrap());
        assert_eq!(backbone.nodes().len() + rest.nodes().len(), graph.nodes().len());
        assert_eq!(backbone.shape(backbone.output(), 1), graph.shape(at, 1));
        assert_eq!(rest.input().batched(1), graph.shape(at, 1));
        assert_eq!(rest.classes(), 10);
        assert_eq!(backbone.macs() + rest.macs(), graph.macs());
        let specs = [backbone.param_specs(), rest.param_specs()].concat();
        assert_eq!(specs, graph.param_specs(), "names and order of {architecture}");
    }
}

#[test]
fn parameters_follow_by_name() {
    let (graph, at) = zoo("cnn-small", CIFAR);
    let whole = Parameters::init(&graph, 5);
    let rest = rest(&graph, at).unwrap();
    let mut parameters = Parameters::zeros(&rest);
    let copied = parameters.copy_matching(&rest, &whole, &graph);
    assert_eq!(copied, rest.param_specs().len() + rest.buffer_specs().len());
    let matches =
        parameters.named(&rest).all(|(name, t)| whole.named(&graph).any(|(n, w)| n == name && w == t));
    assert!(matches);
}

#[test]
fn a_bypass_is_no_split_point() {
    let mut builder = GraphBuilder::new("bypass", CIFAR.into());
    let conv = builder.add("conv", Conv2d::new(3, 3, 3).padding(1), &[ValueId::INPUT]).unwrap();
    let relu = builder.add("relu", Relu, &[conv]).unwrap();
    let sum = builder.add("add", Add, &[relu, ValueId::INPUT]).unwrap();
    let graph = builder.finish_at(sum).unwrap();
    assert_eq!(split_point(&graph), Err(DeriveError::NoSplit { graph: "bypass".into() }));
    assert_eq!(rest(&graph, relu), Err(DeriveError::Bypass { node: "add".into() }));
    assert_eq!(backbone(&graph, ValueId::INPUT), Err(DeriveError::Value { value: 0 }));
    assert_eq!(backbone(&graph, ValueId(99)), Err(DeriveError::Value { value: 99 }));
    assert_eq!(
        rest(&graph, sum),
        Err(DeriveError::Value { value: sum.0 }),
        "nothing is left after the output"
    );
}

#[test]
fn residual_model_takes_the_released_shape() {
    let (graph, at) = zoo("resnet18-cifar", CIFAR);
    let whole = residual_model(&graph, at, [64, 32, 32].into()).unwrap();
    assert_eq!(whole.param_specs(), rest(&graph, at).unwrap().param_specs());
    for released in [[1, 32, 32], [1, 8, 8], [64, 16, 16], [3, 5, 7]] {
        let small = residual_model(&graph, at, released.into()).unwrap();
        assert_eq!((small.input(), small.classes()), (released.into(), 10));
        let first: Vec<String> = small.param_specs().into_iter().take(3).map(|(name, _)| name).collect();
        assert_eq!(first, ["stem.conv.weight", "stem.bn.weight", "stem.bn.bias"]);
        assert_eq!(small.param_specs()[3..], whole.param_specs());
    }
    let imagenet = zoo("vgg16", [3, 224, 224]);
    let pooled = residual_model(&imagenet.0, imagenet.1, [1, 56, 56].into()).unwrap();
    assert_eq!(pooled.classes(), 10);
}

#[test]
fn residual_model_says_when_the_map_vanishes() {
    let (graph, at) = zoo("vgg16-bn-cifar", CIFAR);
    let vanishes = residual_model(&graph, at, [1, 8, 8].into());
    assert!(matches!(vanishes, Err(DeriveError::Vanishes { height: 8, width: 8, .. })), "{vanishes:?}");
    assert!(vanishes.unwrap_err().to_string().contains("enlarge"));
    let rank = residual_model(&graph, at, [8, 8].into());
    assert!(matches!(rank, Err(DeriveError::Image { channels: None, .. })));
    assert!(matches!(residual_model(&graph, at, [0, 8, 8].into()), Err(DeriveError::Image { .. })));
}

/// A classifier without adaptive pooling still fits at another resolution.
#[test]
fn flattened_maps_are_averaged_to_their_size() {
    let mut builder = GraphBuilder::new("lenet", [1, 28, 28].into());
    let conv = builder.add("conv", Conv2d::new(1, 8, 3).padding(1), &[ValueId::INPUT]).unwrap();
    let relu = builder.add("relu", Relu, &[conv]).unwrap();
    let pool = MaxPool2d { kernel: [2; 2], stride: [2; 2], padding: [0; 2] };
    let conv = builder.add("conv2", Conv2d::new(8, 8, 3).padding(1), &[relu]).unwrap();
    let pool = builder.add("pool", pool, &[conv]).unwrap();
    let flat = builder.add("flatten", Flatten, &[pool]).unwrap();
    let linear = Linear::new(8 * 14 * 14, 10).bias(true);
    builder.add("fc", linear, &[flat]).unwrap();
    let graph = builder.finish();
    let at = split_point(&graph).unwrap();
    assert_eq!(at, relu);
    let residual = residual_model(&graph, at, [1, 14, 14].into()).unwrap();
    let main = main_model(&graph, at, [8, 1, 1].into(), 2, 1.0).unwrap();
    for derived in [residual, main] {
        assert!(derived.find("flatten.fit").is_some());
        assert_eq!(derived.param_specs().last().unwrap().0, "fc.bias");
    }
}

/// Table of the paper: 48.3 M multiply-adds for ResNet-18 on CIFAR, of which these are the blocks and the classifier.
#[test]
fn main_model_of_resnet18_has_the_papers_widths() {
    let (graph, at) = zoo("resnet18-cifar", CIFAR);
    let main = main_model(&graph, at, [64, 16, 16].into(), 8, 1.0).unwrap();
    let specs = main.param_specs();
    let planes = |name: &str| specs.iter().find(|(found, _)| found == name).unwrap().1.dims()[0];
    for (stage, n, q) in [(1, 64, 16), (2, 256, 32), (3, 512, 64)] {
        assert_eq!(planes(&format!("layer{stage}.1.conv2.low.weight")), q);
        assert_eq!(planes(&format!("layer{stage}.1.conv2.up.weight")), n);
    }
    let macs = main.macs() as f64 / 1e6;
    assert!((46.0..51.0).contains(&macs), "{macs} M");
    let double = main_model(&graph, at, [64, 16, 16].into(), 8, 2.0).unwrap();
    assert!(double.macs() > main.macs());
    let rank = main_model(&graph, at, [64, 16, 16].into(), 16, 1.0).unwrap();
    assert_eq!(rank.param_specs(), double.param_specs(), "q grows with rank as with width");
}

#[test]
fn main_model_of_any_graph_is_smaller() {
    for (name, input, side) in [
        ("resnet34", [3, 224, 224], 28),
        ("resnet20", CIFAR, 16),
        ("vgg16-bn-cifar", CIFAR, 16),
        ("vgg16-bn", [3, 64, 64], 16),
        ("cnn-small", CIFAR, 16),
        ("cnn-small", [1, 28, 28], 2),
    ] {
        let (graph, at) = zoo(name, input);
        let channels = graph.shape(at, 1).dims()[1];
        let main = main_model(&graph, at, [channels, side, side].into(), 4, 1.0).unwrap();
        let plain = rest(&graph, at).unwrap();
        assert!(main.macs() * 3 < plain.macs(), "{name}: {} of {}", main.macs(), plain.macs());
        assert_eq!(main.classes(), 10);
    }
}

#[test]
fn a_dearer_pair_of_convolutions_is_not_made() {
    let (graph, at) = zoo("cnn-small", CIFAR);
    let wide = main_model(&graph, at, [32, 16, 16].into(), 1000, 1.0).unwrap();
    assert!(wide.nodes().iter().all(|node| !node.name.ends_with(".low")));
    assert_eq!(wide.param_specs(), rest(&graph, at).unwrap().param_specs());
}

#[test]
fn main_model_refuses_nonsense() {
    let (graph, at) = zoo("cnn-small", CIFAR);
    let main = |input: &[usize], rank, width| main_model(&graph, at, Shape::new(input), rank, width);
    assert_eq!(main(&[32, 16, 16], 0, 1.0), Err(DeriveError::Positive { what: "rank" }));
    assert_eq!(main(&[32, 16, 16], 4, f32::NAN), Err(DeriveError::Positive { what: "width" }));
    assert!(matches!(main(&[8, 16, 16], 4, 1.0), Err(DeriveError::Image { channels: Some(32), .. })));
    assert!(matches!(main(&[32, 0, 16], 4, 1.0), Err(DeriveError::Image { .. })));
}
