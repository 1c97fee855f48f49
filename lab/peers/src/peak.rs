//! What this processor can do at most: fused multiply-adds from registers, measured beside the cases.

use std::hint::black_box;

use kernels::Threads;
use kernels::pulp::{Arch, Simd, WithSimd};

use crate::peers::cpu_seconds;

/// Independent sums, so that none waits for another (latency 4, two units), and how often each is added to in one go.
const SUMS: usize = 12;
const ROUNDS: usize = 20_000;
/// How long one measurement takes, in processor seconds.
const TIME: f64 = 0.02;

/// Floating-point operations per second of processor time, with `threads` threads at work, now.
pub(crate) fn operations_per_cpu_second(threads: &Threads) -> f64 {
    let began = cpu_seconds();
    let mut operations = 0.0;
    let mut took = 0.0;
    while took < TIME {
        threads.for_each(threads.count(), |_| {
            black_box(Arch::new().dispatch(Products));
        });
        operations += (2 * SUMS * ROUNDS * lanes() * threads.count()) as f64;
        took = cpu_seconds() - began;
    }
    operations / took
}

/// Numbers in one vector.
fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    Arch::new().dispatch(Lanes)
}

struct Products;

impl WithSimd for Products {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let factor = simd.splat_f32s(black_box(0.999));
        let mut sums = [simd.splat_f32s(black_box(1.0)); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, factor, factor);
            }
        }
        sums.iter().map(|&sum| simd.reduce_sum_f32s(sum)).sum()
    }
}
