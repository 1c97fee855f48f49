//! Weights in safetensors files, under PyTorch's names.

use std::collections::{BTreeSet, HashMap};

use model::{Graph, Parameters, ParametersError};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tensor::{Shape, Tensor};

use crate::number::{bfloat, double, half, numbers};

/// What PyTorch's batch norm counts its batches in: accepted and written, but of no use here.
const COUNTER: &str = "num_batches_tracked";

/// Weights that do not belong to the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    #[error("not a readable safetensors file: {reason}")]
    Malformed { reason: String },
    #[error("tensor `{name}` is not part of the model; remove it, or use the architecture it belongs to")]
    Unexpected { name: String },
    #[error("tensor `{name}` holds {found}; convert it to float32, float64, float16 or bfloat16")]
    Type { name: String, found: String },
    #[error("tensor `{name}` has more axes than any parameter, or its size overflows")]
    Axes { name: String },
    #[error("the weights do not fit the model: {0}")]
    Parameters(#[from] ParametersError),
}

/// One model of a file that holds several, such as `backbone.`, `main.` and `residual.`.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Comes before every name; empty for a file with one model.
    pub prefix: &'a str,
    pub graph: &'a Graph,
    pub parameters: &'a Parameters,
}

/// Parameters for `graph` from a safetensors file with PyTorch's names.
///
/// Half precision, bfloat16 and double precision are converted; `num_batches_tracked` is ignored.
///
/// # Errors
/// [`WeightsError`], naming the tensor that is missing, unexpected, of another shape or type, or not finite.
pub fn read_safetensors(bytes: &[u8], graph: &Graph) -> Result<Parameters, WeightsError> {
    read_safetensors_part(bytes, graph, "")
}

/// As [`read_safetensors`], from the tensors whose names begin with `prefix`; others are left alone.
///
/// # Errors
/// As [`read_safetensors`].
pub fn read_safetensors_part(bytes: &[u8], graph: &Graph, prefix: &str) -> Result<Parameters, WeightsError> {
    let malformed =
        |error: safetensors::SafeTensorError| WeightsError::Malformed { reason: error.to_string() };
    let file = SafeTensors::deserialize(bytes).map_err(malformed)?;
    let part: HashMap<&str, TensorView<'_>> =
        file.iter().filter_map(|(name, view)| Some((name.strip_prefix(prefix)?, view))).collect();
    check_names(&part, graph)?;
    let mut tensors = HashMap::new();
    for (name, view) in part.iter().filter(|(name, _)| !is_counter(name)) {
        tensors.insert(*name, read_tensor(&format!("{prefix}{name}"), view)?);
    }
    Ok(Parameters::from_named(graph, |name| tensors.remove(name))?)
}

/// A safetensors file that PyTorch's `load_state_dict(strict=True)` takes: every name, running statistics and the batch
/// counters (0) included.
///
/// Every part's parameters must fit its graph.
///
/// # Errors
/// [`WeightsError::Parameters`] where they do not; [`WeightsError::Malformed`] if names make the header too long.
pub fn write_safetensors(parts: &[Part<'_>]) -> Result<Vec<u8>, WeightsError> {
    let mut tensors: Vec<Raw> = Vec::new();
    for part in parts {
        part.parameters.check(part.graph)?;
        for (name, tensor) in part.parameters.named(part.graph) {
            let bytes = tensor.data().iter().flat_map(|x| x.to_le_bytes()).collect();
            tensors.push((
                format!("{}{name}", part.prefix),
                Dtype::F32,
                tensor.shape().dims().to_vec(),
                bytes,
            ));
        }
        for name in counters(part.graph) {
            tensors.push((
                format!("{}{name}", part.prefix),
                Dtype::I64,
                Vec::new(),
                0i64.to_le_bytes().to_vec(),
            ));
        }
    }
    let malformed =
        |error: safetensors::SafeTensorError| WeightsError::Malformed { reason: error.to_string() };
    let views = tensors.iter().map(view).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(format)).map_err(malformed)
}

/// Name, type, shape and bytes of a tensor to be written.
type Raw = (String, Dtype, Vec<usize>, Vec<u8>);

fn view((name, dtype, shape, bytes): &Raw) -> Result<(&str, TensorView<'_>), safetensors::SafeTensorError> {
    Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?))
}

/// Names of the batch counters PyTorch keeps beside running statistics.
fn counters(graph: &Graph) -> impl Iterator<Item = String> {
    let counted = graph.nodes().iter().filter(|node| !node.buffers.is_empty());
    counted.map(|node| format!("{}.{COUNTER}", node.name))
}

fn is_counter(name: &str) -> bool {
    name.rsplit('.').next() == Some(COUNTER)
}

fn check_names(part: &HashMap<&str, TensorView<'_>>, graph: &Graph) -> Result<(), WeightsError> {
    let specs = graph.param_specs().into_iter().chain(graph.buffer_specs());
    let known: BTreeSet<String> = specs.map(|(name, _)| name).chain(counters(graph)).collect();
    // The smallest name, so that the message does not depend on the order of a hash table.
    match part.keys().filter(|name| !known.contains(**name)).min() {
        Some(name) => Err(WeightsError::Unexpected { name: (*name).to_owned() }),
        None => Ok(()),
    }
}

fn read_tensor(name: &str, view: &TensorView<'_>) -> Result<Tensor, WeightsError> {
    let data = view.data();
    let values = match view.dtype() {
        Dtype::F32 => numbers(data, f32::from_le_bytes),
        Dtype::F64 => numbers(data, double),
        Dtype::F16 => numbers(data, half),
        Dtype::BF16 => numbers(data, bfloat),
        other => return Err(WeightsError::Type { name: name.to_owned(), found: format!("{other:?}") }),
    };
    let axes = |_| WeightsError::Axes { name: name.to_owned() };
    let shape = Shape::try_new(view.shape()).map_err(axes)?;
    Tensor::from_vec(shape, values).map_err(axes)
}

#[cfg(test)]
mod tests;
