use kernels::Op;
use kernels::activation::{LeakyRelu, Prelu, Relu};
use kernels::add::Add;
use kernels::batch_norm::BatchNorm2d;
use kernels::conv2d::Conv2d;
use kernels::dropout::Dropout;
use kernels::flatten::Flatten;
use kernels::group_norm::GroupNorm;
use kernels::linear::Linear;
use kernels::pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};
use model::{GraphBuilder, ValueId, zoo};
use onnx_rs::ast::{
    Attribute, AttributeType, DataLocation, DataType, Dimension, Graph as Proto, Model, Node, OpType,
    OperatorSetId, TensorProto, TensorShape, TensorShapeDimension, TensorTypeProto, TypeProto, TypeValue,
    ValueInfo,
};
use tensor::Tensor;

use super::*;

fn int(name: &'static str, i: i64) -> Attribute<'static> {
    Attribute { name, r#type: AttributeType::Int, i, ..Attribute::default() }
}

fn ints(name: &'static str, ints: &[i64]) -> Attribute<'static> {
    Attribute { name, r#type: AttributeType::Ints, ints: ints.to_vec(), ..Attribute::default() }
}

fn float(name: &'static str, f: f32) -> Attribute<'static> {
    Attribute { name, r#type: AttributeType::Float, f, ..Attribute::default() }
}

fn text(name: &'static str, s: &'static str) -> Attribute<'static> {
    Attribute { name, r#type: AttributeType::String, s: s.as_bytes(), ..Attribute::default() }
}

fn node<'a>(op: &'a str, input: &[&'a str], output: &[&'a str], attribute: Vec<Attribute<'a>>) -> Node<'a> {
    let (input, output) = (input.to_vec(), output.to_vec());
    Node { name: output[0], op_type: OpType::from(op), input, output, attribute, ..Node::default() }
}

fn info<'a>(name: &'a str, elem_type: DataType, dims: &[i64]) -> ValueInfo<'a> {
    let dim = |&d: &i64| TensorShapeDimension { value: Dimension::Value(d), denotation: "" };
    let shape = Some(TensorShape { dim: dims.iter().map(dim).collect() });
    let value = Some(TypeValue::Tensor(TensorTypeProto { elem_type, shape }));
    ValueInfo { name, r#type: Some(TypeProto { value, denotation: "" }), ..ValueInfo::default() }
}

fn weight<'a>(name: &'a str, dims: &[i64]) -> TensorProto<'a> {
    let count = dims.iter().product::<i64>();
    TensorProto::from_f32(name, dims.to_vec(), (0..count).map(|i| i as f32 * 0.1 - 0.3).collect())
}

/// A model over images [2, 6, 6] whose output is `y`.
fn file<'a>(nodes: Vec<Node<'a>>, initializer: Vec<TensorProto<'a>>) -> Model<'a> {
    let graph = Proto {
        node: nodes,
        initializer,
        input: vec![info("x", DataType::Float, &[0, 2, 6, 6])],
        output: vec![info("y", DataType::Float, &[])],
        ..Proto::default()
    };
    let opset_import = vec![OperatorSetId { domain: "", version: 17 }];
    Model { ir_version: 8, opset_import, graph: Some(graph), ..Model::default() }
}

fn import(nodes: Vec<Node<'_>>, initializer: Vec<TensorProto<'_>>) -> Result<Imported, ImportError> {
    read(&onnx_rs::encode(&file(nodes, initializer)))
}

fn ops(imported: &Imported) -> Vec<(&str, Op)> {
    imported.graph.nodes().iter().map(|node| (node.name.as_str(), node.op.clone())).collect()
}

/// Every operator, with attributes that are not the defaults.
fn every_operator() -> (Graph, Parameters) {
    let mut builder = GraphBuilder::new("every", [4, 16, 16].into());
    let odd = Conv2d { padding: [1, 2, 0, 1], dilation: [2, 1], ..Conv2d::new(4, 6, 3).groups(2).bias(true) };
    let mut at = builder.add("conv", odd, &[ValueId::INPUT]).unwrap();
    at = builder.add("bn", BatchNorm2d { eps: 1e-3, momentum: 0.3, ..BatchNorm2d::new(6) }, &[at]).unwrap();
    at = builder.add("gn", GroupNorm { eps: 1e-4, ..GroupNorm::new(3, 6) }, &[at]).unwrap();
    let left = builder.add("leaky", LeakyRelu { slope: 0.0 }, &[at]).unwrap();
    let right = builder.add("prelu", Prelu { parameters: 6 }, &[at]).unwrap();
    at = builder.add("add", Add, &[left, right]).unwrap();
    at = builder.add("shared", Prelu { parameters: 1 }, &[at]).unwrap();
    let pool = MaxPool2d { kernel: [3, 2], stride: [1, 2], padding: [1, 0] };
    at = builder.add("max", pool, &[at]).unwrap();
    let pool = AvgPool2d { kernel: [2, 2], stride: [2, 1], padding: [0, 1], count_include_pad: true };
    at = builder.add("avg", pool, &[at]).unwrap();
    let [_, height, width] = *builder.shape(at).dims() else { unreachable!() };
    at = builder.add("adaptive", AdaptiveAvgPool2d { output: [1, width] }, &[at]).unwrap();
    assert!(height > 1, "the pooling does something");
    at = builder.add("flatten", Flatten, &[at]).unwrap();
    at = builder.add("drop", Dropout { probability: 0.25 }, &[at]).unwrap();
    let in_features = builder.shape(at).len();
    at = builder.add("hidden", Linear::new(in_features, 5), &[at]).unwrap();
    at = builder.add("relu", Relu, &[at]).unwrap();
    builder.add("fc", Linear::new(5, 3).bias(true), &[at]).unwrap();
    let graph = builder.finish();
    let parameters = Parameters::init(&graph, 7);
    (graph, parameters)
}

#[test]
fn reads_back_every_operator() {
    let (graph, parameters) = every_operator();
    let again = read(&write(&graph, &parameters).unwrap()).unwrap();
    assert_eq!((again.graph, again.parameters), (graph, parameters));
    assert!(again.trainable && !again.batch_norm_folded && again.warnings.is_empty());
}

#[test]
fn reads_back_every_architecture() {
    for &name in zoo::ARCHITECTURES {
        // Sizes at which every adaptive pooling divides.
        let side = if name.starts_with("vgg") && !name.contains("cifar") { 224 } else { 32 };
        let options = zoo::Options { width: Some(4), pool: None, hidden: Some(8) };
        let graph = zoo::build_with(name, [3, side, side].into(), 10, options).unwrap();
        let parameters = Parameters::init(&graph, 1);
        let again = read(&write(&graph, &parameters).unwrap()).unwrap();
        assert_eq!((again.graph, again.parameters), (graph, parameters), "{name}");
    }
}

/// The nodes that PyTorch writes for `GroupNorm(2, 4)` after a convolution, and a ReLU.
fn pytorchs_group_norm() -> Vec<Node<'static>> {
    let eps = vec![float("epsilon", 1e-3)];
    vec![
        node("Conv", &["x", "conv.weight"], &["c"], vec![]),
        node("Reshape", &["c", "groups"], &["split"], vec![]),
        node("InstanceNormalization", &["split", "ones", "zeros"], &["normed"], eps),
        node("Shape", &["c"], &["shape"], vec![]),
        node("Reshape", &["normed", "shape"], &["joined"], vec![]),
        node("Unsqueeze", &["gn.weight", "axes"], &["w"], vec![]),
        node("Mul", &["joined", "w"], &["scaled"], vec![]),
        node("Unsqueeze", &["gn.bias", "axes"], &["b"], vec![]),
        node("Add", &["scaled", "b"], &["n"], vec![]),
        node("Relu", &["n"], &["y"], vec![]),
    ]
}

fn pytorchs_constants() -> Vec<TensorProto<'static>> {
    vec![
        weight("conv.weight", &[4, 2, 1, 1]),
        weight("gn.weight", &[4]),
        weight("gn.bias", &[4]),
        TensorProto::from_i64("groups", vec![3], vec![0, 2, -1]),
        TensorProto::from_i64("axes", vec![2], vec![1, 2]),
        TensorProto::from_f32("ones", vec![2], vec![1.0; 2]),
        TensorProto::from_f32("zeros", vec![2], vec![0.0; 2]),
    ]
}

#[test]
fn five_nodes_of_pytorch_are_one_group_norm() {
    let norm = GroupNorm { eps: 1e-3, ..GroupNorm::new(2, 4) };
    let found = import(pytorchs_group_norm(), pytorchs_constants()).unwrap();
    let expected = ["conv2d", "group_norm", "relu"];
    let ops: Vec<_> = found.graph.nodes().iter().map(|node| node.op.operator().name()).collect();
    assert_eq!(ops, expected);
    assert_eq!(
        (found.graph.nodes()[1].name.as_str(), &found.graph.nodes()[1].op),
        ("gn", &norm.clone().into())
    );
    let slopes: Vec<f32> = (0..4).map(|i| i as f32 * 0.1 - 0.3).collect();
    assert_eq!(
        (found.parameters.params[1].data(), found.parameters.params[2].data()),
        (&slopes[..], &slopes[..])
    );
    assert!(found.warnings.is_empty() && found.trainable);

    // Without weights of its own, the norm ends where something else reads it.
    let plain = |op: &str| {
        let mut nodes = pytorchs_group_norm();
        nodes.truncate(5);
        let last = if op == "Add" { vec!["joined", "c"] } else { vec!["joined"] };
        nodes.push(node(if op == "Add" { "Add" } else { "Relu" }, &last, &["y"], vec![]));
        import(nodes, pytorchs_constants()).unwrap()
    };
    for op in ["Relu", "Add"] {
        let found = plain(op);
        assert_eq!(found.graph.nodes()[1].op, norm.clone().into(), "{op}");
        assert_eq!(
            (found.parameters.params[1].data(), found.parameters.params[2].data()),
            (&[1.0; 4][..], &[0.0; 4][..])
        );
    }
    // A norm per channel is one with as many groups.
    let instance = node("InstanceNormalization", &["x", "s", "t"], &["n"], vec![]);
    let found = import(
        vec![instance, node("Relu", &["n"], &["y"], vec![])],
        vec![weight("s", &[2]), weight("t", &[2])],
    );
    assert_eq!(found.unwrap().graph.nodes()[0].op, GroupNorm::new(2, 2).into());
}

#[test]
fn group_norms_that_are_something_else_are_refused() {
    let changed = |change: fn(&mut Vec<Node<'static>>, &mut Vec<TensorProto<'static>>)| {
        let (mut nodes, mut constants) = (pytorchs_group_norm(), pytorchs_constants());
        change(&mut nodes, &mut constants);
        import(nodes, constants).unwrap_err().to_string()
    };
    let weights =
        changed(|_, constants| constants[5] = TensorProto::from_f32("ones", vec![2], vec![1.0, 2.0]));
    assert!(weights.contains("without weights of its own"), "{weights}");
    let uneven =
        changed(|_, constants| constants[3] = TensorProto::from_i64("groups", vec![3], vec![0, 3, -1]));
    assert!(uneven.contains("does not divide the channels"), "{uneven}");
    let early = changed(|nodes, _| nodes[6].input[0] = "normed");
    assert!(early.contains("a product is read only as"), "{early}");
    let flat = changed(|_, constants| constants[1] = weight("gn.weight", &[4, 1]));
    assert!(flat.contains("a product is read only as"), "{flat}");
    let read = changed(|nodes, _| nodes[9].input[0] = "split");
    assert!(!read.is_empty());
    let product = import(vec![node("Mul", &["x", "x"], &["y"], vec![])], vec![]).unwrap_err().to_string();
    assert!(product.contains("a product is read only as"), "{product}");
}

#[test]
fn group_normalization_of_old_operator_sets_has_weights_per_group() {
    let nodes = || {
        vec![
            node("Conv", &["x", "conv.weight"], &["c"], vec![]),
            node("GroupNormalization", &["c", "gn.weight", "gn.bias"], &["y"], vec![int("num_groups", 2)]),
        ]
    };
    let read_as = |version: i64, length: i64| {
        let constants = vec![
            weight("conv.weight", &[4, 2, 1, 1]),
            weight("gn.weight", &[length]),
            weight("gn.bias", &[length]),
        ];
        let mut model = file(nodes(), constants);
        model.opset_import[0].version = version;
        read(&onnx_rs::encode(&model))
    };
    let old = read_as(18, 2).unwrap();
    let [first, second] = [-0.3, 0.1 - 0.3];
    assert_eq!(old.parameters.params[1].data(), [first, first, second, second]);
    assert_eq!(read_as(21, 4).unwrap().graph.nodes()[1].op, GroupNorm::new(2, 4).into());
    assert!(read_as(21, 2).is_err());
}

#[test]
fn export_refuses_what_onnx_cannot_say() {
    let graph = zoo::build_with_width("vgg11", [3, 32, 32].into(), 10, 1).unwrap();
    let uneven = write(&graph, &Parameters::zeros(&graph));
    assert!(matches!(uneven, Err(ImportError::Export { node, .. }) if node == "avgpool"));
    let (graph, _) = every_operator();
    assert!(matches!(write(&graph, &Parameters::default()), Err(ImportError::Parameters(_))));
}

/// `x.view(x.size(0), -1)`, a product and a sum: how older exporters write a linear layer.
#[test]
fn reads_a_linear_layer_in_pieces() {
    let nodes = vec![
        node("ReduceMean", &["x"], &["mean"], vec![ints("axes", &[-1, 2]), int("keepdims", 1)]),
        node("Shape", &["mean"], &["shape"], vec![]),
        node("Gather", &["shape", "zero"], &["batch"], vec![int("axis", 0)]),
        node("Unsqueeze", &["batch", "axis"], &["batches"], vec![]),
        node("Concat", &["batches", "rest"], &["target"], vec![int("axis", 0)]),
        node("Reshape", &["mean", "target"], &["flat"], vec![]),
        node("Identity", &["matrix"], &["fc.weight"], vec![]),
        node("MatMul", &["flat", "fc.weight"], &["product"], vec![]),
        node("Add", &["bias", "product"], &["sum"], vec![]),
        node("Softmax", &["sum"], &["y"], vec![int("axis", 1)]),
    ];
    let lists =
        |name, values: &[i64]| TensorProto::from_i64(name, vec![values.len() as i64], values.to_vec());
    let constants = vec![
        TensorProto::from_i64("zero", vec![], vec![0]),
        lists("axis", &[0]),
        lists("rest", &[-1]),
        weight("matrix", &[2, 3]),
        weight("bias", &[3]),
    ];
    let imported = import(nodes, constants).unwrap();
    assert_eq!(
        ops(&imported),
        [
            ("mean", AdaptiveAvgPool2d { output: [1, 1] }.into()),
            ("flat", Flatten.into()),
            ("fc", Linear::new(2, 3).bias(true).into()),
        ]
    );
    let matrix = weight("", &[2, 3]).as_f32().unwrap().into_owned();
    let transposed = [0, 3, 1, 4, 2, 5].map(|i| matrix[i]);
    assert_eq!(imported.parameters.params[0], Tensor::from_vec([3, 2], transposed.to_vec()).unwrap());
    assert_eq!(imported.warnings.len(), 1, "the softmax was left out");
}

#[test]
fn reads_forms_of_padding_and_poolings() {
    let nodes = vec![
        node(
            "Conv",
            &["x", "a.weight"],
            &["a"],
            vec![text("auto_pad", "SAME_UPPER"), ints("strides", &[2, 2])],
        ),
        node("Conv", &["a", "b.weight"], &["b"], vec![text("auto_pad", "SAME_LOWER")]),
        node("MaxPool", &["b"], &["c"], vec![ints("kernel_shape", &[1, 1]), int("ceil_mode", 1)]),
        node("ReduceMean", &["c", "space"], &["d"], vec![int("keepdims", 0)]),
        node("Relu", &["d"], &["y"], vec![]),
    ];
    let space = TensorProto::from_i64("space", vec![2], vec![3, 2]);
    let constants = vec![weight("a.weight", &[2, 2, 3, 3]), weight("b.weight", &[2, 1, 2, 2]), space];
    let grouped = |mut nodes: Vec<Node<'static>>| {
        nodes[1].attribute.push(int("group", 2));
        nodes
    };
    let imported = import(grouped(nodes), constants).unwrap();
    assert_eq!(
        ops(&imported),
        [
            ("a", Conv2d { padding: [0, 0, 1, 1], ..Conv2d::new(2, 2, 3).stride(2) }.into()),
            ("b", Conv2d { padding: [1, 1, 0, 0], ..Conv2d::new(2, 2, 2).groups(2) }.into()),
            ("c", MaxPool2d { kernel: [1; 2], stride: [1; 2], padding: [0; 2] }.into()),
            ("d", AdaptiveAvgPool2d { output: [1, 1] }.into()),
            ("d_1", Flatten.into()),
            ("y", Relu.into()),
        ]
    );
    assert_eq!(imported.graph.shape(imported.graph.output(), 1).dims(), [1, 2]);
}

