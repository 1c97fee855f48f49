use proptest::prelude::*;
use tensor::compare::assert_close;
use tensor::{Shape, ShapeError, Tensor};

use super::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d, twin};
use crate::Operator;
use crate::testing::{Node, ROUNDING, assert_same_for_any_threads, cases, inner, random};

type Attributes = ([usize; 2], [usize; 2], [usize; 2]);

/// Kernel, stride and padding (at most half of the kernel), and an input their windows fit.
fn windows() -> impl Strategy<Value = (Attributes, [usize; 4])> {
    let attributes = ([1..6usize, 1..6usize], [1..5usize, 1..5usize], [0..3usize, 0..3usize]);
    let input = [0..4usize, 1..4usize, 1..21usize, 1..21usize];
    (attributes, input).prop_filter("the window fits", |((kernel, _, padding), input)| {
        (0..2).all(|a| padding[a] <= kernel[a] / 2 && kernel[a] <= input[2 + a] + 2 * padding[a])
    })
}

/// Runs both passes and hands out, plane by plane: input, output, output gradient, input gradient.
fn for_each_plane(
    op: &dyn Operator,
    x: Tensor,
    threads: usize,
    mut job: impl FnMut(&[f32], &[f32], &[f32], &[f32], [usize; 2]),
) {
    let mut node = Node::new(op, vec![x], Vec::new()).threads(threads);
    let (y, _) = node.forward();
    let dy = random(y.shape().dims(), 8);
    let dx = node.backward(&dy).inputs.remove(0);
    let x = &node.inputs[0];
    let (input, output) = (x.shape().nchw("x").unwrap(), y.shape().nchw("y").unwrap());
    let (from, to) = (input[2] * input[3], output[2] * output[3]);
    for p in 0..input[0] * input[1] {
        let (i, o) = (p * from..(p + 1) * from, p * to..(p + 1) * to);
        job(&x.data()[i.clone()], &y.data()[o.clone()], &dy.data()[o], &dx.data()[i], [output[2], output[3]]);
    }
}

fn check_average(
    op: &dyn Operator,
    dims: [usize; 4],
    threads: usize,
    window: impl Fn([usize; 2], [usize; 2]) -> (Vec<[usize; 2]>, usize),
) {
    let len = [dims[2], dims[3]];
    for_each_plane(op, random(&dims, 1), threads, |x, y, dy, dx, output| {
        let mut expected = vec![0.0f32; y.len()];
        let mut gradient = vec![0.0f32; x.len()];
        for (o, expected) in expected.iter_mut().enumerate() {
            let (elements, count) = window([o / output[1], o % output[1]], len);
            let at = |&[y, x]: &[usize; 2]| y * len[1] + x;
            *expected = (elements.iter().map(|p| f64::from(x[at(p)])).sum::<f64>() / count as f64) as f32;
            elements.iter().for_each(|p| gradient[at(p)] += dy[o] / count as f32);
        }
        assert_close("y", y, &expected, ROUNDING);
        assert_close("dx", dx, &gradient, ROUNDING);
        // Averaging is linear.
        assert!((inner(y, dy) - inner(x, dx)).abs() < 1e-4, "adjoint");
    });
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn averages_agree_with_the_twin(
        ((kernel, stride, padding), dims) in windows(), count_include_pad: bool, threads in 1..4usize,
    ) {
        let op = AvgPool2d { kernel, stride, padding, count_include_pad };
        check_average(&op, dims, threads, |o, len| twin::average(&op, o, len));
    }

    #[test]
    fn adaptive_averages_agree_with_the_twin(
        dims in [0..3usize, 1..4usize, 1..16usize, 1..16usize], output in [1..9usize, 1..9usize], threads in 1..4usize,
    ) {
        let op = AdaptiveAvgPool2d { output };
        check_average(&op, dims, threads, |o, len| twin::adaptive(&op, o, len));
    }

    #[test]
    fn maxima_agree_with_the_twin(((kernel, stride, padding), dims) in windows(), ties: bool, threads in 1..4usize) {
        let op = MaxPool2d { kernel, stride, padding };
        let mut x = random(&dims, 1);
        if ties {
            x.data_mut().iter_mut().for_each(|x| *x = (*x * 2.0).round());
        }
        for_each_plane(&op, x, threads, |x, y, dy, dx, output| {
            let mut gradient = vec![0.0f32; x.len()];
            for (o, &found) in y.iter().enumerate() {
                let (max, at) = twin::max(&op, [o / output[1], o % output[1]], [dims[2], dims[3]], x);
                assert_eq!(found, max);
                gradient[at] += dy[o];
            }
            assert_close("dx", dx, &gradient, ROUNDING);
        });
    }
}

