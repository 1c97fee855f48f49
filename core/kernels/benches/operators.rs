//! Throughput of every costly operator on one thread: `cargo bench -p asymflow-kernels [-- FILTER]`.
//!
//! Convolutions are in GFLOP/s (two per multiply-add), forward + backward counted as three forward passes, beside the
//! plain way (whole columns of one image, then one product) measured in the same run; the rest is in GB/s of tensors
//! read and written. `-- 32,256,32,8,3,1` (batch, input and output channels, side, kernel, stride) prints every way of one
//! convolution. Each figure is the best of several runs, in processor time, which a busy machine disturbs less.

// The ban on clock and environment is for code of the enclave.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::hint::black_box;
use std::time::Duration;

use asymflow_kernels::activation::Relu;
use asymflow_kernels::add::Add;
use asymflow_kernels::add_relu::AddRelu;
use asymflow_kernels::batch_norm::BatchNorm2d;
use asymflow_kernels::compact::Format;
use asymflow_kernels::conv2d::{By, Conv2d, Way};
use asymflow_kernels::dropout::Dropout;
use asymflow_kernels::gemm::{self, Matrix};
use asymflow_kernels::group_norm::GroupNorm;
use asymflow_kernels::group_norm_add_relu::GroupNormAddRelu;
use asymflow_kernels::linear::Linear;
use asymflow_kernels::norm_add_relu::NormAddRelu;
use asymflow_kernels::pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};
use asymflow_kernels::{Backward, Forward, GradInput, Mode, Operator, Precision, Saved, SavedMut, Threads};
use tensor::{Aligned, Shape, Tensor, View, ViewMut};

const BATCH: usize = 32;
const MODE: Mode = Mode::Train { seed: 1 };

/// Input channels, output channels, height and width, kernel, groups, stride.
const CONVOLUTIONS: [[usize; 6]; 14] = [
    [64, 64, 32, 3, 1, 1],
    [128, 128, 16, 3, 1, 1],
    [256, 256, 8, 3, 1, 1],
    [512, 512, 4, 3, 1, 1],
    [64, 256, 32, 1, 1, 1],
    [64, 128, 32, 3, 1, 2],
    [3, 64, 32, 3, 1, 1],
    [64, 64, 28, 3, 1, 1],
    [64, 64, 32, 3, 64, 1],
    [3, 64, 112, 7, 1, 2],
    [64, 128, 32, 1, 1, 2],
    [16, 64, 16, 1, 1, 1],
    [32, 256, 8, 1, 1, 1],
    [64, 512, 4, 1, 1, 1],
];

fn main() {
    // Cargo passes `--bench`; anything else is a filter.
    let given: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if let Some(sizes) = given.first().and_then(|given| sizes(given)) {
        return one(sizes, given.get(1), given.get(2));
    }
    let filter = given.first().cloned().unwrap_or_default();
    println!("instructions: {}, threads: 1, batch: {BATCH}", gemm::instruction_set());
    if "product".contains(&filter) {
        products();
    }
    if "conv2d".contains(&filter) {
        convolutions();
    }
    if "bf16".contains(&filter) {
        bf16();
    }
    if "strided".contains(&filter) {
        strided();
    }
    if "small".contains(&filter) {
        small_model();
    }
    if "ways".contains(&filter) {
        ways();
    }
    if "depthwise".contains(&filter) {
        depthwise();
    }
    if "memory".contains(&filter) {
        memory_bound();
    }
    if "compact".contains(&filter) {
        compact();
    }
}

/// Batch, input channels, output channels, height and width, kernel, stride, as in `32,256,32,8,3,1`.
fn sizes(given: &str) -> Option<[usize; 6]> {
    let sizes: Result<Vec<usize>, _> = given.split(',').map(str::parse).collect();
    sizes.ok()?.try_into().ok()
}

/// Every way of one convolution, in microseconds; with a way and a pass, that for ever, for a profiler.
fn one([batch, c, k, h, kernel, stride]: [usize; 6], only: Option<&String>, pass: Option<&String>) {
    let shape = [batch, c, h, h];
    for way in Way::ALL.into_iter().filter(|way| only.is_none_or(|only| *only == format!("{way:?}"))) {
        let op = Conv2d::new(c, k, kernel).padding(kernel / 2).stride(stride);
        let Some(op) = By::new(op, way, shape.into()) else { continue };
        let Some(pass) = pass else {
            microseconds(&format!("{way:?}"), 1, &op, &shape);
            continue;
        };
        let mut case = Case::new(&op, &shape);
        loop {
            match pass.as_str() {
                "forward" => case.forward(),
                "dx" => case.backward(true, false),
                _ => case.backward(false, true),
            }
        }
    }
}

