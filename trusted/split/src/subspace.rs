//! Blocked subspace iteration on one sample `X` `[C, P]`: never its Gram matrix.

use kernels::gemm::{self, Matrix, multiply};
use kernels::{Scratch, Threads};

use crate::dense::{fixed_factor, orthonormalise, transpose};
use crate::pixels::{block_len, blocks, project};

/// Writes an approximate principal basis by subspace iteration, with a fixed number of rounds and no branch on the data.
///
/// `iterations` times `Q ← orth(X (Xᵀ Q))` from a fixed start, block of pixels by block of pixels: each round reads `X`
/// once and costs `2·rank·C·P` multiply-adds.
///
/// - Shapes: `x` `[C, P]` → `basis` `[C, rank]`, overwritten
/// - Source: Halko, Martinsson, Tropp 2011, algorithm 4.4, started in the channels
pub fn subspace_basis(
    threads: &Threads,
    x: &[f32],
    [c, p]: [usize; 2],
    rank: usize,
    iterations: usize,
    basis: &mut [f32],
) {
    let mut columns = threads.scratch(rank * c);
    let mut principal = threads.scratch(rank * block_len(c).min(p));
    start(c, &mut columns);
    for _ in 0..iterations {
        transpose(&columns, [rank, c], basis);
        let mut keep = 0.0;
        for pixels in blocks(c, p) {
            let len = pixels.len();
            let principal = &mut principal[..rank * len];
            project(x, [c, p], pixels.clone(), basis, principal, len);
            let block = Matrix::strided(&x[pixels.start..], [c, len], [p, 1]);
            multiply(threads, 1.0, Matrix::new(principal, rank, len), block.transposed(), keep, &mut columns);
            keep = 1.0;
        }
        orthonormalise(&mut columns, c);
    }
    transpose(&columns, [rank, c], basis);
}

/// Directions `[rank, c]` that no sample is likely to be orthogonal to: fixed numbers in [−1, 1).
pub(crate) fn start(c: usize, directions: &mut [f32]) {
    for (i, direction) in directions.chunks_exact_mut(c).enumerate() {
        direction.iter_mut().enumerate().for_each(|(at, x)| *x = 4.0 * fixed_factor(i, at) - 3.0);
    }
}

/// Multiply-adds of [`subspace_basis`].
pub(crate) fn subspace_macs([c, p]: [usize; 2], rank: usize, iterations: usize) -> usize {
    // Gram–Schmidt, twice: two products for each pair of directions.
    iterations * (2 * rank * c * p + 2 * rank * rank * c)
}

/// Scratch memory of [`subspace_basis`], inside a job.
pub(crate) fn subspace_scratch([c, p]: [usize; 2], rank: usize) -> Scratch {
    let block = block_len(c).min(p);
    gemm::scratch([rank, block, c]).and(Scratch::each([rank * c, rank * block])).in_each()
}
