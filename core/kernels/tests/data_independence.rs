//! The time of operators on private numbers must not tell the numbers: timing of two classes of inputs in turn, as
//! dudect does (Reparaz, Balasch, Verbauwhede 2017), beside a control that does tell.
//!
//! The default test compares quartiles and asks for a leak that shows every time, so that a busy machine does not fail
//! it. The long one is Welch's t-test: `cargo test --release -p asymflow-kernels --test data_independence -- --ignored`.

#![allow(clippy::unwrap_used)] // a test that fails says why
// The ban on clocks is for code of the enclave.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::hint::black_box;
use std::time::Instant;

use asymflow_kernels::activation::{LeakyRelu, Prelu, Relu};
use asymflow_kernels::batch_norm::BatchNorm2d;
use asymflow_kernels::compact::Format;
use asymflow_kernels::conv2d::Conv2d;
use asymflow_kernels::group_norm::GroupNorm;
use asymflow_kernels::group_norm_add_relu::GroupNormAddRelu;
use asymflow_kernels::norm_add_relu::NormAddRelu;
use asymflow_kernels::pool::MaxPool2d;
use asymflow_kernels::{
    Backward, Forward, GradInput, Mode, Operator, Precision, Saved, SavedMut, Threads, softmax_cross_entropy,
};
use tensor::{Shape, Tensor};

/// Classes of the classifier, and rows; the images hold as many numbers.
const CLASSES: usize = 64;
const ROWS: usize = 64;
const DIMS: [usize; 4] = [1, 1, ROWS, CLASSES];

/// Difference of two classes' times that counts as a leak. The control's is ten times that.
const LEAK: f64 = 0.05;

/// What is timed: everything is derived from private numbers and labels.
type Job<'a> = Box<dyn FnMut(&[f32], &[u32]) + 'a>;

fn jobs<'a>() -> Vec<(&'static str, Job<'a>)> {
    let pool = MaxPool2d { kernel: [2; 2], stride: [2; 2], padding: [0; 2] };
    let wide = MaxPool2d { kernel: [3; 2], stride: [2; 2], padding: [1; 2] };
    let mut grad = vec![0.0; ROWS * CLASSES];
    vec![
        ("relu", both_passes(Relu)),
        ("leaky_relu", both_passes(LeakyRelu { slope: 0.1 })),
        ("prelu", both_passes(Prelu { parameters: 1 })),
        ("batch_norm2d+relu", both_passes(NormAddRelu { norm: BatchNorm2d::new(1), add: false, relu: true })),
        (
            "group_norm+relu",
            both_passes(GroupNormAddRelu { norm: GroupNorm::new(1, 1), add: false, relu: true }),
        ),
        ("conv2d in bf16", both_passes(Conv2d::new(DIMS[1], 4, 3).padding(1).precision(Precision::Bf16))),
        ("max_pool2d 2/2/0", both_passes(pool)),
        ("max_pool2d 3/2/1", both_passes(wide)),
        ("compact f32", both_ways(Format::F32)),
        ("compact bf16", both_ways(Format::Bf16)),
        ("compact int8", both_ways(Format::Int8)),
        (
            "softmax_cross_entropy",
            Box::new(move |x: &[f32], labels: &[u32]| {
                black_box(softmax_cross_entropy::loss_and_gradient(x, labels, CLASSES, &mut grad));
            }),
        ),
        (
            "correct",
            Box::new(|x: &[f32], labels: &[u32]| {
                black_box(softmax_cross_entropy::correct(x, labels, CLASSES));
            }),
        ),
    ]
}

/// Forward and backward of one operator on one thread.
fn both_passes<'a>(op: impl Operator + 'a) -> Job<'a> {
    let shape = Shape::new(&DIMS);
    let output = op.infer(&[shape]).unwrap();
    let (mut y, dy) = (Tensor::zeros(output), Tensor::from_fn(output, |i| i as f32));
    let saved = op.saved_len(&[shape]);
    let (mut floats, mut indices) = (vec![0.0; saved.floats], vec![0; saved.indices]);
    let mut dx = vec![0.0; shape.len()];
    let tensors = |specs: Vec<asymflow_kernels::ParamSpec>| -> Vec<Tensor> {
        specs.into_iter().map(|spec| Tensor::from_fn(spec.shape, |_| 0.25)).collect()
    };
    let (params, mut buffers, mut grad_params) =
        (tensors(op.params()), tensors(op.buffers()), tensors(op.params()));
    let (threads, mode) = (Threads::new(1), Mode::Train { seed: 1 });
    Box::new(move |x, _| {
        let inputs = [tensor::View { shape, data: x }];
        let (params, buffers) = (&params, &mut buffers);
        op.forward(Forward {
            inputs: &inputs,
            params,
            buffers,
            output: y.view_mut(),
            saved: SavedMut { floats: &mut floats, indices: &mut indices },
            mode,
            threads: &threads,
        });
        op.backward(Backward {
            inputs: &inputs,
            params,
            buffers,
            output: y.view(),
            grad_output: dy.view(),
            saved: Saved { floats: &floats, indices: &indices },
            grad_inputs: &mut [Some(GradInput { data: &mut dx, accumulate: false })],
            grad_params: &mut grad_params,
            mode,
            threads: &threads,
        });
        black_box(&dx);
    })
}

