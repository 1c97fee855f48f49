//! What a node does by its definition: operations, and bytes of tensors read and written.

use engine::trace::Work;
use model::ValueId;

use super::Part;

/// Operations and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    /// Two for each multiply-add of the definition, whatever the algorithm saves.
    pub(super) operations: f64,
    /// Inputs, parameters and output once; in the backward pass with their gradients.
    pub(super) bytes: f64,
}

impl Cost {
    /// One pass over a node for `records`; nothing for other work.
    pub(super) fn of(parts: &[Part], work: Work, records: usize) -> Self {
        let (part, node, backward) = match work {
            Work::Forward { part, node } => (part, node as usize, false),
            Work::Backward { part, node } => (part, node as usize, true),
            _ => return Cost::default(),
        };
        let graph = parts.get(usize::from(part)).map(|(_, graph)| graph);
        let Some(graph) = graph.filter(|graph| node < graph.nodes().len()) else { return Cost::default() };
        let operator = graph.nodes()[node].op.operator();
        let inputs = graph.input_shapes(node, records);
        let params: usize = operator.params().iter().map(|spec| spec.shape.len()).sum();
        let output = graph.shape(ValueId(node + 1), records).len();
        let tensors = inputs.iter().map(|shape| shape.len()).sum::<usize>() + params + output;
        let macs = operator.macs(&inputs) as f64;
        // Of the first graph's input no gradient is taken.
        let first = part == 0 && graph.nodes()[node].inputs.contains(&ValueId::INPUT);
        let (products, passes) = match (backward, first) {
            (false, _) => (1.0, 1.0),
            (true, true) => (1.0, 2.0),
            (true, false) => (2.0, 2.0),
        };
        Cost { operations: 2.0 * products * macs, bytes: 4.0 * passes * tensors as f64 }
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.operations += other.operations;
        self.bytes += other.bytes;
    }
}