fn products() {
    println!("\n{:<28}{:>10}{:>10}", "product m, n, k", "GFLOP/s", "b^T");
    for [m, n, k] in [[512, 512, 512], [64, 1024, 576], [32, 4096, 4096], [1, 1000, 512]] {
        let threads = Threads::new(1);
        let (a, b) = (random(&[m, k]), random(&[k, n]));
        let mut c = vec![0.0; m * n];
        let a = Matrix::new(a.data(), m, k);
        // As it lies in memory, and as the transposed weight of a linear layer.
        let rates = [Matrix::new(b.data(), k, n), Matrix::new(b.data(), n, k).transposed()].map(|b| {
            rate(2 * m * n * k, best(|| gemm::multiply(&threads, 1.0, a, b, 0.0, black_box(&mut c))))
        });
        println!("{:<28}{:>10.1}{:>10.1}", format!("{m}, {n}, {k}"), rates[0], rates[1]);
    }
}

fn convolutions() {
    println!(
        "\n{:<28}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>8}{:>8}",
        "conv2d C, K, H, k, g, s", "forward", "dx", "dw", "plain", "fwd+bwd", "plain", "ratio", "ratio"
    );
    for shape in CONVOLUTIONS {
        let [c, k, h, kernel, groups, stride] = shape;
        let op = Conv2d::new(c, k, kernel).padding(kernel / 2).groups(groups).stride(stride);
        let mut case = Case::new(&op, &[BATCH, c, h, h]);
        let flops = 2 * op.macs(&[case.shapes[0]]) as usize;
        let forward = rate(flops, best(|| case.forward()));
        let dx = rate(flops, best(|| case.backward(true, false)));
        let dw = rate(flops, best(|| case.backward(false, true)));
        let both = rate(3 * flops, best(|| (case.forward(), case.backward(true, true))));
        let mut plain = Plain::new(&op, random(&[BATCH, c, h, h]), case.params[0].clone());
        let (plain_forward, plain_both) = if groups == 1 {
            (
                rate(flops, best(|| plain.forward())),
                rate(3 * flops, best(|| (plain.forward(), plain.backward()))),
            )
        } else {
            (f64::NAN, f64::NAN)
        };
        println!(
            "{:<28}{forward:>10.1}{dx:>10.1}{dw:>10.1}{plain_forward:>10.1}{both:>10.1}{plain_both:>10.1}{:>8.2}{:>8.2}",
            format!("{c}, {k}, {h}, {kernel}, {groups}, {stride}"),
            forward / plain_forward,
            both / plain_both,
        );
    }
}

/// Convolutions and linear layers in both precisions, in one run.
fn bf16() {
    println!("\nbf16 instructions: {}", gemm::bf16_instruction_set());
    println!("{:<28}{:>24}{:>24}{:>24}{:>24}", "GFLOP/s: f32, bf16, ratio", "forward", "dx", "dw", "fwd+bwd");
    let mut ratios = Vec::new();
    for [c, k, h, kernel, groups, stride] in CONVOLUTIONS.into_iter().filter(|shape| shape[4] == 1) {
        let op = Conv2d::new(c, k, kernel).padding(kernel / 2).groups(groups).stride(stride);
        let name = format!("{c}, {k}, {h}, {kernel}, {groups}, {stride}");
        let rounded = op.clone().precision(Precision::Bf16);
        ratios.push(precisions(&name, [&op, &rounded], &[BATCH, c, h, h]));
    }
    println!("{:<28}{:>96.2}", "geometric mean", geometric_mean(&ratios));
    for [input, output] in [[512, 1000], [4096, 4096]] {
        let op = Linear::new(input, output);
        let rounded = op.clone().precision(Precision::Bf16);
        precisions(&format!("linear {input}, {output}"), [&op, &rounded], &[BATCH, input]);
    }
}

