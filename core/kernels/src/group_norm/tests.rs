use proptest::prelude::*;
use tensor::compare::{Tolerance, assert_close};
use tensor::{ShapeError, Tensor};

use super::{GroupNorm, twin};
use crate::batch_norm::BatchNorm2d;
use crate::testing::{
    Node, TRAIN, assert_central_differences, assert_same_for_any_threads, cases, doubles, floats, random,
};
use crate::{Mode, Operator};

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn agrees_with_the_twin(
        n in 1..5usize, groups in 1..5usize, each in 1..5usize, h in 1..40usize, w in 1..40usize, train: bool,
        threads in 1..4usize,
    ) {
        prop_assume!(each * h * w > 1);
        let op = GroupNorm::new(groups, groups * each);
        let mode = if train { TRAIN } else { Mode::Eval };
        let mut node = Node::random(&op, vec![random(&[n, op.channels, h, w], 1)], 2).mode(mode).threads(threads);
        let (y, _) = node.forward();
        let [x, weight, bias] =
            [&node.inputs[0], &node.params[0], &node.params[1]].map(|t| doubles(t.data()));
        let expected = twin::forward([n, op.channels, h * w], groups, f64::from(op.eps), &x, [&weight, &bias]);
        // A few elements close to each other have a small deviation: rounding of x is divided by it.
        assert_close("y", y.data(), &floats(&expected), Tolerance { relative: 1e-4, absolute: 1e-5 });
    }
}

#[test]
fn gradients_are_central_differences() {
    for groups in [1, 2, 4] {
        let (sizes, [n, c]) = ([3, 4, 6], [3, 4]);
        let op = GroupNorm::new(groups, c);
        let mut node = Node::random(&op, vec![random(&[n, c, 2, 3], 1)], 2);
        let dy = random(&[n, c, 2, 3], 3);
        let gradients = node.backward(&dy);
        let loss = |y: Vec<f64>| y.iter().zip(dy.data()).map(|(y, &dy)| y * f64::from(dy)).sum::<f64>();
        let [x, weight, bias] = [&node.inputs[0], &node.params[0], &node.params[1]];
        let [x64, w64, b64] = [x, weight, bias].map(|t| doubles(t.data()));
        let y = |x: &[f64], w: &[f64], b: &[f64]| twin::forward(sizes, groups, f64::from(op.eps), x, [w, b]);
        assert_central_differences("dx", x.data(), gradients.inputs[0].data(), |x| loss(y(x, &w64, &b64)));
        assert_central_differences("dweight", weight.data(), gradients.params[0].data(), |w| {
            loss(y(&x64, w, &b64))
        });
        assert_central_differences("dbias", bias.data(), gradients.params[1].data(), |b| {
            loss(y(&x64, &w64, b))
        });
    }
}

/// Of one record alone, a group per channel is what batch norm is in training.
#[test]
fn of_one_record_it_is_batch_norm_where_every_channel_is_a_group() {
    let (group, batch) = (GroupNorm::new(3, 3), BatchNorm2d::new(3));
    let (x, dy) = (random(&[1, 3, 9, 11], 1), random(&[1, 3, 9, 11], 5));
    let mut a = Node::random(&group, vec![x.clone()], 2);
    let mut b = Node::random(&batch, vec![x], 2);
    assert_eq!(a.forward().0, b.forward().0);
    let (a, b) = (a.backward(&dy), b.backward(&dy));
    let close = Tolerance::relative(1e-5);
    assert_close("dx", a.inputs[0].data(), b.inputs[0].data(), close);
    assert_close("dweight", a.params[0].data(), b.params[0].data(), close);
    assert_close("dbias", a.params[1].data(), b.params[1].data(), close);
}

/// What it is for: no record's output or gradient depends on its batch-mates.
#[test]
fn records_do_not_couple() {
    let op = GroupNorm::new(2, 6);
    let (x, dy) = (random(&[3, 6, 5, 5], 1), random(&[3, 6, 5, 5], 4));
    let record = |t: &Tensor, n: usize| Tensor::from_fn([1, 6, 5, 5], |i| t.data()[n * 150 + i]);
    let mut whole = Node::random(&op, vec![x.clone()], 2);
    let (y, gradients) = (whole.forward().0, whole.backward(&dy));
    for n in 0..3 {
        let mut alone = Node::random(&op, vec![record(&x, n)], 2);
        assert_eq!(alone.forward().0, record(&y, n));
        assert_eq!(alone.backward(&record(&dy, n)).inputs[0], record(&gradients.inputs[0], n));
    }
}

#[test]
fn groups_have_two_channels_at_least() {
    for (channels, groups) in
        [(1, 1), (2, 1), (3, 1), (4, 2), (7, 1), (16, 8), (32, 16), (48, 24), (64, 32), (96, 32), (512, 32)]
    {
        assert_eq!(GroupNorm::for_channels(channels).groups, groups, "{channels} channels");
    }
}

#[test]
fn an_empty_batch_has_no_gradients() {
    let op = GroupNorm::new(1, 2);
    let mut node = Node::random(&op, vec![Tensor::zeros([0, 2, 3, 3])], 2);
    let gradients = node.backward(&Tensor::zeros([0, 2, 3, 3]));
    assert!(gradients.params.iter().all(|p| p.data() == [0.0, 0.0]));
}

#[test]
fn the_same_for_any_number_of_threads() {
    static OP: GroupNorm = GroupNorm { groups: 3, channels: 6, eps: 1e-5 };
    assert_same_for_any_threads(|| Node::random(&OP, vec![random(&[3, 6, 90, 91], 1)], 2));
}

#[test]
fn refuses_what_does_not_fit() {
    let op = GroupNorm::new(2, 4);
    let input = [2, 4, 3, 3].into();
    assert_eq!(op.infer(&[input]), Ok(input));
    assert!(matches!(op.infer(&[[2, 3, 3, 3].into()]), Err(ShapeError::Channels { .. })));
    assert!(matches!(op.infer(&[[2, 4].into()]), Err(ShapeError::Rank { .. })));
    assert!(matches!(op.infer(&[]), Err(ShapeError::Inputs { .. })));
    for op in [
        GroupNorm { groups: 3, ..op.clone() },
        GroupNorm { groups: 0, ..op.clone() },
        GroupNorm { eps: f32::NAN, ..op.clone() },
        GroupNorm { eps: -1.0, ..op.clone() },
    ] {
        assert!(matches!(op.infer(&[input]), Err(ShapeError::Attribute { .. })), "{op:?}");
        let _ = (op.params(), op.saved_len(&[input]), op.scratch(&[input], 1));
    }
    let huge = GroupNorm::new(usize::MAX, usize::MAX);
    assert!(huge.infer(&[input]).is_err());
    let _ = (huge.params(), huge.saved_len(&[input]), huge.scratch(&[input], 1));
}
