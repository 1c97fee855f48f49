//! The checked model file: a graph and its parameters, from the client into the enclave and between processes.
//!
//! Layout: magic (8 bytes), version (`u32`), length of the body (`u64`), SHA-256 of the body, body; integers
//! little-endian. The body is the graph and its parameters in postcard's encoding. The checksum guards against damage,
//! not against forgery: who may hand over a model is decided elsewhere.

use sha2::{Digest, Sha256};

use crate::graph::RawGraph;
use crate::{Graph, GraphError, Parameters, ParametersError};

/// The first bytes of every model file.
pub const MAGIC: [u8; 8] = *b"ASYMODEL";
/// The version this code writes and reads.
pub const VERSION: u32 = 2;

const HEADER: usize = MAGIC.len() + size_of::<u32>() + size_of::<u64>() + 32;

/// A model file that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    #[error("not a model file: the first bytes are not `ASYMODEL`")]
    Magic,
    #[error("model file version {found}, this program reads {VERSION}; export the model again")]
    Version { found: u32 },
    #[error(
        "the model file should have {expected} bytes, it has {found}; it was cut short or something was added"
    )]
    Length { expected: u64, found: usize },
    #[error("the checksum of the model file does not match: it was damaged, copy it again")]
    Checksum,
    #[error("the model file's body is malformed: {reason}")]
    Body { reason: String },
    #[error("the model file's graph: {0}")]
    Graph(#[from] GraphError),
    #[error("the model file's parameters: {0}")]
    Parameters(#[from] ParametersError),
}

/// The bytes of a model file.
///
/// The parameters are not checked here; a file of parameters that do not fit is refused by [`decode`].
pub fn encode(graph: &Graph, parameters: &Parameters) -> Vec<u8> {
    let body = postcard::to_stdvec(&(RawGraph::from(graph.clone()), parameters))
        .expect("plain data of known length is always encodable");
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&Sha256::digest(&body));
    bytes.extend_from_slice(&body);
    bytes
}

/// The graph and parameters of a model file, all checks passed.
///
/// Allocates no more than a small multiple of the file's size.
///
/// # Errors
/// [`FileError`], one variant per kind of damage.
pub fn decode(bytes: &[u8]) -> Result<(Graph, Parameters), FileError> {
    let body = checked_body(bytes)?;
    let malformed = |error: postcard::Error| FileError::Body { reason: error.to_string() };
    let ((raw, parameters), left): ((RawGraph, Parameters), _) =
        postcard::take_from_bytes(body).map_err(malformed)?;
    if !left.is_empty() {
        return Err(FileError::Body { reason: format!("{} bytes are left over", left.len()) });
    }
    let graph = Graph::try_from(raw)?;
    parameters.check(&graph)?;
    Ok((graph, parameters))
}

