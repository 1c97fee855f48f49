//! Operators on constants, computed at import, and the few of them that also make sense on values.

use onnx_rs::ast::DataType;

use super::ImportError;
use super::call::Call;
use super::constant::{Constant, Data, Size};
use super::group_norm;
use super::layers::{alias, flattened};
use super::reader::{Reader, Value};

/// Most axes of a constant.
const MAX_AXES: usize = 8;

pub(super) fn identity<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&[])?;
    let value = reader.operand(call, 0)?.ok_or_else(|| call.operand_error(0, "is missing"))?;
    reader.bind(call, value);
    Ok(())
}

pub(super) fn constant<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["value", "value_int", "value_ints", "value_float", "value_floats"])?;
    let known = |values: &[i64]| values.iter().map(|&i| Size::Known(i)).collect::<Vec<_>>();
    let constant = if let Some(tensor) = call.tensor("value")? {
        Constant { origin: None, ..Constant::decode(tensor, &mut reader.budget)? }
    } else if let Some(values) = call.ints("value_ints")? {
        reader.budget.take(values.len())?;
        Constant::ints(vec![values.len()], known(values))
    } else if let Some(values) = call.floats("value_floats")? {
        reader.budget.take(values.len())?;
        Constant::floats(vec![values.len()], values.to_vec())
    } else if call.has("value_float") {
        Constant::floats(Vec::new(), vec![call.float("value_float", 0.0)?])
    } else if call.has("value_int") {
        Constant::ints(Vec::new(), known(&[call.int("value_int", 0)?]))
    } else {
        return Err(call.attribute_error("value", "is missing"));
    };
    reader.bind(call, Value::Constant(constant));
    Ok(())
}

pub(super) fn constant_of_shape<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["value"])?;
    let dims = shape_operand(reader, call, 0)?;
    let count = counted(reader, call, &dims)?;
    let one = match call.tensor("value")? {
        Some(tensor) => Constant::decode(tensor, &mut reader.budget)?.data,
        None => Data::Float(vec![0.0].into()),
    };
    let data = match one {
        Data::Float(values) if values.len() == 1 => Data::Float(vec![values[0]; count].into()),
        Data::Int(values) if values.len() == 1 => Data::Int(vec![values[0]; count].into()),
        _ => return Err(call.attribute_error("value", "is not one number")),
    };
    reader.bind(call, Value::Constant(Constant { dims, data, origin: None }));
    Ok(())
}

/// The axes of a value, the batch included.
pub(super) fn shape<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["start", "end"])?;
    let known = |dims: &[usize]| dims.iter().map(|&d| Size::Known(d as i64)).collect::<Vec<_>>();
    let sizes = match reader.operand(call, 0)? {
        Some(Value::Data(value)) => {
            let record = reader.record(value);
            std::iter::once(reader.batch).chain(known(record.dims())).collect()
        }
        Some(Value::Constant(constant)) => known(&constant.dims),
        None => return Err(call.operand_error(0, "is missing")),
    };
    let (start, end) = (call.int("start", 0)?, call.int("end", i64::MAX)?);
    let (start, end) = (clamped(start, sizes.len()), clamped(end, sizes.len()));
    let sizes = sizes.get(start..end.max(start)).unwrap_or_default().to_vec();
    reader.bind(call, Value::Constant(Constant::ints(vec![sizes.len()], sizes)));
    Ok(())
}

/// Constants to any shape; values to `[N, F]`, or to the shape they have.
pub(super) fn reshape<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["allowzero"])?;
    let zero_copies = call.int("allowzero", 0)? == 0;
    let target = reader.known(call, 1)?;
    let Data::Int(target) = target.data else { return Err(call.operand_error(1, "is no list of integers")) };
    let batch = reader.batch;
    let keeps_batch = |size: &Size| match size {
        Size::Batch => true,
        Size::Known(0) => zero_copies,
        Size::Known(_) => *size == batch,
    };
    if group_norm::reshape(reader, call, &target, keeps_batch)? {
        return Ok(());
    }
    match reader.operand(call, 0)? {
        Some(Value::Data(value)) => {
            let record = reader.record(value);
            let is = |size: &Size, length: usize| *size == Size::Known(length as i64);
            let flat = match &target[..] {
                [batch, Size::Known(-1)] => keeps_batch(batch),
                [batch, features] => {
                    (keeps_batch(batch) || *batch == Size::Known(-1)) && is(features, record.len())
                }
                _ => false,
            };
            let same = target.split_first().is_some_and(|(batch, sizes)| {
                keeps_batch(batch)
                    && sizes.len() == record.rank()
                    && sizes.iter().zip(record.dims()).all(|(size, &d)| is(size, d))
            });
            if same {
                alias(reader, call, value);
                return Ok(());
            }
            if !flat {
                return Err(call.unsupported("a reshape is read only to [N, features]"));
            }
            flattened(reader, call, value)
        }
        Some(Value::Constant(constant)) => {
            let dims = reshaped(&constant, &target, zero_copies)
                .ok_or_else(|| call.operand_error(1, "does not fit the number of elements"))?;
            reader.bind(call, Value::Constant(Constant { dims, ..constant }));
            Ok(())
        }
        None => Err(call.operand_error(0, "is missing")),
    }
}

