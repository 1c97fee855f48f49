//! The sub-graphs of the delta flow: backbone, rest, residual model and main model.
//!
//! All keep the node names, so that parameters keep their PyTorch names ([`crate::Parameters::copy_matching`]).

mod main;

use std::collections::HashMap;

use kernels::Op;
use kernels::activation::Relu;
use kernels::batch_norm::BatchNorm2d;
use kernels::conv2d::Conv2d;
use kernels::pool::AdaptiveAvgPool2d;
use tensor::Shape;

pub use main::main_model;

use crate::{Graph, GraphBuilder, GraphError, Node, ValueId};

/// A graph that cannot be split as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeriveError {
    #[error(
        "`{graph}` has no activation after its first convolution that every path from the input passes through; \
         the delta flow needs one to split at"
    )]
    NoSplit { graph: String },
    #[error("value {value} does not exist, is the graph's input or output, or is no image [C, H, W]")]
    Value { value: usize },
    #[error("node `{node}` reads a value from before the split: not every path passes through it")]
    Bypass { node: String },
    #[error("{what} {shape}: expected an image [C, H, W] with no empty axis{}", channels.map_or(String::new(), |c| format!(" and C = {c}")))]
    Image { what: &'static str, shape: Shape, channels: Option<usize> },
    #[error("{what} must be positive")]
    Positive { what: &'static str },
    #[error("a {height}×{width} map is too small for the rest of the model; enlarge it first ({source})")]
    Vanishes { height: usize, width: usize, source: GraphError },
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Where the delta flow splits: the output of the first activation after the first convolution that every path from
/// the input passes through, or of the max pooling that alone follows it (ImageNet's ResNet).
///
/// # Errors
/// [`DeriveError::NoSplit`] if there is none.
pub fn split_point(graph: &Graph) -> Result<ValueId, DeriveError> {
    let nodes = graph.nodes();
    let conv = nodes.iter().position(|node| matches!(node.op, Op::Conv2d(_))).unwrap_or(nodes.len());
    let activation = |n: &usize| matches!(nodes[*n].op, Op::Relu(_) | Op::LeakyRelu(_) | Op::Prelu(_));
    let through_all =
        |n: &usize| partition(graph, ValueId(n + 1)).is_ok_and(|parts| parts.backbone.contains(&conv));
    let found = (conv..nodes.len()).filter(activation).find(through_all);
    let at = found
        .map(|n| ValueId(n + 1))
        .ok_or_else(|| DeriveError::NoSplit { graph: graph.name().to_owned() })?;
    let consumers: Vec<usize> = graph.consumers(at).collect();
    match consumers[..] {
        [pool] if matches!(nodes[pool].op, Op::MaxPool2d(_)) && ValueId(pool + 1) != graph.output() => {
            Ok(ValueId(pool + 1))
        }
        _ => Ok(at),
    }
}

/// The nodes up to `at`, with the value `at` as output.
///
/// # Errors
/// [`DeriveError`] if `at` is not a point that every path passes through.
pub fn backbone(graph: &Graph, at: ValueId) -> Result<Graph, DeriveError> {
    let parts = partition(graph, at)?;
    let mut copy = Copy::new(graph, format!("{}-backbone", graph.name()), graph.input(), ValueId::INPUT)?;
    parts.backbone.iter().try_for_each(|&n| copy.node(n))?;
    copy.finish(at)
}

/// The nodes after `at`, with the value `at` as input.
///
/// # Errors
/// [`DeriveError`] if `at` is not a point that every path passes through.
pub fn rest(graph: &Graph, at: ValueId) -> Result<Graph, DeriveError> {
    let parts = partition(graph, at)?;
    let input = graph.shape(at, 1).record();
    let mut copy = Copy::new(graph, format!("{}-rest", graph.name()), input, at)?;
    parts.rest.iter().try_for_each(|&n| copy.node(n))?;
    copy.finish(graph.output())
}

/// The model the accelerator trains: the rest of the graph, reading what is released, `[C', h, w]`.
///
/// Where that is not the shape at `at`, a 3×3 convolution from C' channels to the channels at `at`, batch norm and ReLU
/// come first (`stem.conv`, `stem.bn`, `stem.relu`), at h×w; maps are averaged to their former size before they are
/// flattened.
///
/// # Errors
/// [`DeriveError::Vanishes`] if h×w is too small for the rest of the model; others as [`rest`].
pub fn residual_model(graph: &Graph, at: ValueId, released: Shape) -> Result<Graph, DeriveError> {
    let parts = partition(graph, at)?;
    let original = graph.shape(at, 1).record();
    let [in_channels, height, width] = image("the released shape", released, None)?;
    let mut copy = Copy::new(graph, format!("{}-residual", graph.name()), released, at)?;
    if released != original {
        let channels = original.dims()[0];
        let taken = |n: &usize| graph.nodes()[*n].name.starts_with("stem.");
        let stem = if parts.rest.iter().any(taken) { "released.stem" } else { "stem" };
        let conv = Conv2d::new(in_channels, channels, 3).padding(1);
        let conv = copy.builder.add(format!("{stem}.conv"), conv, &[ValueId::INPUT])?;
        let norm = copy.builder.add(format!("{stem}.bn"), BatchNorm2d::new(channels), &[conv])?;
        let relu = copy.builder.add(format!("{stem}.relu"), Relu, &[norm])?;
        copy.values.insert(at, relu);
    }
    for &n in &parts.rest {
        copy.resized(n).map_err(|error| vanishes(error, height, width))?;
    }
    copy.finish(graph.output())
}

/// The nodes on each side of a point that every path passes through, in order.
struct Parts {
    backbone: Vec<usize>,
    rest: Vec<usize>,
}

fn partition(graph: &Graph, at: ValueId) -> Result<Parts, DeriveError> {
    let value = DeriveError::Value { value: at.0 };
    if at == ValueId::INPUT || at.0 >= graph.values() || graph.shape(at, 1).rank() != 4 {
        return Err(value);
    }
    let (before, needed) = (ancestors(graph, at), ancestors(graph, graph.output()));
    let all = 0..graph.nodes().len();
    let backbone = all.clone().filter(|&n| before[n]).collect();
    let rest: Vec<usize> = all.filter(|&n| needed[n] && !before[n]).collect();
    if rest.is_empty() {
        return Err(value);
    }
    let outside = |v: &ValueId| *v != at && v.node().is_none_or(|n| before[n]);
    match rest.iter().find(|&&n| graph.nodes()[n].inputs.iter().any(outside)) {
        Some(&n) => Err(DeriveError::Bypass { node: graph.nodes()[n].name.clone() }),
        None => Ok(Parts { backbone, rest }),
    }
}

/// For every node, whether `value` is made from it (its own node included).
fn ancestors(graph: &Graph, value: ValueId) -> Vec<bool> {
    let mut needed = vec![false; graph.nodes().len()];
    if let Some(n) = value.node() {
        needed[n] = true;
    }
    for n in (0..needed.len()).rev().filter(|n| value.node().is_some_and(|last| *n <= last)) {
        if needed[n] {
            graph.nodes()[n].inputs.iter().filter_map(|v| v.node()).for_each(|input| needed[input] = true);
        }
    }
    needed
}

fn image(what: &'static str, shape: Shape, channels: Option<usize>) -> Result<[usize; 3], DeriveError> {
    match *shape.dims() {
        [c, h, w] if c > 0 && h > 0 && w > 0 && channels.is_none_or(|wanted| wanted == c) => Ok([c, h, w]),
        _ => Err(DeriveError::Image { what, shape, channels }),
    }
}

fn vanishes(error: GraphError, height: usize, width: usize) -> DeriveError {
    match error {
        GraphError::Shape { .. } => DeriveError::Vanishes { height, width, source: error },
        other => other.into(),
    }
}

/// A new graph that takes over nodes of an old one.
struct Copy<'a> {
    from: &'a Graph,
    builder: GraphBuilder,
    /// New value of each old one.
    values: HashMap<ValueId, ValueId>,
}

impl<'a> Copy<'a> {
    /// A graph whose input stands for the value `at` of `from`.
    fn new(from: &'a Graph, name: String, input: Shape, at: ValueId) -> Result<Self, GraphError> {
        let builder = GraphBuilder::try_new(name, input)?;
        Ok(Copy { from, builder, values: HashMap::from([(at, ValueId::INPUT)]) })
    }

    fn inputs(&self, node: &Node) -> Vec<ValueId> {
        node.inputs.iter().map(|v| self.values[v]).collect()
    }

    /// Takes over node `n` as it is.
    fn node(&mut self, n: usize) -> Result<(), GraphError> {
        let node = &self.from.nodes()[n];
        let output = self.builder.add(&*node.name, node.op.clone(), &self.inputs(node))?;
        self.values.insert(ValueId(n + 1), output);
        Ok(())
    }

    /// Takes over node `n` at another resolution: what is flattened is first averaged to its former size.
    fn resized(&mut self, n: usize) -> Result<(), GraphError> {
        let node = &self.from.nodes()[n];
        let former = self.from.shape(node.inputs[0], 1);
        if let (Op::Flatten(_), &[_, _, height, width]) = (&node.op, former.dims()) {
            let input = self.values[&node.inputs[0]];
            if self.builder.shape(input).dims()[1..] != [height, width] {
                let fit = AdaptiveAvgPool2d { output: [height, width] };
                let fitted = self.builder.add(format!("{}.fit", node.name), fit, &[input])?;
                let output = self.builder.add(&*node.name, node.op.clone(), &[fitted])?;
                self.values.insert(ValueId(n + 1), output);
                return Ok(());
            }
        }
        self.node(n)
    }

    fn finish(self, output: ValueId) -> Result<Graph, DeriveError> {
        Ok(self.builder.finish_at(self.values[&output])?)
    }
}

#[cfg(test)]
mod tests;
