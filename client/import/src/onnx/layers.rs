//! Operators with a counterpart in the model graph, poolings apart.

use kernels::Op;
use kernels::activation::{LeakyRelu, Prelu, Relu};
use kernels::add::Add;
use kernels::batch_norm::BatchNorm2d;
use kernels::conv2d::Conv2d;
use kernels::dropout::Dropout;
use kernels::flatten::Flatten;
use kernels::linear::Linear;
use model::ValueId;
use tensor::Tensor;

use super::ImportError;
use super::call::Call;
use super::constant::{Constant, Data};
use super::reader::{Reader, Value};

/// ONNX's default slope of LeakyRelu.
const LEAKY_SLOPE: f32 = 0.01;
/// ONNX's default ratio of Dropout.
const DROPOUT_RATIO: f32 = 0.5;
/// ONNX's defaults of BatchNormalization.
const EPSILON: f32 = 1e-5;
const MOMENTUM: f32 = 0.9;

/// `weight` `[O, I/groups, KH, KW]`, optional bias `[O]`.
pub(super) fn conv<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"])?;
    let input = reader.data(call, 0)?;
    let weight = reader.known(call, 1)?;
    let [out_channels, per_group, kh, kw] = weight.dims[..] else {
        return Err(call.operand_error(1, "is no 2-D convolution kernel [O, I, KH, KW]"));
    };
    let groups = usize::try_from(call.int("group", 1)?).unwrap_or(0);
    let kernel = call.sizes("kernel_shape", [kh, kw])?;
    if kernel != [kh, kw] {
        return Err(call.attribute_error("kernel_shape", "is not that of the weights"));
    }
    let [_, channels, ..] = *reader.record(input).batched(1).dims() else {
        return Err(call.operand_error(0, "is no image"));
    };
    if Some(channels) != per_group.checked_mul(groups) {
        return Err(
            call.operand_error(1, format!("does not fit {channels} input channels in {groups} groups"))
        );
    }
    let (stride, dilation) = (call.sizes("strides", [1; 2])?, call.sizes("dilations", [1; 2])?);
    let padding = super::pool::padding(reader, call, input, kernel, stride, dilation)?;
    let bias = conv_bias(reader, call, out_channels)?;
    let tensor = reader.weight(call, 1, [out_channels, per_group, kh, kw].into())?;
    let module = reader.module(call, 1, &weight);
    note_folding(reader, call, module.as_deref(), bias.is_some());
    let conv = Conv2d {
        in_channels: channels,
        out_channels,
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias: bias.is_some(),
        precision: kernels::Precision::F32,
    };
    let value = reader.append(call, module, conv, &[input])?;
    reader.push(std::iter::once(tensor).chain(bias).collect(), Vec::new());
    reader.bind(call, Value::Data(value));
    Ok(())
}

/// The bias; none where a node computes zeros for a convolution that had none.
fn conv_bias<'m>(
    reader: &mut Reader<'m>,
    call: Call<'m>,
    channels: usize,
) -> Result<Option<Tensor>, ImportError> {
    let Some(bias) = reader.optional(call, 2)? else { return Ok(None) };
    let zeros = matches!(&bias.data, Data::Float(values) if values.iter().all(|&x| x == 0.0));
    if zeros && bias.origin.is_none() {
        return Ok(None);
    }
    reader.weight(call, 2, [channels].into()).map(Some)
}

/// Counts convolutions whose bias is not the module's own: batch norm was merged into them.
fn note_folding<'m>(reader: &mut Reader<'m>, call: Call<'m>, module: Option<&str>, bias: bool) {
    let name = call.node.input.get(2).copied().unwrap_or_default();
    let own = module.is_some_and(|module| name.strip_prefix(module) == Some(".bias"));
    if bias && !own && reader.is_initializer(call, 2) {
        reader.folded += 1;
    }
}

