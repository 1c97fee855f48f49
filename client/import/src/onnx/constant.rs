//! Values known at import: initialisers, and what nodes compute from them.

use std::rc::Rc;

use onnx_rs::ast::{DataLocation, DataType, TensorProto};
use tensor::{Shape, Tensor};

use super::ImportError;
use crate::number::{bfloat, half, numbers};

/// One integer of a shape computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Known(i64),
    /// The number of records, which is open.
    Batch,
}

/// A tensor known at import.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Constant {
    pub(super) dims: Vec<usize>,
    pub(super) data: Data,
    /// The initialiser it is, possibly reshaped; `None` for what nodes compute.
    pub(super) origin: Option<Rc<str>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Float(Rc<[f32]>),
    Int(Rc<[Size]>),
}

impl Data {
    pub(super) fn len(&self) -> usize {
        match self {
            Data::Float(values) => values.len(),
            Data::Int(values) => values.len(),
        }
    }
}

/// How many numbers may still be decoded or computed; proportional to the file's size.
pub(super) struct Budget(usize);

/// What a small file may compute (zero biases, shapes), in numbers.
const BASE_BUDGET: usize = 1 << 24;

impl Budget {
    pub(super) fn for_file(bytes: usize) -> Self {
        Budget(bytes.saturating_mul(2).saturating_add(BASE_BUDGET))
    }

    pub(super) fn take(&mut self, numbers: usize) -> Result<(), ImportError> {
        let limit = ImportError::Limit { what: "numbers in constants", limit: self.0 };
        self.0 = self.0.checked_sub(numbers).ok_or(limit)?;
        Ok(())
    }
}

impl Constant {
    pub(super) fn ints(dims: Vec<usize>, values: Vec<Size>) -> Self {
        Constant { dims, data: Data::Int(values.into()), origin: None }
    }

    pub(super) fn floats(dims: Vec<usize>, values: Vec<f32>) -> Self {
        Constant { dims, data: Data::Float(values.into()), origin: None }
    }

    /// Decodes a tensor of the file.
    pub(super) fn decode(proto: &TensorProto<'_>, budget: &mut Budget) -> Result<Self, ImportError> {
        let wrong = |reason: String| ImportError::Tensor { name: proto.name().to_owned(), reason };
        if proto.data_location() == DataLocation::External || !proto.external_data().is_empty() {
            return Err(ImportError::ExternalData { name: proto.name().to_owned() });
        }
        if proto.segment().is_some() {
            return Err(wrong("is stored in segments".into()));
        }
        let dims: Option<Vec<usize>> = proto.dims().iter().map(|&d| usize::try_from(d).ok()).collect();
        let count = |dims: &[usize]| dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let counted = dims.and_then(|dims| count(&dims).map(|count| (dims, count)));
        let (dims, count) =
            counted.ok_or_else(|| wrong(format!("has impossible axes {:?}", proto.dims())))?;
        budget.take(count)?;
        let data = decode_data(proto, count).map_err(wrong)?;
        Ok(Constant { dims, data, origin: (!proto.name().is_empty()).then(|| proto.name().into()) })
    }

    /// The numbers as a tensor of this shape, if they are floats and as many.
    pub(super) fn tensor(&self, shape: Shape) -> Option<Tensor> {
        let Data::Float(values) = &self.data else { return None };
        Tensor::from_vec(shape, values.to_vec()).ok()
    }

    /// The one float, or one integer, of a constant with a single element.
    pub(super) fn scalar(&self) -> Option<f32> {
        match &self.data {
            Data::Float(values) if values.len() == 1 => Some(values[0]),
            Data::Int(values) => match values[..] {
                [Size::Known(value)] => Some(value as f32),
                _ => None,
            },
            Data::Float(_) => None,
        }
    }

    /// Every integer, if all are known.
    pub(super) fn known(&self) -> Option<Vec<i64>> {
        let Data::Int(values) = &self.data else { return None };
        values.iter().map(|size| if let Size::Known(value) = size { Some(*value) } else { None }).collect()
    }
}

