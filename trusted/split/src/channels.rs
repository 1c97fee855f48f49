//! The rank-r split over the channels of one sample `X` `[C, P]` (`P = H·W` pixels).
//!
//! A basis `Û` `[C, r]` has orthonormal columns; `V = Ûᵀ X` are the principal channels and `Û V` is the low-rank part.
//! Where `X` has a lower rank, columns may be zero; `Û Ûᵀ` is a projection in either case.

use kernels::gemm::{self, Matrix, multiply};
use kernels::{Scratch, Threads};

/// Squared norms below this fraction of what they were before orthogonalisation are rounding, not direction.
const NOTHING_LEFT: f32 = 1e-12;

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

/// Scratch memory of [`light_basis`], inside a job.
pub(crate) fn light_scratch([c, p]: [usize; 2], rank: usize) -> Scratch {
    let (n, pixels) = (c.min(p), if c <= p { 0 } else { rank * p });
    let products = gemm::scratch([n, c.max(p), n]).or(gemm::scratch([rank, p, c]));
    products.and(Scratch::each([n * n, rank * c, pixels, n])).in_each()
}

/// Power iteration with deflation on a symmetric matrix `gram` `[n, n]`, which is destroyed; `found` `[rank, n]`.
fn principal_directions(threads: &Threads, gram: &mut [f32], n: usize, iterations: usize, found: &mut [f32]) {
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
    let scale = if most > 0.0 { 1.0 / most } else { 0.0 };
    for (index, energy) in energies.iter_mut().enumerate() {
        *energy = fixed_factor(direction, index) * (*energy * scale).max(0.0).powi(16);
    }
}

/// A number in [½, 1) that looks random: a hash of both.
fn fixed_factor(direction: usize, index: usize) -> f32 {
    // The finaliser of SplitMix64.
    let mut bits = ((direction as u64) << 32 ^ index as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    0.5 + (bits >> 41) as f32 / (1u64 << 24) as f32
}

/// `out = G u` for a symmetric `G`.
fn times(gram: &[f32], u: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (row, &weight) in gram.chunks_exact(u.len()).zip(u) {
        add_scaled(out, weight, row);
    }
}

/// `G ← (I − u uᵀ) G (I − u uᵀ)` for a unit vector (or zero) `u`: `G − u wᵀ − w uᵀ` with `w = G u − u (uᵀ G u)/2`.
fn deflate(gram: &mut [f32], u: &[f32], w: &mut [f32]) {
    times(gram, u, w);
    let half = -0.5 * dot(u, w);
    add_scaled(w, half, u);
    for ((row, &ui), &wi) in gram.chunks_exact_mut(u.len()).zip(u).zip(&*w) {
        for ((g, &uj), &wj) in row.iter_mut().zip(u).zip(&*w) {
            *g -= ui * wj + wi * uj;
        }
    }
}

/// Makes the rows of `rows` `[k, n]` orthonormal, in order (Gram–Schmidt, twice); rows that add nothing become zero.
fn orthonormalise(rows: &mut [f32], n: usize) {
    for k in 0..rows.len() / n {
        let (done, rest) = rows.split_at_mut(k * n);
        let row = &mut rest[..n];
        normalise(row);
        for _ in 0..2 {
            for other in done.chunks_exact(n) {
                add_scaled(row, -dot(other, row), other);
            }
        }
        let left = dot(row, row);
        let keep = if left > NOTHING_LEFT { 1.0 } else { 0.0 };
        row.iter_mut().for_each(|x| *x *= keep);
        normalise(row);
    }
}

/// Scales to unit length; zero stays zero.
fn normalise(u: &mut [f32]) {
    // By the largest element first, so that squares neither overflow nor vanish.
    let largest = u.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let scale = if largest > 0.0 { 1.0 / largest } else { 0.0 };
    u.iter_mut().for_each(|x| *x *= scale);
    let square = dot(u, u);
    let scale = if square > 0.0 { 1.0 / square.sqrt() } else { 0.0 };
    u.iter_mut().for_each(|x| *x *= scale);
}

fn add_scaled(to: &mut [f32], weight: f32, from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(t, &f)| *t += weight * f);
}

/// Sum of products in eight lanes, in a fixed order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        lanes.iter_mut().zip(x.iter().zip(y)).for_each(|(lane, (x, y))| *lane += x * y);
    }
    lanes.iter().sum::<f32>() + tail
}

