use proptest::prelude::*;
use tensor::{ShapeError, Tensor};

use super::GroupNormAddRelu;
use crate::Operator;
use crate::activation::Relu;
use crate::add::Add;
use crate::group_norm::GroupNorm;
use crate::testing::{Gradients, Node, assert_same_for_any_threads, cases, random};

fn node<'a>(op: &'a GroupNormAddRelu, dims: &[usize]) -> Node<'a> {
    let inputs = (0..1 + u64::from(op.add)).map(|i| random(dims, 1 + i)).collect();
    Node::random(op, inputs, 2)
}

/// The parts one after the other.
fn apart(op: &GroupNormAddRelu, node: &Node<'_>, dy: &Tensor) -> (Tensor, Gradients) {
    let mut norm = Node::new(&op.norm, vec![node.inputs[0].clone()], node.params.clone());
    let mut y = norm.forward().0;
    if let Some(skip) = node.inputs.get(1) {
        y = Node::new(&Add, vec![y, skip.clone()], Vec::new()).forward().0;
    }
    let mut after_relu = dy.clone();
    if op.relu {
        let mut relu = Node::new(&Relu, vec![y], Vec::new());
        y = relu.forward().0;
        after_relu = relu.backward(dy).inputs.remove(0);
    }
    let mut gradients = norm.backward(&after_relu);
    gradients.inputs.extend(node.inputs.get(1).map(|_| after_relu));
    (y, gradients)
}

proptest! {
    #![proptest_config(cases(100))]

    /// Every bit: the parts are themselves tested against their twins and central differences.
    #[test]
    fn equals_its_parts(
        [n, groups, each, h, w] in [1..5usize, 1..4usize, 1..4usize, 1..40usize, 1..40usize],
        [add, relu]: [bool; 2],
        threads in 1..4usize,
    ) {
        let op = GroupNormAddRelu { norm: GroupNorm::new(groups, groups * each), add, relu };
        let dims = [n, groups * each, h, w];
        let mut node = node(&op, &dims).threads(threads);
        let dy = random(&dims, 9);
        let (y, gradients) = apart(&op, &node, &dy);
        prop_assert_eq!(node.forward().0, y);
        let found = node.backward(&dy);
        prop_assert_eq!(found.inputs, gradients.inputs);
        prop_assert_eq!(found.params, gradients.params);
    }
}

#[test]
fn the_same_for_any_number_of_threads() {
    static OP: GroupNormAddRelu =
        GroupNormAddRelu { norm: GroupNorm { groups: 3, channels: 6, eps: 1e-5 }, add: true, relu: true };
    assert_same_for_any_threads(|| node(&OP, &[3, 6, 90, 91]));
}

#[test]
fn refuses_what_does_not_fit() {
    let op = |add| GroupNormAddRelu { norm: GroupNorm::new(3, 3), add, relu: true };
    let (x, other) = ([2, 3, 4, 4].into(), [2, 3, 4, 5].into());
    assert_eq!(op(true).infer(&[x, x]), Ok(x));
    assert_eq!(op(false).infer(&[x]), Ok(x));
    assert!(matches!(op(true).infer(&[x, other]), Err(ShapeError::Mismatch { .. })));
    assert!(matches!(op(false).infer(&[x, x]), Err(ShapeError::Inputs { .. })));
    assert!(matches!(op(true).infer(&[[2, 4, 4, 4].into(), x]), Err(ShapeError::Channels { .. })));
}
