use std::ops::Range;

use kernels::{GradInput, MAX_INPUTS};
use model::{Graph, Node, ValueId};
use tensor::{Shape, View};

/// The inputs of one node.
pub(super) struct Inputs {
    pub(super) count: usize,
    /// Whether both inputs are the same value.
    pub(super) same: bool,
    pub(super) shapes: [Shape; MAX_INPUTS],
}

impl Inputs {
    pub(super) fn of(graph: &Graph, n: usize, records: usize) -> Self {
        let values = &graph.nodes()[n].inputs;
        let shape = |i: usize| values.get(i).map_or(Shape::default(), |v| graph.shape(*v, records));
        Inputs {
            count: values.len(),
            same: matches!(values[..], [a, b] if a == b),
            shapes: std::array::from_fn(shape),
        }
    }

    /// Whether the data of input `i` is read, where `reads` says it of each.
    pub(super) fn read(&self, reads: [bool; MAX_INPUTS], i: usize) -> bool {
        reads[i] || self.same && reads.contains(&true)
    }

    /// A place for each input that has one; the same value twice has one place.
    pub(super) fn places(&self, place: impl Fn(usize) -> Option<Range<usize>>) -> [Range<usize>; MAX_INPUTS] {
        let distinct = |i: usize| i < self.count && !(self.same && i > 0);
        std::array::from_fn(|i| distinct(i).then(|| place(i)).flatten().unwrap_or_default())
    }

    pub(super) fn views<'a>(&self, [first, second]: [&'a [f32]; MAX_INPUTS]) -> [View<'a>; MAX_INPUTS] {
        let data = [first, if self.same { first } else { second }];
        std::array::from_fn(|i| View { shape: self.shapes[i], data: data[i] })
    }

    /// Where the inputs' gradients go; `None` where none is wanted.
    pub(super) fn grads<'a>(
        &self,
        data: [&'a mut [f32]; MAX_INPUTS],
        node: &Node,
        written: &[bool],
        want_input: bool,
    ) -> [Option<GradInput<'a>>; MAX_INPUTS] {
        let mut i = 0;
        data.map(|data| {
            let value = node.inputs.get(i).filter(|v| want_input || **v != ValueId::INPUT);
            // The second gradient of the same value has a buffer of its own.
            let accumulate = value.is_some_and(|v| written[v.0]) && !(self.same && i > 0);
            i += 1;
            value.map(|_| GradInput { data, accumulate })
        })
    }
}

/// The part of a buffer that a value of this shape takes.
pub(super) fn cut(place: Option<&Range<usize>>, shape: Shape) -> Option<Range<usize>> {
    // An empty range lies nowhere: inside another it would count as an overlap.
    place.map(|place| if shape.is_empty() { 0..0 } else { place.start..place.start + shape.len() })
}
