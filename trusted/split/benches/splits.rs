//! Time and kept energy of the splits on one thread: `cargo bench -p asymflow-split [-- forward | bases | shared | kernels]`.
//!
//! Records are smooth and correlated, as a convolution's outputs are: each channel is a fixed random mixture of images that
//! are sums of waves with energy falling as 1/f², each image with energy falling geometrically, plus 1 % of noise, through a
//! ReLU. Times are the best of several runs, in processor time, which a busy machine disturbs less.

// The ban on clock and environment is for code of the enclave.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::hint::black_box;
use std::time::Duration;

use asymflow_split as split;
use kernels::Threads;
use kernels::compact::Format;
use split::{ChannelSplit, Finding, Moments, SharedBasis, add_kernel_gradient, transform_kernels};
use tensor::{Aligned, Shape, View};

/// Channels and side of the inputs of ResNet-18's layers on CIFAR, and of VGG-16's at 224.
const SHAPES: [[usize; 2]; 9] =
    [[64, 32], [128, 16], [256, 8], [512, 4], [64, 224], [128, 112], [256, 56], [512, 28], [512, 14]];

const RANKS: [usize; 3] = [4, 16, 32];

fn main() {
    // Cargo passes `--bench`; anything else is a filter.
    let filter = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_default();
    println!("instructions: {}, threads: 1", kernels::gemm::instruction_set());
    let parts: [(&str, fn()); 4] =
        [("forward", forward), ("bases", bases), ("shared", shared), ("kernels", kernels_of_ranks)];
    parts.into_iter().filter(|(name, _)| name.contains(&filter)).for_each(|(_, part)| part());
}

/// A batch that is larger than the second-level cache, split by a shared basis: milliseconds, GB/s of floats read and bytes
/// written, and how many times as long as encoding alone, which reads and writes as much.
fn forward() {
    println!("\nforward by a shared basis: ms, GB/s, times encoding alone");
    println!("{:<24}{:>24}{:>24}{:>24}", "C, H, rank, records", "f32", "bf16", "int8");
    for [c, h] in SHAPES {
        let (n, p) = (8, h * h);
        let x = aligned(&(0..n).flat_map(|i| record(i as u64, [c, h])).collect::<Vec<_>>());
        for rank in RANKS.into_iter().filter(|&rank| rank <= c.min(p)) {
            let mut case = Case::new(Finding::Shared, rank, [c, h], n);
            print!("{:<24}", format!("{c}, {h}, {rank}, {n}"));
            for format in Format::ALL {
                let (bytes, mut encoded) = (format.encoded_len(c, p), vec![0; n * format.encoded_len(c, p)]);
                let alone = best(|| {
                    for (x, to) in x.chunks_exact(c * p).zip(encoded.chunks_exact_mut(bytes)) {
                        format.encode(black_box(x), c, black_box(to));
                    }
                });
                let time = best(|| case.forward(&x, Some((format, &mut encoded)))).as_secs_f64();
                let rate = (4 * x.len() + encoded.len()) as f64 / time / 1e9;
                print!("{:>10.2}{rate:>7.1}{:>7.2}", 1e3 * time, time / alone.as_secs_f64());
            }
            println!();
        }
    }
}

/// Finding a basis for one record: microseconds, and energy kept, beside the exact decomposition.
fn bases() {
    println!("\nbases of one record: microseconds with projection, and energy kept");
    let methods = [
        ("light 1", Finding::Light { iterations: 1 }),
        ("light 2", Finding::Light { iterations: 2 }),
        ("subspace 1", Finding::Subspace { iterations: 1 }),
        ("subspace 2", Finding::Subspace { iterations: 2 }),
        ("shared", Finding::Shared),
        ("exact", Finding::Exact),
    ];
    print!("{:<16}", "C, H, rank");
    methods.iter().for_each(|(name, _)| print!("{name:>22}"));
    println!();
    for [c, h] in SHAPES {
        let x = aligned(&record(1, [c, h]));
        // The shared basis has seen other records of the same layer.
        let mut moments = Moments::new(Shape::from([c, h, h]));
        (2..6).for_each(|i| moments.add(&Threads::new(1), &record(i, [c, h])));
        for rank in RANKS.into_iter().filter(|&rank| rank <= c.min(h * h)) {
            print!("{:<16}", format!("{c}, {h}, {rank}"));
            for (_, finding) in methods {
                let mut case = Case::new(finding, rank, [c, h], 1);
                if finding == Finding::Shared {
                    case.bases.copy_from_slice(moments.shared_basis(rank).basis());
                }
                let time = match finding {
                    Finding::Exact => once(|| case.forward(&x, None)),
                    _ => best(|| case.forward(&x, None)),
                };
                print!("{:>14.0}{:>8.4}", 1e6 * time.as_secs_f64(), energy(&case.principal) / energy(&x));
            }
            println!();
        }
    }
}

/// Keeping a shared basis up, and calibrating: milliseconds.
fn shared() {
    println!("\n{:<16}{:>16}{:>16}{:>22}", "C, H", "observe 8, r 16", "set_rank", "calibrate a record");
    for [c, h] in SHAPES {
        let x: Vec<f32> = (0..8).flat_map(|i| record(i, [c, h])).collect();
        let threads = Threads::new(1);
        let mut basis = SharedBasis::new(c, 16);
        let view = View { shape: Shape::from([8, c, h, h]), data: &x };
        basis.observe(&threads, view);
        let observe = best(|| basis.observe(&threads, view));
        let set_rank = once(|| basis.set_rank(16));
        let mut moments = Moments::new(Shape::from([c, h, h]));
        let calibrate = once(|| moments.add(&threads, &x[..c * h * h]));
        let [observe, set_rank, calibrate] = [observe, set_rank, calibrate].map(|t| 1e3 * t.as_secs_f64());
        println!("{:<16}{observe:>16.2}{set_rank:>16.1}{calibrate:>22.1}", format!("{c}, {h}"));
    }
}

