//! Raw little-endian bodies.

use model::{Graph, Parameters};
use tensor::Tensor;

use crate::WireError;

/// Little-endian bytes of `values`.
pub fn from_f32(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * 4);
    append_f32(&mut bytes, values);
    bytes
}

/// Appends the little-endian bytes of `values`.
pub fn append_f32(bytes: &mut Vec<u8>, values: &[f32]) {
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
}

/// The `expected` numbers of a body.
///
/// # Errors
/// [`WireError::Body`] if the body does not hold exactly that many.
pub fn to_f32(bytes: &[u8], expected: usize) -> Result<Vec<f32>, WireError> {
    if Some(bytes.len()) != expected.checked_mul(4) {
        return Err(WireError::Body { expected: expected.saturating_mul(4), found: bytes.len() });
    }
    Ok(bytes.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().expect("4 bytes"))).collect())
}

/// Little-endian bytes of labels.
pub fn from_u16(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Labels of a body.
///
/// # Errors
/// [`WireError::Body`] if the number of bytes is odd.
pub fn to_u16(bytes: &[u8]) -> Result<Vec<u16>, WireError> {
    if !bytes.len().is_multiple_of(2) {
        return Err(WireError::Body { expected: bytes.len() + 1, found: bytes.len() });
    }
    Ok(bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect())
}

/// Tensors one after the other.
pub fn from_tensors<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<u8> {
    let tensors: Vec<_> = tensors.into_iter().collect();
    let mut bytes = Vec::with_capacity(4 * tensors.iter().map(|t| t.data().len()).sum::<usize>());
    tensors.into_iter().for_each(|t| append_f32(&mut bytes, t.data()));
    bytes
}

/// Tensors of these shapes, one after the other; returns what follows them.
///
/// # Errors
/// [`WireError::Body`] if the body is too short.
pub fn take_tensors(
    mut bytes: &[u8],
    shapes: impl IntoIterator<Item = tensor::Shape>,
) -> Result<(Vec<Tensor>, &[u8]), WireError> {
    let mut tensors = Vec::new();
    for shape in shapes {
        let len = shape.len() * 4;
        let (own, rest) =
            bytes.split_at_checked(len).ok_or(WireError::Body { expected: len, found: bytes.len() })?;
        let values = to_f32(own, shape.len())?;
        tensors.push(Tensor::from_vec(shape, values).expect("the length was checked"));
        bytes = rest;
    }
    Ok((tensors, bytes))
}

/// Parameters and buffers of a graph, in its order.
pub fn from_parameters(parameters: &Parameters) -> Vec<u8> {
    from_tensors(parameters.params.iter().chain(&parameters.buffers))
}

/// Parameters and buffers of `graph`; returns what follows them.
///
/// # Errors
/// [`WireError::Body`] if the body is too short.
pub fn take_parameters<'a>(bytes: &'a [u8], graph: &Graph) -> Result<(Parameters, &'a [u8]), WireError> {
    let shapes = |specs: Vec<(String, tensor::Shape)>| specs.into_iter().map(|(_, shape)| shape);
    let (params, bytes) = take_tensors(bytes, shapes(graph.param_specs()))?;
    let (buffers, bytes) = take_tensors(bytes, shapes(graph.buffer_specs()))?;
    Ok((Parameters { params, buffers }, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_wrong_lengths_are_refused() {
        let values = [1.5f32, -0.0, f32::MIN_POSITIVE];
        let bytes = from_f32(&values);
        assert_eq!(to_f32(&bytes, 3).expect("the length fits"), values);
        assert_eq!(to_f32(&bytes, 2), Err(WireError::Body { expected: 8, found: 12 }));
        assert_eq!(to_f32(&bytes, usize::MAX), Err(WireError::Body { expected: usize::MAX, found: 12 }));
        assert_eq!(to_u16(&from_u16(&[1, 65535])).expect("even"), [1, 65535]);
        assert!(to_u16(&[1]).is_err());
    }

    #[test]
    fn tensors_round_trip() {
        let tensors = [Tensor::from_fn([2, 3], |i| i as f32), Tensor::from_fn([4], |i| -(i as f32))];
        let bytes = from_tensors(&tensors);
        let shapes = tensors.iter().map(Tensor::shape);
        let (found, rest) = take_tensors(&bytes, shapes.clone()).expect("long enough");
        assert_eq!((found.as_slice(), rest), (tensors.as_slice(), &[][..]));
        assert!(take_tensors(&bytes[1..], shapes).is_err());
    }
}
