//! A model's graphs with nodes for its splits.

use std::sync::Arc;

use engine::Rewritten;
use kernels::compact::Format;
use kernels::conv_norm_relu::ConvNormRelu;
use kernels::conv2d::Conv2d;
use kernels::{Backward, Forward, Fused, Op, Operator, ParamSpec, Placed, Reads, Scratch};
use model::{Graph, Node, ValueId};
use split::ChannelSplit;
use tensor::{Shape, ShapeError};

use super::placements::{Placements, conv_name};
use crate::RunError;
use crate::flow::request;

/// What is computed at a place of a rewritten graph.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// `X` becomes `V`, and the residual leaves.
    Split { layer: usize },
    /// A convolution of `V`, added to that of the residual; then what follows it.
    Conv { layer: usize, conv: usize, onto: ConvNormRelu },
}

/// A layer: a split, and the convolutions that read it.
#[derive(Clone, Debug)]
pub(crate) struct LayerPlan {
    pub(crate) split: ChannelSplit,
    /// As in the model, without bias; `None` of those that were not found yet.
    pub(crate) convs: Vec<Conv2d>,
    /// Where the weights of each are among the model's parameters.
    pub(crate) weights: Vec<usize>,
}

/// A model's graphs for this flow, and what is computed at their places.
#[derive(Clone, Debug)]
pub(crate) struct Placing {
    pub(crate) graphs: Rewritten,
    pub(crate) places: Vec<Place>,
    pub(crate) layers: Vec<LayerPlan>,
}

impl Placing {
    /// Rewrites `graph`. With `whole_input` a convolution's backward pass reads all of its input, not the low-rank part alone.
    ///
    /// # Errors
    /// [`RunError::Request`] if a split does not fit its value.
    pub(crate) fn of(graph: &Graph, placements: &Placements, whole_input: bool) -> Result<Self, RunError> {
        let Rewritten { model, training, inference } = Rewritten::fused(graph);
        let mut placing = Rewriter { placements, places: Vec::new(), layers: Vec::new() };
        let training = placing.rewrite(&training, whole_input)?;
        let inference = placing.rewrite(&inference, false)?;
        let Rewriter { places, layers, .. } = placing;
        Ok(Placing { graphs: Rewritten { model, training, inference }, places, layers })
    }
}

struct Rewriter<'a> {
    placements: &'a Placements,
    places: Vec<Place>,
    layers: Vec<LayerPlan>,
}

impl Rewriter<'_> {
    fn rewrite(&mut self, graph: &Graph, whole_input: bool) -> Result<Graph, RunError> {
        let mut nodes: Vec<Node> = Vec::new();
        // Where each value of the graph is in the rewritten one, and the low-rank part of each that is split.
        let mut now = vec![ValueId::INPUT; graph.values()];
        let mut parts: Vec<Option<ValueId>> = vec![None; graph.values()];
        for (n, node) in graph.nodes().iter().enumerate() {
            let mut made = node.clone();
            made.inputs.iter_mut().for_each(|v| *v = now[v.0]);
            if let Some((layer, conv)) = conv_name(node).and_then(|name| self.placements.of(name)) {
                let x = node.inputs[0];
                let part = match parts[x.0] {
                    Some(part) => part,
                    None => {
                        let shape = graph.shape(x, 1).record();
                        nodes.push(self.split_node(layer, shape, now[x.0], node)?);
                        ValueId(nodes.len())
                    }
                };
                parts[x.0] = Some(part);
                made.op = self.conv_op((layer, conv), node, whole_input)?;
                let whole = std::mem::replace(&mut made.inputs[0], part);
                if whole_input {
                    made.inputs.push(whole);
                }
            }
            nodes.push(made);
            now[n + 1] = ValueId(nodes.len());
        }
        graph.rewritten(nodes, now[graph.output().0]).map_err(request)
    }

    fn split_node(&mut self, layer: usize, shape: Shape, x: ValueId, conv: &Node) -> Result<Node, RunError> {
        let split = &self.placements.splits[layer];
        let channels = ChannelSplit::new(split.finding, split.rank, shape).map_err(|error| {
            RunError::Request(format!("the input of `{}` cannot be split: {error}", split.convs[0]))
        })?;
        if layer == self.layers.len() {
            self.layers.push(LayerPlan { split: channels.clone(), convs: Vec::new(), weights: Vec::new() });
        }
        let op = SplitNode { split: channels };
        let name = format!("{}.split", split.convs[0]);
        let (params, buffers) =
            (conv.params.start..conv.params.start, conv.buffers.start..conv.buffers.start);
        let op = self.place(Place::Split { layer }, Arc::new(op));
        Ok(Node { name, op, inputs: vec![x], params, buffers, origin: conv.origin })
    }

    fn conv_op(
        &mut self,
        (layer, conv): (usize, usize),
        node: &Node,
        whole_input: bool,
    ) -> Result<Op, RunError> {
        let whole = match &node.op {
            Op::Conv2d(conv) => ConvNormRelu { conv: conv.clone(), norm: None, add: false, relu: false },
            Op::Fused(Fused::ConvNormRelu(op)) => op.clone(),
            _ => unreachable!("only convolutions have names of convolutions"),
        };
        let plan = &mut self.layers[layer];
        if conv == plan.convs.len() {
            plan.convs.push(whole.conv.clone().bias(false));
            plan.weights.push(node.params.start);
        }
        let narrow = Conv2d { in_channels: plan.split.rank(), groups: 1, ..whole.conv.clone() };
        let onto = ConvNormRelu { conv: narrow, ..whole.clone() };
        let op = ConvNode { onto: onto.clone(), whole, whole_input };
        Ok(self.place(Place::Conv { layer, conv, onto }, Arc::new(op)))
    }

    fn place(&mut self, place: Place, op: Arc<dyn Operator + Send + Sync>) -> Op {
        self.places.push(place);
        Op::Fused(Fused::Placed(Placed { place: self.places.len() - 1, op }))
    }
}

