use tensor::{ShapeError, Tensor};

use super::Add;
use crate::Operator;
use crate::testing::{Node, assert_same_for_any_threads, random};

#[test]
fn adds_and_passes_the_gradient_on() {
    for n in [0, 1, 3] {
        let (a, b) = (random(&[n, 2, 5, 7], 1), random(&[n, 2, 5, 7], 2));
        let mut node = Node::new(&Add, vec![a.clone(), b.clone()], Vec::new());
        let sum = Tensor::from_fn(a.shape(), |i| a.data()[i] + b.data()[i]);
        assert_eq!(node.forward().0, sum);
        let dy = random(&[n, 2, 5, 7], 3);
        let gradients = node.backward(&dy);
        assert_eq!(gradients.inputs, [dy.clone(), dy]);
    }
}

#[test]
fn the_same_for_any_number_of_threads() {
    let input = |seed| random(&[3, 5, 90, 91], seed);
    assert_same_for_any_threads(|| Node::new(&Add, vec![input(1), input(2)], Vec::new()));
}

#[test]
fn refuses_what_does_not_fit() {
    assert!(matches!(Add.infer(&[[2, 3].into(), [3, 2].into()]), Err(ShapeError::Mismatch { .. })));
    assert!(matches!(Add.infer(&[[2, 3].into()]), Err(ShapeError::Inputs { .. })));
    assert_eq!(Add.infer(&[[2, 3].into(), [2, 3].into()]), Ok([2, 3].into()));
}
