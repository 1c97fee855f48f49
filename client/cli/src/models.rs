//! Model files, in and out.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use model::{Graph, Parameters};

use crate::prepare::Model;

/// One trained graph of a run.
pub struct Part {
    pub name: String,
    pub graph: Graph,
    pub parameters: Parameters,
}

/// The graph and parameters of an ONNX file.
///
/// # Errors
/// If the file cannot be read, or a node is not supported.
pub fn read_onnx(path: &Path) -> Result<Model> {
    bail!("{}: ONNX files cannot be read yet", path.display())
}

/// The model with its parameters replaced by those of a safetensors file.
///
/// # Errors
/// If the file cannot be read, or a tensor is missing or misshapen.
pub fn with_weights(_model: Model, path: &Path) -> Result<Model> {
    bail!("{}: safetensors files cannot be read yet", path.display())
}

/// Writes every part as ONNX; returns the files.
///
/// # Errors
/// If a file cannot be written.
pub fn write_onnx(_parts: &[Part], path: &Path) -> Result<Vec<PathBuf>> {
    bail!("{}: ONNX files cannot be written yet", path.display())
}

/// Writes all parts as one safetensors file; returns it.
///
/// # Errors
/// If the file cannot be written.
pub fn write_safetensors(_parts: &[Part], path: &Path) -> Result<PathBuf> {
    bail!("{}: safetensors files cannot be written yet", path.display())
}