/// Encodes a record, and adds it decoded.
fn both_ways<'a>(format: Format) -> Job<'a> {
    const CHANNELS: usize = 16;
    let mut bytes = vec![0; format.encoded_len(CHANNELS, ROWS * CLASSES / CHANNELS)];
    let mut sum = vec![0.0; ROWS * CLASSES];
    Box::new(move |x, _| {
        format.encode(x, CHANNELS, &mut bytes);
        assert!(format.decode_add(black_box(&bytes), CHANNELS, &mut sum));
        black_box(&sum);
    })
}

/// A ReLU that tells the signs: what every test here must find.
fn control<'a>() -> Job<'a> {
    let mut y = vec![0.0; ROWS * CLASSES];
    Box::new(move |x, _| {
        for (y, &x) in y.iter_mut().zip(x) {
            if x > 0.0 {
                *y = black_box(x);
            } else {
                *y = black_box(0.0);
            }
        }
    })
}

/// Nanoseconds of a job on inputs that are all alike, and on random ones, in turn.
fn times(job: &mut Job<'_>, samples: usize) -> [Vec<f64>; 2] {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut x, mut labels) = (vec![0.0f32; ROWS * CLASSES], vec![0u32; ROWS]);
    let neutral = (vec![-0.25f32; ROWS * CLASSES], vec![1u32; ROWS]);
    let mut times = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
    while times.iter().any(|t| t.len() < samples) {
        let class = (draw() >> 40) as usize % 2;
        // Both classes are made by the same steps, and follow the same work: nothing but the numbers differs.
        for x in &mut x {
            let drawn = (draw() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
            *x = 0.5 + class as f32 * (drawn - 0.5);
        }
        for label in &mut labels {
            *label = class as u32 * ((draw() >> 40) as u32 % CLASSES as u32);
        }
        job(&neutral.0, &neutral.1);
        let start = Instant::now();
        job(black_box(&x), black_box(&labels));
        times[class].push(start.elapsed().as_nanos() as f64);
    }
    times.map(|mut t| {
        t.sort_by(f64::total_cmp);
        t
    })
}

/// Relative difference of the lower quartiles, which interruptions do not reach.
fn effect(job: &mut Job<'_>) -> f64 {
    let [a, b] = times(job, 400).map(|t| t[t.len() / 4]);
    (a - b).abs() / a.min(b)
}

#[test]
fn time_does_not_tell_the_numbers() {
    let least = |job: &mut Job<'_>| (0..8).map(|_| effect(job)).fold(f64::INFINITY, f64::min);
    let found = least(&mut control());
    assert!(found > 10.0 * LEAK, "the control tells only {found}: the test finds nothing");
    for (name, mut job) in jobs() {
        let found = least(&mut job);
        assert!(found < LEAK, "{name}: times differ by {found} with the data");
    }
}

/// Welch's t of the faster nine tenths of both classes.
fn welch(job: &mut Job<'_>, samples: usize) -> f64 {
    let moments = times(job, samples).map(|t| {
        let kept = &t[..t.len() * 9 / 10];
        let n = kept.len() as f64;
        let mean = kept.iter().sum::<f64>() / n;
        (mean, kept.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n)
    });
    let [(a, va), (b, vb)] = moments;
    (a - b).abs() / (va + vb).sqrt()
}

/// Of the usual threshold 4.5; above 10 a leak is certain (dudect).
#[test]
#[ignore = "minutes, and a quiet machine"]
fn welch_t_does_not_tell_the_numbers() {
    let found = welch(&mut control(), 20_000);
    println!("control: t = {found:.1}");
    assert!(found > 10.0, "the control's t is {found}: the test finds nothing");
    let found: Vec<_> = jobs().into_iter().map(|(name, mut job)| (name, welch(&mut job, 20_000))).collect();
    found.iter().for_each(|(name, t)| println!("{name}: t = {t:.1}"));
    let leaks: Vec<_> = found.iter().filter(|(_, t)| *t > 10.0).collect();
    assert!(leaks.is_empty(), "{leaks:?}");
}
