use proptest::prelude::*;
use tensor::compare::assert_close;
use tensor::{Shape, ShapeError};

use super::{Linear, twin};
use crate::gemm::{self, bf16::twin::rounded};
use crate::testing::{
    Node, ROUNDING, assert_central_differences, assert_same_for_any_threads, cases, doubles, floats, inner,
    random,
};
use crate::{Operator, Precision};

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn agrees_with_the_twin(n in 0..70usize, i in 1..80usize, o in 1..80usize, bias: bool, threads in 1..4usize) {
        let op = Linear::new(i, o).bias(bias);
        let mut node = Node::random(&op, vec![random(&[n, i], 1)], 2).threads(threads);
        let (y, _) = node.forward();
        let [x, w, b] = [Some(&node.inputs[0]), node.params.first(), node.params.get(1)]
            .map(|t| t.map(|t| doubles(t.data())).unwrap_or_default());
        assert_close("y", y.data(), &floats(&twin::forward([n, i, o], &x, &w, &b)), ROUNDING);

        let dy = random(&[n, o], 5);
        let gradients = node.backward(&dy);
        if !bias {
            let product = inner(y.data(), dy.data());
            let bound = 1e-5 * (1 + n * i * o) as f64;
            prop_assert!((product - inner(node.inputs[0].data(), gradients.inputs[0].data())).abs() < bound);
            prop_assert!((product - inner(node.params[0].data(), gradients.params[0].data())).abs() < bound);
        }
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn bf16_agrees_with_the_twin_of_rounded_operands(
        n in 0..70usize,
        i in 1..80usize,
        o in 1..80usize,
        bias: bool,
        threads in 1..4usize,
    ) {
        let op = Linear::new(i, o).bias(bias).precision(Precision::Bf16);
        let mut node = Node::random(&op, vec![random(&[n, i], 1)], 2).threads(threads);
        let (y, _) = node.forward();
        let dy = random(&[n, o], 5);
        let [x, w, rounded_dy] = [&node.inputs[0], &node.params[0], &dy].map(|t| rounded(t.data()));
        let b = node.params.get(1).map(|b| doubles(b.data())).unwrap_or_default();
        assert_close("y", y.data(), &floats(&twin::forward([n, i, o], &doubles(&x), &doubles(&w), &b)), ROUNDING);

        let gradients = node.backward(&dy);
        let dx = gemm::twin::multiply([n, i, o], 1.0, &rounded_dy, &w, 0.0, &[]);
        assert_close("dx", gradients.inputs[0].data(), &dx, ROUNDING);
        let turned: Vec<f32> = (0..n * o).map(|at| rounded_dy[at % n * o + at / n]).collect();
        let dw = gemm::twin::multiply([o, i, n], 1.0, &turned, &x, 0.0, &[]);
        assert_close("dw", gradients.params[0].data(), &dw, ROUNDING);
    }
}

#[test]
fn gradients_are_central_differences() {
    let sizes @ [n, i, o] = [3, 5, 4];
    let op = Linear::new(i, o).bias(true);
    let mut node = Node::random(&op, vec![random(&[n, i], 1)], 2);
    let dy = random(&[n, o], 3);
    let gradients = node.backward(&dy);
    let loss = |y: Vec<f64>| y.iter().zip(dy.data()).map(|(y, &dy)| y * f64::from(dy)).sum::<f64>();
    let [x, w, b] = [&node.inputs[0], &node.params[0], &node.params[1]];
    let [x64, w64, b64] = [x, w, b].map(|t| doubles(t.data()));
    assert_central_differences("dx", x.data(), gradients.inputs[0].data(), |x| {
        loss(twin::forward(sizes, x, &w64, &b64))
    });
    assert_central_differences("dw", w.data(), gradients.params[0].data(), |w| {
        loss(twin::forward(sizes, &x64, w, &b64))
    });
    assert_central_differences("db", b.data(), gradients.params[1].data(), |b| {
        loss(twin::forward(sizes, &x64, &w64, b))
    });
}

#[test]
fn the_same_for_any_number_of_threads() {
    const OP: Linear = Linear::new(300, 70).bias(true);
    const BF16: Linear = OP.precision(Precision::Bf16);
    for n in [1, 8, 90] {
        assert_same_for_any_threads(|| Node::random(&OP, vec![random(&[n, 300], 3)], 4));
        assert_same_for_any_threads(|| Node::random(&BF16, vec![random(&[n, 300], 3)], 4));
    }
}

#[test]
fn infers_shape_and_refuses_what_does_not_fit() {
    let op = Linear::new(6, 4).bias(true);
    assert_eq!(op.infer(&[[2, 6].into()]), Ok([2, 4].into()));
    assert_eq!(op.infer(&[[2, 3, 6].into()]), Ok([2, 3, 4].into()));
    assert_eq!(op.macs(&[[2, 6].into()]), 48);
    assert!(matches!(op.infer(&[[2, 5].into()]), Err(ShapeError::Channels { .. })));
    assert!(matches!(op.infer(&[[6].into()]), Err(ShapeError::Rank { .. })));
    assert!(matches!(op.infer(&[]), Err(ShapeError::Inputs { .. })));
    let huge = Linear::new(6, usize::MAX).bias(true);
    assert!(matches!(huge.infer(&[[2, 6].into()]), Err(ShapeError::Overflow { .. })));
    let _ = (huge.params(), huge.macs(&[Shape::from([2, 6])]));
}