fn reshaped(constant: &Constant, target: &[Size], zero_copies: bool) -> Option<Vec<usize>> {
    let mut dims = Vec::new();
    let mut open = None;
    for (axis, size) in target.iter().enumerate() {
        dims.push(match size {
            Size::Known(0) if zero_copies => *constant.dims.get(axis)?,
            Size::Known(-1) if open.is_none() => {
                open = Some(axis);
                1
            }
            Size::Known(length) => usize::try_from(*length).ok()?,
            Size::Batch => return None,
        });
    }
    let count = |dims: &[usize]| dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if let Some(axis) = open {
        dims[axis] = constant.data.len().checked_div(count(&dims)?)?;
    }
    (dims.len() <= MAX_AXES && count(&dims)? == constant.data.len()).then_some(dims)
}

/// Constants: drops axes of length 1. Values: `[N, C, 1, 1]` to `[N, C]`.
pub(super) fn squeeze<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["axes"])?;
    let axes = axes_operand(reader, call)?;
    match reader.operand(call, 0)? {
        Some(Value::Data(value)) => {
            let mut axes: Vec<i64> = axes
                .unwrap_or_default()
                .iter()
                .map(|&a| if a < 0 { a.saturating_add(4) } else { a })
                .collect();
            axes.sort_unstable();
            if !matches!(*reader.record(value).dims(), [_, 1, 1]) || axes != [2, 3] {
                return Err(call.unsupported("a squeeze is read only from [N, C, 1, 1] to [N, C]"));
            }
            flattened(reader, call, value)
        }
        Some(Value::Constant(constant)) => {
            let rank = constant.dims.len();
            let dropped: Vec<usize> = match axes {
                Some(axes) => indices(call, 1, &axes, rank)?,
                None => (0..rank).filter(|&axis| constant.dims[axis] == 1).collect(),
            };
            if dropped.iter().any(|&axis| constant.dims[axis] != 1) {
                return Err(call.operand_error(1, "names an axis that is longer than 1"));
            }
            let dims =
                (0..rank).filter(|axis| !dropped.contains(axis)).map(|axis| constant.dims[axis]).collect();
            reader.bind(call, Value::Constant(Constant { dims, ..constant }));
            Ok(())
        }
        None => Err(call.operand_error(0, "is missing")),
    }
}

pub(super) fn unsqueeze<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["axes"])?;
    let constant = reader.known(call, 0)?;
    let axes = axes_operand(reader, call)?.ok_or_else(|| call.operand_error(1, "is missing"))?;
    let rank = constant.dims.len().saturating_add(axes.len());
    if rank > MAX_AXES {
        return Err(call.operand_error(1, "makes too many axes"));
    }
    let added = indices(call, 1, &axes, rank)?;
    let mut old = constant.dims.iter().copied();
    let dims: Vec<usize> =
        (0..rank).map(|axis| if added.contains(&axis) { 1 } else { old.next().unwrap_or(1) }).collect();
    if old.next().is_some() {
        return Err(call.operand_error(1, "names an axis twice"));
    }
    reader.bind(call, Value::Constant(Constant { dims, ..constant }));
    Ok(())
}