#[test]
fn a_nan_wins_and_padding_never_does() {
    let op = MaxPool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
    let mut x = Tensor::from_fn([1, 1, 4, 4], |_| f32::NEG_INFINITY);
    x.data_mut()[15] = f32::NAN;
    let (y, saved) = Node::new(&op, vec![x], Vec::new()).forward();
    assert_eq!(y.data()[..3], [f32::NEG_INFINITY; 3]);
    assert!(y.data()[3].is_nan());
    assert_eq!(saved.indices[..4], [0, 1, 4, 15]);
}

#[test]
fn the_same_for_any_number_of_threads() {
    static MAX: MaxPool2d = MaxPool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
    static AVERAGE: AvgPool2d =
        AvgPool2d { kernel: [3, 2], stride: [1, 2], padding: [1, 1], count_include_pad: false };
    static ADAPTIVE: AdaptiveAvgPool2d = AdaptiveAvgPool2d { output: [5, 4] };
    let ops: [&'static dyn Operator; 3] = [&MAX, &AVERAGE, &ADAPTIVE];
    for op in ops {
        assert_same_for_any_threads(|| Node::new(op, vec![random(&[3, 5, 22, 13], 1)], Vec::new()));
    }
}

#[test]
fn refuse_hostile_attributes() {
    let input = Shape::from([2, 3, 8, 8]);
    let huge = usize::MAX;
    let good: Attributes = ([2, 2], [2, 2], [0, 0]);
    let (k, s, p) = good;
    let cases: [Attributes; 9] = [
        ([0, 2], s, p),
        ([2, 9], s, p),
        ([huge, huge], s, p),
        (k, [0, 2], p),
        (k, [2, huge], p),
        (k, s, [2, 0]),
        (k, s, [huge, huge]),
        ([huge, huge], s, [huge / 2, huge / 2]),
        ([1 << 40, 2], s, [1 << 39, 0]),
    ];
    for (kernel, stride, padding) in cases {
        let max = MaxPool2d { kernel, stride, padding };
        let average = AvgPool2d { kernel, stride, padding, count_include_pad: true };
        for op in [&max as &dyn Operator, &average] {
            assert!(op.infer(&[input]).is_err(), "{kernel:?} {stride:?} {padding:?}");
            let _ = op.saved_len(&[input]);
        }
    }
    let max = MaxPool2d { kernel: k, stride: s, padding: p };
    assert_eq!(max.infer(&[input]), Ok([2, 3, 4, 4].into()));
    assert!(matches!(max.infer(&[]), Err(ShapeError::Inputs { .. })));
    assert!(matches!(max.infer(&[[2, 3].into()]), Err(ShapeError::Rank { .. })));
    assert!(max.infer(&[[2, 3, 0, 8].into()]).is_err());
    assert!(matches!(max.infer(&[[0, 1, 1 << 17, 1 << 17].into()]), Err(ShapeError::Attribute { .. })));
    for output in [[0, 1], [1, huge], [huge, huge], [1 << 62, 1 << 62]] {
        assert!(AdaptiveAvgPool2d { output }.infer(&[input]).is_err(), "{output:?}");
    }
    assert!(AdaptiveAvgPool2d { output: [1, 1] }.infer(&[[2, 3, 0, 8].into()]).is_err());
}
