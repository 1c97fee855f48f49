//! Blocked subspace iteration on one sample `X` `[C, P]`: never its Gram matrix.

use kernels::gemm::{self, Matrix, multiply};
use kernels::{Scratch, Threads};

use crate::dense::{fixed_factor, orthonormalise, transpose};
use crate::pixels::{Blocks, project};

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
    let blocks = Blocks::new([c, p], rank);
    let (mut principal, stride) = (threads.scratch(blocks.principal_len()), blocks.stride());
    start(c, &mut columns);
    for _ in 0..iterations {
        transpose(&columns, [rank, c], basis);
        let mut keep = 0.0;
        for pixels in blocks.iter() {
            project(x, [c, p], pixels.clone(), basis, &mut principal, stride);
            let projected = Matrix::strided(&principal, [rank, pixels.len()], [stride, 1]);
            let block = Matrix::strided(&x[pixels.start..], [c, pixels.len()], [p, 1]);
            multiply(threads, 1.0, projected, block.transposed(), keep, &mut columns);
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
    let blocks = Blocks::new([c, p], rank);
    let buffers = Scratch::each([rank * c, blocks.principal_len()]);
    gemm::scratch([rank, blocks.len(), c]).and(buffers).in_each()
}