/// Lists of integers, end to end.
pub(super) fn concat<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["axis"])?;
    let mut sizes = Vec::new();
    for input in 0..call.node.input.len() {
        match reader.known(call, input)? {
            Constant { dims, data: Data::Int(values), .. } if dims.len() == 1 => {
                reader.budget.take(values.len())?;
                sizes.extend_from_slice(&values);
            }
            _ => return Err(call.operand_error(input, "is no list of integers; only those can be joined")),
        }
    }
    reader.bind(call, Value::Constant(Constant::ints(vec![sizes.len()], sizes)));
    Ok(())
}

/// Elements of a list of integers.
pub(super) fn gather<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["axis"])?;
    call.must_be("axis", 0, 0)?;
    let list = list_operand(reader, call, 0)?;
    let at = reader.known(call, 1)?;
    let wanted = at.known().ok_or_else(|| call.operand_error(1, "holds no known integers"))?;
    reader.budget.take(wanted.len())?;
    let taken = indices(call, 1, &wanted, list.len())?.into_iter().map(|index| list[index]).collect();
    reader.bind(call, Value::Constant(Constant::ints(at.dims, taken)));
    Ok(())
}

/// A part of a list of integers, in steps of 1.
pub(super) fn slice<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["starts", "ends", "axes"])?;
    let list = list_operand(reader, call, 0)?;
    let one = |values: &[i64]| if let [value] = values { Some(*value) } else { None };
    let mut bound = |input: usize, name: &str| -> Result<Option<i64>, ImportError> {
        match call.ints(name)? {
            Some(values) => Ok(one(values)),
            None => Ok(reader.optional(call, input)?.and_then(|c| one(&c.known()?))),
        }
    };
    let (start, end) = (bound(1, "starts")?, bound(2, "ends")?);
    let (axis, step) = (bound(3, "axes")?.unwrap_or(0), bound(4, "")?.unwrap_or(1));
    let (Some(start), Some(end), 0 | -1, 1) = (start, end, axis, step) else {
        return Err(call.unsupported("only a part of a list, in steps of 1, is read"));
    };
    let (start, end) = (clamped(start, list.len()), clamped(end, list.len()));
    let part = list.get(start..end.max(start)).unwrap_or_default().to_vec();
    reader.bind(call, Value::Constant(Constant::ints(vec![part.len()], part)));
    Ok(())
}

pub(super) fn cast<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["to", "saturate", "round_mode"])?;
    let to = i32::try_from(call.int("to", 0)?).ok().and_then(|to| DataType::try_from(to).ok());
    let float = match to {
        Some(DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16) => true,
        Some(DataType::Int64 | DataType::Int32) => false,
        _ => return Err(call.attribute_error("to", "only casts to floats, int32 and int64 are supported")),
    };
    match reader.operand(call, 0)? {
        Some(Value::Data(value)) if to == Some(DataType::Float) => alias(reader, call, value),
        Some(Value::Constant(constant)) => bind_cast(reader, call, constant, float)?,
        _ => return Err(call.unsupported("values made from the input can only be cast to float32")),
    }
    Ok(())
}

/// A cast to the type of the second operand.
pub(super) fn cast_like<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["saturate", "round_mode"])?;
    let like = reader.operand(call, 1)?;
    let float = !matches!(like, Some(Value::Constant(Constant { data: Data::Int(_), .. })));
    match reader.operand(call, 0)? {
        Some(Value::Data(value)) if float => alias(reader, call, value),
        Some(Value::Constant(constant)) => bind_cast(reader, call, constant, float)?,
        _ => return Err(call.unsupported("values made from the input can only be cast to float32")),
    }
    Ok(())
}

fn bind_cast<'m>(
    reader: &mut Reader<'m>,
    call: Call<'m>,
    constant: Constant,
    float: bool,
) -> Result<(), ImportError> {
    reader.budget.take(constant.data.len())?;
    let data = match (&constant.data, float) {
        (Data::Int(_), true) => {
            let known = constant.known().ok_or_else(|| call.operand_error(0, "depends on the batch size"))?;
            Data::Float(known.into_iter().map(|i| i as f32).collect())
        }
        (Data::Float(values), false) => Data::Int(values.iter().map(|&x| Size::Known(x as i64)).collect()),
        (same, _) => same.clone(),
    };
    reader.bind(call, Value::Constant(Constant { data, ..constant }));
    Ok(())
}