fn checked_body(bytes: &[u8]) -> Result<&[u8], FileError> {
    let short = FileError::Length { expected: HEADER as u64, found: bytes.len() };
    let (magic, bytes_left) = bytes.split_first_chunk().ok_or(if MAGIC.starts_with(bytes) {
        short.clone()
    } else {
        FileError::Magic
    })?;
    if *magic != MAGIC {
        return Err(FileError::Magic);
    }
    let (version, bytes_left) = bytes_left.split_first_chunk().ok_or(short.clone())?;
    let found = u32::from_le_bytes(*version);
    if found != VERSION {
        return Err(FileError::Version { found });
    }
    let (length, bytes_left) = bytes_left.split_first_chunk().ok_or(short.clone())?;
    let (checksum, body) = bytes_left.split_first_chunk::<32>().ok_or(short)?;
    let length = u64::from_le_bytes(*length);
    if length != body.len() as u64 {
        return Err(FileError::Length { expected: length.saturating_add(HEADER as u64), found: bytes.len() });
    }
    if Sha256::digest(body)[..] != checksum[..] {
        return Err(FileError::Checksum);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use kernels::activation::Relu;
    use kernels::batch_norm::BatchNorm2d;
    use kernels::conv2d::Conv2d;
    use proptest::prelude::*;
    use tensor::Tensor;

    use super::*;
    use crate::{GraphBuilder, ValueId};

    fn model() -> (Graph, Parameters) {
        let mut builder = GraphBuilder::new("tiny", [2, 4, 4].into());
        let conv = builder.add("conv", Conv2d::new(2, 3, 3).padding(1), &[ValueId::INPUT]).unwrap();
        let norm = builder.add("bn", BatchNorm2d::new(3), &[conv]).unwrap();
        builder.add("relu", Relu, &[norm]).unwrap();
        let graph = builder.finish();
        let parameters = Parameters::init(&graph, 1);
        (graph, parameters)
    }

    /// A file around any body, with a right header.
    fn wrap(body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u64).to_le_bytes();
        [&MAGIC[..], &VERSION.to_le_bytes(), &length, &Sha256::digest(body)[..], body].concat()
    }

    fn body(parameters: &Parameters) -> Vec<u8> {
        postcard::to_stdvec(&(RawGraph::from(model().0), parameters)).unwrap()
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let (graph, parameters) = model();
        let bytes = encode(&graph, &parameters);
        assert_eq!(decode(&bytes), Ok((graph, parameters.clone())));
        assert_eq!(bytes, wrap(&body(&parameters)));
    }

    #[test]
    fn every_kind_of_damage_has_its_error() {
        let (graph, parameters) = model();
        let bytes = encode(&graph, &parameters);
        let changed = |at: usize| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            decode(&bytes)
        };
        assert_eq!(changed(0), Err(FileError::Magic));
        assert_eq!(changed(8), Err(FileError::Version { found: VERSION ^ 1 }));
        assert!(matches!(changed(12), Err(FileError::Length { .. })));
        assert_eq!(changed(20), Err(FileError::Checksum));
        assert_eq!(changed(bytes.len() - 1), Err(FileError::Checksum));
        for cut in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..cut]), Err(FileError::Length { .. })), "cut at {cut}");
        }
        assert!(matches!(decode(&[&bytes[..], &[0]].concat()), Err(FileError::Length { .. })));
        assert_eq!(decode(b"PK\x03\x04"), Err(FileError::Magic));
    }

    #[test]
    fn a_right_checksum_does_not_excuse_wrong_contents() {
        let (_, parameters) = model();
        let mut nan = parameters.clone();
        nan.params[0].data_mut()[3] = f32::NAN;
        let not_finite = ParametersError::NotFinite { name: "conv.weight".into() };
        assert_eq!(decode(&wrap(&body(&nan))), Err(FileError::Parameters(not_finite)));
        let mut misshapen = parameters.clone();
        misshapen.params[1] = Tensor::zeros([4]);
        let shape = decode(&wrap(&body(&misshapen)));
        assert!(matches!(shape, Err(FileError::Parameters(ParametersError::Shape { .. }))));
        let mut few = parameters.clone();
        few.buffers.pop();
        let count = decode(&wrap(&body(&few)));
        assert!(matches!(count, Err(FileError::Parameters(ParametersError::Count { .. }))));
        let raw = RawGraph { output: ValueId(9), ..RawGraph::from(model().0) };
        let output = decode(&wrap(&postcard::to_stdvec(&(raw, &parameters)).unwrap()));
        assert_eq!(output, Err(FileError::Graph(GraphError::Output { value: 9 })));
        assert!(matches!(decode(&wrap(&[1, 2, 3])), Err(FileError::Body { .. })));
        assert!(matches!(decode(&wrap(&[body(&parameters), vec![0]].concat())), Err(FileError::Body { .. })));
    }

    /// A tensor may claim a shape that its numbers do not fill.
    #[test]
    fn a_lying_tensor_is_refused() {
        let (graph, _) = model();
        let lie = (vec![3usize, 2, 3, 3], vec![0.5f32]);
        let three = (vec![3usize], vec![1.0f32; 3]);
        let (params, buffers) = (vec![lie, three.clone(), three.clone()], vec![three.clone(), three]);
        let body = postcard::to_stdvec(&(RawGraph::from(graph), (params, buffers))).unwrap();
        let length = decode(&wrap(&body));
        assert!(matches!(length, Err(FileError::Parameters(ParametersError::Length { .. }))), "{length:?}");
    }

    proptest! {
        #[test]
        fn random_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(decode(&wrap(&body)).is_err());
        }

        #[test]
        fn mutated_bodies_never_panic(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
        ) {
            let mut body = body(&model().1);
            for (index, byte) in changes {
                let at = index.index(body.len());
                body[at] = byte;
            }
            // Most changes hit a number, and another number is a valid file.
            if let Ok((graph, parameters)) = decode(&wrap(&body)) {
                prop_assert!(parameters.fits(&graph));
            }
        }
    }
}
