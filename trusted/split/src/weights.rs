//! Kernels of a convolution for principal channels instead of channels, and the gradient of the kernels.

use kernels::gemm::{self, Matrix, multiply};
use kernels::{Scratch, Threads};

/// Kernels that read principal channels: `W'[k, i] = Σ_c Û[c, i] W[k, c]`, over the channels of `k`'s group.
///
/// - Shapes: `weight` `[K, C/g, taps]`, `basis` `[C, r]` → `out` `[K, r, taps]`, overwritten
/// - Source: AsymML, section on the convolution of the low-rank part; `taps` is `kh·kw`
///
/// # Panics
/// If groups do not divide the channels, or a slice has another length.
pub fn transform_kernels(
    threads: &Threads,
    weight: &[f32],
    sizes: [usize; 4],
    basis: &[f32],
    rank: usize,
    out: &mut [f32],
) {
    let grouped = Grouped::new(sizes, rank, [weight.len(), basis.len(), out.len()]);
    let Grouped { channels, taps, .. } = grouped;
    threads.for_each_chunk(out, grouped.together() * rank * taps, |part, out| {
        let first = part * grouped.together();
        for (k, out) in
            (first..).step_by(grouped.at_once()).zip(out.chunks_mut(grouped.at_once() * rank * taps))
        {
            let rows = out.len() / (rank * taps);
            let basis = grouped.basis(basis, k);
            let weight = &weight[k * channels * taps..][..rows * channels * taps];
            if taps == 1 {
                multiply(threads, 1.0, Matrix::new(weight, rows, channels), basis, 0.0, out);
            } else {
                multiply(threads, 1.0, basis.transposed(), Matrix::new(weight, channels, taps), 0.0, out);
            }
        }
    });
}

/// The adjoint of [`transform_kernels`], added to what is there: `dW[k, c] += Σ_i Û[c, i] dW'[k, i]`.
///
/// - Shapes: `grad` `[K, r, taps]`, `basis` `[C, r]` → `out` `[K, C/g, taps]`
///
/// # Panics
/// If groups do not divide the channels, or a slice has another length.
pub fn add_kernel_gradient(
    threads: &Threads,
    grad: &[f32],
    sizes: [usize; 4],
    basis: &[f32],
    rank: usize,
    out: &mut [f32],
) {
    let grouped = Grouped::new(sizes, rank, [out.len(), basis.len(), grad.len()]);
    let Grouped { channels, taps, .. } = grouped;
    threads.for_each_chunk(out, grouped.together() * channels * taps, |part, out| {
        let first = part * grouped.together();
        for (k, out) in
            (first..).step_by(grouped.at_once()).zip(out.chunks_mut(grouped.at_once() * channels * taps))
        {
            let rows = out.len() / (channels * taps);
            let basis = grouped.basis(basis, k);
            let grad = &grad[k * rank * taps..][..rows * rank * taps];
            if taps == 1 {
                multiply(threads, 1.0, Matrix::new(grad, rows, rank), basis.transposed(), 1.0, out);
            } else {
                multiply(threads, 1.0, basis, Matrix::new(grad, rank, taps), 1.0, out);
            }
        }
    });
}

/// Scratch memory that either function takes.
pub fn scratch(sizes: [usize; 4], rank: usize) -> Scratch {
    let grouped =
        Grouped { kernels: sizes[0] / sizes[2], channels: sizes[1] / sizes[2], taps: sizes[3], rank };
    let Grouped { channels, taps, .. } = grouped;
    let rows = grouped.at_once();
    let products = match taps {
        1 => gemm::scratch([rows, channels, rank]).or(gemm::scratch([rows, rank, channels])),
        _ => gemm::scratch([rank, channels, taps]).or(gemm::scratch([channels, rank, taps])),
    };
    products.in_each()
}

/// Kernels of one group: `kernels` of them read the same `channels`.
#[derive(Clone, Copy)]
struct Grouped {
    kernels: usize,
    channels: usize,
    taps: usize,
    rank: usize,
}

impl Grouped {
    /// Of `[K, C, groups, taps]`.
    fn new([k, c, groups, taps]: [usize; 4], rank: usize, found: [usize; 3]) -> Self {
        assert!(
            groups > 0 && k.is_multiple_of(groups) && c.is_multiple_of(groups),
            "{groups} groups of {k} and {c}"
        );
        let expected = [k * c / groups * taps, c * rank, k * rank * taps];
        assert!(found == expected, "weight, basis, transformed: {found:?} numbers, not {expected:?}");
        Grouped { kernels: k / groups, channels: c / groups, taps, rank }
    }

    /// Kernels of one product: those that are rows of one matrix.
    fn at_once(&self) -> usize {
        if self.taps == 1 { self.kernels } else { 1 }
    }

    /// Kernels of one job.
    fn together(&self) -> usize {
        const WORK: usize = 1 << 16;
        let work = self.channels * self.taps * self.rank;
        (WORK / work.max(1)).max(1).next_multiple_of(self.at_once())
    }

    /// The part of a basis `[C, r]` that kernel `k` reads, `[C/g, r]`.
    fn basis<'a>(&self, basis: &'a [f32], k: usize) -> Matrix<'a> {
        let len = self.channels * self.rank;
        Matrix::new(&basis[k / self.kernels * len..][..len], self.channels, self.rank)
    }
}
