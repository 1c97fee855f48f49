use tensor::compare::{Tolerance, assert_close};
use tensor::{ShapeError, Tensor};

use super::ConvNormRelu;
use crate::activation::Relu;
use crate::add::Add;
use crate::batch_norm::BatchNorm2d;
use crate::conv2d::Conv2d;
use crate::testing::{Node, random};
use crate::{Forward, Mode, Operator, Precision, SavedMut, Threads};

const DIMS: [usize; 4] = [3, 4, 9, 11];

/// Every part present or absent, of a convolution of each way, with its images.
fn variants() -> Vec<(ConvNormRelu, [usize; 4])> {
    let convs = [
        (Conv2d::new(4, 6, 3).padding(1).stride(2), [3, 4, 9, 11]),
        (Conv2d::new(20, 70, 3).padding(1), [5, 20, 4, 4]),
        (Conv2d::new(17, 33, 3).padding(1), [3, 17, 18, 9]),
        (Conv2d::new(20, 40, 3).padding(1).stride(2), [3, 20, 8, 8]),
        (Conv2d::new(16, 40, 1), [3, 16, 8, 8]),
        (Conv2d::new(9, 8, 1), [7, 9, 4, 4]),
        (Conv2d::new(9, 70, 1).stride(2), [3, 9, 7, 5]),
        (Conv2d::new(6, 12, 3).padding(1).groups(6), [3, 6, 8, 8]),
        (Conv2d::new(6, 4, 1).groups(2), [3, 6, 8, 8]),
        (Conv2d::new(17, 33, 3).padding(1).precision(Precision::Bf16), [3, 17, 18, 9]),
        (Conv2d::new(9, 8, 1).precision(Precision::Bf16), [7, 9, 4, 4]),
    ];
    let all = |(conv, dims): (Conv2d, [usize; 4])| {
        let bits = (0..16).map(|bits| [1, 2, 4, 8].map(|bit| bits & bit != 0));
        bits.map(move |[bias, norm, add, relu]| {
            let norm = norm.then(|| BatchNorm2d::new(conv.out_channels));
            (ConvNormRelu { conv: conv.clone().bias(bias), norm, add, relu }, dims)
        })
    };
    convs.into_iter().flat_map(all).collect()
}

fn eval<'a>(
    op: &'a dyn Operator,
    inputs: Vec<Tensor>,
    params: Vec<Tensor>,
    buffers: Vec<Tensor>,
) -> Node<'a> {
    let mut node = Node::new(op, inputs, params).mode(Mode::Eval);
    node.buffers = buffers;
    node
}

/// The parts one after the other, each tested against its twin.
#[test]
fn equals_its_parts() {
    for (op, dims) in variants() {
        let (k, output) = (op.conv.out_channels, op.conv.infer(&[dims.into()]).expect("it fits"));
        let (x, skip) = (random(&dims, 1), random(output.dims(), 2));
        let params: Vec<_> =
            op.params().iter().enumerate().map(|(i, p)| random(p.shape.dims(), 10 + i as u64)).collect();
        let statistics = vec![random(&[k], 4), Tensor::from_fn([k], |i| 0.5 + i as f32)];
        let buffers = if op.norm.is_some() { statistics } else { Vec::new() };
        let (own, norm) = params.split_at(op.conv.params().len());
        let mut expected = eval(&op.conv, vec![x.clone()], own.to_vec(), Vec::new()).forward().0;
        if let Some(part) = &op.norm {
            expected = eval(part, vec![expected], norm.to_vec(), buffers.clone()).forward().0;
        }
        if op.add {
            expected = Node::new(&Add, vec![expected, skip.clone()], Vec::new()).forward().0;
        }
        if op.relu {
            expected = Node::new(&Relu, vec![expected], Vec::new()).forward().0;
        }
        let inputs = if op.add { vec![x, skip] } else { vec![x] };
        for threads in [1, 2] {
            let mut node = eval(&op, inputs.clone(), params.clone(), buffers.clone()).threads(threads);
            assert_eq!(node.forward().0, expected, "{} of {:?}", op.name(), op.conv);
        }
    }
}

#[test]
#[should_panic(expected = "evaluation mode")]
fn training_is_refused() {
    let op = ConvNormRelu { conv: Conv2d::new(4, 6, 3), norm: None, add: false, relu: true };
    Node::random(&op, vec![random(&DIMS, 1)], 2).forward();
}

#[test]
fn refuses_what_does_not_fit() {
    let op =
        |add| ConvNormRelu { conv: Conv2d::new(4, 6, 3), norm: Some(BatchNorm2d::new(6)), add, relu: true };
    let (x, y, other) = (DIMS.into(), [3, 6, 7, 9].into(), [3, 6, 7, 8].into());
    assert_eq!((op(true).infer(&[x, y]), op(false).infer(&[x])), (Ok(y), Ok(y)));
    assert!(matches!(op(true).infer(&[x, other]), Err(ShapeError::Mismatch { .. })));
    assert!(matches!(op(true).infer(&[x]), Err(ShapeError::Inputs { .. })));
    assert!(matches!(op(false).infer(&[x, y]), Err(ShapeError::Inputs { .. })));
    let norm = Some(BatchNorm2d::new(5));
    let op = ConvNormRelu { conv: Conv2d::new(4, 6, 3), norm, add: false, relu: true };
    assert!(matches!(op.infer(&[x]), Err(ShapeError::Channels { .. })));
}

/// `op(x + x')` from the products of `x'` and what is computed onto them.
#[test]
fn products_from_elsewhere_are_added_before_what_follows() {
    for (op, dims) in variants() {
        let (k, output) = (op.conv.out_channels, op.conv.infer(&[dims.into()]).expect("it fits"));
        let (x, elsewhere, skip) = (random(&dims, 1), random(&dims, 3), random(output.dims(), 2));
        let params: Vec<_> =
            op.params().iter().enumerate().map(|(i, p)| random(p.shape.dims(), 10 + i as u64)).collect();
        let statistics = vec![random(&[k], 4), Tensor::from_fn([k], |i| 0.5 + i as f32)];
        let mut buffers = if op.norm.is_some() { statistics } else { Vec::new() };
        let both = Tensor::from_fn(dims, |i| x.data()[i] + elsewhere.data()[i]);
        let with_skip = |x: Tensor| if op.add { vec![x, skip.clone()] } else { vec![x] };
        let expected = eval(&op, with_skip(both), params.clone(), buffers.clone()).forward().0;
        let plain = op.conv.clone().bias(false);
        let mut y = eval(&plain, vec![elsewhere], vec![params[0].clone()], Vec::new()).forward().0;
        let inputs = with_skip(x);
        let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
        op.forward_onto(Forward {
            inputs: &views,
            params: &params,
            buffers: &mut buffers,
            output: y.view_mut(),
            saved: SavedMut { floats: &mut [], indices: &mut [] },
            mode: Mode::Eval,
            threads: &Threads::new(1),
        });
        let relative = if op.conv.precision == Precision::Bf16 { 2e-2 } else { 1e-5 };
        let tolerance = Tolerance { relative, absolute: relative };
        assert_close(&format!("{} of {:?}", op.name(), op.conv), y.data(), expected.data(), tolerance);
    }
}
