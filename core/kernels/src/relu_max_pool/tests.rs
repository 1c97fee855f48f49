use tensor::compare::assert_close;
use tensor::{ShapeError, Tensor};

use super::ReluMaxPool;
use crate::Operator;
use crate::activation::Relu;
use crate::pool::MaxPool2d;
use crate::testing::{Node, ROUNDING, assert_same_for_any_threads, random};

const POOLS: [MaxPool2d; 3] = [
    MaxPool2d { kernel: [2, 2], stride: [2, 2], padding: [0, 0] },
    MaxPool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] },
    MaxPool2d { kernel: [3, 2], stride: [1, 3], padding: [0, 1] },
];

/// The parts are themselves tested against their twins.
#[test]
fn equals_its_parts() {
    for pool in POOLS {
        for dims in [[0, 2, 5, 7], [1, 1, 3, 3], [2, 3, 17, 38]] {
            let mut x = random(&dims, 1);
            // Windows without a positive number, and ties.
            x.data_mut().iter_mut().step_by(3).for_each(|x| *x = -0.5);
            x.data_mut().iter_mut().step_by(5).for_each(|x| *x = 0.25);
            let mut relu = Node::new(&Relu, vec![x.clone()], Vec::new());
            let mut apart = Node::new(&pool, vec![relu.forward().0], Vec::new());
            let op = ReluMaxPool(pool.clone());
            let mut node = Node::new(&op, vec![x], Vec::new());
            let y = node.forward().0;
            assert_eq!(y, apart.forward().0, "{pool:?}");
            let dy = random(y.shape().dims(), 3);
            let expected = relu.backward(&apart.backward(&dy).inputs[0]).inputs.remove(0);
            assert_close("dx", node.backward(&dy).inputs[0].data(), expected.data(), ROUNDING);
        }
    }
}

#[test]
fn a_nan_stays_one() {
    let x = Tensor::from_vec([1, 1, 2, 2], vec![-1.0, f32::NAN, 3.0, 0.0]).unwrap();
    let op = ReluMaxPool(POOLS[0].clone());
    assert!(Node::new(&op, vec![x], Vec::new()).forward().0.data()[0].is_nan());
}

#[test]
fn the_same_for_any_number_of_threads() {
    static OP: ReluMaxPool = ReluMaxPool(MaxPool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] });
    assert_same_for_any_threads(|| Node::new(&OP, vec![random(&[3, 5, 90, 91], 1)], Vec::new()));
}

#[test]
fn refuses_what_does_not_fit() {
    let op = ReluMaxPool(POOLS[1].clone());
    assert!(matches!(op.infer(&[[2, 3].into()]), Err(ShapeError::Rank { .. })));
    assert!(matches!(op.infer(&[[1, 1, 0, 4].into()]), Err(ShapeError::Attribute { .. })));
}
