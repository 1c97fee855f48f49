//! A model as a list of operators in topological order.

use std::collections::HashSet;
use std::ops::Range;

use kernels::{Op, ParamSpec, Precision};
use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::limits::{self, MAX_NAME, MAX_NODES, MAX_PARAMETERS};

/// A value of a graph: 0 is the graph's input, `i + 1` the output of node `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ValueId(pub usize);

impl ValueId {
    /// The graph's input.
    pub const INPUT: ValueId = ValueId(0);

    /// The node that makes this value; `None` for the graph's input.
    pub fn node(self) -> Option<usize> {
        self.0.checked_sub(1)
    }
}

/// One operator with its place in the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// PyTorch's module path where there is one (`layer1.0.conv1`); unique in the graph.
    pub name: String,
    pub op: Op,
    pub inputs: Vec<ValueId>,
    /// Where this node's parameters and buffers are in [`crate::Parameters`].
    pub params: Range<usize>,
    pub buffers: Range<usize>,
    /// The node's index in the model, whatever a rewrite made of it: what its randomness is keyed by.
    pub origin: usize,
}

/// A checked model graph: every shape fits, every input exists, names are unique.
///
/// There is one input, of record shape [`Graph::input`], and one output. Encoded without what can be derived, and
/// checked again on decoding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawGraph", into = "RawGraph")]
pub struct Graph {
    name: String,
    nodes: Vec<Node>,
    /// Shape of every value for a batch of one.
    shapes: Vec<Shape>,
    output: ValueId,
    params: usize,
    buffers: usize,
}

