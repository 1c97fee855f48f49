//! Walks the nodes of a file in order and builds the graph.

use std::collections::{HashMap, HashSet};

use kernels::Op;
use model::{GraphBuilder, Parameters, ValueId};
use onnx_rs::ast::{DataType, Dimension, Graph, Model, Node, TensorProto, ValueInfo};
use tensor::{Shape, Tensor};

use super::call::Call;
use super::constant::{Budget, Constant, Size};
use super::group_norm::{self, Pending};
use super::names::{Names, module_of_weight, module_path};
use super::{ImportError, Imported, fold, layers, pool};

/// Operator sets whose operators mean what is read here.
const OPSETS: std::ops::RangeInclusive<i64> = 9..=28;

const SUPPORTED: &str = "supported are Conv, BatchNormalization, GroupNormalization, InstanceNormalization, Relu, LeakyRelu, PRelu, MaxPool, AveragePool, \
    GlobalAveragePool, ReduceMean over space, Add, Flatten, Reshape to [N, F], Gemm, MatMul, Dropout and Identity";

type Handler = for<'m> fn(&mut Reader<'m>, Call<'m>) -> Result<(), ImportError>;

/// Operators that are read: one line each.
const HANDLERS: &[(&str, Handler)] = &[
    ("Conv", layers::conv),
    ("BatchNormalization", layers::batch_norm),
    ("GroupNormalization", group_norm::group_norm),
    ("InstanceNormalization", group_norm::instance_norm),
    ("Mul", group_norm::mul),
    ("Relu", layers::relu),
    ("LeakyRelu", layers::leaky_relu),
    ("PRelu", layers::prelu),
    ("Add", layers::add),
    ("Gemm", layers::gemm),
    ("MatMul", layers::matmul),
    ("Dropout", layers::dropout),
    ("Flatten", layers::flatten),
    ("Softmax", layers::softmax),
    ("LogSoftmax", layers::softmax),
    ("MaxPool", pool::max),
    ("AveragePool", pool::average),
    ("GlobalAveragePool", pool::global),
    ("ReduceMean", pool::reduce_mean),
    ("Identity", fold::identity),
    ("Constant", fold::constant),
    ("ConstantOfShape", fold::constant_of_shape),
    ("Shape", fold::shape),
    ("Reshape", fold::reshape),
    ("Squeeze", fold::squeeze),
    ("Unsqueeze", fold::unsqueeze),
    ("Concat", fold::concat),
    ("Gather", fold::gather),
    ("Slice", fold::slice),
    ("Cast", fold::cast),
    ("CastLike", fold::cast_like),
    ("Expand", fold::expand),
    ("Transpose", fold::transpose),
];

/// What a name of the file stands for.
#[derive(Clone)]
pub(super) enum Value {
    Data(ValueId),
    Constant(Constant),
}

/// A graph under construction.
pub(super) struct Reader<'m> {
    nodes: &'m [Node<'m>],
    initializers: HashMap<&'m str, &'m TensorProto<'m>>,
    values: HashMap<&'m str, Value>,
    /// Group norms of which not all nodes were read, by the name of what was read last.
    pending: HashMap<&'m str, Pending<'m>>,
    /// Nodes that read each value, once per reading.
    consumers: HashMap<&'m str, Vec<usize>>,
    output: &'m str,
    /// The number of records, where the file fixes it.
    pub(super) batch: Size,
    pub(super) builder: GraphBuilder,
    parameters: Parameters,
    names: Names,
    pub(super) budget: Budget,
    pub(super) warnings: Vec<String>,
    /// Convolutions that batch norm was merged into.
    pub(super) folded: usize,
    pub(super) batch_norms: usize,
    used_weights: HashSet<String>,
}

/// Imports a parsed model of `size` bytes.
pub(super) fn import(model: &Model<'_>, size: usize) -> Result<Imported, ImportError> {
    let opset = model.opset_import.iter().find(|set| is_default(set.domain)).map_or(0, |set| set.version);
    if !OPSETS.contains(&opset) {
        return Err(ImportError::Opset { found: opset });
    }
    let graph = model.graph.as_ref().ok_or(ImportError::Malformed { reason: "it holds no graph".into() })?;
    if !graph.sparse_initializer.is_empty() || !graph.quantization_annotation.is_empty() {
        let advice = "save dense float32 weights";
        return Err(ImportError::Feature { what: "sparse or quantised weights".into(), advice });
    }
    let mut reader = Reader::new(graph, size)?;
    for n in reader.needed()? {
        reader.node(Call { node: &graph.node[n], opset })?;
    }
    let input = reader_input(graph)?;
    reader.finish(input.name)
}

