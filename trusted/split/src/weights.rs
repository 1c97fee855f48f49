//! Kernels of a convolution for principal channels instead of channels, and the gradient of the kernels.

use kernels::gemm::{self, Matrix, multiply};
use kernels::pulp::{Simd, WithSimd};
use kernels::{Scratch, Threads};

use crate::pixels::{load, store_some};

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
    let mut repeated = threads.scratch(repeated_len(sizes, rank));
    repeat(basis, rank, taps, &mut repeated);
    threads.for_each_chunk(out, grouped.together() * channels * taps, |part, out| {
        let first = part * grouped.together();
        for (k, out) in
            (first..).step_by(grouped.at_once()).zip(out.chunks_mut(grouped.at_once() * channels * taps))
        {
            let rows = out.len() / (channels * taps);
            let grad = &grad[k * rank * taps..][..rows * rank * taps];
            if taps == 1 {
                let basis = grouped.basis(basis, k).transposed();
                multiply(threads, 1.0, Matrix::new(grad, rows, rank), basis, 1.0, out);
            } else {
                let mut windows = threads.scratch(rank * (WINDOW + taps));
                repeat_taps(grad, taps, &mut windows);
                let from = k / grouped.kernels * channels * taps;
                let (basis, stride) = (&repeated[from..], sizes[1] * taps);
                kernels::dispatch(AddProducts { out, basis, stride, windows: &windows, taps });
            }
        }
    });
}

/// Numbers that [`AddProducts`] makes together: four of the longest vectors.
const WINDOW: usize = 64;

/// Length of a basis with every number repeated for each tap, where there is more than one.
fn repeated_len([_, c, _, taps]: [usize; 4], rank: usize) -> usize {
    if taps == 1 { 0 } else { rank * c * taps }
}

/// A basis `[C, r]` as rows `[r, C, taps]`, each number as often as there are taps.
fn repeat(basis: &[f32], rank: usize, taps: usize, repeated: &mut [f32]) {
    let row = basis.len() / rank * taps;
    for (i, row) in repeated.chunks_exact_mut(row).enumerate() {
        let weights = basis[i..].iter().step_by(rank);
        row.chunks_exact_mut(taps).zip(weights).for_each(|(to, &weight)| to.fill(weight));
    }
}

/// Each row of `rows` `[r, taps]` again and again, so that a window of it may begin at any tap.
fn repeat_taps(rows: &[f32], taps: usize, windows: &mut [f32]) {
    for (row, window) in rows.chunks_exact(taps).zip(windows.chunks_exact_mut(WINDOW + taps)) {
        window.chunks_mut(taps).for_each(|to| to.copy_from_slice(&row[..to.len()]));
    }
}

/// `out[c·taps + t] += Σ_i basis[i·stride + c·taps + t] · windows[i, t]`: numbers that lie side by side, at once.
struct AddProducts<'a> {
    out: &'a mut [f32],
    basis: &'a [f32],
    stride: usize,
    windows: &'a [f32],
    taps: usize,
}

impl WithSimd for AddProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let AddProducts { out, basis, stride, windows, taps } = self;
        let mut at = 0;
        for out in out.chunks_mut(4 * S::F32_LANES) {
            // Where the last is shorter, what is read beyond it is not stored.
            let mut sums = load::<S, 4>(simd, out);
            let (mut basis, phase) = (&basis[at..], at % taps);
            for window in windows.chunks_exact(WINDOW + taps) {
                let weights = load::<S, 4>(simd, basis);
                basis = basis.get(stride..).unwrap_or_default();
                let window = load::<S, 4>(simd, &window[phase..phase + WINDOW]);
                for w in 0..4 {
                    sums[w] = simd.mul_add_e_f32s(weights[w], window[w], sums[w]);
                }
            }
            store_some::<S, 4>(simd, out, &sums);
            at += 4 * S::F32_LANES;
        }
    }
}

/// Scratch memory that either function takes.
pub fn scratch(sizes: [usize; 4], rank: usize) -> Scratch {
    let grouped =
        Grouped { kernels: sizes[0] / sizes[2], channels: sizes[1] / sizes[2], taps: sizes[3], rank };
    let Grouped { channels, taps, .. } = grouped;
    let rows = grouped.at_once();
    let products = match taps {
        1 => gemm::scratch([rows, channels, rank]).or(gemm::scratch([rows, rank, channels])),
        _ => gemm::scratch([rank, channels, taps]).or(Scratch::each([rank * (WINDOW + taps)])),
    };
    products.in_each().and(Scratch::shared([repeated_len(sizes, rank)]))
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