/// A graph that does not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    #[error("node `{node}` ({op}): {source}")]
    Shape { node: String, op: &'static str, source: Box<ShapeError> },
    #[error("node `{node}` reads value {value}, which is made later or not at all")]
    Order { node: String, value: usize },
    #[error("two nodes are called `{node}`")]
    Name { node: String },
    #[error("a name of {length} bytes is longer than {MAX_NAME}")]
    LongName { length: usize },
    #[error("the output is value {value}, which does not exist")]
    Output { value: usize },
    #[error("input {shape}: {reason}")]
    Input { shape: Shape, reason: &'static str },
    #[error("node `{node}` ({op}): {what} is not a value the operator is defined for")]
    Attribute { node: String, op: &'static str, what: &'static str },
    #[error("node `{node}` ({op}) does not read as many parameters and buffers as it has")]
    Operands { node: String, op: &'static str },
    #[error("node `{node}` ({op}): {what} is {value}, the limit is {limit}")]
    Limit { node: String, op: &'static str, what: &'static str, value: usize, limit: usize },
    #[error("the graph has more than {MAX_NODES} nodes")]
    Nodes,
    #[error("the graph has more than {MAX_PARAMETERS} parameters")]
    Parameters,
}

impl Graph {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Record shape of the input, `[C, H, W]`.
    pub fn input(&self) -> Shape {
        self.shapes[0].record()
    }

    pub fn output(&self) -> ValueId {
        self.output
    }

    /// Number of values: the input and one per node.
    pub fn values(&self) -> usize {
        self.shapes.len()
    }

    /// Shape of a value for a batch of `batch`.
    pub fn shape(&self, value: ValueId, batch: usize) -> Shape {
        self.shapes[value.0].with_batch(batch)
    }

    /// Shapes of a node's inputs for a batch of `batch`.
    pub fn input_shapes(&self, node: usize, batch: usize) -> Vec<Shape> {
        self.nodes[node].inputs.iter().map(|&v| self.shape(v, batch)).collect()
    }

    /// The node called `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// The nodes that read a value, in order.
    pub fn consumers(&self, value: ValueId) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(move |&n| self.nodes[n].inputs.contains(&value))
    }

    /// Number of outputs of a classifier: the length of one output record.
    pub fn classes(&self) -> usize {
        self.shapes[self.output.0].record_len()
    }

    /// Full PyTorch name and shape of every parameter, in [`crate::Parameters`] order.
    pub fn param_specs(&self) -> Vec<(String, Shape)> {
        self.specs(|op| op.operator().params())
    }

    /// Full PyTorch name and shape of every buffer, in [`crate::Parameters`] order.
    pub fn buffer_specs(&self) -> Vec<(String, Shape)> {
        self.specs(|op| op.operator().buffers())
    }

    /// Number of trained parameters (single numbers, not tensors).
    pub fn param_count(&self) -> usize {
        self.param_specs().iter().map(|(_, shape)| shape.len()).sum()
    }

    /// Multiply-adds of one forward pass of one record; saturates.
    pub fn macs(&self) -> u64 {
        let macs = |n: usize| self.nodes[n].op.operator().macs(&self.input_shapes(n, 1));
        (0..self.nodes.len()).map(macs).fold(0, u64::saturating_add)
    }

    /// The same parameters and buffers, read by other nodes that compute the same: for an executor, not a model.
    ///
    /// `nodes` are in topological order (values are numbered by it) and keep the ranges of what they replace.
    ///
    /// # Errors
    /// [`GraphError::Order`], [`GraphError::Shape`], [`GraphError::Operands`] or [`GraphError::Output`] where they do
    /// not fit together.
    pub fn rewritten(&self, nodes: Vec<Node>, output: ValueId) -> Result<Graph, GraphError> {
        let mut shapes = vec![self.shapes[0]];
        for node in &nodes {
            let (name, operator) = (node.name.clone(), node.op.operator());
            if let Some(missing) = node.inputs.iter().find(|v| v.0 >= shapes.len()) {
                return Err(GraphError::Order { node: name, value: missing.0 });
            }
            let inputs: Vec<Shape> = node.inputs.iter().map(|v| shapes[v.0]).collect();
            let op = operator.name();
            let source = |source| GraphError::Shape { node: name.clone(), op, source: Box::new(source) };
            shapes.push(operator.infer(&inputs).map_err(source)?);
            let fits = node.params.len() == operator.params().len() && node.params.end <= self.params;
            let buffers = node.buffers.len() == operator.buffers().len() && node.buffers.end <= self.buffers;
            if !(fits && buffers) {
                return Err(GraphError::Operands { node: name, op });
            }
        }
        if output.0 >= shapes.len() {
            return Err(GraphError::Output { value: output.0 });
        }
        Ok(Graph { nodes, shapes, output, ..self.clone() })
    }

    /// The same graph with products of this precision: for an executor, not a part of the model.
    pub fn with_precision(mut self, precision: Precision) -> Graph {
        for node in &mut self.nodes {
            match &mut node.op {
                Op::Conv2d(conv) => conv.precision = precision,
                Op::Linear(linear) => linear.precision = precision,
                _ => {}
            }
        }
        self
    }

    fn specs(&self, of: impl Fn(&Op) -> Vec<ParamSpec>) -> Vec<(String, Shape)> {
        let full = |node: &Node, spec: ParamSpec| (format!("{}.{}", node.name, spec.name), spec.shape);
        // A rewritten graph may run them in another order.
        let mut nodes: Vec<&Node> = self.nodes.iter().collect();
        nodes.sort_by_key(|node| (node.params.start, node.buffers.start));
        nodes
            .into_iter()
            .flat_map(|node| of(&node.op).into_iter().map(move |spec| full(node, spec)))
            .collect()
    }
}

/// Builds a [`Graph`] node by node, checking shapes as it goes.
pub struct GraphBuilder {
    graph: Graph,
    names: HashSet<String>,
    elements: usize,
}

impl GraphBuilder {
    /// Starts a graph whose input has record shape `input`, such as `[3, 32, 32]`; for shapes known to be valid.
    ///
    /// # Panics
    /// Where [`GraphBuilder::try_new`] is an error.
    pub fn new(name: impl Into<String>, input: Shape) -> Self {
        Self::try_new(name, input).expect("a literal input shape is a valid record")
    }

    /// Starts a graph whose input has record shape `input`, such as `[3, 32, 32]`.
    ///
    /// # Errors
    /// [`GraphError::Input`] unless there are one to three axes, none empty and none absurdly long;
    /// [`GraphError::LongName`].
    pub fn try_new(name: impl Into<String>, input: Shape) -> Result<Self, GraphError> {
        limits::check_input(input)?;
        let name = checked_name(name.into())?;
        let graph = Graph {
            name,
            nodes: Vec::new(),
            shapes: vec![input.batched(1)],
            output: ValueId::INPUT,
            params: 0,
            buffers: 0,
        };
        Ok(GraphBuilder { graph, names: HashSet::new(), elements: 0 })
    }

    /// Appends a node and returns its output.
    ///
    /// # Errors
    /// [`GraphError`] if the name is taken, an input does not exist, the shapes do not fit, an attribute makes no sense,
    /// or something exceeds the [`limits`].
    pub fn add(
        &mut self,
        name: impl Into<String>,
        op: impl Into<Op>,
        inputs: &[ValueId],
    ) -> Result<ValueId, GraphError> {
        let (name, op) = (checked_name(name.into())?, op.into());
        let graph = &mut self.graph;
        if graph.nodes.len() == MAX_NODES {
            return Err(GraphError::Nodes);
        }
        if let Some(missing) = inputs.iter().find(|v| v.0 >= graph.shapes.len()) {
            return Err(GraphError::Order { node: name, value: missing.0 });
        }
        limits::check_op(&name, &op)?;
        let operator = op.operator();
        let shapes: Vec<Shape> = inputs.iter().map(|v| graph.shapes[v.0]).collect();
        let shape = operator.infer(&shapes).map_err(|source| GraphError::Shape {
            node: name.clone(),
            op: operator.name(),
            source: Box::new(source),
        })?;
        limits::check_value(&name, &op, shape)?;
        let (params, buffers) = (operator.params(), operator.buffers());
        let elements: usize = params.iter().chain(&buffers).map(|spec| spec.shape.len()).sum();
        self.elements += elements;
        if self.elements > MAX_PARAMETERS {
            return Err(GraphError::Parameters);
        }
        if !self.names.insert(name.clone()) {
            return Err(GraphError::Name { node: name });
        }
        let params = graph.params..graph.params + params.len();
        let buffers = graph.buffers..graph.buffers + buffers.len();
        graph.params = params.end;
        graph.buffers = buffers.end;
        let origin = graph.nodes.len();
        graph.nodes.push(Node { name, op, inputs: inputs.to_vec(), params, buffers, origin });
        graph.shapes.push(shape);
        graph.output = ValueId(graph.nodes.len());
        Ok(graph.output)
    }

    /// Record shape of a value made so far.
    pub fn shape(&self, value: ValueId) -> Shape {
        self.graph.shapes[value.0].record()
    }

    /// The finished graph, with the last node's value as its output.
    pub fn finish(self) -> Graph {
        self.graph
    }

    /// The finished graph with a chosen output.
    ///
    /// # Errors
    /// [`GraphError::Output`] if there is no such value.
    pub fn finish_at(mut self, output: ValueId) -> Result<Graph, GraphError> {
        if output.0 >= self.graph.shapes.len() {
            return Err(GraphError::Output { value: output.0 });
        }
        self.graph.output = output;
        Ok(self.graph)
    }
}

fn checked_name(name: String) -> Result<String, GraphError> {
    if name.len() > MAX_NAME { Err(GraphError::LongName { length: name.len() }) } else { Ok(name) }
}

/// What is encoded of a graph; the rest is derived again, so that a decoded graph has passed every check.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct RawGraph {
    pub(crate) name: String,
    pub(crate) input: Shape,
    pub(crate) nodes: Vec<(String, Op, Vec<ValueId>)>,
    pub(crate) output: ValueId,
}

impl From<Graph> for RawGraph {
    fn from(graph: Graph) -> Self {
        let (input, output) = (graph.input(), graph.output);
        let nodes = graph.nodes.into_iter().map(|n| (n.name, n.op, n.inputs)).collect();
        RawGraph { name: graph.name, input, nodes, output }
    }
}

impl TryFrom<RawGraph> for Graph {
    type Error = GraphError;

    fn try_from(raw: RawGraph) -> Result<Self, GraphError> {
        let mut builder = GraphBuilder::try_new(raw.name, raw.input)?;
        for (name, op, inputs) in raw.nodes {
            builder.add(name, op, &inputs)?;
        }
        builder.finish_at(raw.output)
    }
}

#[cfg(test)]
mod tests;