fn transpose(from: &[f32], [rows, cols]: [usize; 2], to: &mut [f32]) {
    for (r, row) in from.chunks_exact(cols).enumerate() {
        row.iter().enumerate().for_each(|(c, &x)| to[c * rows + r] = x);
    }
}

/// Writes the exact principal basis: the leading eigenvectors of `X Xᵀ`, in double precision.
///
/// Slow (`C³`), allocates, and its time depends on the data: for tests and where exactness is asked for.
///
/// - Shapes: `x` `[C, P]` → `basis` `[C, rank]`, overwritten
pub fn exact_basis(x: &[f32], [c, p]: [usize; 2], rank: usize, basis: &mut [f32]) {
    let eigen = Eigen::of_gram(x, [c, p]);
    for (row, channel) in basis.chunks_exact_mut(rank).enumerate() {
        channel.iter_mut().enumerate().for_each(|(k, u)| *u = eigen.vectors[k * c + row] as f32);
    }
}

/// Singular values of `X` `[C, P]`, descending, `min(C, P)` of them.
pub fn singular_values(x: &[f32], [c, p]: [usize; 2]) -> Vec<f64> {
    let eigen = Eigen::of_gram(x, [c, p]);
    eigen.values.iter().take(c.min(p)).map(|value| value.max(0.0).sqrt()).collect()
}

/// Eigenvalues of a symmetric matrix, descending, and eigenvectors as rows.
struct Eigen {
    values: Vec<f64>,
    vectors: Vec<f64>,
}

impl Eigen {
    /// Sweeps of Jacobi's method; ten are enough for 2000 channels, more do nothing.
    const SWEEPS: usize = 40;

    fn of_gram(x: &[f32], [c, p]: [usize; 2]) -> Self {
        let rows: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        let mut a = vec![0.0; c * c];
        for i in 0..c {
            for j in 0..=i {
                let (ri, rj) = (&rows[i * p..(i + 1) * p], &rows[j * p..(j + 1) * p]);
                let product = ri.iter().zip(rj).map(|(x, y)| x * y).sum();
                a[i * c + j] = product;
                a[j * c + i] = product;
            }
        }
        Self::of_symmetric(a, c)
    }

    /// Jacobi's cyclic method.
    fn of_symmetric(mut a: Vec<f64>, n: usize) -> Self {
        let mut vectors: Vec<f64> = (0..n * n).map(|i| if i / n == i % n { 1.0 } else { 0.0 }).collect();
        let total: f64 = a.iter().map(|x| x * x).sum();
        for _ in 0..Self::SWEEPS {
            let off: f64 = (0..n).map(|i| a[i * n..i * n + i].iter().map(|x| x * x).sum::<f64>()).sum();
            if off.is_nan() || off <= total * 1e-30 {
                break;
            }
            for i in 1..n {
                (0..i).for_each(|j| rotate(&mut a, &mut vectors, n, j, i));
            }
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&i, &j| a[j * n + j].total_cmp(&a[i * n + i]));
        let values = order.iter().map(|&i| a[i * n + i]).collect();
        let vectors = order.iter().flat_map(|&i| vectors[i * n..(i + 1) * n].to_vec()).collect();
        Eigen { values, vectors }
    }
}

/// One Jacobi rotation that makes `a[p][q]` zero; eigenvectors are rows of `v`.
fn rotate(a: &mut [f64], v: &mut [f64], n: usize, p: usize, q: usize) {
    let apq = a[p * n + q];
    if apq == 0.0 {
        return;
    }
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let cos = 1.0 / t.hypot(1.0);
    let sin = t * cos;
    let turn = |x: &mut [f64], i: usize, j: usize| {
        let (xi, xj) = (x[i], x[j]);
        x[i] = cos * xi - sin * xj;
        x[j] = sin * xi + cos * xj;
    };
    for k in 0..n {
        turn(a, k * n + p, k * n + q);
    }
    for k in 0..n {
        turn(a, p * n + k, q * n + k);
        turn(v, p * n + k, q * n + k);
    }
    a[p * n + q] = 0.0;
    a[q * n + p] = 0.0;
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

    #[test]
    fn jacobi_finds_known_eigenvalues() {
        let eigen = Eigen::of_symmetric(vec![2.0, 1.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 5.0], 3);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(near(eigen.values[0], 5.0) && near(eigen.values[1], 3.0) && near(eigen.values[2], 1.0));
        assert!(near(eigen.vectors[2].abs(), 1.0) && near(eigen.vectors[3], eigen.vectors[4]));
    }
}