/// One line of [`bf16`]; the ratio of all three passes.
fn precisions(name: &str, both: [&dyn Operator; 2], shape: &[usize]) -> f64 {
    let rates = both.map(|op| {
        let mut case = Case::new(op, shape);
        let flops = 2 * op.macs(&[case.shapes[0]]) as usize;
        [
            rate(flops, best(|| case.forward())),
            rate(flops, best(|| case.backward(true, false))),
            rate(flops, best(|| case.backward(false, true))),
            rate(3 * flops, best(|| (case.forward(), case.backward(true, true)))),
        ]
    });
    print!("{name:<28}");
    for (single, half) in rates[0].into_iter().zip(rates[1]) {
        print!("{single:>8.1}{half:>8.1}{:>8.2}", half / single);
    }
    println!();
    rates[1][3] / rates[0][3]
}

fn geometric_mean(numbers: &[f64]) -> f64 {
    (numbers.iter().map(|x| x.ln()).sum::<f64>() / numbers.len() as f64).exp()
}

/// The operators of a small main model (ResNet-18 on CIFAR, rank 8), in microseconds: their sum is its training step.
fn small_model() {
    println!(
        "\n{:<28}{:>6}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "C, K, H, k, s", "times", "forward", "dx", "dw", "all", "GFLOP/s"
    );
    let convolutions = [
        (4, [64, 16, 16, 3, 1]),
        (4, [16, 64, 16, 1, 1]),
        (1, [64, 32, 16, 3, 2]),
        (4, [32, 256, 8, 1, 1]),
        (3, [256, 32, 8, 3, 1]),
        (1, [64, 256, 16, 1, 2]),
        (1, [256, 64, 8, 3, 2]),
        (4, [64, 512, 4, 1, 1]),
        (3, [512, 64, 4, 3, 1]),
        (1, [256, 512, 8, 1, 2]),
    ];
    let mut total = 0.0;
    for (times, [c, k, h, kernel, stride]) in convolutions {
        let op = Conv2d::new(c, k, kernel).padding(kernel / 2).stride(stride);
        let name = format!("{c}, {k}, {h}, {kernel}, {stride}");
        total += microseconds(&name, times, &op, &[BATCH, c, h, h]);
    }
    for (times, [c, h]) in [(4, [64, 16]), (5, [256, 8]), (5, [512, 4])] {
        let shape = [BATCH, c, h, h];
        total += microseconds(&format!("batch_norm2d {c}, {h}"), times, &BatchNorm2d::new(c), &shape);
        total += microseconds(&format!("relu {c}, {h}"), times - 1, &Relu, &shape);
    }
    total += microseconds(
        "adaptive_avg_pool2d 512, 4",
        1,
        &AdaptiveAvgPool2d { output: [1; 2] },
        &[BATCH, 512, 4, 4],
    );
    println!("{total:.0} microseconds in all");
}

fn microseconds(name: &str, times: usize, op: &dyn Operator, shape: &[usize]) -> f64 {
    let mut case = Case::new(op, shape);
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let forward = micros(best(|| case.forward()));
    let dx = micros(best(|| case.backward(true, false)));
    let dw = micros(best(|| case.backward(false, true)));
    let both = micros(best(|| (case.forward(), case.backward(true, true))));
    let flops = 6.0 * op.macs(&[case.shapes[0]]) as f64;
    println!(
        "{name:<28}{times:>6}{forward:>10.0}{dx:>10.0}{dw:>10.0}{both:>10.0}{:>10.1}",
        flops / both / 1e3
    );
    times as f64 * both
}

/// Both ways of a convolution of stride 2, in microseconds.
fn strided() {
    println!(
        "\n{:<28}{:>6}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "C, K, H, k, s, way", "", "forward", "dx", "dw", "all", "GFLOP/s"
    );
    let shapes = [
        [16, 32, 32, 3],
        [64, 32, 16, 3],
        [256, 64, 8, 3],
        [64, 128, 32, 3],
        [128, 256, 16, 3],
        [256, 512, 8, 3],
        [64, 128, 32, 1],
        [128, 256, 16, 1],
        [256, 512, 8, 1],
    ];
    for [c, k, h, kernel] in shapes {
        for way in [Way::Columns, Way::Direct] {
            let (op, shape) = (Conv2d::new(c, k, kernel).padding(kernel / 2).stride(2), [BATCH, c, h, h]);
            let Some(op) = By::new(op, way, shape.into()) else { continue };
            microseconds(&format!("{c}, {k}, {h}, {kernel}, 2, {way:?}"), 1, &op, &shape);
        }
    }
}