fn is_default(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

impl<'m> Reader<'m> {
    fn new(graph: &'m Graph<'m>, size: usize) -> Result<Self, ImportError> {
        let input = reader_input(graph)?;
        let (batch, record) = input_shape(input)?;
        let name = if graph.name.is_empty() { "onnx" } else { graph.name };
        let output = match &graph.output[..] {
            [output] => output.name,
            several => return Err(ends("output", several.iter())),
        };
        let mut consumers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (n, node) in graph.node.iter().enumerate() {
            node.input.iter().for_each(|value| consumers.entry(value).or_default().push(n));
        }
        let mut initializers = HashMap::new();
        for tensor in &graph.initializer {
            if initializers.insert(tensor.name(), tensor).is_some() {
                return Err(ImportError::Twice { value: tensor.name().to_owned() });
            }
        }
        Ok(Reader {
            nodes: &graph.node,
            initializers,
            values: HashMap::from([(input.name, Value::Data(ValueId::INPUT))]),
            pending: HashMap::new(),
            consumers,
            output,
            batch,
            builder: GraphBuilder::try_new(name, record)?,
            parameters: Parameters::default(),
            names: Names::default(),
            budget: Budget::for_file(size),
            warnings: Vec::new(),
            folded: 0,
            batch_norms: 0,
            used_weights: HashSet::new(),
        })
    }

    /// The nodes that the output depends on, in the file's order.
    fn needed(&self) -> Result<Vec<usize>, ImportError> {
        let mut makers: HashMap<&str, usize> = HashMap::new();
        for (n, node) in self.nodes.iter().enumerate() {
            for &output in node.output.iter().filter(|output| !output.is_empty()) {
                let known = self.initializers.contains_key(output) || self.values.contains_key(output);
                if makers.insert(output, n).is_some() || known {
                    return Err(ImportError::Twice { value: output.to_owned() });
                }
            }
        }
        let mut needed = vec![false; self.nodes.len()];
        let mut open = vec![self.output];
        while let Some(value) = open.pop() {
            if let Some(&n) = makers.get(value).filter(|&&n| !needed[n]) {
                needed[n] = true;
                open.extend(&self.nodes[n].input);
            }
        }
        Ok((0..needed.len()).filter(|&n| needed[n]).collect())
    }

    fn node(&mut self, call: Call<'m>) -> Result<(), ImportError> {
        if call.node.output.first().is_some_and(|output| self.values.contains_key(output)) {
            // Already part of the node before it: the sum after a product.
            return Ok(());
        }
        if !is_default(call.node.domain) {
            return Err(
                call.unsupported("it is no standard operator; export without custom or fused operators")
            );
        }
        let handler = HANDLERS.iter().find(|(op, _)| *op == call.op()).map(|(_, handler)| handler);
        let handler = handler.ok_or_else(|| call.unsupported(SUPPORTED))?;
        let extra = call.node.output.iter().skip(1);
        let used = extra.filter(|&&o| !o.is_empty() && (self.consumers.contains_key(o) || o == self.output));
        if used.count() > 0 {
            return Err(call.unsupported("only its first output can be used"));
        }
        handler(self, call)
    }

    /// Operand `input`; `None` where it is left out.
    pub(super) fn operand(&mut self, call: Call<'m>, input: usize) -> Result<Option<Value>, ImportError> {
        let Some(&name) = call.node.input.get(input).filter(|name| !name.is_empty()) else { return Ok(None) };
        if let Some(value) = self.values.get(name) {
            return Ok(Some(value.clone()));
        }
        if let Some(&tensor) = self.initializers.get(name) {
            return Ok(Some(Value::Constant(Constant::decode(tensor, &mut self.budget)?)));
        }
        if let Some(pending) = self.pending.get(name).cloned() {
            let value = Value::Data(group_norm::finish(self, call, pending)?);
            self.values.insert(name, value.clone());
            return Ok(Some(value));
        }
        let (node, op) = (call.label(), call.op().to_owned());
        Err(ImportError::Dangling { node, op, value: name.to_owned() })
    }

    /// Operand `input`, which must be made from the images.
    pub(super) fn data(&mut self, call: Call<'m>, input: usize) -> Result<ValueId, ImportError> {
        match self.operand(call, input)? {
            Some(Value::Data(value)) => Ok(value),
            Some(Value::Constant(_)) => {
                Err(call.operand_error(input, "is a constant, not made from the input"))
            }
            None => Err(call.operand_error(input, "is missing")),
        }
    }

    /// Operand `input`, which must be known at import; `None` where it is left out.
    pub(super) fn optional(&mut self, call: Call<'m>, input: usize) -> Result<Option<Constant>, ImportError> {
        match self.operand(call, input)? {
            Some(Value::Constant(constant)) => Ok(Some(constant)),
            Some(Value::Data(_)) => {
                Err(call.operand_error(input, "is made from the input; only constants are supported here"))
            }
            None => Ok(None),
        }
    }

    /// Operand `input`, which must be known at import.
    pub(super) fn known(&mut self, call: Call<'m>, input: usize) -> Result<Constant, ImportError> {
        self.optional(call, input)?.ok_or_else(|| call.operand_error(input, "is missing"))
    }

    /// Operand `input` as a float tensor of this shape.
    pub(super) fn weight(
        &mut self,
        call: Call<'m>,
        input: usize,
        shape: Shape,
    ) -> Result<Tensor, ImportError> {
        let constant = self.known(call, input)?;
        let reason = || format!("is not a float tensor of shape {shape}, it has axes {:?}", constant.dims);
        constant.tensor(shape).ok_or_else(|| call.operand_error(input, reason()))
    }

    /// The record shape of a value.
    pub(super) fn record(&self, value: ValueId) -> Shape {
        self.builder.shape(value)
    }

    /// What was read so far of the group norm that operand `input` is part of.
    pub(super) fn pending(&self, call: Call<'m>, input: usize) -> Option<Pending<'m>> {
        let name = call.node.input.get(input)?;
        self.pending.get(name).filter(|_| !self.values.contains_key(name)).cloned()
    }

    /// Makes the node's first output a part of a group norm.
    pub(super) fn defer(&mut self, call: Call<'m>, pending: Pending<'m>) {
        if let Some(&output) = call.node.output.first() {
            self.pending.insert(output, pending);
        }
    }

    /// Gives the node's first output a value.
    pub(super) fn bind(&mut self, call: Call<'m>, value: Value) {
        if let Some(&output) = call.node.output.first() {
            self.values.insert(output, value);
        }
    }

    /// The value `name` stands for, if it is known at import.
    pub(super) fn constant_named(&mut self, name: &str) -> Result<Option<Constant>, ImportError> {
        if let Some(tensor) = self.initializers.get(name) {
            return Constant::decode(tensor, &mut self.budget).map(Some);
        }
        Ok(self
            .values
            .get(name)
            .and_then(|v| if let Value::Constant(c) = v { Some(c.clone()) } else { None }))
    }

    /// The node that alone reads the first output of `call`, unless that is the model's output.
    pub(super) fn only_consumer(&self, call: Call<'m>) -> Option<&'m Node<'m>> {
        let &output = call.node.output.first()?;
        match self.consumers.get(output).map(Vec::as_slice) {
            Some(&[n]) if output != self.output => Some(&self.nodes[n]),
            _ => None,
        }
    }

    pub(super) fn is_output(&self, call: Call<'m>) -> bool {
        call.node.output.first() == Some(&self.output)
    }

    /// Whether `input` names an initialiser directly, rather than something a node computes.
    pub(super) fn is_initializer(&self, call: Call<'m>, input: usize) -> bool {
        call.node.input.get(input).is_some_and(|name| self.initializers.contains_key(name))
    }

    /// The module that operand `input` is the `weight` of, by its own name or the initialiser's it was made from.
    pub(super) fn module(&mut self, call: Call<'m>, input: usize, weight: &Constant) -> Option<String> {
        let direct = call.node.input.get(input).copied().unwrap_or_default();
        let named = if module_of_weight(direct).is_some() { direct } else { weight.origin.as_deref()? };
        let module = module_of_weight(named)?;
        if !self.used_weights.insert(named.to_owned()) {
            let warning =
                format!("weights `{named}` are used by two nodes; they become two copies, trained apart");
            self.warnings.push(warning);
        }
        Some(module.to_owned())
    }

    /// Appends a node without parameters, and binds its output.
    pub(super) fn emit(
        &mut self,
        call: Call<'m>,
        op: impl Into<Op>,
        inputs: &[ValueId],
    ) -> Result<(), ImportError> {
        let value = self.append(call, None, op, inputs)?;
        self.bind(call, Value::Data(value));
        Ok(())
    }

    /// Appends a node; its parameters and buffers must follow through [`Reader::push`].
    pub(super) fn append(
        &mut self,
        call: Call<'m>,
        module: Option<String>,
        op: impl Into<Op>,
        inputs: &[ValueId],
    ) -> Result<ValueId, ImportError> {
        let op = op.into();
        let wanted = module.unwrap_or_else(|| module_path(call.node));
        let wanted = if wanted.is_empty() { op.operator().name().to_owned() } else { wanted };
        Ok(self.builder.add(self.names.unique(wanted), op, inputs)?)
    }

    /// The numbers of the node appended last.
    pub(super) fn push(&mut self, params: Vec<Tensor>, buffers: Vec<Tensor>) {
        self.parameters.params.extend(params);
        self.parameters.buffers.extend(buffers);
    }

    fn finish(mut self, input: &str) -> Result<Imported, ImportError> {
        let output = match self.values.get(self.output) {
            Some(Value::Data(value)) if *value != ValueId::INPUT => *value,
            _ => {
                let names = format!("`{}` is not made from the input", self.output);
                return Err(ImportError::Ends { what: "an output that is no result", names });
            }
        };
        let graph = self.builder.finish_at(output)?;
        self.parameters.check(&graph)?;
        let batch_norm_folded = self.folded > 0 && self.batch_norms == 0;
        if batch_norm_folded {
            self.warnings.push(format!(
                "batch norm was folded into {} convolutions on export: accepted for inference; to train, export with \
                 training=TrainingMode.TRAINING and do_constant_folding=False",
                self.folded
            ));
        }
        Ok(Imported {
            graph,
            parameters: self.parameters,
            input_name: input.to_owned(),
            output_name: self.output.to_owned(),
            batch_norm_folded,
            trainable: !batch_norm_folded,
            warnings: self.warnings,
        })
    }
}

/// The one input that is no initialiser.
fn reader_input<'m>(graph: &'m Graph<'m>) -> Result<&'m ValueInfo<'m>, ImportError> {
    let initializers: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    let inputs: Vec<&ValueInfo<'_>> = graph.input.iter().filter(|i| !initializers.contains(i.name)).collect();
    match inputs[..] {
        [input] => Ok(input),
        _ => Err(ends("input", inputs.into_iter())),
    }
}

fn ends<'m>(what: &'static str, values: impl Iterator<Item = &'m ValueInfo<'m>>) -> ImportError {
    let names: Vec<&str> = values.map(|value| value.name).take(9).collect();
    let what = match (what, names.len()) {
        ("input", 0) => "no input",
        ("input", _) => "several inputs",
        (_, 0) => "no output",
        _ => "several outputs",
    };
    ImportError::Ends { what, names: names.join(", ") }
}

/// The batch axis and the record shape of the images.
fn input_shape(input: &ValueInfo<'_>) -> Result<(Size, Shape), ImportError> {
    let wrong = |reason| ImportError::Input { name: input.name.to_owned(), reason };
    if input.tensor_elem_type() != Some(DataType::Float) {
        return Err(wrong("it is not of type float32"));
    }
    let shape = input.tensor_shape().ok_or(wrong("it has no shape"))?;
    let fixed = |d: &Dimension<'_>| match d {
        Dimension::Value(value) if *value > 0 => usize::try_from(*value).ok(),
        _ => None,
    };
    let (batch, record) = match &shape.dim[..] {
        [batch, record @ ..] if (1..=3).contains(&record.len()) => (batch, record),
        _ => return Err(wrong("it does not have two to four axes")),
    };
    let record: Option<Vec<usize>> = record.iter().map(|d| fixed(&d.value)).collect();
    let record = record.ok_or(wrong("an axis other than the batch has no fixed size"))?;
    let record = Shape::try_new(&record).map_err(|_| wrong("its size overflows"))?;
    let batch = fixed(&batch.value).map_or(Size::Batch, |n| Size::Known(n as i64));
    Ok((batch, record))
}
