//! Bounds on what a graph may ask for, checked before any shape is computed, so that a hostile graph can neither
//! overflow a size nor ask for more memory than its bytes justify.

use kernels::Op;
use tensor::Shape;

use crate::graph::GraphError;

/// Most nodes a graph can have.
pub const MAX_NODES: usize = 1 << 16;
/// Most channels or features of a value.
pub const MAX_CHANNELS: usize = 1 << 24;
/// Longest spatial axis, and largest kernel, stride, padding and dilation.
pub const MAX_SPATIAL: usize = 1 << 14;
/// Most elements of one record of a value, or of one parameter.
pub const MAX_ELEMENTS: usize = 1 << 30;
/// Most elements of all parameters and buffers together.
pub const MAX_PARAMETERS: usize = 1 << 31;
/// Longest name of a graph or node, in bytes.
pub const MAX_NAME: usize = 512;

/// Checks a graph's record shape: `[C]`, `[C, H]` or `[C, H, W]`, no axis empty.
pub(crate) fn check_input(input: Shape) -> Result<(), GraphError> {
    let refused = |reason| Err(GraphError::Input { shape: input, reason });
    match *input.dims() {
        [] => refused("a record needs one to three axes, such as [C, H, W]"),
        [_, _, _, _, ..] => refused("the batch axis is not part of a record; give [C, H, W]"),
        ref dims if dims.contains(&0) => refused("every axis must be at least 1"),
        [channels, ref spatial @ ..]
            if channels > MAX_CHANNELS || spatial.iter().any(|&s| s > MAX_SPATIAL) =>
        {
            refused("an axis is longer than any model needs")
        }
        _ if input.len() > MAX_ELEMENTS => refused("one record is larger than any model needs"),
        _ => Ok(()),
    }
}

/// Checks a value's shape for a batch of one.
pub(crate) fn check_value(node: &str, op: &Op, shape: Shape) -> Result<(), GraphError> {
    let spatial = shape.dims().get(2..).unwrap_or_default();
    bound(node, op, "channels", shape.dims().get(1).copied().unwrap_or(1), MAX_CHANNELS)?;
    spatial.iter().try_for_each(|&axis| bound(node, op, "spatial axis", axis, MAX_SPATIAL))?;
    bound(node, op, "output elements", shape.len(), MAX_ELEMENTS)
}

/// Checks an operator's attributes and the size of its parameters.
pub(crate) fn check_op(node: &str, op: &Op) -> Result<(), GraphError> {
    match op {
        Op::Conv2d(conv) => {
            let [kh, kw] = conv.kernel;
            positive(node, op, "groups", &[conv.groups])?;
            positive(node, op, "channels", &[conv.in_channels, conv.out_channels])?;
            positive(
                node,
                op,
                "kernel, stride or dilation",
                &[conv.kernel, conv.stride, conv.dilation].concat(),
            )?;
            let spatial = [&conv.kernel[..], &conv.stride, &conv.dilation, &conv.padding].concat();
            bounds(node, op, "kernel, stride, dilation or padding", &spatial, MAX_SPATIAL)?;
            bounds(node, op, "channels", &[conv.in_channels, conv.out_channels, conv.groups], MAX_CHANNELS)?;
            product(node, op, &[conv.out_channels, conv.in_channels, kh, kw])
        }
        Op::Linear(linear) => {
            let sizes = [linear.in_features, linear.out_features];
            positive(node, op, "features", &sizes)?;
            bounds(node, op, "features", &sizes, MAX_CHANNELS)?;
            product(node, op, &sizes)
        }
        Op::BatchNorm2d(norm) => {
            positive(node, op, "channels", &[norm.channels])?;
            bound(node, op, "channels", norm.channels, MAX_CHANNELS)?;
            number(node, op, "eps", norm.eps.is_finite() && norm.eps > 0.0)?;
            number(node, op, "momentum", (0.0..=1.0).contains(&norm.momentum))
        }
        Op::GroupNorm(norm) => {
            positive(node, op, "groups or channels", &[norm.groups, norm.channels])?;
            bound(node, op, "channels", norm.channels, MAX_CHANNELS)?;
            number(node, op, "groups", norm.channels.is_multiple_of(norm.groups))?;
            number(node, op, "eps", norm.eps.is_finite() && norm.eps > 0.0)
        }
        Op::Prelu(prelu) => {
            positive(node, op, "parameters", &[prelu.parameters])?;
            bound(node, op, "parameters", prelu.parameters, MAX_CHANNELS)
        }
        Op::LeakyRelu(leaky) => number(node, op, "slope", leaky.slope.is_finite()),
        Op::Dropout(dropout) => number(node, op, "probability", (0.0..1.0).contains(&dropout.probability)),
        Op::MaxPool2d(pool) => window(node, op, pool.kernel, pool.stride, pool.padding),
        Op::AvgPool2d(pool) => window(node, op, pool.kernel, pool.stride, pool.padding),
        Op::AdaptiveAvgPool2d(pool) => {
            positive(node, op, "output", &pool.output)?;
            bounds(node, op, "output", &pool.output, MAX_SPATIAL)
        }
        Op::Relu(_) | Op::Add(_) | Op::Flatten(_) => Ok(()),
        Op::Fused(_) => Err(attribute(node, op, "an operator of a model: it is several in one, which")),
    }
}

fn window(
    node: &str,
    op: &Op,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> Result<(), GraphError> {
    positive(node, op, "kernel or stride", &[kernel, stride].concat())?;
    bounds(node, op, "kernel, stride or padding", &[kernel, stride, padding].concat(), MAX_SPATIAL)
}

fn positive(node: &str, op: &Op, what: &'static str, values: &[usize]) -> Result<(), GraphError> {
    if values.contains(&0) { Err(attribute(node, op, what)) } else { Ok(()) }
}

fn number(node: &str, op: &Op, what: &'static str, holds: bool) -> Result<(), GraphError> {
    if holds { Ok(()) } else { Err(attribute(node, op, what)) }
}

fn attribute(node: &str, op: &Op, what: &'static str) -> GraphError {
    GraphError::Attribute { node: node.to_owned(), op: op.operator().name(), what }
}

fn bounds(node: &str, op: &Op, what: &'static str, values: &[usize], limit: usize) -> Result<(), GraphError> {
    values.iter().try_for_each(|&value| bound(node, op, what, value, limit))
}

fn bound(node: &str, op: &Op, what: &'static str, value: usize, limit: usize) -> Result<(), GraphError> {
    if value <= limit {
        return Ok(());
    }
    Err(GraphError::Limit { node: node.to_owned(), op: op.operator().name(), what, value, limit })
}

fn product(node: &str, op: &Op, sizes: &[usize]) -> Result<(), GraphError> {
    let elements = sizes.iter().try_fold(1usize, |n, &size| n.checked_mul(size)).unwrap_or(usize::MAX);
    bound(node, op, "parameter elements", elements, MAX_ELEMENTS)
}
