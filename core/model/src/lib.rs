//! Model graphs, parameters, architectures and the checked model file.

pub mod graph;
pub mod parameters;

pub use graph::{Graph, GraphBuilder, GraphError, Node, ValueId};
pub use parameters::Parameters;
