use proptest::prelude::*;
use tensor::Tensor;
use tensor::compare::assert_close;

use super::super::tests::convolution;
use super::super::{Conv2d, twin};
use crate::Precision;
use crate::gemm::bf16::twin::rounded;
use crate::testing::{Node, ROUNDING, assert_same_for_any_threads, cases, doubles, floats, random};

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn bf16_agrees_with_the_twin_of_rounded_operands((op, input) in convolution(), threads in 1..4usize) {
        check(op, &input, threads);
    }
}

/// Compares every pass with the twin of rounded operands: only the order of summation may differ.
fn check(op: Conv2d, input: &[usize], threads: usize) {
    let computed = op.clone().precision(Precision::Bf16);
    let mut node = Node::random(&computed, vec![random(input, 1)], 2).threads(threads);
    let depthwise = computed.groups > 1 && computed.groups == computed.in_channels;
    let round = |t: &Tensor| if depthwise { t.clone() } else { round(t) };
    let (x, weight) = (round(&node.inputs[0]), round(&node.params[0]));
    let bias = node.params.get(1).map(|b| doubles(b.data())).unwrap_or_default();

    let (y, _) = node.forward();
    let expected = twin::forward(&op, &x, &doubles(x.data()), &doubles(weight.data()), &bias);
    assert_close("y", y.data(), &floats(&expected), ROUNDING);

    let dy = random(y.shape().dims(), 9);
    let gradients = node.backward(&dy);
    let [dx, dw] = twin::backward(&op, &x, &weight, &round(&dy));
    assert_close("dx", gradients.inputs[0].data(), &dx, ROUNDING);
    assert_close("dw", gradients.params[0].data(), &dw, ROUNDING);
}

fn round(tensor: &Tensor) -> Tensor {
    let rounded = rounded(tensor.data());
    Tensor::from_fn(tensor.shape(), |i| rounded[i])
}

/// Sizes at and beyond the edges of tiles, panels and passes; odd numbers of channels and images leave half pairs.
#[test]
fn every_bf16_shape_agrees_with_the_twin() {
    let square = |c, k, kernel: usize| Conv2d::new(c, k, kernel).padding(kernel / 2);
    for threads in [1, 3] {
        check(square(5, 7, 3), &[2, 5, 32, 32], threads);
        check(square(5, 33, 3), &[3, 5, 8, 8], threads);
        check(square(20, 9, 3), &[9, 20, 4, 4], threads);
        check(square(67, 40, 3), &[5, 67, 5, 3], threads);
        check(square(3, 17, 3), &[2, 3, 19, 17], threads);
        check(square(6, 40, 1), &[2, 6, 16, 16], threads);
        check(square(70, 65, 1), &[3, 70, 9, 7], threads);
        check(square(6, 40, 1).stride(2), &[2, 6, 15, 16], threads);
        check(square(18, 9, 3).stride(2).bias(true), &[3, 18, 12, 12], threads);
        check(square(3, 33, 7).stride(2), &[2, 3, 30, 31], threads);
        check(square(10, 12, 3).groups(2).bias(true), &[1, 10, 9, 40], threads);
        check(square(8, 8, 3).groups(8), &[2, 8, 20, 20], threads);
        check(square(1, 1, 3), &[1, 1, 1, 1], threads);
    }
}

#[test]
fn bf16_is_the_same_for_any_number_of_threads() {
    static OPS: std::sync::LazyLock<[Conv2d; 3]> = std::sync::LazyLock::new(|| {
        let ops = [
            Conv2d::new(12, 70, 3).padding(1).bias(true),
            Conv2d::new(12, 20, 3).stride(2),
            Conv2d::new(12, 70, 1),
        ];
        ops.map(|op| op.precision(Precision::Bf16))
    });
    for op in OPS.iter() {
        for n in [1, 2, 5] {
            assert_same_for_any_threads(|| Node::random(op, vec![random(&[n, 12, 10, 11], 3)], 4));
        }
    }
}

/// The stated accuracy: root mean square and largest error of 256 channels, relative to the outputs' own root mean
/// square. Rounding both operands is all of it: the sums' own error is ten thousand times smaller.
#[test]
fn bf16_is_as_accurate_as_stated() {
    let (op, input) = (Conv2d::new(256, 32, 3).padding(1).precision(Precision::Bf16), [2, 256, 12, 12]);
    let mut node = Node::random(&op, vec![random(&input, 1)], 2);
    let (x, weight) = (node.inputs[0].clone(), node.params[0].clone());
    let (y, _) = node.forward();
    let dy = random(y.shape().dims(), 9);
    let gradients = node.backward(&dy);
    let exact = twin::forward(&op, &x, &doubles(x.data()), &doubles(weight.data()), &[]);
    let [dx, dw] = twin::backward(&op, &x, &weight, &dy);
    let results = [
        ("y", y.data(), exact),
        ("dx", gradients.inputs[0].data(), doubles(&dx)),
        ("dw", gradients.params[0].data(), doubles(&dw)),
    ];
    for (what, found, exact) in results {
        let size = (exact.iter().map(|x| x * x).sum::<f64>() / exact.len() as f64).sqrt();
        let errors = || exact.iter().zip(found).map(|(e, &f)| ((f64::from(f) - e) / size).abs());
        let rms = (errors().map(|e| e * e).sum::<f64>() / exact.len() as f64).sqrt();
        let worst = errors().fold(0.0, f64::max);
        println!("bf16 {what}: rms {rms:.1e}, largest {worst:.1e}");
        assert!(rms < TYPICAL && worst < LARGEST, "{what}: rms {rms:e}, largest {worst:e}");
        assert!(rms > TYPICAL / 10.0, "{what} is not rounded: rms {rms:e}");
    }
}

/// Root mean square error, relative to the outputs' root mean square.
const TYPICAL: f64 = 4e-3;

/// Largest error, relative to the outputs' root mean square.
const LARGEST: f64 = 3e-2;
