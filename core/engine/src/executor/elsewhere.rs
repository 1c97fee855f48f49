use kernels::{Backward, Forward};

/// Computes the nodes that a rewrite of a graph placed elsewhere ([`kernels::Placed`]).
///
/// A place that fails leaves what it should have written as it is; whoever runs the pass asks it afterwards.
pub trait Elsewhere {
    /// As [`kernels::Operator::forward`].
    fn forward(&mut self, place: usize, pass: Forward<'_>);

    /// As [`kernels::Operator::backward`].
    fn backward(&mut self, place: usize, pass: Backward<'_>);
}

/// For graphs of which nothing is placed elsewhere.
pub struct Nowhere;

impl Elsewhere for Nowhere {
    fn forward(&mut self, place: usize, _: Forward<'_>) {
        unreachable!("place {place} of a graph that has none");
    }

    fn backward(&mut self, place: usize, _: Backward<'_>) {
        unreachable!("place {place} of a graph that has none");
    }
}
