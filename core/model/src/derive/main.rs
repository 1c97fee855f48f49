//! The small main model, which the enclave runs on the low-rank, low-resolution part.

use kernels::Op;
use kernels::activation::Relu;
use kernels::add::Add;
use kernels::batch_norm::BatchNorm2d;
use kernels::conv2d::Conv2d;
use kernels::flatten::Flatten;
use kernels::linear::Linear;
use kernels::pool::AdaptiveAvgPool2d;
use tensor::Shape;

use super::{Copy, DeriveError, image, partition, vanishes};
use crate::{Graph, GraphBuilder, GraphError, ValueId};

/// The small trusted model for the main part `[C, h, w]`, C being the channels at `at`.
///
/// A k×k convolution to n planes becomes k×k to q planes (`X.low`) and 1×1 to n planes (`X.up`, with the bias), where
/// that has fewer multiply-adds; q = 2 · rank · width · 2^s after s halvings of the map. The graph is the rest of the
/// model, without poolings for which the map has become too small; for `resnet18` and `resnet18-cifar` it is the paper's:
/// three stages of two basic blocks with C, 4C and 8C planes.
///
/// Source: seed 004 (Delta), section 4.2 and its table of widths: n = 64/256/512, q = 16/32/64 at rank 8, width 1.
///
/// # Errors
/// [`DeriveError`] if `at` is no split point, `main_input` does not have its channels, `rank` or `width` is not
/// positive, or h×w is too small for the rest of the model.
pub fn main_model(
    graph: &Graph,
    at: ValueId,
    main_input: Shape,
    rank: usize,
    width: f32,
) -> Result<Graph, DeriveError> {
    let parts = partition(graph, at)?;
    let channels = graph.shape(at, 1).dims()[1];
    let [_, height, columns] = image("the main part", main_input, Some(channels))?;
    if rank == 0 {
        return Err(DeriveError::Positive { what: "rank" });
    }
    if !(width.is_finite() && width > 0.0) {
        return Err(DeriveError::Positive { what: "width" });
    }
    let factoring = Factoring { planes: f64::from(width) * 2.0 * rank as f64, pixels: height * columns };
    let name = format!("{}-main", graph.name());
    if matches!(graph.name(), "resnet18" | "resnet18-cifar") {
        return Ok(paper_resnet(name, main_input, graph.classes(), &factoring)?);
    }
    let mut copy = Copy::new(graph, name, main_input, at)?;
    for &n in &parts.rest {
        small_node(&mut copy, n, &factoring).map_err(|error| vanishes(error, height, columns))?;
    }
    copy.finish(graph.output())
}

/// The rule for q.
struct Factoring {
    /// q before any halving.
    planes: f64,
    /// Height times width of the main part.
    pixels: usize,
}

impl Factoring {
    /// Adds `conv`, as two smaller ones where that is cheaper.
    fn add(
        &self,
        builder: &mut GraphBuilder,
        name: &str,
        conv: Conv2d,
        input: ValueId,
    ) -> Result<ValueId, GraphError> {
        let in_shape = builder.shape(input).batched(1);
        let op = Op::from(conv.clone());
        let Ok(out_shape) = op.operator().infer(&[in_shape]) else { return builder.add(name, op, &[input]) };
        let pixels = out_shape.record_len() / conv.out_channels.max(1);
        let planes = self.planes_at(pixels);
        let low = Conv2d { out_channels: planes, bias: false, ..conv.clone() };
        let up = Conv2d::new(planes, conv.out_channels, 1).bias(conv.bias);
        let low_macs = Op::from(low.clone()).operator().macs(&[in_shape]);
        let up_macs = (pixels as u64) * (planes as u64) * (conv.out_channels as u64);
        let spatial = conv.kernel[0] * conv.kernel[1] > 1;
        if !spatial || conv.groups != 1 || low_macs.saturating_add(up_macs) >= op.operator().macs(&[in_shape])
        {
            return builder.add(name, op, &[input]);
        }
        let low = builder.add(format!("{name}.low"), low, &[input])?;
        builder.add(format!("{name}.up"), up, &[low])
    }