/// Scale, bias, mean and variance, `[C]` each; training or not is decided by our own mode.
pub(super) fn batch_norm<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["epsilon", "momentum", "training_mode", "spatial"])?;
    call.must_be("spatial", 1, 1)?;
    let input = reader.data(call, 0)?;
    let scale = reader.known(call, 1)?;
    let channels = scale.data.len();
    let [weight, bias, mean, variance] =
        [1, 2, 3, 4].map(|operand| reader.weight(call, operand, [channels].into()));
    let (params, buffers) = (vec![weight?, bias?], vec![mean?, variance?]);
    // ONNX weighs the old statistics, PyTorch the new ones. Rounded, because 0.9 is no binary fraction.
    let kept = f64::from(call.float("momentum", MOMENTUM)?);
    let momentum = (((1.0 - kept) * 1e6).round() / 1e6) as f32;
    let norm = BatchNorm2d { channels, eps: call.float("epsilon", EPSILON)?, momentum, frozen: false };
    let module = reader.module(call, 1, &scale);
    let value = reader.append(call, module, norm, &[input])?;
    reader.push(params, buffers);
    reader.batch_norms += 1;
    reader.bind(call, Value::Data(value));
    Ok(())
}

pub(super) fn relu<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&[])?;
    let input = reader.data(call, 0)?;
    reader.emit(call, Relu, &[input])
}

pub(super) fn leaky_relu<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["alpha"])?;
    let input = reader.data(call, 0)?;
    reader.emit(call, LeakyRelu { slope: call.float("alpha", LEAKY_SLOPE)? }, &[input])
}

/// A slope for all channels or one each, `[1]` or `[C, 1, 1]`.
pub(super) fn prelu<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&[])?;
    let input = reader.data(call, 0)?;
    let slope = reader.known(call, 1)?;
    let (count, record) = (slope.data.len(), reader.record(input));
    let channels = record.dims()[0];
    // Axes align from the right, so only [C, 1, 1] (or [C] on flat values) is a slope per channel.
    let per_channel: Vec<usize> =
        std::iter::once(channels).chain(record.dims()[1..].iter().map(|_| 1)).collect();
    let aligned = slope
        .dims
        .iter()
        .copied()
        .skip_while(|&d| d == 1)
        .eq(per_channel.iter().copied().skip_while(|&d| d == 1));
    if count != 1 && !aligned {
        return Err(call.operand_error(1, "is neither one slope nor one per channel"));
    }
    let slopes = Constant { dims: vec![count], ..slope.clone() };
    let weight = slopes.tensor([count].into()).ok_or_else(|| call.operand_error(1, "holds no floats"))?;
    let module = reader.module(call, 1, &slope);
    let value = reader.append(call, module, Prelu { parameters: count }, &[input])?;
    reader.push(vec![weight], Vec::new());
    reader.bind(call, Value::Data(value));
    Ok(())
}

pub(super) fn add<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&[])?;
    if super::group_norm::add(reader, call)? {
        return Ok(());
    }
    let inputs = [reader.data(call, 0)?, reader.data(call, 1)?];
    reader.emit(call, Add, &inputs)
}

/// `alpha · A·B + beta · C` with alpha = beta = 1 and constant B and C.
pub(super) fn gemm<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["alpha", "beta", "transA", "transB"])?;
    call.must_be("transA", 0, 0)?;
    for name in ["alpha", "beta"] {
        if call.float(name, 1.0)? != 1.0 {
            return Err(call.attribute_error(name, "only 1 is supported"));
        }
    }
    let transposed = call.int("transB", 0)? != 0;
    let bias = reader.optional(call, 2)?;
    linear(reader, call, transposed, bias, call)
}

/// A product with constant weights `[I, O]`, and the bias that alone follows it.
pub(super) fn matmul<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&[])?;
    let consumer = reader.only_consumer(call).filter(|node| node.op_type.as_str() == "Add");
    let Some(node) = consumer else { return linear(reader, call, false, None, call) };
    let product = call.node.output.first();
    let other = node.input.iter().find(|name| Some(*name) != product).copied().unwrap_or_default();
    match reader.constant_named(other)? {
        Some(bias) => linear(reader, call, false, Some(bias), Call { node, ..call }),
        None => linear(reader, call, false, None, call),
    }
}

