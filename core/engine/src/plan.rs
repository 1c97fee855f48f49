//! The buffers of one graph, as steps of a [`Timeline`].

use std::ops::Range;

use model::{Graph, ValueId};

use crate::timeline::{Buffer, Layout, Timeline};

/// The buffers of a graph for batches of up to a fixed size; `P` is how each is named: by its [`Buffer`] while the
/// timeline is told, by its place in the arena after it was laid out.
#[derive(Clone, Debug)]
pub struct Plan<P = Buffer> {
    /// Output of every node, after the graph's input.
    pub(crate) values: Vec<P>,
    /// What every node's forward pass leaves for its backward pass: floats and indices.
    pub(crate) saved: Vec<[P; 2]>,
    /// Gradient of every value that gets one.
    pub(crate) grads: Vec<Option<P>>,
    /// For a node that reads the same value twice: the gradient through its second input.
    pub(crate) twice: Vec<Option<P>>,
}

impl Plan {
    /// The buffers of a forward pass over `graph`, whose input is made in the step that `timeline` is at.
    pub fn forward(graph: &Graph, batch: usize, timeline: &mut Timeline) -> Self {
        let len = |value| graph.shape(value, batch).len();
        let mut values = vec![timeline.make(len(ValueId::INPUT))];
        let mut saved = Vec::new();
        for (n, node) in graph.nodes().iter().enumerate() {
            timeline.step(format!("{} {}, forward", graph.name(), node.name));
            node.inputs.iter().for_each(|v| timeline.read(values[v.0]));
            let kept = node.op.operator().saved_len(&graph.input_shapes(n, batch));
            saved.push([timeline.make(kept.floats), timeline.make_indices(kept.indices)]);
            values.push(timeline.make(len(ValueId(n + 1))));
        }
        let (grads, twice) = (vec![None; graph.values()], vec![None; graph.nodes().len()]);
        Plan { values, saved, grads, twice }
    }

    /// The graph's input.
    pub fn input(&self) -> Buffer {
        self.values[0]
    }

    /// The graph's output.
    pub fn output(&self, graph: &Graph) -> Buffer {
        self.values[graph.output().0]
    }

    /// Adds the buffers of a backward pass; the output's gradient is made in the step that `timeline` is at.
    ///
    /// Returns the gradient of the input, if the output depends on it.
    pub fn backward(&mut self, graph: &Graph, batch: usize, timeline: &mut Timeline) -> Option<Buffer> {
        let len = |value| graph.shape(value, batch).len();
        let output = graph.output();
        self.grads[output.0] = Some(timeline.make(len(output)));
        for (n, node) in graph.nodes().iter().enumerate().take(output.0).rev() {
            let Some(grad) = self.grads[n + 1] else { continue };
            timeline.step(format!("{} {}, backward", graph.name(), node.name));
            timeline.read(grad);
            let reads = node.op.operator().backward_reads();
            let inputs = node.inputs.iter().zip(reads.inputs).filter(|(_, read)| *read);
            inputs.for_each(|(v, _)| timeline.read(self.values[v.0]));
            if reads.output {
                timeline.read(self.values[n + 1]);
            }
            self.saved[n].iter().for_each(|&saved| timeline.read(saved));
            for (i, v) in node.inputs.iter().enumerate() {
                if node.inputs[..i].contains(v) {
                    self.twice[n] = Some(timeline.make(len(*v)));
                } else if let Some(grad) = self.grads[v.0] {
                    timeline.read(grad);
                } else {
                    self.grads[v.0] = Some(timeline.make(len(*v)));
                }
            }
        }
        self.grads[0]
    }

    /// Every buffer's place.
    pub(crate) fn placed(&self, layout: &Layout) -> Plan<Range<usize>> {
        let place = |buffer: &Buffer| layout.place(*buffer);
        let optional = |buffers: &[Option<Buffer>]| buffers.iter().map(|b| b.as_ref().map(place)).collect();
        Plan {
            values: self.values.iter().map(place).collect(),
            saved: self.saved.iter().map(|saved| saved.each_ref().map(place)).collect(),
            grads: optional(&self.grads),
            twice: optional(&self.twice),
        }
    }
}
