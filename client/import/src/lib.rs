//! ONNX and safetensors in and out.
//!
//! Everything here is a pure function of bytes: reading never panics, and never asks for much more memory than the file
//! is large. What a file holds that the model graph cannot express is an error that names the node, never dropped.

mod number;
pub mod onnx;
pub mod weights;

pub use onnx::{ImportError, Imported};
pub use weights::WeightsError;