/// Every way a 3×3 convolution can be computed, over channels and image sizes: what the rules of `conv2d::plan` rest on.
fn ways() {
    println!("\n{:<28}{:>9} GFLOP/s as if by products: forward, dx, dw", "batch, C, K, H", "way");
    for batch in [1, 8, 32] {
        for [c, k] in
            [[8, 8], [16, 16], [16, 64], [64, 16], [32, 32], [64, 64], [128, 128], [256, 256], [512, 512]]
        {
            for h in [2, 4, 7, 8, 14, 16, 28, 56] {
                if batch * c * k * h * h > 1 << 29 || batch * c * k * h * h < 1 << 16 {
                    continue;
                }
                for way in Way::ALL {
                    let shape = [batch, c, h, h];
                    let Some(op) = By::new(Conv2d::new(c, k, 3).padding(1), way, shape.into()) else {
                        continue;
                    };
                    let mut case = Case::new(&op, &shape);
                    let flops = 2 * op.macs(&[case.shapes[0]]) as usize;
                    let forward = rate(flops, best(|| case.forward()));
                    let dx = rate(flops, best(|| case.backward(true, false)));
                    let dw = rate(flops, best(|| case.backward(false, true)));
                    let name = format!("{batch}, {c}, {k}, {h}");
                    println!("{name:<28}{way:>9?}{forward:>10.1}{dx:>10.1}{dw:>10.1}");
                }
            }
        }
    }
}

fn depthwise() {
    println!("\n{:<28}{:>10}{:>10}{:>10}", "depthwise C, H, k, s", "forward", "dx", "dw");
    for [c, h, kernel, stride] in
        [[64, 32, 3, 1], [64, 32, 3, 2], [64, 32, 5, 1], [64, 32, 5, 2], [96, 14, 3, 1], [64, 112, 3, 1]]
    {
        let op = Conv2d::new(c, c, kernel).padding(kernel / 2).groups(c).stride(stride);
        let mut case = Case::new(&op, &[BATCH, c, h, h]);
        let flops = 2 * op.macs(&[case.shapes[0]]) as usize;
        let forward = rate(flops, best(|| case.forward()));
        let dx = rate(flops, best(|| case.backward(true, false)));
        let dw = rate(flops, best(|| case.backward(false, true)));
        println!("{:<28}{forward:>10.1}{dx:>10.1}{dw:>10.1}", format!("{c}, {h}, {kernel}, {stride}"));
    }
}

/// Formats of what crosses, beside a copy: GB/s of floats and bytes read and written, in the cache and in memory.
fn compact() {
    println!(
        "\n{:<28}{:>10}{:>10}{:>10}{:>10}",
        "compact [C, H], GB/s", "copy", "encode", "decode", "+= decode"
    );
    for ([channels, height], format) in
        [[64, 32], [64, 224]].into_iter().flat_map(|size| Format::ALL.map(|format| (size, format)))
    {
        let plane = height * height;
        let (from, mut to) = (aligned(&random(&[channels, plane])), Aligned::zeros(channels * plane));
        let mut bytes = vec![0; format.encoded_len(channels, plane)];
        let moved = 4 * from.len() + bytes.len();
        let copy = rate(8 * from.len(), best(|| black_box(&mut to).copy_from_slice(black_box(&from))));
        let encode = rate(moved, best(|| format.encode(black_box(&from), channels, black_box(&mut bytes))));
        let decode = rate(moved, best(|| format.decode(black_box(&bytes), channels, black_box(&mut to))));
        let added =
            rate(moved + 4 * to.len(), best(|| format.decode_add(&bytes, channels, black_box(&mut to))));
        let name = format!("{} {channels}, {height}", format.name());
        println!("{name:<28}{copy:>10.1}{encode:>10.1}{decode:>10.1}{added:>10.1}");
    }
}

