//! The numbers of a model: trained parameters and running statistics, in graph order.

use std::collections::HashMap;

use kernels::ParamSpec;
use serde::{Deserialize, Serialize};
use tensor::{Shape, Tensor};

use crate::Graph;

/// Parameters and buffers of one [`Graph`], in the order of [`Graph::param_specs`] and [`Graph::buffer_specs`].
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Parameters {
    pub params: Vec<Tensor>,
    pub buffers: Vec<Tensor>,
}

/// Parameters that do not belong to a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParametersError {
    #[error("the model needs {expected} {what}, there are {found}")]
    Count { what: &'static str, expected: usize, found: usize },
    #[error("`{name}` is missing")]
    Missing { name: String },
    #[error("`{name}`: expected shape {expected}, found {found}")]
    Shape { name: String, expected: Shape, found: Shape },
    #[error("`{name}`: {shape} needs {expected} numbers, there are {found}")]
    Length { name: String, shape: Shape, expected: usize, found: usize },
    #[error("`{name}` holds NaN or an infinity")]
    NotFinite { name: String },
}

impl Parameters {
    /// All-zero parameters of the right shapes.
    pub fn zeros(graph: &Graph) -> Self {
        let zeros = |specs: Vec<(String, Shape)>| specs.into_iter().map(|(_, s)| Tensor::zeros(s)).collect();
        Parameters { params: zeros(graph.param_specs()), buffers: zeros(graph.buffer_specs()) }
    }

    /// Whether every tensor is there with its shape, and finite.
    pub fn fits(&self, graph: &Graph) -> bool {
        self.check(graph).is_ok()
    }

    /// Checks that every tensor is there with its shape, and finite.
    ///
    /// # Errors
    /// [`ParametersError`], naming the first tensor that is wrong.
    pub fn check(&self, graph: &Graph) -> Result<(), ParametersError> {
        check_all("parameters", &self.params, graph.param_specs())?;
        check_all("buffers", &self.buffers, graph.buffer_specs())
    }

    /// Every parameter and buffer with its full PyTorch name, node by node as in PyTorch's `state_dict`.
    ///
    /// `self` must fit `graph`; tensors that are missing are left out.
    pub fn named<'a>(&'a self, graph: &'a Graph) -> impl Iterator<Item = (String, &'a Tensor)> {
        graph.nodes().iter().flat_map(move |node| {
            let operator = node.op.operator();
            let params = named_of(&node.name, operator.params(), self.params.get(node.params.clone()));
            params.into_iter().chain(named_of(
                &node.name,
                operator.buffers(),
                self.buffers.get(node.buffers.clone()),
            ))
        })
    }

    /// Parameters for `graph` from tensors by name; `take` is asked once for each full PyTorch name.
    ///
    /// # Errors
    /// [`ParametersError`] where a tensor is missing, has the wrong shape, or is not finite.
    pub fn from_named(
        graph: &Graph,
        mut take: impl FnMut(&str) -> Option<Tensor>,
    ) -> Result<Self, ParametersError> {
        let mut all = |specs: Vec<(String, Shape)>| {
            let tensor = |(name, _): (String, Shape)| take(&name).ok_or(ParametersError::Missing { name });
            specs.into_iter().map(tensor).collect::<Result<Vec<_>, _>>()
        };
        let found = Parameters { params: all(graph.param_specs())?, buffers: all(graph.buffer_specs())? };
        found.check(graph)?;
        Ok(found)
    }

    /// Copies from another model every tensor that has the same full name and shape here; returns how many.
    pub fn copy_matching(&mut self, graph: &Graph, from: &Parameters, from_graph: &Graph) -> usize {
        let source: HashMap<String, &Tensor> = from.named(from_graph).collect();
        let mut copied = 0;
        let mut copy = |tensors: &mut [Tensor], specs: Vec<(String, Shape)>| {
            for (tensor, (name, shape)) in tensors.iter_mut().zip(specs) {
                if let Some(found) = source.get(&name).filter(|found| found.shape() == shape) {
                    tensor.clone_from(found);
                    copied += 1;
                }
            }
        };
        copy(&mut self.params, graph.param_specs());
        copy(&mut self.buffers, graph.buffer_specs());
        copied
    }
}

