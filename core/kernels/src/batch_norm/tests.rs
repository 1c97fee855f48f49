use proptest::prelude::*;
use tensor::compare::{Tolerance, assert_close};
use tensor::{ShapeError, Tensor};

use super::{BatchNorm2d, twin};
use crate::testing::{
    Node, ROUNDING, TRAIN, assert_central_differences, assert_same_for_any_threads, cases, doubles, floats,
    random,
};
use crate::{Mode, Operator};

fn node(op: &BatchNorm2d, x: Tensor, mode: Mode) -> Node<'_> {
    let mut node = Node::random(op, vec![x], 2).mode(mode);
    node.buffers = vec![random(&[op.channels], 4), Tensor::from_fn([op.channels], |i| 0.5 + i as f32)];
    node
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn agrees_with_the_twin(
        n in 1..5usize, c in 1..9usize, h in 1..40usize, w in 1..40usize, train: bool, threads in 1..4usize,
    ) {
        prop_assume!(n * h * w > 1);
        let op = BatchNorm2d::new(c);
        let mut node = node(&op, random(&[n, c, h, w], 1), if train { TRAIN } else { Mode::Eval }).threads(threads);
        let before = node.buffers.clone();
        let (y, _) = node.forward();
        let [x, weight, bias, mean, variance] =
            [&node.inputs[0], &node.params[0], &node.params[1], &before[0], &before[1]].map(|t| doubles(t.data()));
        let given = (!train).then_some([&mean[..], &variance[..]]);
        let (expected, [batch_mean, batch_variance]) =
            twin::forward([n, c, h * w], f64::from(op.eps), &x, [&weight, &bias], given);
        // A few elements close to each other have a small deviation: rounding of x is divided by it.
        assert_close("y", y.data(), &floats(&expected), Tolerance { relative: 1e-4, absolute: 1e-5 });
        if train {
            let count = (n * h * w) as f64;
            for k in 0..c {
                let unbiased = batch_variance[k] * count / (count - 1.0);
                let expected = [0.9 * mean[k] + 0.1 * batch_mean[k], 0.9 * variance[k] + 0.1 * unbiased];
                assert_close("running", &[node.buffers[0].data()[k], node.buffers[1].data()[k]], &floats(&expected), ROUNDING);
            }
        } else {
            prop_assert_eq!(&before, &node.buffers, "evaluation leaves the running statistics alone");
        }
    }
}

#[test]
fn gradients_are_central_differences() {
    let (sizes, [n, c]) = ([3, 2, 6], [3, 2]);
    let op = BatchNorm2d::new(c);
    let eps = f64::from(op.eps);
    for mode in [TRAIN, Mode::Eval] {
        let mut node = node(&op, random(&[n, c, 2, 3], 1), mode);
        let [mean, variance] = [0, 1].map(|i| doubles(node.buffers[i].data()));
        let given = (mode == Mode::Eval).then_some([&mean[..], &variance[..]]);
        let dy = random(&[n, c, 2, 3], 3);
        let fresh = node.buffers.clone();
        let gradients = node.backward(&dy);
        if mode == Mode::Eval {
            assert_eq!(node.buffers, fresh);
        }
        let loss = |y: Vec<f64>| y.iter().zip(dy.data()).map(|(y, &dy)| y * f64::from(dy)).sum::<f64>();
        let [x, weight, bias] = [&node.inputs[0], &node.params[0], &node.params[1]];
        let [x64, w64, b64] = [x, weight, bias].map(|t| doubles(t.data()));
        assert_central_differences("dx", x.data(), gradients.inputs[0].data(), |x| {
            loss(twin::forward(sizes, eps, x, [&w64, &b64], given).0)
        });
        assert_central_differences("dweight", weight.data(), gradients.params[0].data(), |w| {
            loss(twin::forward(sizes, eps, &x64, [w, &b64], given).0)
        });
        assert_central_differences("dbias", bias.data(), gradients.params[1].data(), |b| {
            loss(twin::forward(sizes, eps, &x64, [&w64, b], given).0)
        });
    }
}

