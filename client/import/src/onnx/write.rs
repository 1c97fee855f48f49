//! Writes a model as ONNX that ONNX Runtime accepts.

use kernels::Op;
use kernels::activation::{LeakyRelu, Prelu};
use kernels::batch_norm::BatchNorm2d;
use kernels::conv2d::Conv2d;
use kernels::group_norm::GroupNorm;
use kernels::pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};
use model::{Graph, Parameters, ValueId};
use onnx_rs::ast::{
    Attribute, AttributeType, DataType, Dimension, Graph as Proto, Model, Node, OpType, OperatorSetId,
    TensorProto, TensorShape, TensorShapeDimension, TensorTypeProto, TypeProto, TypeValue, ValueInfo,
};
use tensor::Shape;

use super::ImportError;
use super::pool::ADAPTIVE;

/// Operator set and file version of models whose operators have been there for long.
const OLD: [i64; 2] = [17, 8];
/// Those of models with group norm.
const NEW: [i64; 2] = [21, 10];
const INPUT: &str = "input";
const OUTPUT: &str = "logits";

/// The model as an ONNX file: opset 17 (21 with group norm), input `input` and output `logits` with a dynamic batch axis, batch norm in
/// inference mode, parameters under PyTorch's names.
///
/// # Errors
/// [`ImportError::Parameters`] if the parameters do not fit; [`ImportError::Export`] for an adaptive pooling whose windows
/// are not all of one size, which ONNX has no operator for.
pub fn write(graph: &Graph, parameters: &Parameters) -> Result<Vec<u8>, ImportError> {
    parameters.check(graph)?;
    if graph.output() == ValueId::INPUT {
        return Err(ImportError::Ends { what: "an output that is no result", names: INPUT.to_owned() });
    }
    let values: Vec<String> = (0..graph.values()).map(|value| value_name(graph, ValueId(value))).collect();
    let mut tensors: Vec<Stored> =
        parameters.named(graph).map(|(name, tensor)| Stored::new(name, tensor)).collect();
    tensors.extend(graph.nodes().iter().filter_map(|node| match &node.op {
        Op::Dropout(dropout) => Some(Stored {
            name: ratio_name(&node.name),
            dims: Vec::new(),
            bytes: dropout.probability.to_le_bytes().to_vec(),
        }),
        _ => None,
    }));
    reshape_slopes(graph, &mut tensors);
    let operands: Vec<Vec<String>> = (0..graph.nodes().len()).map(|n| operands(graph, n, &values)).collect();
    let nodes = (0..graph.nodes().len()).map(|n| node(graph, n, &operands[n], &values[n + 1]));
    let proto = Proto {
        name: graph.name(),
        node: nodes.collect::<Result<_, _>>()?,
        initializer: tensors.iter().map(Stored::proto).collect(),
        input: vec![value_info(INPUT, graph.input())],
        output: vec![value_info(OUTPUT, graph.shape(graph.output(), 1).record())],
        ..Proto::default()
    };
    let grouped = graph.nodes().iter().any(|node| matches!(node.op, Op::GroupNorm(_)));
    let [version, ir_version] = if grouped { NEW } else { OLD };
    Ok(onnx_rs::encode(&Model {
        ir_version,
        opset_import: vec![OperatorSetId { domain: "", version }],
        producer_name: "asymflow",
        graph: Some(proto),
        ..Model::default()
    }))
}

/// One initialiser.
struct Stored {
    name: String,
    dims: Vec<i64>,
    bytes: Vec<u8>,
}

impl Stored {
    fn new(name: String, tensor: &tensor::Tensor) -> Self {
        let dims = tensor.shape().dims().iter().map(|&d| d as i64).collect();
        Stored { name, dims, bytes: tensor.data().iter().flat_map(|x| x.to_le_bytes()).collect() }
    }

    fn proto(&self) -> TensorProto<'_> {
        TensorProto::from_raw(&self.name, self.dims.clone(), DataType::Float, &self.bytes)
    }
}

/// Slopes per channel become `[C, 1, 1]`: ONNX aligns axes from the right.
fn reshape_slopes(graph: &Graph, tensors: &mut [Stored]) {
    for node in graph.nodes() {
        if let Op::Prelu(Prelu { parameters: channels @ 2.. }) = node.op {
            let name = format!("{}.weight", node.name);
            let slopes = tensors.iter_mut().filter(|tensor| tensor.name == name);
            slopes.for_each(|tensor| tensor.dims = vec![channels as i64, 1, 1]);
        }
    }
}

fn value_name(graph: &Graph, value: ValueId) -> String {
    match value.node() {
        None => INPUT.to_owned(),
        Some(_) if value == graph.output() => OUTPUT.to_owned(),
        Some(n) => format!("{}_output_0", graph.nodes()[n].name),
    }
}

fn ratio_name(node: &str) -> String {
    format!("{node}.ratio")
}

/// Names of the values, parameters and buffers a node reads, in ONNX's order (which is ours).
fn operands(graph: &Graph, n: usize, values: &[String]) -> Vec<String> {
    let node = &graph.nodes()[n];
    let operator = node.op.operator();
    let tensors = operator.params().into_iter().chain(operator.buffers());
    let mut names: Vec<String> = node.inputs.iter().map(|v| values[v.0].clone()).collect();
    names.extend(tensors.map(|spec| format!("{}.{}", node.name, spec.name)));
    if matches!(node.op, Op::Dropout(_)) {
        names.push(ratio_name(&node.name));
    }
    names
}

