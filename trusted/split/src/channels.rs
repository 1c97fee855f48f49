//! The rank-r split over the channels of one sample `X` `[C, P]` (`P = H·W` pixels).
//!
//! A basis `Û` `[C, r]` has orthonormal columns; `V = Ûᵀ X` are the principal channels and `Û V` is the low-rank part.
//! Where `X` has a lower rank, columns may be zero; `Û Ûᵀ` is a projection in either case.

use kernels::gemm::{self, Matrix, multiply};
use kernels::{Scratch, Threads, vectorised};

use crate::dense::{add_scaled, dot, fixed_factor, inverse, normalise, orthonormalise, transpose};
use crate::eigen;
use crate::gram::gram_of_smaller;
pub use crate::subspace::subspace_basis;

/// Writes an approximate principal basis by the light method, with a fixed number of rounds and no branch on the data.
///
/// Algorithm 1 of AsymML: for each of `rank` channels, `iterations` times `u ← X v/‖v‖²`, `v ← Xᵀ u/‖u‖²`, then
/// `X ← X − u vᵀ`. The same iterates come from the smaller Gram matrix, since `u ← X Xᵀ u` up to a factor and deflation is
/// `G ← (I − ûûᵀ) G (I − ûûᵀ)`: one matrix product, then vectors, instead of `rank` passes over `X`. The start depends on
/// the energy left per channel only.
///
/// - Shapes: `x` `[C, P]` → `basis` `[C, rank]`, overwritten
/// - Source: AsymML, Algorithm 1
pub fn light_basis(
    threads: &Threads,
    x: &[f32],
    [c, p]: [usize; 2],
    rank: usize,
    iterations: usize,
    basis: &mut [f32],
) {
    let n = c.min(p);
    let (mut gram, mut columns) = (threads.scratch(n * n), threads.scratch(rank * c));
    let x = Matrix::new(x, c, p);
    if c <= p {
        multiply(threads, 1.0, x, x.transposed(), 0.0, &mut gram);
        principal_directions(threads, &mut gram, n, iterations, &mut columns);
    } else {
        // Fewer pixels than channels: directions v of the pixels, then one half step û ∝ X v.
        let mut pixels = threads.scratch(rank * p);
        multiply(threads, 1.0, x.transposed(), x, 0.0, &mut gram);
        principal_directions(threads, &mut gram, n, iterations, &mut pixels);
        multiply(threads, 1.0, Matrix::new(&pixels, rank, p), x.transposed(), 0.0, &mut columns);
    }
    orthonormalise(&mut columns, c);
    transpose(&columns, [rank, c], basis);
}

/// Multiply-adds of [`light_basis`].
pub(crate) fn light_macs([c, p]: [usize; 2], rank: usize, iterations: usize) -> usize {
    let n = c.min(p);
    n * n * c.max(p) + rank * (iterations + 3) * n * n
}

/// Scratch memory of [`light_basis`], inside a job.
pub(crate) fn light_scratch([c, p]: [usize; 2], rank: usize) -> Scratch {
    let (n, pixels) = (c.min(p), if c <= p { 0 } else { rank * p });
    let products = gemm::scratch([n, c.max(p), n]).or(gemm::scratch([rank, p, c]));
    products.and(Scratch::each([n * n, rank * c, pixels, n])).in_each()
}

/// Power iteration with deflation on a symmetric matrix `gram` `[n, n]`, which is destroyed; `found` `[rank, n]`.
pub(crate) fn principal_directions(
    threads: &Threads,
    gram: &mut [f32],
    n: usize,
    iterations: usize,
    found: &mut [f32],
) {
    let mut image = threads.scratch(n);
    for (k, u) in found.chunks_exact_mut(n).enumerate() {
        let energies = gram.iter().step_by(n + 1);
        u.iter_mut().zip(energies).for_each(|(u, &energy)| *u = energy);
        start(k, u);
        for _ in 0..iterations {
            times(gram, u, &mut image);
            u.copy_from_slice(&image);
            normalise(u);
        }
        deflate(gram, u, &mut image);
    }
}

/// Turns the energy left per channel into the start of a search: nearly the strongest channel, but by weights rather
/// than by choice, times fixed factors in [½, 1] so that channels which are each other's negative do not cancel.
fn start(direction: usize, energies: &mut [f32]) {
    let most = energies.iter().fold(0.0f32, |m, &e| m.max(e));
    let scale = inverse(most);
    for (index, energy) in energies.iter_mut().enumerate() {
        *energy = fixed_factor(direction, index) * (*energy * scale).max(0.0).powi(16);
    }
}

vectorised! {
    /// `out = G u` for a symmetric `G`.
    fn times<'a>(gram: &'a [f32], u: &'a [f32], out: &'a mut [f32]) -> () {
        out.fill(0.0);
        for (row, &weight) in gram.chunks_exact(u.len()).zip(u) {
            add_scaled(out, weight, row);
        }
    }
}

/// `G ← (I − u uᵀ) G (I − u uᵀ)` for a unit vector (or zero) `u`: `G − u wᵀ − w uᵀ` with `w = G u − u (uᵀ G u)/2`.
fn deflate(gram: &mut [f32], u: &[f32], w: &mut [f32]) {
    times(gram, u, w);
    let half = -0.5 * dot(u, w);
    add_scaled(w, half, u);
    subtract_products(gram, u, w);
}

