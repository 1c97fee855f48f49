//! 2-D convolution (cross-correlation).
//!
//! Six ways, chosen by shape and precision (`plan`): a product of matrices whose left operand, the columns, is made panel by
//! panel on the fly (`columns`), or for a 1×1 kernel is the images themselves (`pointwise`); a product per tap over
//! channels-last copies of the images (`direct`); Winograd's minimal filtering (`winograd`); loops over planes for
//! depthwise convolutions (`depthwise`); columns of operands rounded to bf16 (`bf16`). No result depends on the number of
//! threads.

mod backward_input;
mod backward_weight;
mod bf16;
mod blocks;
mod columns;
mod depthwise;
mod depthwise_rows;
mod direct;
mod forward;
mod geometry;
mod pieces;
mod plan;
mod pointwise;
mod scratch;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod twin;
mod winograd;

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

pub(crate) use self::forward::Finish;
use self::forward::{Ends, Start};
use self::geometry::Geometry;
#[doc(hidden)]
pub use self::plan::Way;
use self::winograd::{F2, F4, Kernels};
use crate::{Backward, Forward, Operator, ParamSpec, Precision, Reads, Scratch, Threads, check, sums};

/// 2-D convolution: any kernel size, stride, zero padding, dilation and groups, with or without bias.
///
/// Shapes: `x` `[N,C,H,W]`, `weight` `[K,C/groups,KH,KW]`, `bias` `[K]` → `[N,K,H',W']`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv2d {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step between windows.
    pub stride: [usize; 2],
    /// Zeros before and after each axis: top, left, bottom, right.
    pub padding: [usize; 4],
    /// Vertical and horizontal step inside a window.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// How this executor computes it: no part of the model.
    #[serde(skip)]
    pub precision: Precision,
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
            precision: Precision::F32,
        }
    }

    /// The same stride along both axes.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = [stride; 2];
        self
    }

    /// The same padding on all four sides.
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = [padding; 4];
        self
    }

    /// This many groups.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// With or without bias.
    pub fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// How products are rounded.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Time of a forward pass, in multiply-adds of a product whose operands are in the cache: an estimate, to compare
    /// convolutions with each other.
    pub fn cost(&self, input: Shape) -> f64 {
        let geometry = self.geometry(input);
        Way::of(&geometry, self.precision).forward_cost(&geometry, input.dims()[0])
    }

    fn weight_dims(&self) -> [usize; 4] {
        let per_group = self.in_channels.checked_div(self.groups).unwrap_or(0);
        [self.out_channels, per_group, self.kernel[0], self.kernel[1]]
    }

    fn geometry(&self, input: Shape) -> Geometry {
        Geometry::new(self, input).expect("shapes were checked with `infer`")
    }
}

impl Operator for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let input = check::one("conv2d", inputs)?;
        Geometry::new(self, input)?.output(input.dims()[0])
    }

    fn params(&self) -> Vec<ParamSpec> {
        let weight = check::param("weight", &self.weight_dims());
        let bias = self.bias.then(|| check::param("bias", &[self.out_channels]));
        std::iter::once(weight).chain(bias).collect()
    }

    fn macs(&self, inputs: &[Shape]) -> u64 {
        // Only after `infer` are the attributes known to be small.
        let Ok(output) = self.infer(inputs) else { return 0 };
        let per_output: usize = self.weight_dims()[1..].iter().product();
        (output.len() as u64).saturating_mul(per_output as u64)
    }

    fn backward_reads(&self) -> Reads {
        Reads::INPUTS
    }

    fn scratch(&self, inputs: &[Shape], threads: usize) -> Scratch {
        scratch::most(&self.geometry(inputs[0]), inputs[0].dims()[0], self.precision, threads)
    }

    fn forward(&self, pass: Forward<'_>) {
        self.forward_with(None, pass, Finish::default());
    }

    fn backward(&self, pass: Backward<'_>) {
        self.backward_by(None, pass);
    }
}

impl Conv2d {
    /// Forward pass with what follows it, by a given way or by the one for the shape.
    pub(crate) fn forward_with(&self, way: Option<Way>, pass: Forward<'_>, finish: Finish<'_>) {
        let bias = self.bias.then(|| pass.params[1].data());
        let start = bias.map_or(Start::Zero, Start::Bias);
        self.forward_between(way, pass, Ends { start, finish });
    }

    /// Forward pass whose products are added to what the output holds, without bias, with what follows them.
    pub(crate) fn forward_onto(&self, pass: Forward<'_>, finish: Finish<'_>) {
        self.forward_between(None, pass, Ends { start: Start::Keep, finish });
    }

