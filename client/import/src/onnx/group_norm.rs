//! Group norm: its operator, and the five nodes that PyTorch writes in its place.
//!
//! PyTorch exports `GroupNorm` as a reshape to `[N, G, …]`, an instance norm of its own without weights, a reshape back,
//! a product with the weights `[C, 1, 1]` and a sum with the biases. What is read of them so far is [`Pending`]; anything
//! else that reads it gets the norm as far as it goes.

use kernels::group_norm::GroupNorm;
use model::ValueId;
use onnx_rs::ast::Node;
use tensor::{Shape, Tensor};

use super::ImportError;
use super::call::Call;
use super::constant::{Constant, Data, Size};
use super::reader::{Reader, Value};

/// ONNX's default of both norms.
const EPSILON: f32 = 1e-5;

/// A group norm of which not all nodes were read.
#[derive(Clone)]
pub(super) struct Pending<'m> {
    input: ValueId,
    groups: usize,
    stage: Stage,
    eps: f32,
    /// The weights, and the module they are of.
    weight: Option<(Tensor, Option<String>)>,
    /// The node that normalises.
    node: Option<&'m Node<'m>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// `[N, G, …]`.
    Split,
    Normalised,
    /// `[N, C, H, W]` again.
    Joined,
}

/// Weights and biases of all channels, or (before opset 21) of all groups.
pub(super) fn group_norm<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["epsilon", "num_groups", "stash_type"])?;
    call.must_be("stash_type", 1, 1)?;
    let input = reader.data(call, 0)?;
    let channels = channels(reader, call, input)?;
    let groups = usize::try_from(call.int("num_groups", 0)?).unwrap_or(0);
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(call.attribute_error("num_groups", format!("does not divide {channels} channels")));
    }
    let scale = reader.known(call, 1)?;
    let per_group = call.opset < 21 && scale.data.len() == groups;
    let params = [1, 2].map(|operand| {
        if !per_group {
            return reader.weight(call, operand, [channels].into());
        }
        let given = reader.weight(call, operand, [groups].into())?;
        Ok(Tensor::from_fn([channels], |c| given.data()[c / (channels / groups)]))
    });
    let [weight, bias] = params;
    let norm = GroupNorm { groups, channels, eps: call.float("epsilon", EPSILON)? };
    let module = reader.module(call, 1, &scale);
    let value = reader.append(call, module, norm, &[input])?;
    reader.push(vec![weight?, bias?], Vec::new());
    reader.bind(call, Value::Data(value));
    Ok(())
}

/// With weights per channel a group norm of as many groups; between two reshapes, a part of one.
pub(super) fn instance_norm<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["epsilon"])?;
    let eps = call.float("epsilon", EPSILON)?;
    let scale = reader.known(call, 1)?;
    let Some(pending) = reader.pending(call, 0).filter(|pending| pending.stage == Stage::Split) else {
        let input = reader.data(call, 0)?;
        let channels = channels(reader, call, input)?;
        let params = [1, 2].map(|operand| reader.weight(call, operand, [channels].into()));
        let [weight, bias] = params;
        let module = reader.module(call, 1, &scale);
        let value = reader.append(call, module, GroupNorm { groups: channels, channels, eps }, &[input])?;
        reader.push(vec![weight?, bias?], Vec::new());
        reader.bind(call, Value::Data(value));
        return Ok(());
    };
    let bias = reader.known(call, 2)?;
    let all = |constant: &Constant, value: f32| {
        let groups = constant.data.len() == pending.groups;
        groups && matches!(&constant.data, Data::Float(values) if values.iter().all(|x| *x == value))
    };
    if !all(&scale, 1.0) || !all(&bias, 0.0) {
        return Err(call.unsupported("between reshapes only a norm without weights of its own is read"));
    }
    reader.defer(call, Pending { stage: Stage::Normalised, eps, node: Some(call.node), ..pending });
    Ok(())
}