/// Kernels for principal channels, 3×3 and as many outputs as channels: microseconds and GFLOP/s.
fn kernels_of_ranks() {
    println!("\n{:<24}{:>22}{:>22}", "K = C, rank", "transform", "gradient");
    for c in [64, 128, 256, 512] {
        for rank in RANKS {
            let sizes = [c, c, 1, 9];
            let (weight, basis) = (numbers(1, c * c * 9), numbers(2, c * rank));
            let (mut out, mut grad, threads) = (vec![0.0; c * rank * 9], weight.clone(), Threads::new(1));
            let transform =
                best(|| transform_kernels(&threads, &weight, sizes, &basis, rank, black_box(&mut out)));
            let gradient =
                best(|| add_kernel_gradient(&threads, &out, sizes, &basis, rank, black_box(&mut grad)));
            print!("{:<24}", format!("{c}, {rank}"));
            for time in [transform, gradient].map(|t| t.as_secs_f64()) {
                print!("{:>14.0}{:>8.1}", 1e6 * time, (2 * c * c * 9 * rank) as f64 / time / 1e9);
            }
            println!();
        }
    }
}

/// A split with its buffers.
struct Case {
    split: ChannelSplit,
    threads: Threads,
    shape: Shape,
    bases: Vec<f32>,
    principal: Aligned,
}

impl Case {
    fn new(finding: Finding, rank: usize, [c, h]: [usize; 2], n: usize) -> Self {
        let sample = Shape::from([c, h, h]);
        let split = ChannelSplit::new(finding, rank, sample).expect("the rank fits");
        let threads = Threads::new(1);
        threads.reserve(&split.scratch(n));
        Case {
            bases: numbers(3, split.bases(n) * c * rank),
            principal: Aligned::zeros(n * rank * h * h),
            shape: sample.batched(n),
            split,
            threads,
        }
    }

    fn forward(&mut self, x: &[f32], residual: Option<(Format, &mut [u8])>) {
        let x = View { shape: self.shape, data: black_box(x) };
        let done = self.split.forward(&self.threads, x, &mut self.bases, &mut self.principal, residual);
        done.expect("buffers fit");
        black_box(&self.principal);
    }
}

/// One record `[C, H, H]` of a layer; all records of a layer have the same mixtures.
fn record(seed: u64, [c, h]: [usize; 2]) -> Vec<f32> {
    let (p, images) = (h * h, c);
    let mixture = numbers(99, c * images);
    let fields: Vec<f32> = (0..images).flat_map(|i| smooth(seed * 1000 + i as u64, h)).collect();
    let noise = numbers(seed ^ 0xabcd, c * p);
    let mut x = vec![0.0; c * p];
    for (channel, x) in x.chunks_exact_mut(p).enumerate() {
        for (i, field) in fields.chunks_exact(p).enumerate() {
            let weight = mixture[channel * images + i] * 0.9f32.powi(i as i32);
            x.iter_mut().zip(field).for_each(|(x, f)| *x += weight * f);
        }
        x.iter_mut().zip(&noise[channel * p..]).for_each(|(x, n)| *x = (*x + 0.01 * n).max(0.0));
    }
    x
}

/// A sum of 24 waves of random direction and phase, amplitudes falling as 1/f, `[H, H]`.
fn smooth(seed: u64, h: usize) -> Vec<f32> {
    let draw = numbers(seed, 3 * 24);
    let tau = std::f32::consts::TAU;
    let mut image = vec![0.0; h * h];
    for (wave, draw) in draw.chunks_exact(3).enumerate() {
        let frequency = 1.0 + wave as f32 / 3.0;
        let [fy, fx] = [(draw[0] * tau).sin(), (draw[0] * tau).cos()].map(|d| d * frequency * tau / h as f32);
        // Waves are products of rows and columns: sin(a + b) = sin a cos b + cos a sin b.
        let columns: Vec<_> = (0..h).map(|x| (x as f32 * fx).sin_cos()).collect();
        for (y, row) in image.chunks_exact_mut(h).enumerate() {
            let (sin, cos) = (y as f32 * fy + draw[1] * tau).sin_cos();
            row.iter_mut().zip(&columns).for_each(|(to, (s, c))| *to += (sin * c + cos * s) / frequency);
        }
    }
    image
}

fn energy(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

/// Numbers in [−1, 1) from a fixed sequence.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn aligned(data: &[f32]) -> Aligned {
    let mut floats = Aligned::zeros(data.len());
    floats.copy_from_slice(data);
    floats
}

/// Time of the fastest of the runs that fit in a quarter of a second, at least three.
fn best<R>(mut job: impl FnMut() -> R) -> Duration {
    black_box(job());
    let begin = processor_time();
    let mut best = Duration::MAX;
    let mut runs = 0;
    while runs < 3 || processor_time() - begin < Duration::from_millis(250) {
        best = best.min(once(&mut job));
        runs += 1;
    }
    best
}

fn once<R>(job: impl FnOnce() -> R) -> Duration {
    let start = processor_time();
    black_box(job());
    processor_time() - start
}

/// Processor time of this thread, which does all the work.
fn processor_time() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)
        .try_into()
        .expect("processor time is not negative")
}