    fn forward_between(&self, way: Option<Way>, pass: Forward<'_>, ends: Ends<'_>) {
        let (x, geometry) = (pass.inputs[0].data, self.geometry(pass.inputs[0].shape));
        let (weight, threads, y) = (pass.params[0].data(), pass.threads, pass.output.data);
        let kernels = Kernels { data: weight, channels: geometry.inputs, turned: false };
        match way.unwrap_or_else(|| Way::of(&geometry, self.precision)) {
            Way::Depthwise => depthwise::forward(threads, &geometry, x, weight, ends, y),
            Way::Columns => forward::forward(threads, &geometry, x, weight, ends, y),
            Way::Pointwise => pointwise::forward(threads, &geometry, x, weight, ends, y),
            Way::Bf16 => bf16::forward(threads, &geometry, x, weight, ends, y),
            Way::Direct => direct::forward(threads, &geometry, x, weight, ends, y),
            Way::Winograd2 => winograd::convolve(threads, &geometry, x, kernels, F2, ends, y),
            Way::Winograd4 => winograd::convolve(threads, &geometry, x, kernels, F4, ends, y),
        }
    }

    /// Backward pass, by a given way or by the one for the shape.
    fn backward_by(&self, way: Option<Way>, pass: Backward<'_>) {
        let (x, geometry) = (pass.inputs[0].data, self.geometry(pass.inputs[0].shape));
        let (weight, dy, threads) = (pass.params[0].data(), pass.grad_output.data, pass.threads);
        let way = way.unwrap_or_else(|| Way::of(&geometry, self.precision));
        if let Some(dx) = &mut pass.grad_inputs[0] {
            match way {
                Way::Depthwise => depthwise::backward_input(threads, &geometry, dy, weight, dx),
                Way::Columns => backward_input::backward_input(threads, &geometry, dy, weight, dx),
                Way::Pointwise => pointwise::backward_input(threads, &geometry, dy, weight, dx),
                Way::Bf16 => bf16::backward_input(threads, &geometry, dy, weight, dx),
                Way::Direct => direct::backward_input(threads, &geometry, dy, weight, dx),
                Way::Winograd2 => winograd::backward_input(threads, &geometry, dy, weight, F2, dx),
                Way::Winograd4 => winograd::backward_input(threads, &geometry, dy, weight, F4, dx),
            }
        }
        let [dw, db @ ..] = pass.grad_params else { return };
        if !dw.data().is_empty() {
            let dw = dw.data_mut();
            match way {
                Way::Depthwise => depthwise::backward_weight(threads, &geometry, x, dy, dw),
                Way::Columns => backward_weight::backward_weight(threads, &geometry, x, dy, dw),
                Way::Pointwise => pointwise::backward_weight(threads, &geometry, x, dy, dw),
                Way::Bf16 => bf16::backward_weight(threads, &geometry, x, dy, dw),
                Way::Direct => direct::backward_weight(threads, &geometry, x, dy, dw),
                Way::Winograd2 => winograd::backward_weight(threads, &geometry, x, dy, F2, dw),
                Way::Winograd4 => winograd::backward_weight(threads, &geometry, x, dy, F4, dw),
            }
        }
        if let [db] = db {
            backward_bias(threads, dy, geometry.output_plane(), db.data_mut());
        }
    }
}

/// A convolution computed by a given way, for tests and measurements.
#[doc(hidden)]
pub struct By(pub Conv2d, pub Way);

impl By {
    /// `None` where that way does not serve the shape.
    pub fn new(conv: Conv2d, way: Way, input: Shape) -> Option<Self> {
        way.serves(&conv.geometry(input)).then_some(By(conv, way))
    }
}

impl Operator for By {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        self.0.infer(inputs)
    }

    fn params(&self) -> Vec<ParamSpec> {
        self.0.params()
    }

    fn macs(&self, inputs: &[Shape]) -> u64 {
        self.0.macs(inputs)
    }

    fn backward_reads(&self) -> Reads {
        Reads::INPUTS
    }

    fn scratch(&self, inputs: &[Shape], threads: usize) -> Scratch {
        scratch::by(self.1, &self.0.geometry(inputs[0]), inputs[0].dims()[0], threads)
    }

    fn forward(&self, pass: Forward<'_>) {
        self.0.forward_with(Some(self.1), pass, Finish::default());
    }

    fn backward(&self, pass: Backward<'_>) {
        self.0.backward_by(Some(self.1), pass);
    }
}

/// Gradient of the bias: the sum of `dy` over each channel.
fn backward_bias(threads: &Threads, dy: &[f32], plane: usize, db: &mut [f32]) {
    let channels = db.len();
    threads.for_each_chunk(db, 1, |c, db| {
        let blocks = sums::channel(dy.len(), plane, channels, c);
        let sum: f64 = blocks.map(|b| sums::block_sum(&dy[b.clone()], &dy[b], |dy, _| dy)).sum();
        db[0] = sum as f32;
    });
}
