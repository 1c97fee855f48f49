use tensor::{ShapeError, Tensor};

use super::AddRelu;
use crate::Operator;
use crate::activation::Relu;
use crate::add::Add;
use crate::testing::{Node, assert_same_for_any_threads, random};

#[test]
fn equals_its_parts() {
    for n in [0, 1, 3] {
        let dims = [n, 2, 5, 7];
        let inputs = vec![random(&dims, 1), random(&dims, 2)];
        let sum = Node::new(&Add, inputs.clone(), Vec::new()).forward().0;
        let mut relu = Node::new(&Relu, vec![sum], Vec::new());
        let mut node = Node::new(&AddRelu, inputs, Vec::new());
        assert_eq!(node.forward().0, relu.forward().0);
        let dy = random(&dims, 3);
        let expected = relu.backward(&dy).inputs.remove(0);
        assert_eq!(node.backward(&dy).inputs, [expected.clone(), expected]);
    }
}

#[test]
fn a_nan_stays_one() {
    let input = |x| Tensor::from_vec([1, 1], vec![x]).unwrap();
    let mut node = Node::new(&AddRelu, vec![input(f32::NAN), input(-1.0)], Vec::new());
    assert!(node.forward().0.data()[0].is_nan());
}

#[test]
fn the_same_for_any_number_of_threads() {
    let input = |seed| random(&[3, 5, 90, 91], seed);
    assert_same_for_any_threads(|| Node::new(&AddRelu, vec![input(1), input(2)], Vec::new()));
}

#[test]
fn refuses_what_does_not_fit() {
    assert!(matches!(AddRelu.infer(&[[2, 3].into(), [3, 2].into()]), Err(ShapeError::Mismatch { .. })));
    assert!(matches!(AddRelu.infer(&[[2, 3].into()]), Err(ShapeError::Inputs { .. })));
}