/// A constant repeated along axes of length 1.
pub(super) fn expand<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&[])?;
    let constant = reader.known(call, 0)?;
    let target = shape_operand(reader, call, 1)?;
    let rank = constant.dims.len().max(target.len());
    let from_right =
        |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
    let broadcast = |axis| match (from_right(&constant.dims, axis), from_right(&target, axis)) {
        (a, b) if a == b || b == 1 => Some(a),
        (1, b) => Some(b),
        _ => None,
    };
    let dims: Option<Vec<usize>> = (0..rank).map(broadcast).collect();
    let dims = dims.ok_or_else(|| call.operand_error(1, "does not fit the shape of the constant"))?;
    let count = counted(reader, call, &dims)?;
    let source = |mut flat: usize| {
        let (mut index, mut stride) = (0, 1);
        for axis in (0..rank).rev() {
            let own = from_right(&constant.dims, axis);
            index += if own == 1 { 0 } else { flat % dims[axis] * stride };
            stride *= own;
            flat /= dims[axis];
        }
        index
    };
    let data = match &constant.data {
        Data::Float(values) => Data::Float((0..count).map(|i| values[source(i)]).collect()),
        Data::Int(values) => Data::Int((0..count).map(|i| values[source(i)]).collect()),
    };
    reader.bind(call, Value::Constant(Constant { dims, data, origin: None }));
    Ok(())
}

/// A matrix of floats, transposed.
pub(super) fn transpose<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["perm"])?;
    let constant = reader.known(call, 0)?;
    let swaps = call.ints("perm")?.is_none_or(|perm| perm == [1, 0]);
    let (&[rows, columns], Data::Float(values), true) = (&constant.dims[..], &constant.data, swaps) else {
        return Err(call.unsupported("only matrices of weights can be transposed"));
    };
    reader.budget.take(values.len())?;
    let data = Data::Float(transposed(values, rows, columns).into());
    reader.bind(call, Value::Constant(Constant { dims: vec![columns, rows], data, origin: constant.origin }));
    Ok(())
}

/// `[rows, columns]` → `[columns, rows]`.
pub(super) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()
}

/// An index or bound of a list, negative from its end, moved into the list.
fn clamped(index: i64, len: usize) -> usize {
    let len = len as i64;
    (if index < 0 { index.saturating_add(len) } else { index }).clamp(0, len) as usize
}

/// Axes or indices, negative from the end.
fn indices(call: Call<'_>, input: usize, wanted: &[i64], len: usize) -> Result<Vec<usize>, ImportError> {
    let index = |&i: &i64| if i < 0 { i.checked_add(len as i64) } else { Some(i) };
    let valid = |i: i64| usize::try_from(i).ok().filter(|&i| i < len);
    let found: Option<Vec<usize>> = wanted.iter().map(|i| index(i).and_then(valid)).collect();
    found.ok_or_else(|| call.operand_error(input, format!("is out of range for {len}")))
}

/// Axes, from the second operand or (before opset 13) from the attribute.
fn axes_operand<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<Option<Vec<i64>>, ImportError> {
    match reader.optional(call, 1)? {
        Some(axes) => axes.known().map(Some).ok_or_else(|| call.operand_error(1, "holds no known integers")),
        None => Ok(call.ints("axes")?.map(<[i64]>::to_vec)),
    }
}

fn list_operand<'m>(reader: &mut Reader<'m>, call: Call<'m>, input: usize) -> Result<Vec<Size>, ImportError> {
    match reader.known(call, input)? {
        Constant { dims, data: Data::Int(values), .. } if dims.len() == 1 => Ok(values.to_vec()),
        _ => Err(call.operand_error(input, "is no list of integers")),
    }
}

/// Axis lengths, all known.
fn shape_operand<'m>(
    reader: &mut Reader<'m>,
    call: Call<'m>,
    input: usize,
) -> Result<Vec<usize>, ImportError> {
    let sizes = reader.known(call, input)?.known().filter(|sizes| sizes.len() <= MAX_AXES);
    let dims: Option<Vec<usize>> = sizes.and_then(|s| s.iter().map(|&i| usize::try_from(i).ok()).collect());
    dims.ok_or_else(|| call.operand_error(input, "is no shape that is known without the batch size"))
}

/// The number of elements, taken from the budget.
fn counted(reader: &mut Reader<'_>, call: Call<'_>, dims: &[usize]) -> Result<usize, ImportError> {
    let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let count = count.ok_or_else(|| call.operand_error(0, "has a size that overflows"))?;
    reader.budget.take(count)?;
    Ok(count)
}
