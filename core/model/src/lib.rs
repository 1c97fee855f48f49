//! Model graphs, parameters, architectures and the checked model file.

pub mod derive;
pub mod file;
pub mod graph;
mod init;
pub mod limits;
pub mod norm;
pub mod parameters;
pub mod zoo;

pub use graph::{Graph, GraphBuilder, GraphError, Node, ValueId};
pub use norm::Norm;
pub use parameters::{Parameters, ParametersError};
