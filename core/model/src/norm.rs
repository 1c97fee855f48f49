//! Other norms in the place of batch norm, so that the records of a batch do not couple.

use std::str::FromStr;

use kernels::Op;
use kernels::batch_norm::BatchNorm2d;
use kernels::group_norm::GroupNorm;

use crate::{Graph, GraphBuilder, GraphError, Parameters};

/// Which norm a model has where it was built with batch norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Norm {
    /// Batch norm: in training, statistics of the batch.
    #[default]
    Batch,
    /// Group norm: statistics of a record's groups of channels.
    Group,
    /// Batch norm by its running statistics, also in training; weight and bias are trained.
    Frozen,
}

/// A name that is no norm's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not known; there are `batch`, `group` and `frozen`")]
pub struct UnknownNorm(pub String);

impl FromStr for Norm {
    type Err = UnknownNorm;

    fn from_str(name: &str) -> Result<Self, UnknownNorm> {
        match name {
            "batch" => Ok(Norm::Batch),
            "group" => Ok(Norm::Group),
            "frozen" => Ok(Norm::Frozen),
            _ => Err(UnknownNorm(name.to_owned())),
        }
    }
}

impl Norm {
    /// The model with this norm in the place of every batch norm, under the same names and with the same weights and biases.
    ///
    /// Groups are as many as [`GroupNorm::for_channels`] says; they have no running statistics. A model trained with batch
    /// norm is another function with group norm, and has to be trained on.
    ///
    /// # Errors
    /// [`GraphError`] if the graph breaks a limit, which no graph that was built does.
    ///
    /// # Panics
    /// If the parameters are not those of the graph.
    pub fn convert(self, graph: &Graph, parameters: Parameters) -> Result<(Graph, Parameters), GraphError> {
        if self == Norm::Batch {
            return Ok((graph.clone(), parameters));
        }
        let mut builder = GraphBuilder::try_new(graph.name(), graph.input())?;
        let mut buffers = Vec::new();
        for node in graph.nodes() {
            let op = match &node.op {
                Op::BatchNorm2d(norm) => self.of(norm),
                other => other.clone(),
            };
            if !op.operator().buffers().is_empty() {
                buffers.extend_from_slice(&parameters.buffers[node.buffers.clone()]);
            }
            builder.add(node.name.clone(), op, &node.inputs)?;
        }
        Ok((builder.finish_at(graph.output())?, Parameters { buffers, ..parameters }))
    }

    fn of(self, norm: &BatchNorm2d) -> Op {
        match self {
            Norm::Batch => norm.clone().into(),
            Norm::Group => GroupNorm { eps: norm.eps, ..GroupNorm::for_channels(norm.channels) }.into(),
            Norm::Frozen => BatchNorm2d { frozen: true, ..norm.clone() }.into(),
        }
    }
}

/// Whether the output for a record depends, in training, on the records it is in a batch with.
pub fn couples_records(graph: &Graph) -> bool {
    graph.nodes().iter().any(|node| matches!(&node.op, Op::BatchNorm2d(norm) if !norm.frozen))
}

/// Whether any batch norm's running statistics are those of a model that was never trained: means 0 and variances 1.
pub fn has_fresh_statistics(graph: &Graph, parameters: &Parameters) -> bool {
    graph.nodes().iter().filter(|node| matches!(node.op, Op::BatchNorm2d(_))).any(|node| {
        let all = |i: usize, value: f32| {
            parameters.buffers[node.buffers.start + i].data().iter().all(|x| *x == value)
        };
        all(0, 0.0) && all(1, 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    fn model() -> (Graph, Parameters) {
        let graph = zoo::build("resnet20", [3, 32, 32].into(), 10).unwrap();
        let parameters = Parameters::init(&graph, 5);
        (graph, parameters)
    }

    #[test]
    fn names_and_trained_parameters_stay() {
        let (graph, parameters) = model();
        for norm in [Norm::Batch, Norm::Group, Norm::Frozen] {
            let (converted, kept) = norm.convert(&graph, parameters.clone()).unwrap();
            assert!(kept.fits(&converted), "{norm:?}");
            assert_eq!(converted.param_specs(), graph.param_specs());
            assert_eq!(kept.params, parameters.params);
            assert_eq!((converted.name(), converted.output()), (graph.name(), graph.output()));
            let buffers = if norm == Norm::Group { 0 } else { parameters.buffers.len() };
            assert_eq!(kept.buffers.len(), buffers);
            assert_eq!(couples_records(&converted), norm == Norm::Batch, "{norm:?}");
        }
        let (converted, _) = Norm::Group.convert(&graph, parameters).unwrap();
        let at = converted.find("bn1").unwrap();
        assert_eq!(converted.nodes()[at].op, Op::GroupNorm(GroupNorm::new(8, 16)));
    }

    #[test]
    fn fresh_statistics_are_recognised() {
        let (graph, mut parameters) = model();
        assert!(has_fresh_statistics(&graph, &parameters));
        parameters.buffers.iter_mut().for_each(|buffer| buffer.data_mut()[0] += 0.5);
        assert!(!has_fresh_statistics(&graph, &parameters));
        let (converted, kept) = Norm::Group.convert(&graph, parameters).unwrap();
        assert!(!has_fresh_statistics(&converted, &kept));
    }

    #[test]
    fn names_read_back() {
        for (name, norm) in [("batch", Norm::Batch), ("group", Norm::Group), ("frozen", Norm::Frozen)] {
            assert_eq!(name.parse(), Ok(norm));
        }
        assert_eq!("layer".parse::<Norm>(), Err(UnknownNorm("layer".into())));
    }
}