#[test]
fn weights_used_twice_become_two_copies_with_a_warning() {
    let nodes = vec![
        node("Conv", &["x", "c.weight"], &["a"], vec![]),
        node("Conv", &["a", "c.weight"], &["y"], vec![]),
    ];
    let imported = import(nodes, vec![weight("c.weight", &[2, 2, 1, 1])]).unwrap();
    assert_eq!(
        imported.graph.param_specs().iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
        ["c.weight", "c_1.weight"]
    );
    assert!(imported.warnings[0].contains("`c.weight`"));
}

/// The message of a refusal, which must name the node.
fn refusal(nodes: Vec<Node<'_>>, initializer: Vec<TensorProto<'_>>) -> String {
    import(nodes, initializer).unwrap_err().to_string()
}

#[test]
fn unsupported_operators_and_attributes_are_named() {
    let y = |op, inputs: &[&'static str], attributes| vec![node(op, inputs, &["y"], attributes)];
    let kernel = || ints("kernel_shape", &[2, 2]);
    for (nodes, wanted) in [
        (y("Sigmoid", &["x"], vec![]), "operator Sigmoid is not supported"),
        (y("Relu", &["x"], vec![float("alpha", 1.0)]), "attribute `alpha`"),
        (y("Relu", &["z"], vec![]), "reads `z`"),
        (y("MaxPool", &["x"], vec![]), "attribute `kernel_shape`: is missing"),
        (y("MaxPool", &["x"], vec![ints("kernel_shape", &[2])]), "two spatial axes"),
        (y("MaxPool", &["x"], vec![ints("kernel_shape", &[0, 1])]), "must be positive"),
        (y("MaxPool", &["x"], vec![float("kernel_shape", 2.0)]), "is of type Float"),
        (y("MaxPool", &["x"], vec![kernel(), ints("dilations", &[2, 2])]), "attribute `dilations`"),
        (y("MaxPool", &["x"], vec![kernel(), ints("pads", &[0, 0, 1, 1])]), "equal padding"),
        (
            y(
                "MaxPool",
                &["x"],
                vec![ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2]), int("ceil_mode", 1)],
            ),
            "attribute `ceil_mode`",
        ),
        (y("Conv", &["x", "w"], vec![ints("strides", &[-1, 1])]), "attribute `strides`"),
        (y("Conv", &["x", "w"], vec![int("group", 2)]), "in 2 groups"),
        (y("Conv", &["x", "w"], vec![int("group", -1)]), "in 0 groups"),
        (y("Conv", &["x", "w"], vec![ints("kernel_shape", &[5, 5])]), "not that of the weights"),
        (y("Conv", &["x", "w"], vec![text("auto_pad", "SOMEHOW")]), "attribute `auto_pad`"),
        (y("Conv", &["x", "x"], vec![]), "made from the input"),
        (y("Conv", &["w", "w"], vec![]), "is a constant"),
        (y("Conv", &["x"], vec![]), "input 1: is missing"),
        (y("Conv", &["x", "vector"], vec![]), "no 2-D convolution"),
        (y("BatchNormalization", &["x", "vector", "vector", "vector", "w"], vec![]), "input 4"),
        (y("Gemm", &["x", "w"], vec![]), "is no float matrix"),
        (y("Gemm", &["x", "matrix"], vec![float("alpha", 2.0)]), "attribute `alpha`"),
        (y("Gemm", &["x", "matrix"], vec![int("transA", 1)]), "attribute `transA`"),
        (y("Gemm", &["x", "matrix", "w"], vec![]), "no bias of 2 floats"),
        (y("Flatten", &["x"], vec![int("axis", 2)]), "attribute `axis`"),
        (y("ReduceMean", &["x"], vec![ints("axes", &[1])]), "both spatial axes"),
        (y("Softmax", &["x"], vec![]), "softmax"),
        (y("PRelu", &["x", "w"], vec![]), "one per channel"),
        (y("Add", &["x", "vector"], vec![]), "is a constant"),
        (y("Dropout", &["x", "vector"], vec![]), "is not one number"),
        (y("Reshape", &["x", "vector"], vec![]), "no list of integers"),
        (y("Transpose", &["x"], vec![]), "made from the input"),
        (y("Identity", &["vector"], vec![]), "not made from the input"),
    ] {
        let constants = vec![weight("w", &[2, 2, 3, 3]), weight("vector", &[2]), weight("matrix", &[2, 2])];
        let message = refusal(nodes, constants);
        assert!(message.contains(wanted) && message.contains("`y`"), "{wanted}: {message}");
    }
}

