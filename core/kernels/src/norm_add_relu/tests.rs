use proptest::prelude::*;
use tensor::{ShapeError, Tensor};

use super::NormAddRelu;
use crate::activation::Relu;
use crate::add::Add;
use crate::batch_norm::BatchNorm2d;
use crate::testing::{Gradients, Node, TRAIN, assert_same_for_any_threads, cases, random};
use crate::{Mode, Operator};

fn node<'a>(op: &'a NormAddRelu, dims: &[usize], mode: Mode) -> Node<'a> {
    let inputs = (0..1 + u64::from(op.add)).map(|i| random(dims, 1 + i)).collect();
    let mut node = Node::random(op, inputs, 2).mode(mode);
    let channels = op.norm.channels;
    node.buffers = vec![random(&[channels], 4), Tensor::from_fn([channels], |i| 0.5 + i as f32)];
    node
}

/// The parts one after the other.
fn apart(op: &NormAddRelu, node: &Node<'_>, dy: &Tensor) -> (Tensor, Gradients, Vec<Tensor>) {
    let mut norm = Node::new(&op.norm, vec![node.inputs[0].clone()], node.params.clone()).mode(node.mode);
    norm.buffers = node.buffers.clone();
    let mut y = norm.forward().0;
    let buffers = norm.buffers.clone();
    if let Some(skip) = node.inputs.get(1) {
        y = Node::new(&Add, vec![y, skip.clone()], Vec::new()).forward().0;
    }
    let mut after_relu = dy.clone();
    if op.relu {
        let mut relu = Node::new(&Relu, vec![y], Vec::new());
        y = relu.forward().0;
        after_relu = relu.backward(dy).inputs.remove(0);
    }
    norm.buffers = node.buffers.clone();
    let mut gradients = norm.backward(&after_relu);
    gradients.inputs.extend(node.inputs.get(1).map(|_| after_relu));
    (y, gradients, buffers)
}

proptest! {
    #![proptest_config(cases(100))]

    /// Every bit: the parts are themselves tested against their twins and central differences.
    #[test]
    fn equals_its_parts(
        [n, c, h, w] in [1..5usize, 1..9usize, 1..40usize, 1..40usize],
        [add, relu, train, frozen]: [bool; 4],
        threads in 1..4usize,
    ) {
        let op = NormAddRelu { norm: BatchNorm2d { frozen, ..BatchNorm2d::new(c) }, add, relu };
        let mut node = node(&op, &[n, c, h, w], if train { TRAIN } else { Mode::Eval }).threads(threads);
        let dy = random(&[n, c, h, w], 9);
        let (y, gradients, buffers) = apart(&op, &node, &dy);
        let before = node.buffers.clone();
        prop_assert_eq!(node.forward().0, y);
        prop_assert_eq!(&node.buffers, &buffers);
        node.buffers = before;
        let found = node.backward(&dy);
        prop_assert_eq!(found.inputs, gradients.inputs);
        prop_assert_eq!(found.params, gradients.params);
    }
}

#[test]
fn the_same_for_any_number_of_threads() {
    static OP: NormAddRelu = NormAddRelu {
        norm: BatchNorm2d { channels: 5, eps: 1e-5, momentum: 0.1, frozen: false },
        add: true,
        relu: true,
    };
    assert_same_for_any_threads(|| node(&OP, &[3, 5, 90, 91], TRAIN));
}

#[test]
fn refuses_what_does_not_fit() {
    let op = |add| NormAddRelu { norm: BatchNorm2d::new(3), add, relu: true };
    let (x, other) = ([2, 3, 4, 4].into(), [2, 3, 4, 5].into());
    assert_eq!(op(true).infer(&[x, x]), Ok(x));
    assert_eq!(op(false).infer(&[x]), Ok(x));
    assert!(matches!(op(true).infer(&[x, other]), Err(ShapeError::Mismatch { .. })));
    assert!(matches!(op(false).infer(&[x, x]), Err(ShapeError::Inputs { .. })));
    assert!(matches!(op(true).infer(&[[2, 4, 4, 4].into(), x]), Err(ShapeError::Channels { .. })));
}