fn memory_bound() {
    println!("\n{:<28}{:>10}{:>10}", "copy, GB/s read and written", "in L2", "in memory");
    let copy = |len: usize| {
        let (from, mut to) = (vec![1.0f32; len], vec![0.0f32; len]);
        rate(8 * len, best(|| black_box(&mut to).copy_from_slice(black_box(&from))))
    };
    println!("{:<28}{:>10.1}{:>10.1}", "", copy(1 << 17), copy(1 << 24));
    println!("\n{:<28}{:>10}{:>10}", "[32, 64, 32, 32]", "fwd GB/s", "bwd GB/s");
    let pool = |kernel, stride, padding| ([kernel; 2], [stride; 2], [padding; 2]);
    let (kernel, stride, padding) = pool(2, 2, 0);
    let max2 = MaxPool2d { kernel, stride, padding };
    let avg = AvgPool2d { kernel, stride, padding, count_include_pad: true };
    let (kernel, stride, padding) = pool(3, 2, 1);
    let max3 = MaxPool2d { kernel, stride, padding };
    let global = AdaptiveAvgPool2d { output: [1; 2] };
    let (norm, groups) = (|| BatchNorm2d::new(64), || GroupNorm::for_channels(64));
    let ops: [(&str, &dyn Operator); 14] = [
        ("batch_norm2d", &norm()),
        ("relu", &Relu),
        ("add", &Add),
        ("batch_norm2d+relu", &NormAddRelu { norm: norm(), add: false, relu: true }),
        ("batch_norm2d+add+relu", &NormAddRelu { norm: norm(), add: true, relu: true }),
        ("group_norm, 32 groups", &groups()),
        ("group_norm+relu", &GroupNormAddRelu { norm: groups(), add: false, relu: true }),
        ("group_norm+add+relu", &GroupNormAddRelu { norm: groups(), add: true, relu: true }),
        ("add+relu", &AddRelu),
        ("max_pool2d 2/2/0", &max2),
        ("max_pool2d 3/2/1", &max3),
        ("avg_pool2d 2/2/0", &avg),
        ("adaptive_avg_pool2d 1", &global),
        ("dropout", &Dropout { probability: 0.5 }),
    ];
    for (name, op) in ops {
        let mut case = Case::new(op, &[BATCH, 64, 32, 32]);
        let inputs: usize = case.shapes.iter().map(Shape::len).sum();
        let bytes = 4 * (inputs + case.output.len());
        let forward = rate(bytes, best(|| case.forward()));
        let backward = rate(2 * bytes, best(|| case.backward(true, true)));
        println!("{name:<28}{forward:>10.1}{backward:>10.1}");
    }
    apart();
}

/// Milliseconds of a residual block's end, fused and one operator after the other.
fn apart() {
    let dims = [BATCH, 64, 32, 32];
    let norm = BatchNorm2d::new(64);
    let ops: [&dyn Operator; 3] = [&norm, &Add, &Relu];
    let mut parts = ops.map(|op| Case::new(op, &dims));
    let op = NormAddRelu { norm: norm.clone(), add: true, relu: true };
    let mut fused = Case::new(&op, &dims);
    let millis = |time: Duration| 1e3 * time.as_secs_f64();
    let both = |case: &mut Case<'_>| {
        case.forward();
        case.backward(true, true);
    };
    // Each part by itself: together their tensors are more than the cache holds, as a graph's, which share memory, are not.
    let parts: Duration = parts.iter_mut().map(|case| best(|| both(case))).sum();
    let fused = best(|| both(&mut fused));
    println!(
        "\nbatch norm, add, ReLU, forward and backward: {:.2} ms fused, {:.2} ms apart, {:.2} times",
        millis(fused),
        millis(parts),
        parts.as_secs_f64() / fused.as_secs_f64()
    );
}

/// One operator with everything its passes need, in memory as in an arena.
struct Case<'a> {
    op: &'a dyn Operator,
    threads: Threads,
    shapes: Vec<Shape>,
    inputs: Vec<Aligned>,
    params: Vec<Tensor>,
    buffers: Vec<Tensor>,
    output_shape: Shape,
    output: Aligned,
    saved: (Aligned, Vec<u32>),
    grad_output: Aligned,
    grad_inputs: Vec<Aligned>,
    grad_params: Vec<Tensor>,
}

