use proptest::prelude::*;
use tensor::compare::assert_close;
use tensor::{ShapeError, Tensor};

use super::{LeakyRelu, Prelu, Relu, twin};
use crate::Operator;
use crate::testing::{Node, ROUNDING, assert_same_for_any_threads, cases, random};

/// Random numbers with zeros of both signs among them.
fn input(dims: &[usize]) -> Tensor {
    let mut x = random(dims, 1);
    x.data_mut().iter_mut().step_by(3).for_each(|x| *x = 0.0);
    x.data_mut().iter_mut().step_by(7).for_each(|x| *x = -0.0);
    x
}

/// Compares both passes with the twin; `slope(i)` is that of element `i`.
fn check(
    op: &dyn Operator,
    dims: &[usize],
    threads: usize,
    slope: impl Fn(&[Tensor], usize) -> f32,
) -> (Tensor, Vec<f32>) {
    let mut node = Node::random(op, vec![input(dims)], 2).threads(threads);
    let (y, _) = node.forward();
    let x = node.inputs[0].clone();
    let slope = |i| slope(&node.params, i);
    let expected: Vec<f32> = x.data().iter().enumerate().map(|(i, &x)| twin::forward(x, slope(i))).collect();
    assert_close("y", y.data(), &expected, ROUNDING);
    let dy = random(dims, 3);
    let derivative = |i: usize| twin::backward(x.data()[i], slope(i));
    let dx: Vec<f32> = dy.data().iter().enumerate().map(|(i, dy)| dy * derivative(i)[0]).collect();
    let dslope = dy.data().iter().enumerate().map(|(i, dy)| dy * derivative(i)[1]).collect();
    let gradients = node.backward(&dy);
    assert_close("dx", gradients.inputs[0].data(), &dx, ROUNDING);
    (gradients.params.into_iter().next().unwrap_or_default(), dslope)
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn agree_with_the_twin(n in 0..4usize, c in 1..6usize, h in 1..70usize, w in 1..70usize, threads in 1..4usize) {
        let dims = [n, c, h, w];
        check(&Relu, &dims, threads, |_, _| 0.0);
        check(&LeakyRelu { slope: 0.1 }, &dims, threads, |_, _| 0.1);
        for parameters in [1, c] {
            let channel = |i: usize| i / (h * w) % c % parameters;
            let slope = |params: &[Tensor], i: usize| params[0].data()[channel(i)];
            let (found, terms) = check(&Prelu { parameters }, &dims, threads, slope);
            let mut expected = vec![0.0f64; parameters];
            terms.iter().enumerate().for_each(|(i, &term)| expected[channel(i)] += f64::from(term));
            let expected: Vec<f32> = expected.into_iter().map(|d| d as f32).collect();
            assert_close("dslope", found.data(), &expected, ROUNDING);
        }
    }
}

#[test]
fn a_nan_stays_one() {
    let x = Tensor::from_vec([1, 2], vec![f32::NAN, 1.0]).unwrap();
    let (y, _) = Node::new(&Relu, vec![x], Vec::new()).forward();
    assert!(y.data()[0].is_nan());
}

#[test]
fn the_same_for_any_number_of_threads() {
    static LEAKY: LeakyRelu = LeakyRelu { slope: 0.2 };
    static SHARED: Prelu = Prelu { parameters: 1 };
    static CHANNELS: Prelu = Prelu { parameters: 5 };
    let ops: [&'static dyn Operator; 4] = [&Relu, &LEAKY, &SHARED, &CHANNELS];
    for op in ops {
        assert_same_for_any_threads(|| Node::random(op, vec![random(&[3, 5, 90, 91], 1)], 2));
    }
}

#[test]
fn refuse_what_does_not_fit() {
    assert!(matches!(Relu.infer(&[]), Err(ShapeError::Inputs { .. })));
    let found = LeakyRelu { slope: f32::NAN }.infer(&[[2, 2].into()]);
    assert!(matches!(found, Err(ShapeError::Attribute { .. })));
    for parameters in [0, 2, usize::MAX] {
        let op = Prelu { parameters };
        assert!(matches!(op.infer(&[[2, 3, 4, 4].into()]), Err(ShapeError::Channels { .. })), "{parameters}");
        let _ = op.params();
    }
    assert_eq!(Prelu { parameters: 1 }.infer(&[[4].into()]), Ok([4].into()));
}
