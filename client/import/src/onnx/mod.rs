//! ONNX models: reading what PyTorch's two exporters write, and writing what ONNX Runtime reads.
//!
//! Batch norm has no training flag here: the executor's mode decides, so a file exported in either mode trains and infers.
//! Constants that exporters compute in the graph (`Shape`, `Constant`, `Cast`, `Expand`, `Concat`, …) are folded.

mod call;
mod constant;
mod error;
mod fold;
mod group_norm;
mod layers;
mod names;
mod pool;
mod reader;
mod scan;
mod write;

use model::{Graph, Parameters};

pub use error::ImportError;
pub use write::write;

/// A model read from an ONNX file.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    pub graph: Graph,
    pub parameters: Parameters,
    /// The file's name for the images.
    pub input_name: String,
    /// The file's name for the logits.
    pub output_name: String,
    /// Whether the exporter merged batch norm into convolutions: right for inference, but no longer the same model to
    /// train.
    pub batch_norm_folded: bool,
    /// Whether the model can be trained as it was meant to be; if not, `warnings` says why and what to do.
    pub trainable: bool,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// The model in an ONNX file.
///
/// Nodes and parameters get PyTorch's module names where the file still has them.
///
/// # Errors
/// [`ImportError`], naming the node and attribute that is not supported, or what is malformed.
pub fn read(bytes: &[u8]) -> Result<Imported, ImportError> {
    scan::check(bytes)?;
    let model =
        onnx_rs::parse(bytes).map_err(|error| ImportError::Malformed { reason: error.to_string() })?;
    reader::import(&model, bytes.len())
}

#[cfg(test)]
mod tests;