impl<'a> Case<'a> {
    /// As many inputs as the operator takes, all of this shape.
    fn new(op: &'a dyn Operator, dims: &[usize]) -> Self {
        let count = (1..=2).find(|&n| op.infer(&vec![Shape::new(dims); n]).is_ok()).expect("the shapes fit");
        let shapes = vec![Shape::new(dims); count];
        let output_shape = op.infer(&shapes).expect("the shapes fit");
        let saved = op.saved_len(&shapes);
        let zeros = |specs: Vec<asymflow_kernels::ParamSpec>| -> Vec<Tensor> {
            specs.into_iter().map(|s| Tensor::zeros(s.shape)).collect()
        };
        Case {
            op,
            threads: Threads::new(1),
            params: op.params().iter().map(|p| random(p.shape.dims())).collect(),
            buffers: zeros(op.buffers()),
            output: Aligned::zeros(output_shape.len()),
            saved: (Aligned::zeros(saved.floats), vec![0; saved.indices]),
            grad_output: aligned(&random(output_shape.dims())),
            grad_inputs: shapes.iter().map(|shape| Aligned::zeros(shape.len())).collect(),
            grad_params: zeros(op.params()),
            inputs: shapes.iter().map(|shape| aligned(&random(shape.dims()))).collect(),
            output_shape,
            shapes,
        }
    }

    fn forward(&mut self) {
        let inputs: Vec<_> =
            self.inputs.iter().zip(&self.shapes).map(|(x, &shape)| View { shape, data: x }).collect();
        self.op.forward(Forward {
            inputs: &inputs,
            params: &self.params,
            buffers: &mut self.buffers,
            output: ViewMut { shape: self.output_shape, data: &mut self.output },
            saved: SavedMut { floats: &mut self.saved.0, indices: &mut self.saved.1 },
            mode: MODE,
            threads: &self.threads,
        });
        black_box(&self.output);
    }

    fn backward(&mut self, input: bool, params: bool) {
        let inputs: Vec<_> =
            self.inputs.iter().zip(&self.shapes).map(|(x, &shape)| View { shape, data: x }).collect();
        let mut grad_inputs: Vec<_> = self
            .grad_inputs
            .iter_mut()
            .map(|grad| input.then_some(GradInput { data: grad, accumulate: false }))
            .collect();
        self.op.backward(Backward {
            inputs: &inputs,
            params: &self.params,
            buffers: &self.buffers,
            output: View { shape: self.output_shape, data: &self.output },
            grad_output: View { shape: self.output_shape, data: &self.grad_output },
            saved: Saved { floats: &self.saved.0, indices: &self.saved.1 },
            grad_inputs: &mut grad_inputs,
            grad_params: if params { &mut self.grad_params } else { &mut [] },
            mode: MODE,
            threads: &self.threads,
        });
        black_box(&self.grad_inputs);
    }
}

/// A convolution the plain way: the columns of one whole image, then one product.
struct Plain<'a> {
    op: &'a Conv2d,
    threads: Threads,
    input: Tensor,
    weight: Tensor,
    /// Channels, height and width of the input; of the output.
    sizes: [[usize; 3]; 2],
    columns: Vec<f32>,
    output: Vec<f32>,
    grad_input: Vec<f32>,
    grad_weight: Vec<f32>,
}

impl<'a> Plain<'a> {
    fn new(op: &'a Conv2d, input: Tensor, weight: Tensor) -> Self {
        let output = op.infer(&[input.shape()]).expect("the shapes fit");
        let chw = |shape: Shape| [shape.dims()[1], shape.dims()[2], shape.dims()[3]];
        let sizes = [chw(input.shape()), chw(output)];
        let (input_len, weight_len) = (input.shape().len(), weight.shape().len());
        let columns = sizes[0][0] * op.kernel[0] * op.kernel[1] * sizes[1][1] * sizes[1][2];
        Plain {
            op,
            threads: Threads::new(1),
            input,
            weight,
            sizes,
            columns: vec![0.0; columns],
            output: vec![0.0; output.len()],
            grad_input: vec![0.0; input_len],
            grad_weight: vec![0.0; weight_len],
        }
    }