/// Makes `V` `[N, r, H, W]` of `X` `[N, C, H, W]`.
struct SplitNode {
    split: ChannelSplit,
}

impl Operator for SplitNode {
    fn name(&self) -> &'static str {
        "split"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let [x] = inputs else {
            return Err(ShapeError::Inputs { what: self.name(), expected: 1, found: inputs.len() });
        };
        let (expected, n) = (self.split.sample_shape(), x.dims()[0]);
        let &[_, h, w] = expected.dims() else { unreachable!("a split's sample is an image") };
        match x.record() == expected {
            true => Ok(Shape::from([self.split.rank(), h, w]).batched(n)),
            false => {
                Err(ShapeError::Mismatch { what: self.name(), expected: expected.batched(n), found: *x })
            }
        }
    }

    fn macs(&self, inputs: &[Shape]) -> u64 {
        inputs.first().map_or(0, |x| x.dims()[0] as u64 * self.split.macs())
    }

    /// The gradient comes from the accelerator.
    fn backward_reads(&self) -> Reads {
        Reads::NOTHING
    }

    fn scratch(&self, inputs: &[Shape], _: usize) -> Scratch {
        self.split.scratch(inputs[0].dims()[0])
    }

    fn forward(&self, _: Forward<'_>) {
        unreachable!("placed elsewhere");
    }

    fn backward(&self, _: Backward<'_>) {
        unreachable!("placed elsewhere");
    }
}

/// A convolution of `V`, with the parameters of the whole one.
struct ConvNode {
    onto: ConvNormRelu,
    whole: ConvNormRelu,
    /// Whether the whole input comes after `V`, for the gradients.
    whole_input: bool,
}

impl ConvNode {
    fn read<'a>(&self, inputs: &'a [Shape]) -> &'a [Shape] {
        if self.whole_input { &inputs[..1] } else { inputs }
    }
}

impl Operator for ConvNode {
    fn name(&self) -> &'static str {
        self.whole.name()
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        self.onto.infer(self.read(inputs))
    }

    fn params(&self) -> Vec<ParamSpec> {
        self.whole.params()
    }

    fn buffers(&self) -> Vec<ParamSpec> {
        self.whole.buffers()
    }

    fn macs(&self, inputs: &[Shape]) -> u64 {
        self.onto.macs(self.read(inputs))
    }

    fn backward_reads(&self) -> Reads {
        Reads { inputs: [!self.whole_input, self.whole_input], output: false }
    }

    fn scratch(&self, inputs: &[Shape], threads: usize) -> Scratch {
        let narrow = self.onto.onto_scratch(inputs[0], threads);
        match inputs.get(1).filter(|_| self.whole_input) {
            Some(whole) => narrow.or(self.whole.conv.scratch(&[*whole], threads)),
            None => narrow,
        }
    }

    fn forward(&self, _: Forward<'_>) {
        unreachable!("placed elsewhere");
    }

    fn backward(&self, _: Backward<'_>) {
        unreachable!("placed elsewhere");
    }
}

impl LayerPlan {
    /// Shape `[C, H, W]` of what is split.
    pub(crate) fn input(&self) -> [usize; 3] {
        self.split.sample_shape().dims().try_into().expect("a split's sample is an image")
    }

    /// Bytes of the residual of one record.
    pub(crate) fn residual_len(&self, format: Format) -> usize {
        let [c, h, w] = self.input();
        format.encoded_len(c, h * w)
    }

    /// Shape `[K, H', W']` of what a convolution makes.
    pub(crate) fn output(&self, conv: usize) -> [usize; 3] {
        let input = self.split.sample_shape().batched(1);
        let output = self.convs[conv].infer(&[input]).expect("it fitted in the model");
        output.record().dims().try_into().expect("a convolution makes images")
    }
}