/// A fully connected layer, whose value is the output of `last`.
fn linear<'m>(
    reader: &mut Reader<'m>,
    call: Call<'m>,
    transposed: bool,
    bias: Option<Constant>,
    last: Call<'m>,
) -> Result<(), ImportError> {
    let input = reader.data(call, 0)?;
    let weight = reader.known(call, 1)?;
    let (&[rows, columns], Data::Float(values)) = (&weight.dims[..], &weight.data) else {
        return Err(call.operand_error(1, "is no float matrix"));
    };
    let (out_features, in_features, values) = match transposed {
        true => (rows, columns, values.to_vec()),
        false => (columns, rows, super::fold::transposed(values, rows, columns)),
    };
    let matrix = Constant::floats(vec![out_features, in_features], values);
    let matrix =
        matrix.tensor([out_features, in_features].into()).expect("a transposed matrix keeps its size");
    let has_bias = bias.is_some();
    let bias = bias.map(|bias| {
        let fits = bias.data.len() == out_features && bias.dims.last() == Some(&out_features);
        let tensor = bias.tensor([out_features].into()).filter(|_| fits);
        tensor.ok_or_else(|| call.operand_error(2, format!("is no bias of {out_features} floats")))
    });
    let params = std::iter::once(Ok(matrix)).chain(bias).collect::<Result<_, _>>()?;
    let module = reader.module(call, 1, &weight);
    let op = Linear::new(in_features, out_features).bias(has_bias);
    let value = reader.append(call, module, op, &[input])?;
    reader.push(params, Vec::new());
    reader.bind(last, Value::Data(value));
    Ok(())
}

/// The ratio is an operand since opset 12; whether to drop is decided by our own mode.
pub(super) fn dropout<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["ratio", "seed"])?;
    let input = reader.data(call, 0)?;
    let probability = match reader.optional(call, 1)? {
        Some(ratio) => ratio.scalar().ok_or_else(|| call.operand_error(1, "is not one number"))?,
        None => call.float("ratio", DROPOUT_RATIO)?,
    };
    reader.emit(call, Dropout { probability }, &[input])
}

pub(super) fn flatten<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["axis"])?;
    let input = reader.data(call, 0)?;
    let axis = call.int("axis", 1)?;
    if axis != 1 && axis != -(reader.record(input).rank() as i64) {
        return Err(call.attribute_error("axis", format!("is {axis}, only 1 is supported")));
    }
    reader.emit(call, Flatten, &[input])
}

/// Left out at the end of the model: the loss and the predictions apply their own.
pub(super) fn softmax<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["axis"])?;
    let input = reader.data(call, 0)?;
    let last = call.int("axis", if call.opset < 13 { 1 } else { -1 })?;
    let flat = reader.record(input).rank() == 1 && matches!(last, 1 | -1);
    if !reader.is_output(call) || !flat {
        return Err(call.unsupported("a softmax is read only as the last node, over the classes"));
    }
    let warning = format!("the final {} was left out: the model gives logits", call.op());
    reader.warnings.push(warning);
    reader.bind(call, Value::Data(input));
    Ok(())
}

/// A value that stays as it is.
pub(super) fn alias<'m>(reader: &mut Reader<'m>, call: Call<'m>, value: ValueId) {
    reader.bind(call, Value::Data(value));
}

/// Joins the axes of a value, unless it is flat already.
pub(super) fn flattened<'m>(
    reader: &mut Reader<'m>,
    call: Call<'m>,
    value: ValueId,
) -> Result<(), ImportError> {
    if reader.record(value).rank() == 1 {
        alias(reader, call, value);
        return Ok(());
    }
    reader.emit(call, Op::from(Flatten), &[value])
}