/// Numbers of any type that models use.
fn decode_data(proto: &TensorProto<'_>, count: usize) -> Result<Data, String> {
    let size = match proto.data_type() {
        DataType::Float | DataType::Int32 => 4,
        DataType::Double | DataType::Int64 => 8,
        DataType::Float16 | DataType::Bfloat16 => 2,
        DataType::Bool => 1,
        other => return Err(format!("is of type {other:?}, which is not supported here")),
    };
    if let Some(raw) = proto.as_raw().filter(|raw| Some(raw.len()) != count.checked_mul(size)) {
        return Err(format!("needs {count} numbers of {size} bytes and holds {} bytes", raw.len()));
    }
    let float = |values: Vec<f32>| Data::Float(values.into());
    let data = match proto.data_type() {
        DataType::Float => float(proto.as_f32().unwrap_or_default().into_owned()),
        DataType::Double => float(proto.as_f64().unwrap_or_default().iter().map(|&x| x as f32).collect()),
        DataType::Float16 => float(short(proto, half)),
        DataType::Bfloat16 => float(short(proto, bfloat)),
        DataType::Int64 => {
            Data::Int(proto.as_i64().unwrap_or_default().iter().map(|&i| Size::Known(i)).collect())
        }
        DataType::Bool if proto.as_raw().is_some() => {
            let raw = proto.as_raw().unwrap_or_default();
            Data::Int(raw.iter().map(|&b| Size::Known(b.into())).collect())
        }
        _ => Data::Int(proto.as_i32().unwrap_or_default().iter().map(|&i| Size::Known(i.into())).collect()),
    };
    match data.len() {
        found if found == count => Ok(data),
        found => Err(format!("needs {count} numbers and holds {found}")),
    }
}

/// Sixteen-bit floats, raw or one in each `int32`.
fn short(proto: &TensorProto<'_>, from: fn([u8; 2]) -> f32) -> Vec<f32> {
    let stored =
        || proto.as_i32().unwrap_or_default().iter().map(|&bits| from((bits as u16).to_le_bytes())).collect();
    proto.as_raw().map_or_else(stored, |raw| numbers(raw, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(proto: &TensorProto<'_>) -> Result<Constant, ImportError> {
        Constant::decode(proto, &mut Budget::for_file(0))
    }

    #[test]
    fn every_storage_of_a_type() {
        let raw = [0x00, 0x3c, 0x00, 0xc0];
        for (proto, expected) in [
            (TensorProto::from_f32("t", vec![2], vec![1.0, -2.0]), vec![1.0, -2.0]),
            (TensorProto::from_f64("t", vec![1, 2], vec![1.0, -2.0]), vec![1.0, -2.0]),
            (TensorProto::from_raw("t", vec![2], DataType::Float16, &raw), vec![1.0, -2.0]),
            (TensorProto::from_raw("t", vec![1], DataType::Float, &[0, 0, 0x80, 0x3f]), vec![1.0]),
            (TensorProto::from_raw("t", vec![0], DataType::Float, &[]), vec![]),
        ] {
            let found = decode(&proto).unwrap();
            assert_eq!(found.data, Data::Float(expected.into()));
            assert_eq!(found.origin.as_deref(), Some("t"));
        }
        let ints = TensorProto::from_i64("", vec![2], vec![-1, 7]);
        assert_eq!(decode(&ints).unwrap().known(), Some(vec![-1, 7]));
        let flag = TensorProto::from_raw("", vec![], DataType::Bool, &[1]);
        assert_eq!(decode(&flag).unwrap().scalar(), Some(1.0));
    }

    #[test]
    fn sizes_must_agree() {
        let tensor = |proto| decode(&proto).unwrap_err();
        for proto in [
            TensorProto::from_f32("w", vec![3], vec![1.0]),
            TensorProto::from_raw("w", vec![1], DataType::Float, &[0; 5]),
            TensorProto::from_raw("w", vec![2], DataType::Float16, &[0; 5]),
            TensorProto::from_raw("w", vec![2], DataType::Bool, &[0; 3]),
            TensorProto::from_f32("w", vec![-1], vec![]),
            TensorProto::from_f32("w", vec![i64::MAX, i64::MAX], vec![]),
            TensorProto::from_strings("w", vec![1], vec![b"x"]),
        ] {
            assert!(matches!(tensor(proto), ImportError::Tensor { name, .. } if name == "w"));
        }
        let huge = TensorProto::from_f32("w", vec![1 << 40], vec![]);
        assert!(matches!(tensor(huge), ImportError::Limit { .. }));
        let external = TensorProto::from_f32("w", vec![1], vec![]).with_data_location(DataLocation::External);
        assert_eq!(tensor(external), ImportError::ExternalData { name: "w".into() });
    }
}
