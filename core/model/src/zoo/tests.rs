use std::collections::BTreeMap;

use super::*;

fn images(side: usize) -> Shape {
    [3, side, side].into()
}

#[test]
fn every_architecture_builds() {
    for &name in ARCHITECTURES {
        let side = if name.contains("cifar") || name == "resnet20" || name == "cnn-small" { 32 } else { 224 };
        let graph = build(name, images(side), 10).unwrap();
        assert_eq!((graph.name(), graph.classes()), (name, 10));
    }
}

/// Parameter counts published by torchvision, and by He et al. for ResNet-20 (plus its projection shortcuts).
#[test]
fn sizes_are_the_published_ones() {
    let count = |name, side, classes| build(name, images(side), classes).unwrap().param_count();
    assert_eq!(count("resnet18", 224, 1000), 11_689_512);
    assert_eq!(count("resnet34", 224, 1000), 21_797_672);
    assert_eq!(count("vgg11", 224, 1000), 132_863_336);
    assert_eq!(count("vgg13", 224, 1000), 133_047_848);
    assert_eq!(count("vgg16", 224, 1000), 138_357_544);
    assert_eq!(count("vgg19", 224, 1000), 143_667_240);
    assert_eq!(count("vgg16-bn", 224, 1000), 138_365_992);
    assert_eq!(count("resnet18-cifar", 32, 10), 11_173_962);
    assert_eq!(count("resnet20", 32, 10), 269_722 + (16 * 32 + 64) + (32 * 64 + 128));
}

#[test]
fn macs_are_the_published_ones() {
    let macs = |name, side, classes| build(name, images(side), classes).unwrap().macs() as f64;
    assert!((macs("resnet18", 224, 1000) / 1.814e9 - 1.0).abs() < 0.01);
    assert!((macs("vgg16", 224, 1000) / 15.47e9 - 1.0).abs() < 0.01);
    assert!((macs("resnet18-cifar", 32, 10) / 0.5557e9 - 1.0).abs() < 0.01);
}

#[test]
fn cnn_small_takes_small_images_of_any_channels() {
    for input in [[1, 28, 28], [1, 8, 8], [3, 32, 32], [3, 9, 13]] {
        let graph = build("cnn-small", input.into(), 100).unwrap();
        assert!(graph.param_count() < 200_000, "{} parameters", graph.param_count());
    }
}

#[test]
fn refuses_what_cannot_be_built() {
    let unknown = build("resnet-18", images(32), 10);
    assert!(matches!(unknown, Err(ZooError::Unknown { nearest: "resnet18", .. })), "{unknown:?}");
    assert!(matches!(
        build("vgg16bn-cifar", images(32), 10),
        Err(ZooError::Unknown { nearest: "vgg16-bn-cifar", .. })
    ));
    assert!(unknown.unwrap_err().to_string().contains("resnet34"));
    assert!(matches!(build("resnet18", [32, 32].into(), 10), Err(ZooError::Input { .. })));
    assert_eq!(build("resnet18", images(32), 0), Err(ZooError::Classes));
    assert!(matches!(
        build("vgg16-bn-cifar", images(8), 10),
        Err(ZooError::Graph { architecture: "vgg16-bn-cifar", .. })
    ));
    assert!(matches!(build_with_width("vgg16", images(64), 10, 0), Err(ZooError::Graph { .. })));
    assert!(matches!(build_with_width("vgg16", images(64), 10, usize::MAX / 2), Err(ZooError::Graph { .. })));
    assert!(matches!(build("resnet18", [0, 32, 32].into(), 10), Err(ZooError::Graph { .. })));
}

/// The zoo's architecture and options behind a folder name such as `vgg16bn_cifar`, read off the shapes of its weights.
fn vector_model(name: &str, shapes: &BTreeMap<String, Vec<usize>>) -> Option<(String, Options)> {
    let (base, kind) = name.split_once('_')?;
    let base = base.replace("bn", "-bn");
    let architecture = if kind == "cifar" { format!("{base}-cifar") } else { base };
    let dim = |name: &str, axis: usize| shapes.get(name).and_then(|shape| shape.get(axis)).copied();
    let width = dim("conv1.weight", 0).or(dim("features.0.weight", 0))?;
    let pooled = dim("classifier.0.weight", 1).map(|features| (features / (8 * width)).isqrt());
    let options = Options { width: Some(width), pool: pooled, hidden: dim("classifier.0.weight", 0) };
    ARCHITECTURES.contains(&architecture.as_str()).then_some((architecture, options))
}

#[test]
fn vectors_zoo_names() {
    let Some(folder) = vectors::folder("models") else { return };
    let index = vectors::index(&folder.join("index.json"));
    let sizes = |value: &serde_json::Value| -> Vec<usize> {
        value.as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect()
    };
    let mut compared = 0;
    for (name, entry) in index.as_object().unwrap() {
        let state = entry["state_dict"].as_object().unwrap().iter();
        let float = state.filter(|(_, tensor)| tensor[0] == "float32");
        let expected: BTreeMap<String, Vec<usize>> = float.map(|(n, t)| (n.clone(), sizes(&t[1]))).collect();
        let Some((architecture, options)) = vector_model(name, &expected) else {
            eprintln!("skipped: `{name}` is no architecture of the zoo");
            continue;
        };
        let input = Shape::try_new(&sizes(&entry["input"])).unwrap().record();
        let classes = entry["classes"].as_u64().unwrap() as usize;
        let graph = build_with(&architecture, input, classes, options).unwrap();
        let found = graph.param_specs().into_iter().chain(graph.buffer_specs());
        let found: BTreeMap<String, Vec<usize>> = found.map(|(n, s)| (n, s.dims().to_vec())).collect();
        assert_eq!(found, expected, "{name}");
        assert_eq!(graph.param_count() as u64, entry["params"].as_u64().unwrap(), "{name}");
        compared += 1;
    }
    assert!(compared > 0, "no model of the index is in the zoo");
}