    fn forward(&mut self) {
        let [[c, h, w], [k, oh, ow]] = self.sizes;
        let depth = self.columns.len() / (oh * ow);
        for n in 0..BATCH {
            let image = &self.input.data()[n * c * h * w..][..c * h * w];
            let columns = &mut self.columns;
            for_each_row(self.op, self.sizes, |to, from, len| {
                let row = &mut columns[to..to + ow];
                row.fill(0.0);
                let to = &mut row[len.start..len.end];
                if self.op.stride[1] == 1 {
                    to.copy_from_slice(&image[from..][..to.len()]);
                } else {
                    let from = image[from..].iter().step_by(self.op.stride[1]);
                    to.iter_mut().zip(from).for_each(|(to, &x)| *to = x);
                }
            });
            let weight = Matrix::new(self.weight.data(), k, depth);
            let columns = Matrix::new(&self.columns, depth, oh * ow);
            let out = &mut self.output[n * k * oh * ow..][..k * oh * ow];
            gemm::multiply(&self.threads, 1.0, weight, columns, 0.0, out);
        }
        black_box(&self.output);
    }

    /// Takes the output for its gradient; rebuilding the columns is not counted against it.
    fn backward(&mut self) {
        let [[c, h, w], [k, oh, ow]] = self.sizes;
        let depth = self.columns.len() / (oh * ow);
        self.grad_input.fill(0.0);
        for n in 0..BATCH {
            let dy = Matrix::new(&self.output[n * k * oh * ow..][..k * oh * ow], k, oh * ow);
            let columns = Matrix::new(&self.columns, depth, oh * ow);
            let keep = if n == 0 { 0.0 } else { 1.0 };
            gemm::multiply(&self.threads, 1.0, dy, columns.transposed(), keep, &mut self.grad_weight);
            let weight = Matrix::new(self.weight.data(), k, depth).transposed();
            gemm::multiply(&self.threads, 1.0, weight, dy, 0.0, &mut self.columns);
            let image = &mut self.grad_input[n * c * h * w..][..c * h * w];
            let columns = &self.columns;
            for_each_row(self.op, self.sizes, |from, to, len| {
                let from = &columns[from + len.start..from + len.end];
                let to = image[to..].iter_mut().step_by(self.op.stride[1]);
                to.zip(from).for_each(|(to, &x)| *to += x);
            });
        }
        black_box((&self.grad_input, &self.grad_weight));
    }
}

/// Calls `job(row of columns, first element of the image, valid part of the row)` for each kernel row and output row.
fn for_each_row(
    op: &Conv2d,
    [[c, h, w], [_, oh, ow]]: [[usize; 3]; 2],
    mut job: impl FnMut(usize, usize, std::ops::Range<usize>),
) {
    let ([kh, kw], [sy, sx], [top, left, ..]) = (op.kernel, op.stride, op.padding);
    for (row, y) in (0..c * kh * kw).flat_map(|row| (0..oh).map(move |y| (row, y))) {
        let (channel, i, j) = (row / (kh * kw), row / kw % kh, row % kw);
        let start = left.saturating_sub(j).div_ceil(sx);
        let end = ow.min((w + left - j).div_ceil(sx));
        let inside = (top..top + h).contains(&(y * sy + i));
        let from =
            (channel * h + (y * sy + i).saturating_sub(top)) * w + start * sx + j - left.min(start * sx + j);
        let valid = if inside { start..end } else { 0..0 };
        job((row * oh + y) * ow, if inside { from } else { 0 }, valid);
    }
}

fn aligned(tensor: &Tensor) -> Aligned {
    let mut floats = Aligned::zeros(tensor.data().len());
    floats.copy_from_slice(tensor.data());
    floats
}

fn random(dims: &[usize]) -> Tensor {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    Tensor::from_fn(Shape::new(dims), |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
}

/// Time of the fastest of the runs that fit in a quarter of a second, at least three.
fn best<R>(mut job: impl FnMut() -> R) -> Duration {
    black_box(job());
    let begin = processor_time();
    let mut best = Duration::MAX;
    let mut runs = 0;
    while runs < 3 || processor_time() - begin < Duration::from_millis(250) {
        let start = processor_time();
        black_box(job());
        best = best.min(processor_time() - start);
        runs += 1;
    }
    best
}

/// Processor time of this thread, which does all the work.
fn processor_time() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)
        .try_into()
        .expect("processor time is not negative")
}

/// 10⁹ of something per second.
fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64() / 1e9
}
