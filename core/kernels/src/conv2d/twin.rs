//! The convolution as nested loops in `f64`, straight from its definition.

use tensor::Tensor;

use super::Conv2d;
use crate::Operator;

/// Calls `job(y, x, w)` with the indices of every product that is not with padding.
fn for_each_product(op: &Conv2d, x: &[usize], y: &[usize], mut job: impl FnMut(usize, usize, usize)) {
    let (inputs, outputs) = (op.in_channels / op.groups, op.out_channels / op.groups);
    let [kh, kw] = op.kernel;
    for yi in 0..y.iter().product() {
        let (ox, oy, k, n) =
            (yi % y[3], yi / y[3] % y[2], yi / (y[3] * y[2]) % y[1], yi / (y[3] * y[2] * y[1]));
        for wi in 0..inputs * kh * kw {
            let (j, i, c) = (wi % kw, wi / kw % kh, wi / (kh * kw) + k / outputs * inputs);
            let row = (oy * op.stride[0] + i * op.dilation[0]).wrapping_sub(op.padding[0]);
            let column = (ox * op.stride[1] + j * op.dilation[1]).wrapping_sub(op.padding[1]);
            if row < x[2] && column < x[3] {
                job(yi, ((n * x[1] + c) * x[2] + row) * x[3] + column, k * inputs * kh * kw + wi);
            }
        }
    }
}

fn output(op: &Conv2d, x: &Tensor) -> Vec<usize> {
    op.infer(&[x.shape()]).unwrap().dims().to_vec()
}

/// `f64` output of `f64` values; `shape` is the input's.
pub(crate) fn forward(op: &Conv2d, shape: &Tensor, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let dims = output(op, shape);
    let plane = dims[2] * dims[3];
    let mut y: Vec<f64> = (0..dims.iter().product())
        .map(|i: usize| bias.get(i / plane % dims[1]).copied().unwrap_or(0.0))
        .collect();
    for_each_product(op, shape.shape().dims(), &dims, |yi, xi, wi| y[yi] += x[xi] * weight[wi]);
    y
}

/// Gradients of input and weight.
pub(crate) fn backward(op: &Conv2d, x: &Tensor, weight: &Tensor, dy: &Tensor) -> [Vec<f32>; 2] {
    let mut dx = vec![0.0f64; x.shape().len()];
    let mut dw = vec![0.0f64; weight.shape().len()];
    for_each_product(op, x.shape().dims(), dy.shape().dims(), |yi, xi, wi| {
        let dy = f64::from(dy.data()[yi]);
        dx[xi] += dy * f64::from(weight.data()[wi]);
        dw[wi] += dy * f64::from(x.data()[xi]);
    });
    [dx, dw].map(|g| g.into_iter().map(|g| g as f32).collect())
}