vectorised! {
    /// `G ← G − u wᵀ − w uᵀ`.
    fn subtract_products<'a>(gram: &'a mut [f32], u: &'a [f32], w: &'a [f32]) -> () {
        for ((row, &ui), &wi) in gram.chunks_exact_mut(u.len()).zip(u).zip(w) {
            for ((g, &uj), &wj) in row.iter_mut().zip(u).zip(w) {
                *g -= ui * wj + wi * uj;
            }
        }
    }
}

/// Writes the exact principal basis: the leading eigenvectors of `X Xᵀ`, in double precision.
///
/// Slow (`min(C, P)³`), allocates, and its time depends on the data: for tests and where exactness is asked for.
///
/// - Shapes: `x` `[C, P]` → `basis` `[C, rank]`, overwritten
pub fn exact_basis(x: &[f32], [c, p]: [usize; 2], rank: usize, basis: &mut [f32]) {
    let vectors = eigen::vectors(gram_of_smaller(x, [c, p]), c.min(p));
    let leading: Vec<f32> = vectors[..rank * c.min(p)].iter().map(|&u| u as f32).collect();
    let mut columns = if c <= p { leading } else { of_pixels(&leading, x, p) };
    orthonormalise(&mut columns, c);
    transpose(&columns, [rank, c], basis);
}

/// Directions of the channels, `u ∝ X v`, from directions `v` of the pixels.
fn of_pixels(pixels: &[f32], x: &[f32], p: usize) -> Vec<f32> {
    let product = |v: &[f32], row: &[f32]| -> f64 {
        v.iter().zip(row).map(|(&v, &x)| f64::from(v) * f64::from(x)).sum()
    };
    let direction = |v| x.chunks_exact(p).map(move |row| product(v, row) as f32);
    pixels.chunks_exact(p).flat_map(direction).collect()
}

/// Singular values of `X` `[C, P]`, descending, `min(C, P)` of them.
pub fn singular_values(x: &[f32], [c, p]: [usize; 2]) -> Vec<f64> {
    let values = eigen::values(gram_of_smaller(x, [c, p]), c.min(p));
    values.into_iter().map(|value| value.max(0.0).sqrt()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: [usize; 2] = [12, 40];

    /// Channels with falling energy, from a fixed sequence.
    fn falling() -> Vec<f32> {
        let [c, p] = SIZE;
        (0..c * p).map(|i| (fixed_factor(i % 7, i) - 0.75) / (1 + i / p) as f32).collect()
    }

    /// Algorithm 1 as it is written, in double precision: passes over `X`, not its Gram matrix.
    fn algorithm_1(x: &[f32], [c, p]: [usize; 2], rank: usize) -> Vec<Vec<f32>> {
        let mut x: Vec<f64> = x.iter().map(|&v| v.into()).collect();
        let square = |v: &[f64]| v.iter().map(|a| a * a).sum::<f64>();
        let image = |x: &[f64], v: &[f64]| -> Vec<f64> {
            let product = |row: &[f64]| row.iter().zip(v).map(|(a, b)| a * b).sum::<f64>() / square(v);
            x.chunks_exact(p).map(product).collect()
        };
        let back = |x: &[f64], u: &[f64]| -> Vec<f64> {
            (0..p).map(|j| (0..c).map(|i| x[i * p + j] * u[i]).sum::<f64>() / square(u)).collect()
        };
        let direction = |k: usize| {
            let mut first: Vec<f32> = x.chunks_exact(p).map(|row| square(row) as f32).collect();
            start(k, &mut first);
            let mut u: Vec<f64> = first.iter().map(|&v| v.into()).collect();
            let mut v = back(&x, &u);
            for _ in 0..2 {
                u = image(&x, &v);
                v = back(&x, &u);
            }
            (0..c * p).for_each(|i| x[i] -= u[i / p] * v[i % p]);
            let norm = square(&u).sqrt();
            u.iter().map(|a| (a / norm) as f32).collect()
        };
        (0..rank).map(direction).collect()
    }

    #[test]
    fn the_light_method_is_algorithm_1() {
        let ([c, p], rank, x) = (SIZE, 5, falling());
        let mut basis = vec![0.0; c * rank];
        light_basis(&Threads::new(1), &x, [c, p], rank, 2, &mut basis);
        // Iterates are orthonormal in the limit only; orthonormalised, they span the same channels.
        let mut expected = algorithm_1(&x, [c, p], rank).concat();
        orthonormalise(&mut expected, c);
        for (at, u) in basis.iter().enumerate() {
            let other = expected[at % rank * c + at / rank];
            assert!((u - other).abs() < 1e-4, "direction {}: {u} {other}", at % rank);
        }
    }

    #[test]
    fn opposite_channels_are_found() {
        let x: Vec<f32> = [1.0, -1.0].iter().flat_map(|sign| [0.5, 2.0, -1.0].map(|v| sign * v)).collect();
        let mut basis = vec![0.0; 2];
        light_basis(&Threads::new(1), &x, [2, 3], 1, 1, &mut basis);
        assert!((basis[0] + basis[1]).abs() < 1e-6 && basis[0].abs() > 0.7);
    }
}
