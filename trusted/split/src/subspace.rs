//! Blocked subspace iteration on one sample `X` `[C, P]`: never its Gram matrix.

use kernels::gemm::{self, Matrix, multiply};
use kernels::{Scratch, Threads};

use crate::channels::principal_directions;
use crate::dense::{fixed_factor, orthonormalise, to_largest_one, transpose};
use crate::pixels::{Blocks, project};

/// Directions that are carried along beside those that are asked for: the best of them all are kept at the end.
const MORE: usize = 4;

/// Rounds of finding those, per direction; they cost nothing beside a pass over a sample.
const CHOICE_ROUNDS: usize = 8;

/// Writes an approximate principal basis by subspace iteration, with a fixed number of rounds and no branch on the data.
///
/// `iterations` times `Y ← X (Xᵀ Q)`, `Q ← orth(Y)` from a fixed start, block of pixels by block of pixels: each round reads
/// `X` once and costs `2·(rank + 4)·C·P` multiply-adds. Of the last `Y`, the leading directions stay.
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
    let carried = carried([c, p], rank);
    let (mut columns, mut q) = (threads.scratch(carried * c), threads.scratch(carried * c));
    start(c, &mut columns);
    for round in 0..iterations {
        if round > 0 {
            orthonormalise(&mut columns, c);
        }
        transpose(&columns, [carried, c], &mut q);
        images(threads, x, [c, p], &q, &mut columns);
    }
    to_largest_one(&mut columns);
    let best = &mut q[..rank * c];
    lead(threads, &columns, carried, best);
    orthonormalise(best, c);
    transpose(best, [rank, c], basis);
}

/// Directions that are carried along for `rank`.
fn carried([c, p]: [usize; 2], rank: usize) -> usize {
    (rank + MORE).min(c).min(p)
}

/// `Y = X (Xᵀ Q)`, of `q` `[C, k]`, as rows `[k, C]`.
fn images(threads: &Threads, x: &[f32], [c, p]: [usize; 2], q: &[f32], images: &mut [f32]) {
    let k = q.len() / c;
    let blocks = Blocks::new([c, p], k);
    let (mut principal, stride) = (threads.scratch(blocks.principal_len()), blocks.stride());
    let mut keep = 0.0;
    for pixels in blocks.iter() {
        project(x, [c, p], pixels.clone(), q, &mut principal, stride);
        let projected = Matrix::strided(&principal, [k, pixels.len()], [stride, 1]);
        let block = Matrix::strided(&x[pixels.start..], [c, pixels.len()], [p, 1]);
        multiply(threads, 1.0, projected, block.transposed(), keep, images);
        keep = 1.0;
    }
}

/// The leading directions of the span of `rows` `[k, C]`, weighted as they are: left singular vectors of `Y`, up to length.
fn lead(threads: &Threads, rows: &[f32], k: usize, best: &mut [f32]) {
    let (c, rank) = (rows.len() / k, best.len() * k / rows.len());
    let (mut gram, mut weights) = (threads.scratch(k * k), threads.scratch(rank * k));
    let rows = Matrix::new(rows, k, c);
    multiply(threads, 1.0, rows, rows.transposed(), 0.0, &mut gram);
    principal_directions(threads, &mut gram, k, CHOICE_ROUNDS, &mut weights);
    multiply(threads, 1.0, Matrix::new(&weights, rank, k), rows, 0.0, best);
}

/// Directions `[rank, c]` that no sample is likely to be orthogonal to: fixed numbers in [−1, 1).
pub(crate) fn start(c: usize, directions: &mut [f32]) {
    for (i, direction) in directions.chunks_exact_mut(c).enumerate() {
        direction.iter_mut().enumerate().for_each(|(at, x)| *x = 4.0 * fixed_factor(i, at) - 3.0);
    }
}

/// Multiply-adds of [`subspace_basis`].
pub(crate) fn subspace_macs([c, p]: [usize; 2], rank: usize, iterations: usize) -> usize {
    let k = carried([c, p], rank);
    // Gram–Schmidt, twice: two products for each pair of directions.
    iterations * (2 * k * c * p + 2 * k * k * c)
        + k * k * c
        + rank * (CHOICE_ROUNDS + 3) * k * k
        + rank * k * c
}

/// Scratch memory of [`subspace_basis`], inside a job.
pub(crate) fn subspace_scratch([c, p]: [usize; 2], rank: usize) -> Scratch {
    let k = carried([c, p], rank);
    let blocks = Blocks::new([c, p], k);
    let images = gemm::scratch([k, blocks.len(), c]).and(Scratch::each([blocks.principal_len()]));
    let products = gemm::scratch([k, c, k]).or(gemm::scratch([rank, k, c]));
    let lead = products.and(Scratch::each([k * k, rank * k, k]));
    images.in_each().or(lead.in_each()).and(Scratch::each([k * c, k * c]))
}
