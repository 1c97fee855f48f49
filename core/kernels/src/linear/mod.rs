//! Fully connected layer.

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::gemm::{self, Matrix};
use crate::{Backward, Forward, Operator, ParamSpec, Precision, Reads, Scratch, Threads, check};

/// `y = x·Wᵀ + b` over the last axis.
///
/// Shapes: `x` `[…, in_features]`, `W` `[out_features, in_features]`, `b` `[out_features]` → `[…, out_features]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linear {
    /// Length of the input's last axis.
    pub in_features: usize,
    /// Length of the output's last axis.
    pub out_features: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// How this executor computes it: no part of the model.
    #[serde(skip)]
    pub precision: Precision,
}

impl Operator for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let input = check::one("linear", inputs)?;
        Shape::try_new(&[self.out_features, self.in_features])?;
        match *input.dims() {
            [ref axes @ .., last] if !axes.is_empty() && last == self.in_features => {
                Shape::try_new(&[axes, &[self.out_features]].concat())
            }
            [_, .., found] => Err(ShapeError::Channels { what: "linear", expected: self.in_features, found }),
            _ => Err(ShapeError::Rank { what: "linear", expected: 2, found: input }),
        }
    }

    fn params(&self) -> Vec<ParamSpec> {
        let weight = check::param("weight", &[self.out_features, self.in_features]);
        let bias = self.bias.then(|| check::param("bias", &[self.out_features]));
        std::iter::once(weight).chain(bias).collect()
    }

    fn macs(&self, inputs: &[Shape]) -> u64 {
        let elements = inputs.first().map_or(0, |x| x.len() as u64);
        elements.saturating_mul(self.out_features as u64)
    }

    fn backward_reads(&self) -> Reads {
        Reads::INPUTS
    }

    fn scratch(&self, inputs: &[Shape], _threads: usize) -> Scratch {
        let (input, output) = (self.in_features, self.out_features);
        let rows = inputs[0].len().checked_div(input).unwrap_or(0);
        let scratch = match self.precision {
            Precision::F32 => gemm::scratch,
            Precision::Bf16 => gemm::bf16::scratch,
        };
        let forward = scratch([rows, input, output]);
        let backward_input = scratch([rows, output, input]);
        let backward_weight = scratch([output, rows, input]);
        forward.or(backward_input).or(backward_weight)
    }

    fn forward(&self, pass: Forward<'_>) {
        let (x, weight) = self.operands(pass.inputs[0].data, pass.params[0].data());
        let bias = pass.params.get(1).map_or(&[][..], |b| b.data());
        if !bias.is_empty() {
            pass.output.data.chunks_mut(bias.len()).for_each(|row| row.copy_from_slice(bias));
        }
        let keep = if self.bias { 1.0 } else { 0.0 };
        self.multiply(pass.threads, x, weight.transposed(), keep, pass.output.data);
    }

    fn backward(&self, pass: Backward<'_>) {
        let (x, weight) = self.operands(pass.inputs[0].data, pass.params[0].data());
        let dy = pass.grad_output.data;
        let dy_matrix = Matrix::new(dy, rows(dy, self.out_features), self.out_features);
        if let Some(grad) = &mut pass.grad_inputs[0] {
            let keep = if grad.accumulate { 1.0 } else { 0.0 };
            self.multiply(pass.threads, dy_matrix, weight, keep, grad.data);
        }
        if let [dw, db @ ..] = pass.grad_params {
            if !dw.data().is_empty() {
                self.multiply(pass.threads, dy_matrix.transposed(), x, 0.0, dw.data_mut());
            }
            db.iter_mut().for_each(|db| column_sums(dy, db.data_mut()));
        }
    }
}

impl Linear {
    /// A layer without bias.
    pub const fn new(in_features: usize, out_features: usize) -> Self {
        Linear { in_features, out_features, bias: false, precision: Precision::F32 }
    }

    /// With or without bias.
    pub const fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// How products are rounded.
    pub const fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// `c = a · b + keep · c`.
    fn multiply(&self, threads: &Threads, a: Matrix<'_>, b: Matrix<'_>, keep: f32, c: &mut [f32]) {
        match self.precision {
            Precision::F32 => gemm::multiply(threads, 1.0, a, b, keep, c),
            Precision::Bf16 => gemm::bf16::multiply(threads, a, b, keep, c),
        }
    }

    /// The input as `[rows, in_features]`, the weight as `[out_features, in_features]`.
    fn operands<'a>(&self, x: &'a [f32], weight: &'a [f32]) -> (Matrix<'a>, Matrix<'a>) {
        let x = Matrix::new(x, rows(x, self.in_features), self.in_features);
        (x, Matrix::new(weight, self.out_features, self.in_features))
    }
}

/// Rows of a matrix of `len` columns; none where there are no columns.
fn rows(data: &[f32], len: usize) -> usize {
    data.len().checked_div(len).unwrap_or(0)
}

/// `sums[j] = Σ_i m[i, j]`.
fn column_sums(m: &[f32], sums: &mut [f32]) {
    let columns = sums.len();
    for (j, sum) in sums.iter_mut().enumerate() {
        *sum = m.iter().skip(j).step_by(columns).map(|&x| f64::from(x)).sum::<f64>() as f32;
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;
