//! The numbers of a model: trained parameters and running statistics, in graph order.

use serde::{Deserialize, Serialize};
use tensor::Tensor;

use crate::Graph;

/// Parameters and buffers of one [`Graph`], in the order of [`Graph::param_specs`] and [`Graph::buffer_specs`].
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Parameters {
    pub params: Vec<Tensor>,
    pub buffers: Vec<Tensor>,
}

impl Parameters {
    /// All-zero parameters of the right shapes.
    pub fn zeros(graph: &Graph) -> Self {
        let zeros = |specs: Vec<(String, tensor::Shape)>| specs.into_iter().map(|(_, s)| Tensor::zeros(s)).collect();
        Parameters { params: zeros(graph.param_specs()), buffers: zeros(graph.buffer_specs()) }
    }

    /// Whether every tensor is there with its shape, and finite.
    pub fn fits(&self, graph: &Graph) -> bool {
        let same = |tensors: &[Tensor], specs: Vec<(String, tensor::Shape)>| {
            tensors.len() == specs.len()
                && tensors.iter().zip(specs).all(|(t, (_, shape))| t.shape() == shape)
                && tensors.iter().all(|t| t.data().iter().all(|x| x.is_finite()))
        };
        same(&self.params, graph.param_specs()) && same(&self.buffers, graph.buffer_specs())
    }
}