fn named_of<'a>(
    node: &str,
    specs: Vec<ParamSpec>,
    tensors: Option<&'a [Tensor]>,
) -> Vec<(String, &'a Tensor)> {
    let full = |spec: ParamSpec| format!("{node}.{}", spec.name);
    specs.into_iter().map(full).zip(tensors.unwrap_or_default()).collect()
}

fn check_all(
    what: &'static str,
    tensors: &[Tensor],
    specs: Vec<(String, Shape)>,
) -> Result<(), ParametersError> {
    if tensors.len() != specs.len() {
        return Err(ParametersError::Count { what, expected: specs.len(), found: tensors.len() });
    }
    tensors.iter().zip(specs).try_for_each(|(tensor, (name, shape))| check_one(name, shape, tensor))
}

fn check_one(name: String, expected: Shape, tensor: &Tensor) -> Result<(), ParametersError> {
    let (found, data) = (tensor.shape(), tensor.data());
    if found != expected {
        return Err(ParametersError::Shape { name, expected, found });
    }
    // A decoded tensor may lie about its length.
    if data.len() != expected.len() {
        return Err(ParametersError::Length {
            name,
            shape: found,
            expected: expected.len(),
            found: data.len(),
        });
    }
    if data.iter().any(|x| !x.is_finite()) {
        return Err(ParametersError::NotFinite { name });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kernels::batch_norm::BatchNorm2d;
    use kernels::conv2d::Conv2d;

    use super::*;
    use crate::{GraphBuilder, ValueId};

    fn graph(kernel: usize) -> Graph {
        let mut builder = GraphBuilder::new("tiny", [2, 5, 5].into());
        let conv = builder.add("conv", Conv2d::new(2, 3, kernel).padding(1), &[ValueId::INPUT]).unwrap();
        builder.add("bn", BatchNorm2d::new(3), &[conv]).unwrap();
        builder.finish()
    }

    #[test]
    fn names_follow_the_state_dict() {
        let graph = graph(3);
        let zeros = Parameters::zeros(&graph);
        let names: Vec<String> = zeros.named(&graph).map(|(name, _)| name).collect();
        assert_eq!(names, ["conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"]);
    }

    #[test]
    fn from_named_refuses_what_does_not_belong() {
        let graph = graph(3);
        let whole = |name: &str| match name {
            "conv.weight" => Some(Tensor::zeros([3, 2, 3, 3])),
            _ => Some(Tensor::zeros([3])),
        };
        assert!(Parameters::from_named(&graph, whole).unwrap().fits(&graph));
        let missing = Parameters::from_named(&graph, |name| whole(name).filter(|_| name != "bn.bias"));
        assert_eq!(missing, Err(ParametersError::Missing { name: "bn.bias".into() }));
        let misshapen = Parameters::from_named(&graph, |_| Some(Tensor::zeros([3])));
        assert!(matches!(misshapen, Err(ParametersError::Shape { name, .. }) if name == "conv.weight"));
        let infinite = Parameters::from_named(&graph, |name| {
            let value = if name == "bn.running_var" { f32::NAN } else { 0.0 };
            whole(name).map(|t| Tensor::from_fn(t.shape(), |_| value))
        });
        assert_eq!(infinite, Err(ParametersError::NotFinite { name: "bn.running_var".into() }));
        let few = Parameters { params: Vec::new(), ..Parameters::zeros(&graph) };
        assert!(matches!(few.check(&graph), Err(ParametersError::Count { expected: 3, found: 0, .. })));
        assert!(!few.fits(&graph));
    }

    #[test]
    fn copies_what_matches_by_name_and_shape() {
        let (three, one) = (graph(3), graph(1));
        let mut from = Parameters::zeros(&three);
        from.params.iter_mut().for_each(|t| t.data_mut().fill(7.0));
        let mut to = Parameters::zeros(&one);
        assert_eq!(to.copy_matching(&one, &from, &three), 4);
        assert_eq!(to.params[0].data()[0], 0.0, "another kernel size is left alone");
        assert_eq!(to.params[1].data(), [7.0; 3]);
    }
}