/// Frozen, training is evaluation: the same output and gradients, and statistics that stay.
#[test]
fn frozen_statistics_are_used_in_training_and_stay() {
    let (op, x) = (BatchNorm2d::new(3), random(&[4, 3, 5, 5], 1));
    let frozen = BatchNorm2d { frozen: true, ..op.clone() };
    let dy = random(&[4, 3, 5, 5], 9);
    let (mut a, mut b) = (node(&frozen, x.clone(), TRAIN), node(&op, x.clone(), Mode::Eval));
    let before = a.buffers.clone();
    assert_eq!(a.forward().0, b.forward().0);
    let (found, expected) = (a.backward(&dy), b.backward(&dy));
    assert_eq!((found.inputs, found.params), (expected.inputs, expected.params));
    assert_eq!(a.buffers, before);
    let learning = node(&op, x, TRAIN).forward().0;
    assert_ne!(a.forward().0, learning);
}

/// A mean far from 0 must not eat the variance.
#[test]
fn a_large_mean_does_not_cancel() {
    let op = BatchNorm2d::new(1);
    let x = Tensor::from_fn([2, 1, 80, 80], |i| 1000.0 + if i % 2 == 0 { 0.5 } else { -0.5 });
    let mut node = node(&op, x, TRAIN);
    node.params = vec![Tensor::from_fn([1], |_| 1.0), Tensor::zeros([1])];
    let (y, saved) = node.forward();
    assert_close("deviation", &[saved.floats[1]], &[1.0 / (0.25f32 + 1e-5).sqrt()], ROUNDING);
    assert_close("y", &y.data()[..2], &[1.0, -1.0], Tolerance::relative(1e-4));
}

#[test]
fn an_empty_batch_leaves_the_running_statistics_alone() {
    let op = BatchNorm2d::new(2);
    let mut node = node(&op, Tensor::zeros([0, 2, 3, 3]), TRAIN);
    let before = node.buffers.clone();
    let gradients = node.backward(&Tensor::zeros([0, 2, 3, 3]));
    assert_eq!(node.buffers, before);
    assert!(gradients.params.iter().all(|p| p.data() == [0.0, 0.0]));
}

#[test]
fn one_element_per_channel_gives_the_bias() {
    let op = BatchNorm2d::new(2);
    let mut node = node(&op, random(&[1, 2, 1, 1], 1), TRAIN);
    let (y, _) = node.forward();
    assert_eq!(y.data(), node.params[1].data());
    assert!(node.buffers[1].data().iter().all(|v| v.is_finite()));
}

#[test]
fn the_same_for_any_number_of_threads() {
    static OP: BatchNorm2d = BatchNorm2d { channels: 5, eps: 1e-5, momentum: 0.1, frozen: false };
    assert_same_for_any_threads(|| node(&OP, random(&[3, 5, 90, 91], 1), TRAIN));
}

#[test]
fn refuses_what_does_not_fit() {
    let op = BatchNorm2d::new(3);
    let input = [2, 3, 4, 4].into();
    assert_eq!(op.infer(&[input]), Ok(input));
    assert!(matches!(op.infer(&[[2, 4, 4, 4].into()]), Err(ShapeError::Channels { .. })));
    assert!(matches!(op.infer(&[[2, 3].into()]), Err(ShapeError::Rank { .. })));
    assert!(matches!(op.infer(&[]), Err(ShapeError::Inputs { .. })));
    for op in [
        BatchNorm2d { eps: f32::NAN, ..op.clone() },
        BatchNorm2d { eps: -1.0, ..op.clone() },
        BatchNorm2d { momentum: f32::INFINITY, ..op.clone() },
        BatchNorm2d { momentum: 1.5, ..op.clone() },
    ] {
        assert!(matches!(op.infer(&[input]), Err(ShapeError::Attribute { .. })), "{op:?}");
    }
    let none = BatchNorm2d::new(0);
    assert!(matches!(none.infer(&[[2, 0, 4, 4].into()]), Err(ShapeError::Attribute { .. })));
    let huge = BatchNorm2d::new(usize::MAX);
    assert!(huge.infer(&[input]).is_err());
    let _ = (huge.params(), huge.buffers(), huge.saved_len(&[input]));
}