fn node<'a>(
    graph: &'a Graph,
    n: usize,
    operands: &'a [String],
    output: &'a str,
) -> Result<Node<'a>, ImportError> {
    let from = &graph.nodes()[n];
    let (op, attribute) = match &from.op {
        Op::Conv2d(conv) => (OpType::Conv, conv_attributes(conv)),
        Op::Linear(_) => (OpType::Gemm, vec![int("transB", 1)]),
        Op::BatchNorm2d(BatchNorm2d { eps, momentum, .. }) => {
            let kept = float("momentum", 1.0 - momentum);
            (OpType::BatchNormalization, vec![float("epsilon", *eps), kept, int("training_mode", 0)])
        }
        Op::GroupNorm(GroupNorm { groups, eps, .. }) => {
            (OpType::GroupNormalization, vec![float("epsilon", *eps), int("num_groups", *groups as i64)])
        }
        Op::Relu(_) => (OpType::Relu, Vec::new()),
        Op::LeakyRelu(LeakyRelu { slope }) => (OpType::LeakyRelu, vec![float("alpha", *slope)]),
        Op::Prelu(_) => (OpType::PRelu, Vec::new()),
        Op::MaxPool2d(MaxPool2d { kernel, stride, padding }) => {
            (OpType::MaxPool, window_attributes(*kernel, *stride, *padding))
        }
        Op::AvgPool2d(AvgPool2d { kernel, stride, padding, count_include_pad }) => {
            let mut attributes = window_attributes(*kernel, *stride, *padding);
            attributes.push(int("count_include_pad", i64::from(*count_include_pad)));
            (OpType::AveragePool, attributes)
        }
        Op::AdaptiveAvgPool2d(AdaptiveAvgPool2d { output: [1, 1] }) => {
            (OpType::GlobalAveragePool, Vec::new())
        }
        Op::AdaptiveAvgPool2d(pool) => (OpType::AveragePool, adaptive_attributes(graph, n, pool.output)?),
        Op::Add(_) => (OpType::Add, Vec::new()),
        Op::Flatten(_) => (OpType::Flatten, vec![int("axis", 1)]),
        Op::Dropout(_) => (OpType::Dropout, Vec::new()),
        Op::Fused(fused) => {
            unreachable!("no model holds {}: the graph's checks refuse it", fused.operator().name())
        }
    };
    let adaptive = matches!(from.op, Op::AdaptiveAvgPool2d(_)) && op == OpType::AveragePool;
    Ok(Node {
        name: &from.name,
        op_type: op,
        input: operands.iter().map(String::as_str).collect(),
        output: vec![output],
        attribute,
        doc_string: if adaptive { ADAPTIVE } else { "" },
        ..Node::default()
    })
}

fn conv_attributes(conv: &Conv2d) -> Vec<Attribute<'static>> {
    vec![
        ints("dilations", &conv.dilation),
        int("group", conv.groups as i64),
        ints("kernel_shape", &conv.kernel),
        ints("pads", &conv.padding),
        ints("strides", &conv.stride),
    ]
}

fn window_attributes(kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Vec<Attribute<'static>> {
    vec![
        ints("kernel_shape", &kernel),
        ints("pads", &[padding[0], padding[1], padding[0], padding[1]]),
        ints("strides", &stride),
    ]
}

/// Adaptive pooling with windows of one size is average pooling.
fn adaptive_attributes(
    graph: &Graph,
    n: usize,
    output: [usize; 2],
) -> Result<Vec<Attribute<'static>>, ImportError> {
    let node = &graph.nodes()[n];
    let record = graph.shape(node.inputs[0], 1).record();
    match record.dims() {
        [_, height, width] if height % output[0] == 0 && width % output[1] == 0 => {
            let kernel = [height / output[0], width / output[1]];
            Ok(window_attributes(kernel, kernel, [0; 2]))
        }
        _ => Err(ImportError::Export {
            node: node.name.clone(),
            op: node.op.operator().name(),
            reason: "its output size does not divide its input size; change the image size",
        }),
    }
}

fn int(name: &'static str, i: i64) -> Attribute<'static> {
    Attribute { name, r#type: AttributeType::Int, i, ..Attribute::default() }
}

fn ints(name: &'static str, values: &[usize]) -> Attribute<'static> {
    let ints = values.iter().map(|&v| v as i64).collect();
    Attribute { name, r#type: AttributeType::Ints, ints, ..Attribute::default() }
}

fn float(name: &'static str, f: f32) -> Attribute<'static> {
    Attribute { name, r#type: AttributeType::Float, f, ..Attribute::default() }
}

/// A float value of this record shape, any number of records.
fn value_info(name: &'static str, record: Shape) -> ValueInfo<'static> {
    let fixed = record.dims().iter().map(|&d| Dimension::Value(d as i64));
    let dim = |value| TensorShapeDimension { value, denotation: "" };
    let dim = std::iter::once(Dimension::Param("N")).chain(fixed).map(dim).collect();
    let tensor = TensorTypeProto { elem_type: DataType::Float, shape: Some(TensorShape { dim }) };
    let r#type = Some(TypeProto { value: Some(TypeValue::Tensor(tensor)), denotation: "" });
    ValueInfo { name, r#type, ..ValueInfo::default() }
}