    /// q for a map of `pixels`: doubled with every halving of both axes.
    fn planes_at(&self, pixels: usize) -> usize {
        let shrunk = (self.pixels / pixels.max(1)).max(1);
        let halvings = shrunk.ilog2().div_ceil(2);
        // Never more than a graph may have; the comparison of multiply-adds decides beyond that.
        (self.planes * 2f64.powi(halvings as i32)).round().clamp(1.0, (1u64 << 24) as f64) as usize
    }
}

/// Takes over node `n`: convolutions factored, poolings that no longer fit left out.
fn small_node(copy: &mut Copy<'_>, n: usize, factoring: &Factoring) -> Result<(), GraphError> {
    let node = &copy.from.nodes()[n];
    let input = copy.values[&node.inputs[0]];
    let output = match &node.op {
        Op::Conv2d(conv) => factoring.add(&mut copy.builder, &node.name, conv.clone(), input)?,
        Op::MaxPool2d(_) | Op::AvgPool2d(_) if !fits(&node.op, copy.builder.shape(input)) => input,
        _ => return copy.resized(n),
    };
    copy.values.insert(ValueId(n + 1), output);
    Ok(())
}

fn fits(op: &Op, record: Shape) -> bool {
    op.operator().infer(&[record.batched(1)]).is_ok()
}

/// Three stages of two basic blocks, average pooling, one linear layer.
fn paper_resnet(
    name: String,
    input: Shape,
    classes: usize,
    factoring: &Factoring,
) -> Result<Graph, GraphError> {
    let base = input.dims()[0];
    let mut builder = GraphBuilder::try_new(name, input)?;
    let mut at = ValueId::INPUT;
    for (stage, (factor, stride)) in [(1, 1), (4, 2), (8, 2)].into_iter().enumerate() {
        for (block, stride) in [stride, 1].into_iter().enumerate() {
            let name = format!("layer{}.{block}", stage + 1);
            at = paper_block(&mut builder, &name, base * factor, stride, at, factoring)?;
        }
    }
    let in_features = base * 8;
    at = builder.add("avgpool", AdaptiveAvgPool2d { output: [1; 2] }, &[at])?;
    at = builder.add("flatten", Flatten, &[at])?;
    builder.add("fc", Linear::new(in_features, classes).bias(true), &[at])?;
    Ok(builder.finish())
}

fn paper_block(
    builder: &mut GraphBuilder,
    name: &str,
    channels: usize,
    stride: usize,
    input: ValueId,
    factoring: &Factoring,
) -> Result<ValueId, GraphError> {
    let in_channels = builder.shape(input).dims()[0];
    let conv1 = Conv2d::new(in_channels, channels, 3).stride(stride).padding(1);
    let mut at = factoring.add(builder, &format!("{name}.conv1"), conv1, input)?;
    at = builder.add(format!("{name}.bn1"), BatchNorm2d::new(channels), &[at])?;
    at = builder.add(format!("{name}.relu1"), Relu, &[at])?;
    let conv2 = Conv2d::new(channels, channels, 3).padding(1);
    at = factoring.add(builder, &format!("{name}.conv2"), conv2, at)?;
    at = builder.add(format!("{name}.bn2"), BatchNorm2d::new(channels), &[at])?;
    let mut shortcut = input;
    if stride != 1 || in_channels != channels {
        let conv = Conv2d::new(in_channels, channels, 1).stride(stride);
        shortcut = builder.add(format!("{name}.downsample.0"), conv, &[shortcut])?;
        shortcut = builder.add(format!("{name}.downsample.1"), BatchNorm2d::new(channels), &[shortcut])?;
    }
    at = builder.add(format!("{name}.add"), Add, &[at, shortcut])?;
    builder.add(format!("{name}.relu2"), Relu, &[at])
}
