use proptest::prelude::*;
use tensor::compare::assert_close;
use tensor::{Shape, ShapeError, Tensor};

use super::{By, Conv2d, Way, twin};
use crate::gemm::Kernel;
use crate::testing::{
    Node, ROUNDING, assert_central_differences, assert_same_for_any_threads, cases, doubles, floats, inner,
    random,
};
use crate::{Operator, Precision};

/// A convolution and the input it is given; windows always fit.
pub(super) fn convolution() -> impl Strategy<Value = (Conv2d, [usize; 4])> {
    let groups =
        prop_oneof![3 => Just((1, 1..20usize, 1..20usize)), 2 => (2..4usize).prop_map(|g| (g, 1..4, 1..4))];
    let channels = groups.prop_flat_map(|(g, c, k)| (Just(g), c, k));
    let images =
        (0..4usize, prop_oneof![1..9usize, Just(16), Just(33)], prop_oneof![1..9usize, Just(16), Just(33)]);
    let window = ([1..4usize, 1..4usize], [1..4usize, 1..4usize], [1..3usize, 1..3usize]);
    let padding = [0..4usize, 0..4usize, 0..4usize, 0..4usize];
    (channels, images, window, padding, any::<bool>()).prop_filter_map(
        "the window fits",
        |((groups, c, k), (n, h, w), (kernel, stride, dilation), padding, bias)| {
            let (in_channels, out_channels) = (c * groups, k * groups);
            let op = Conv2d {
                in_channels,
                out_channels,
                kernel,
                stride,
                padding,
                dilation,
                groups,
                bias,
                precision: Precision::F32,
            };
            let input = [n, in_channels, h, w];
            op.infer(&[input.into()]).is_ok().then_some((op, input))
        },
    )
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn agrees_with_the_twin((op, input) in convolution(), threads in 1..4usize) {
        check(&op, &input, threads);
    }
}

fn check(op: &Conv2d, input: &[usize], threads: usize) {
    compare(op, op, input, threads);
}

/// Compares `computed`, which is `op` in some way, with the twin.
fn compare(op: &Conv2d, computed: &dyn Operator, input: &[usize], threads: usize) {
    let mut node = Node::random(computed, vec![random(input, 1)], 2).threads(threads);
    let (x, weight) = (node.inputs[0].clone(), node.params[0].clone());
    let bias = node.params.get(1).map(|b| doubles(b.data())).unwrap_or_default();

    let (y, _) = node.forward();
    let expected = twin::forward(op, &x, &doubles(x.data()), &doubles(weight.data()), &bias);
    assert_close("y", y.data(), &floats(&expected), ROUNDING);

    let dy = random(y.shape().dims(), 9);
    let gradients = node.backward(&dy);
    let [dx, dw] = twin::backward(op, &x, &weight, &dy);
    assert_close("dx", gradients.inputs[0].data(), &dx, ROUNDING);
    assert_close("dw", gradients.params[0].data(), &dw, ROUNDING);

    // The map is linear in each operand: ⟨conv(x, w), dy⟩ = ⟨x, dx⟩ = ⟨w, dw⟩, without the bias.
    if !op.bias {
        let product = inner(y.data(), dy.data());
        let bound = 1e-4 * (1.0 + y.data().len() as f64).sqrt() * (1.0 + weight.data().len() as f64).sqrt();
        assert!(
            (product - inner(x.data(), gradients.inputs[0].data())).abs() < bound,
            "adjoint of the input"
        );
        assert!(
            (product - inner(weight.data(), gradients.params[0].data())).abs() < bound,
            "adjoint of the weight"
        );
    }
}

