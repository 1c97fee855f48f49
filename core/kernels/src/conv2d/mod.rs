//! 2-D convolution (cross-correlation).

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::{Backward, Forward, Operator, ParamSpec};

/// 2-D convolution: any kernel size, stride, zero padding, dilation and groups, with or without bias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv2d {
    pub in_channels: usize,
    pub out_channels: usize,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Zeros before and after each axis: top, left, bottom, right.
    pub padding: [usize; 4],
    pub dilation: [usize; 2],
    pub groups: usize,
    pub bias: bool,
}

impl Conv2d {
    /// A square `kernel` with stride 1, no padding, dilation 1, one group and no bias.
    pub fn new(in_channels: usize, out_channels: usize, kernel: usize) -> Self {
        Conv2d {
            in_channels,
            out_channels,
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: [0; 4],
            dilation: [1; 2],
            groups: 1,
            bias: false,
        }
    }

    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = [stride; 2];
        self
    }

    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = [padding; 4];
        self
    }

    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    pub fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }
}

impl Operator for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        todo!()
    }

    fn params(&self) -> Vec<ParamSpec> {
        let [kh, kw] = self.kernel;
        let weight = ParamSpec::new("weight", [self.out_channels, self.in_channels / self.groups, kh, kw]);
        let bias = self.bias.then(|| ParamSpec::new("bias", [self.out_channels]));
        std::iter::once(weight).chain(bias).collect()
    }

    fn forward(&self, _pass: Forward<'_>) {
        todo!()
    }

    fn backward(&self, _pass: Backward<'_>) {
        todo!()
    }
}