#[test]
fn unsupported_files_are_refused() {
    let relu = || vec![node("Relu", &["x"], &["y"], vec![])];
    let changed = |change: &dyn Fn(&mut Model<'static>)| {
        let mut model = file(relu(), vec![]);
        change(&mut model);
        read(&onnx_rs::encode(&model)).unwrap_err()
    };
    let graph = |model: &mut Model<'static>, change: &dyn Fn(&mut Proto<'static>)| {
        change(model.graph.as_mut().unwrap());
    };
    assert_eq!(changed(&|m| m.opset_import[0].version = 8), ImportError::Opset { found: 8 });
    assert_eq!(changed(&|m| m.opset_import.clear()), ImportError::Opset { found: 0 });
    assert!(matches!(changed(&|m| m.graph = None), ImportError::Malformed { .. }));
    let two = changed(&|m| graph(m, &|g| g.input.push(info("z", DataType::Float, &[1, 2]))));
    assert_eq!(two, ImportError::Ends { what: "several inputs", names: "x, z".into() });
    let none = changed(&|m| graph(m, &|g| g.output.clear()));
    assert_eq!(none, ImportError::Ends { what: "no output", names: String::new() });
    let domain = changed(&|m| graph(m, &|g| g.node[0].domain = "com.microsoft"));
    assert!(matches!(domain, ImportError::Operator { node, .. } if node == "y"));
    for (shape, kind) in [
        (&[0, 2, 0, 6][..], DataType::Float),
        (&[6], DataType::Float),
        (&[1, 2, 3, 4, 5], DataType::Float),
        (&[0, 2, 6, 6], DataType::Uint8),
        (&[0, i64::MAX, i64::MAX, 2], DataType::Float),
    ] {
        let found = changed(&|m| graph(m, &|g| g.input[0] = info("x", kind, shape)));
        assert!(matches!(found, ImportError::Input { .. }), "{shape:?}: {found}");
    }
    let twice = changed(&|m| graph(m, &|g| g.node.push(g.node[0].clone())));
    assert_eq!(twice, ImportError::Twice { value: "y".into() });
    let external = weight("c.weight", &[2, 2, 1, 1]).with_data_location(DataLocation::External);
    let conv = vec![node("Conv", &["x", "c.weight"], &["y"], vec![])];
    assert_eq!(import(conv, vec![external]), Err(ImportError::ExternalData { name: "c.weight".into() }));
    let nan = TensorProto::from_f32("c.weight", vec![2, 2, 1, 1], vec![f32::NAN; 4]);
    let conv = vec![node("Conv", &["x", "c.weight"], &["y"], vec![])];
    assert!(matches!(import(conv, vec![nan]), Err(ImportError::Parameters(_))));
    let wide = vec![node("Conv", &["x", "c.weight"], &["y"], vec![ints("dilations", &[9, 9])])];
    assert!(matches!(import(wide, vec![weight("c.weight", &[2, 2, 3, 3])]), Err(ImportError::Graph(_))));
}