/// A 3×3 convolution of stride 1, any padding up to 2.
fn three_by_three() -> impl Strategy<Value = (Conv2d, [usize; 4])> {
    let channels = || prop_oneof![1..20usize, 30..35usize, Just(48), 63..70usize].boxed();
    let side = || prop_oneof![1..11usize, Just(17), Just(33)].boxed();
    let padding = [0..3usize, 0..3usize, 0..3usize, 0..3usize];
    (channels(), channels(), [side(), side()], 0..4usize, padding, any::<bool>()).prop_filter_map(
        "the window fits",
        |(c, k, [h, w], n, padding, bias)| {
            let (op, input) = (Conv2d { padding, ..Conv2d::new(c, k, 3).bias(bias) }, [n, c, h, w]);
            op.infer(&[input.into()]).is_ok().then_some((op, input))
        },
    )
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn winograd_agrees_with_the_twin((op, input) in three_by_three(), threads in 1..4usize) {
        for way in [Way::Winograd2, Way::Winograd4] {
            let computed = By::new(op.clone(), way, input.into());
            prop_assert!(computed.is_some() || !has_wide_panels(), "{way:?}");
            if let Some(computed) = computed {
                compare(&op, &computed, &input, threads);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn direct_agrees_with_the_twin((op, input) in convolution(), threads in 1..4usize) {
        if let Some(computed) = By::new(op.clone(), Way::Direct, input.into()) {
            compare(&op, &computed, &input, threads);
        }
    }
}

/// A 1×1 convolution of any stride, of images that fill panels, share one, or end within a vector.
fn one_by_one() -> impl Strategy<Value = (Conv2d, [usize; 4])> {
    let channels = || prop_oneof![1..20usize, Just(48), 63..70usize].boxed();
    let side = || prop_oneof![1..12usize, Just(16), Just(20)].boxed();
    let shape = (1..3usize, channels(), channels(), [side(), side()], 0..6usize);
    (shape, [1..4usize, 1..4usize], any::<bool>()).prop_map(|((groups, c, k, [h, w], n), stride, bias)| {
        let op = Conv2d::new(c * groups, k * groups, 1).groups(groups).bias(bias);
        (Conv2d { stride, ..op }, [n, c * groups, h, w])
    })
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn pointwise_agrees_with_the_twin((op, input) in one_by_one(), threads in 1..4usize) {
        for way in [Way::Pointwise, Way::Columns] {
            if let Some(computed) = By::new(op.clone(), way, input.into()) {
                compare(&op, &computed, &input, threads);
            }
        }
    }
}

/// What leaves of a record may not depend on those beside it, so an image's output may not either: to the bit, by every way,
/// where Winograd's kernels are transformed for all tiles and where for few.
#[test]
fn an_image_becomes_the_same_beside_any_others() {
    for (c, k, kernel, stride, side) in [
        (40, 70, 3, 1, 16),
        (130, 140, 3, 1, 8),
        (130, 20, 3, 1, 4),
        (9, 20, 3, 1, 9),
        (20, 33, 3, 2, 9),
        (70, 130, 1, 1, 7),
        (17, 20, 1, 2, 8),
    ] {
        let op = Conv2d::new(c, k, kernel).padding(kernel / 2).stride(stride);
        let mut all = Node::random(&op, vec![random(&[24, c, side, side], 1)], 2);
        let (x, params) = (all.inputs[0].clone(), all.params.clone());
        let expected = all.forward().0;
        for count in [1, 2, 5, 13] {
            let some = Tensor::from_fn([count, c, side, side], |i| x.data()[i]);
            let y = Node::new(&op, vec![some], params.clone()).forward().0;
            assert!(y.data() == &expected.data()[..y.data().len()], "{op:?}, {count} of 24 images");
        }
    }
}

/// What strides are computed by: shapes of residual networks, small and odd ones.
#[test]
fn strided_ways_agree_with_the_twin() {
    for threads in [1, 3] {
        for (c, k, kernel, [h, w]) in [
            (16, 16, 3, [8, 8]),
            (33, 70, 3, [9, 7]),
            (64, 32, 3, [16, 16]),
            (20, 40, 1, [8, 8]),
            (16, 130, 1, [15, 14]),
            (17, 18, 5, [11, 20]),
            (4, 8, 1, [5, 1]),
            (20, 8, 1, [1, 1]),
            (70, 16, 2, [5, 40]),
        ] {
            let op = Conv2d::new(c, k, kernel).padding(kernel / 2).stride(2).bias(true);
            let input = [2, c, h, w];
            check(&op, &input, threads);
            for way in [Way::Columns, Way::Direct] {
                if let Some(computed) = By::new(op.clone(), way, input.into()) {
                    compare(&op, &computed, &input, threads);
                }
            }
        }
    }
}

/// The scalar fallback has panels too narrow for Winograd's tiles; every vector kernel serves them.
fn has_wide_panels() -> bool {
    Kernel::detected().name() != "scalar"
}

/// The stated accuracy: root mean square and largest error of 256 channels, relative to the outputs' own root mean
/// square, for each way. F(4×4) loses about a bit against a plain sum; F(2×2) nothing.
#[test]
fn winograd_is_as_accurate_as_stated() {
    let (op, input) = (Conv2d::new(256, 32, 3).padding(1), [2, 256, 12, 12]);
    for (way, typical, largest) in
        [(Way::Columns, 5e-7, 6e-6), (Way::Winograd2, 5e-7, 6e-6), (Way::Winograd4, 2e-6, 2e-5)]
    {
        let Some(computed) = By::new(op.clone(), way, input.into()) else { continue };
        let mut node = Node::random(&computed, vec![random(&input, 1)], 2);
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
            println!("{way:?} {what}: rms {rms:.1e}, largest {worst:.1e}");
            assert!(rms < typical && worst < largest, "{way:?} {what}: rms {rms:e}, largest {worst:e}");
        }
    }
}

/// Shapes that choose each of the ways inside, with sizes at and beyond the edges of panels and passes.
#[test]
fn every_way_agrees_with_the_twin() {
    let square = |c, k, kernel: usize| Conv2d::new(c, k, kernel).padding(kernel / 2);
    for threads in [1, 3] {
        check(&square(5, 7, 3), &[2, 5, 32, 32], threads); // runs of 32
        check(&square(5, 33, 3), &[3, 5, 8, 8], threads); // planes of one panel
        check(&square(20, 9, 3), &[9, 20, 4, 4], threads); // panels over four images
        check(&square(60, 9, 3), &[2, 60, 5, 3], threads); // depth of two passes
        check(&square(3, 17, 3), &[2, 3, 19, 17], threads); // few inputs, partial panels of each image
        check(&square(6, 40, 1), &[2, 6, 16, 16], threads); // 1×1: no columns; the weight's gradient in place
        check(&square(6, 40, 1).stride(2), &[2, 6, 15, 16], threads);
        check(&square(18, 9, 3).stride(2), &[3, 18, 12, 12], threads);
        check(&square(8, 8, 3).groups(8), &[2, 8, 20, 20], threads);
        check(&square(8, 24, 3).groups(8).stride(2).bias(true), &[2, 8, 9, 9], threads);
        check(&square(8, 12, 3).groups(4).bias(true), &[1, 8, 9, 40], threads);
        check(&square(1, 1, 3), &[1, 1, 1, 1], threads);
    }
}

#[test]
fn gradients_are_central_differences() {
    for (op, input) in [
        (Conv2d::new(2, 3, 3).padding(1).bias(true), [2, 2, 4, 3]),
        (Conv2d { dilation: [2, 1], padding: [1, 0, 2, 1], ..Conv2d::new(2, 2, 2).stride(2) }, [1, 2, 5, 4]),
        (Conv2d::new(4, 4, 2).groups(4), [2, 4, 3, 3]),
    ] {
        let mut node = Node::random(&op, vec![random(&input, 4)], 5);
        let dy = random(op.infer(&[input.into()]).unwrap().dims(), 6);
        let gradients = node.backward(&dy);
        let x = node.inputs[0].clone();
        let [weight, bias] =
            [0, 1].map(|i| node.params.get(i).map(|p: &Tensor| doubles(p.data())).unwrap_or_default());
        let loss = |y: Vec<f64>| y.iter().zip(dy.data()).map(|(y, &dy)| y * f64::from(dy)).sum::<f64>();
        let xs = doubles(x.data());
        assert_central_differences("dx", x.data(), gradients.inputs[0].data(), |x64| {
            loss(twin::forward(&op, &x, x64, &weight, &bias))
        });
        assert_central_differences("dw", node.params[0].data(), gradients.params[0].data(), |w64| {
            loss(twin::forward(&op, &x, &xs, w64, &bias))
        });
        if op.bias {
            assert_central_differences("db", node.params[1].data(), gradients.params[1].data(), |b64| {
                loss(twin::forward(&op, &x, &xs, &weight, b64))
            });
        }
    }
}

#[test]
fn the_same_for_any_number_of_threads() {
    static DENSE: std::sync::LazyLock<Conv2d> =
        std::sync::LazyLock::new(|| Conv2d::new(12, 70, 3).padding(1).bias(true));
    static STRIDED: std::sync::LazyLock<Conv2d> =
        std::sync::LazyLock::new(|| Conv2d::new(12, 20, 3).stride(2));
    static POINTWISE: std::sync::LazyLock<Conv2d> = std::sync::LazyLock::new(|| Conv2d::new(12, 70, 1));
    static DEPTHWISE: std::sync::LazyLock<Conv2d> =
        std::sync::LazyLock::new(|| Conv2d::new(12, 24, 3).groups(12));
    static TILED: std::sync::LazyLock<[By; 2]> = std::sync::LazyLock::new(|| {
        let conv = Conv2d::new(12, 70, 3).padding(1).bias(true);
        [Way::Winograd2, Way::Winograd4].map(|way| By(conv.clone(), way))
    });
    let tiled = TILED.iter().map(|op| op as &dyn Operator).filter(|_| has_wide_panels());
    let chosen = [&DENSE, &STRIDED, &POINTWISE, &DEPTHWISE].map(|op| &**op as &dyn Operator);
    for op in chosen.into_iter().chain(tiled) {
        for n in [1, 2, 5] {
            assert_same_for_any_threads(|| Node::random(op, vec![random(&[n, 12, 10, 11], 3)], 4));
        }
    }
}

#[test]
fn infers_shape_and_work() {
    let op = Conv2d { padding: [1, 2, 0, 3], dilation: [2, 1], ..Conv2d::new(6, 4, 3).stride(2).groups(2) };
    let input = Shape::from([5, 6, 10, 11]);
    assert_eq!(op.infer(&[input]).unwrap().dims(), [5, 4, 4, 7]);
    assert_eq!(op.macs(&[input]), 5 * 4 * 4 * 7 * 3 * 9);
    assert_eq!(op.params()[0].shape.dims(), [4, 3, 3, 3]);
}

/// Attributes a hostile file may hold: each is an error, and nothing panics.
#[test]
fn refuses_hostile_attributes() {
    let good = Conv2d::new(4, 4, 3);
    let huge = usize::MAX;
    let input = Shape::from([1, 4, 8, 8]);
    let cases = [
        Conv2d { groups: 0, ..good.clone() },
        Conv2d { groups: 3, ..good.clone() },
        Conv2d { groups: huge, ..good.clone() },
        Conv2d { in_channels: 0, ..good.clone() },
        Conv2d { in_channels: 5, ..good.clone() },
        Conv2d { in_channels: huge, ..good.clone() },
        Conv2d { out_channels: 0, ..good.clone() },
        Conv2d { out_channels: huge, ..good.clone() },
        Conv2d { kernel: [0, 3], ..good.clone() },
        Conv2d { kernel: [3, 9], ..good.clone() },
        Conv2d { kernel: [huge, huge], ..good.clone() },
        Conv2d { stride: [0, 1], ..good.clone() },
        Conv2d { stride: [1, huge], ..good.clone() },
        Conv2d { dilation: [1, 0], ..good.clone() },
        Conv2d { dilation: [4, 1], ..good.clone() },
        Conv2d { dilation: [huge, huge], ..good.clone() },
        Conv2d { padding: [huge; 4], ..good.clone() },
        Conv2d { padding: [1 << 60; 4], ..good.clone() },
        Conv2d { padding: [1 << 20; 4], stride: [1 << 20; 2], ..good.clone() },
    ];
    for op in cases {
        assert!(op.infer(&[input]).is_err(), "{op:?}");
        assert_eq!(op.macs(&[input]), 0, "{op:?}");
        let _ = (op.params(), op.buffers(), op.saved_len(&[input]));
    }
    assert!(matches!(good.infer(&[]), Err(ShapeError::Inputs { .. })));
    assert!(matches!(good.infer(&[input, input]), Err(ShapeError::Inputs { .. })));
    assert!(matches!(good.infer(&[Shape::from([4, 8])]), Err(ShapeError::Rank { .. })));
    assert!(matches!(good.infer(&[Shape::from([1, 3, 8, 8])]), Err(ShapeError::Channels { .. })));
    assert!(matches!(good.infer(&[Shape::from([1, 4, 2, 8])]), Err(ShapeError::Window { .. })));
    assert!(good.clone().padding(2).infer(&[Shape::from([1, 4, 0, 8])]).is_err());
}