/// Takes a reshape that is part of a group norm; `false` where it is another.
///
/// - `keeps_batch`: whether a size stands for the batch axis
pub(super) fn reshape<'m>(
    reader: &mut Reader<'m>,
    call: Call<'m>,
    target: &[Size],
    keeps_batch: impl Fn(&Size) -> bool,
) -> Result<bool, ImportError> {
    if let Some(pending) = reader.pending(call, 0) {
        let record = reader.record(pending.input);
        let back = target.split_first().is_some_and(|(batch, sizes)| {
            let known = |(size, &d): (&Size, &usize)| *size == Size::Known(d as i64);
            keeps_batch(batch) && sizes.len() == record.rank() && sizes.iter().zip(record.dims()).all(known)
        });
        if pending.stage != Stage::Normalised || !back {
            return Err(
                call.unsupported("after a norm by groups only a reshape back to its input's shape is read")
            );
        }
        reader.defer(call, Pending { stage: Stage::Joined, ..pending });
        return Ok(true);
    }
    let normalises = |node: &Node<'_>| node.op_type.as_str() == "InstanceNormalization";
    let &[ref batch, Size::Known(groups), _] = target else { return Ok(false) };
    if !keeps_batch(batch) || !reader.only_consumer(call).is_some_and(normalises) {
        return Ok(false);
    }
    let input = reader.data(call, 0)?;
    let channels = channels(reader, call, input)?;
    let groups = usize::try_from(groups).ok().filter(|&g| g > 0 && channels.is_multiple_of(g));
    let groups = groups.ok_or_else(|| call.operand_error(1, "does not divide the channels into groups"))?;
    let open = reader.record(input).len() / groups;
    if !matches!(target[2], Size::Known(len) if len == -1 || len == open as i64) {
        return Err(call.operand_error(1, "does not divide the channels into groups"));
    }
    let (stage, eps) = (Stage::Split, EPSILON);
    reader.defer(call, Pending { input, groups, stage, eps, weight: None, node: None });
    Ok(true)
}

/// The weights of a group norm: the only product that is read.
pub(super) fn mul<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    const ADVICE: &str = "a product is read only as the weights [C, 1, 1] of a group norm";
    call.only(&[])?;
    let (pending, other) = joined(reader, call).ok_or_else(|| call.unsupported(ADVICE))?;
    let pending = Some(pending).filter(|p| p.weight.is_none()).ok_or_else(|| call.unsupported(ADVICE))?;
    let scale = reader.known(call, other)?;
    let weight = per_channel(reader, &pending, &scale).ok_or_else(|| call.unsupported(ADVICE))?;
    let module = reader.module(call, other, &scale);
    reader.defer(call, Pending { weight: Some((weight, module)), ..pending });
    Ok(())
}

/// The biases of a group norm that was read so far, which ends it; `false` where the sum is another.
pub(super) fn add<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<bool, ImportError> {
    let Some((pending, other)) = joined(reader, call) else { return Ok(false) };
    let name = call.node.input.get(other).copied().unwrap_or_default();
    let bias = reader.constant_named(name)?.and_then(|bias| per_channel(reader, &pending, &bias));
    let Some(bias) = bias else { return Ok(false) };
    let value = append(reader, call, pending, Some(bias))?;
    reader.bind(call, Value::Data(value));
    Ok(true)
}

/// The norm that was read so far, as a node of its own, for whatever reads it.
pub(super) fn finish<'m>(
    reader: &mut Reader<'m>,
    call: Call<'m>,
    pending: Pending<'m>,
) -> Result<ValueId, ImportError> {
    if pending.stage != Stage::Joined {
        return Err(call.unsupported("of a norm by groups only the result in its input's shape can be used"));
    }
    append(reader, call, pending, None)
}

fn append<'m>(
    reader: &mut Reader<'m>,
    call: Call<'m>,
    pending: Pending<'m>,
    bias: Option<Tensor>,
) -> Result<ValueId, ImportError> {
    let channels = channels(reader, call, pending.input)?;
    let norm = GroupNorm { groups: pending.groups, channels, eps: pending.eps };
    let (weight, module) = pending.weight.unwrap_or_else(|| (Tensor::from_fn([channels], |_| 1.0), None));
    let named = Call { node: pending.node.unwrap_or(call.node), ..call };
    let value = reader.append(named, module, norm, &[pending.input])?;
    reader.push(vec![weight, bias.unwrap_or_else(|| Tensor::zeros([channels]))], Vec::new());
    Ok(value)
}

/// The operand that is a norm in its input's shape again, and the place of the other one.
fn joined<'m>(reader: &Reader<'m>, call: Call<'m>) -> Option<(Pending<'m>, usize)> {
    let operand = |at: usize| reader.pending(call, at).filter(|pending| pending.stage == Stage::Joined);
    operand(0).map(|pending| (pending, 1)).or_else(|| operand(1).map(|pending| (pending, 0)))
}

/// `[C, 1, 1]`, batch axis or not, as `[C]`.
fn per_channel(reader: &Reader<'_>, pending: &Pending<'_>, constant: &Constant) -> Option<Tensor> {
    let record = reader.record(pending.input);
    let shape: Vec<usize> =
        [record.dims()[0]].into_iter().chain(record.dims()[1..].iter().map(|_| 1)).collect();
    let fits = constant.dims == shape || constant.dims == [&[1], &shape[..]].concat();
    constant.tensor(Shape::from([record.dims()[0]])).filter(|_| fits)
}

fn channels<'m>(reader: &Reader<'m>, call: Call<'m>, input: ValueId) -> Result<usize, ImportError> {
    match *reader.record(input).dims() {
        [channels, _, _] => Ok(channels),
        _ => Err(call.operand_error(0, "is no image")),
    }
}