#[test]
fn huge_constants_are_not_made() {
    let big = TensorProto::from_i64("big", vec![2], vec![1 << 20, 1 << 20]);
    for op in ["ConstantOfShape", "Expand"] {
        let inputs: &[&str] = if op == "Expand" { &["one", "big"] } else { &["big"] };
        let nodes = vec![node(op, inputs, &["z"], vec![]), node("Conv", &["x", "z"], &["y"], vec![])];
        let found = import(nodes, vec![big.clone(), weight("one", &[1])]);
        assert!(matches!(found, Err(ImportError::Limit { .. })), "{op}: {found:?}");
    }
    // The same weights over and over: as large as the file allows, no more.
    let mut nodes = Vec::new();
    let names: Vec<String> = (0..400).map(|n| format!("v{n}")).collect();
    for n in 0..names.len() {
        let input = if n == 0 { "x" } else { &names[n - 1] };
        let output = if n + 1 == names.len() { "y" } else { &names[n] };
        nodes.push(node("Conv", &[input, "w"], &[output], vec![text("auto_pad", "SAME_UPPER")]));
    }
    let found = import(nodes, vec![weight("w", &[2, 2, 127, 127])]);
    assert!(matches!(found, Err(ImportError::Limit { .. })), "{found:?}");
}

/// Bytes changed, moved and cut anywhere in small files of every operator: errors or other models, never panics.
#[test]
fn damaged_files_never_panic() {
    let (graph, parameters) = every_operator();
    let small = write(&graph, &Parameters::init(&graph, 2)).unwrap();
    assert!(parameters.fits(&graph));
    let shapes = vec![
        node("Shape", &["x"], &["shape"], vec![int("start", 0), int("end", 1)]),
        node("Squeeze", &["shape"], &["n"], vec![]),
        node("Constant", &[], &["list"], vec![ints("value_ints", &[-1])]),
        node("Reshape", &["n", "list"], &["batch"], vec![int("allowzero", 0)]),
        node("Constant", &[], &["features"], vec![ints("value_ints", &[72])]),
        node("Concat", &["batch", "features"], &["target"], vec![int("axis", 0)]),
        node("Reshape", &["x", "target"], &["flat"], vec![int("allowzero", 1)]),
        node("Slice", &["target", "from", "to"], &["part"], vec![]),
        node("Cast", &["part"], &["real"], vec![int("to", 1)]),
        node("Expand", &["real", "part"], &["bias"], vec![]),
        node("Transpose", &["matrix"], &["turned"], vec![]),
        node("Gemm", &["flat", "turned"], &["y"], vec![int("transB", 1)]),
    ];
    let list = |name, value| TensorProto::from_i64(name, vec![1], vec![value]);
    let constants = vec![list("from", 1), list("to", 2), weight("matrix", &[72, 3])];
    let folding = onnx_rs::encode(&file(shapes, constants));
    assert!(read(&folding).is_ok(), "{:?}", read(&folding));
    let mut state = 20_240_902u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for round in 0..20_000 {
        let mut damaged = if round % 2 == 0 { small.clone() } else { folding.clone() };
        for _ in 0..1 + next() % 3 {
            let at = next() % damaged.len();
            match next() % 4 {
                0 => damaged[at] = damaged[at].wrapping_add(1),
                1 => damaged[at] ^= 1 << (next() % 8),
                2 => damaged[at] = [0, 0x7f, 0x80, 0xff][next() % 4],
                _ => damaged[at] = next() as u8,
            }
        }
        if next() % 16 == 0 {
            damaged.truncate(next() % damaged.len());
        }
        if let Ok(imported) = read(&damaged) {
            assert!(imported.parameters.fits(&imported.graph), "round {round}");
        }
    }
}
