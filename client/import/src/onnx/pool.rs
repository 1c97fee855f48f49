//! Poolings, and the padding they share with convolutions.

use kernels::flatten::Flatten;
use kernels::pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};
use model::ValueId;

use super::ImportError;
use super::call::Call;
use super::reader::{Reader, Value};

/// Written beside an average pooling that was adaptive, so that reading restores it.
pub(super) const ADAPTIVE: &str = "adaptive average pooling";

pub(super) fn max<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"])?;
    let input = reader.data(call, 0)?;
    let Window { kernel, stride, padding } = window(reader, call, input)?;
    reader.emit(call, MaxPool2d { kernel, stride, padding }, &[input])
}

pub(super) fn average<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&[
        "auto_pad",
        "ceil_mode",
        "count_include_pad",
        "dilations",
        "kernel_shape",
        "pads",
        "strides",
    ])?;
    let input = reader.data(call, 0)?;
    let Window { kernel, stride, padding } = window(reader, call, input)?;
    let count_include_pad = call.int("count_include_pad", 0)? != 0;
    if let (ADAPTIVE, [_, height, width]) = (call.node.doc_string, reader.record(input).dims())
        && (stride, padding) == (kernel, [0; 2])
        && (height % kernel[0], width % kernel[1]) == (0, 0)
    {
        let output = [height / kernel[0], width / kernel[1]];
        return reader.emit(call, AdaptiveAvgPool2d { output }, &[input]);
    }
    reader.emit(call, AvgPool2d { kernel, stride, padding, count_include_pad }, &[input])
}

pub(super) fn global<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&[])?;
    let input = reader.data(call, 0)?;
    reader.emit(call, AdaptiveAvgPool2d { output: [1; 2] }, &[input])
}

/// A mean over both spatial axes: global average pooling.
pub(super) fn reduce_mean<'m>(reader: &mut Reader<'m>, call: Call<'m>) -> Result<(), ImportError> {
    call.only(&["axes", "keepdims", "noop_with_empty_axes"])?;
    let input = reader.data(call, 0)?;
    let axes = match reader.optional(call, 1)? {
        Some(axes) => axes.known().unwrap_or_default(),
        None => call.ints("axes")?.unwrap_or_default().to_vec(),
    };
    let mut axes: Vec<i64> =
        axes.iter().map(|&axis| if axis < 0 { axis.saturating_add(4) } else { axis }).collect();
    axes.sort_unstable();
    if reader.record(input).rank() != 3 || axes != [2, 3] {
        return Err(call.unsupported("a mean is read only over both spatial axes of an image"));
    }
    let pool = AdaptiveAvgPool2d { output: [1; 2] };
    if call.int("keepdims", 1)? != 0 {
        return reader.emit(call, pool, &[input]);
    }
    let mean = reader.append(call, None, pool, &[input])?;
    let flat = reader.append(call, None, Flatten, &[mean])?;
    reader.bind(call, Value::Data(flat));
    Ok(())
}

struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

/// The window of a pooling over a value.
fn window<'m>(reader: &Reader<'m>, call: Call<'m>, input: ValueId) -> Result<Window, ImportError> {
    if !call.has("kernel_shape") {
        return Err(call.attribute_error("kernel_shape", "is missing"));
    }
    let kernel = call.sizes("kernel_shape", [1; 2])?;
    let stride = call.sizes("strides", [1; 2])?;
    if [kernel, stride].concat().contains(&0) {
        return Err(call.attribute_error("kernel_shape", "kernel and strides must be positive"));
    }
    if call.sizes("dilations", [1; 2])? != [1; 2] {
        return Err(call.attribute_error("dilations", "only 1 is supported for pooling"));
    }
    let [top, left, bottom, right] = padding(reader, call, input, kernel, stride, [1; 2])?;
    if [top, left] != [bottom, right] {
        return Err(call.attribute_error("pads", "only equal padding on both sides is supported for pooling"));
    }
    if call.int("ceil_mode", 0)? != 0 {
        let record = reader.record(input);
        let mut axes = record.dims().iter().skip(1).zip([top, left]).zip(kernel.iter().zip(stride));
        let even = |((&axis, pad), (&kernel, stride)): ((&usize, usize), (&usize, usize))| {
            let covered = pad.checked_mul(2).and_then(|pads| axis.checked_add(pads)?.checked_sub(kernel));
            covered.is_some_and(|covered| covered % stride == 0)
        };
        if !axes.all(even) {
            return Err(call.attribute_error("ceil_mode", "only 0 is supported where it changes the result"));
        }
    }
    Ok(Window { kernel, stride, padding: [top, left] })
}

/// Padding of each side: top, left, bottom, right.
pub(super) fn padding<'m>(
    reader: &Reader<'m>,
    call: Call<'m>,
    input: ValueId,
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
) -> Result<[usize; 4], ImportError> {
    let upper = match call.text("auto_pad")? {
        b"" | b"NOTSET" => return call.sizes("pads", [0; 4]),
        b"VALID" => return Ok([0; 4]),
        b"SAME_UPPER" => true,
        b"SAME_LOWER" => false,
        _ => return Err(call.attribute_error("auto_pad", "is unknown")),
    };
    let [_, height, width] = *reader.record(input).dims() else {
        return Err(call.operand_error(0, "is no image"));
    };
    let mut padding = [0; 4];
    for (axis, size) in [height, width].into_iter().enumerate() {
        let total = same_padding(size, kernel[axis], stride[axis], dilation[axis]).ok_or_else(|| {
            call.attribute_error("strides", "kernel, strides or dilations are out of range")
        })?;
        let (small, large) = (total / 2, total.div_ceil(2));
        (padding[axis], padding[axis + 2]) = if upper { (small, large) } else { (large, small) };
    }
    Ok(padding)
}

/// Padding of one axis for which the output has ⌈size / stride⌉ elements.
fn same_padding(size: usize, kernel: usize, stride: usize, dilation: usize) -> Option<usize> {
    let steps = size.checked_sub(1)?.checked_div(stride)?;
    let reach = kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
    Some(steps.checked_mul(stride)?.checked_add(reach)?.saturating_sub(size))
}
