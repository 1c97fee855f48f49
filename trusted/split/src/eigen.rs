//! Eigenvalues and eigenvectors of a symmetric matrix, in double precision.
//!
//! Householder's reduction to a tridiagonal matrix, then implicit QL with Wilkinson's shift (Golub and Van Loan, Matrix
//! Computations, 8.3). Time depends on the data: for plans, calibration and tests.

use kernels::vectorised;

/// Steps of QL for one eigenvalue: two or three are usual; only what is not finite takes more.
const STEPS: usize = 60;

/// Eigenvectors of a symmetric matrix `a` `[n, n]` as rows, by descending eigenvalue.
pub(crate) fn vectors(a: Vec<f64>, n: usize) -> Vec<f64> {
    let mut reduced = Tridiagonal::of(a, n);
    let mut vectors = reduced.directions();
    reduced.solve(|i, cos, sin| {
        let (first, second) = vectors[i * n..].split_at_mut(n);
        turn(first, &mut second[..n], cos, sin);
    });
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| reduced.diagonal[j].total_cmp(&reduced.diagonal[i]));
    order.iter().flat_map(|&i| &vectors[i * n..(i + 1) * n]).copied().collect()
}

/// Eigenvalues of a symmetric matrix `a` `[n, n]`, descending.
pub(crate) fn values(a: Vec<f64>, n: usize) -> Vec<f64> {
    let mut reduced = Tridiagonal::of(a, n);
    reduced.solve(|_, _, _| ());
    reduced.diagonal.sort_by(|a, b| b.total_cmp(a));
    reduced.diagonal
}

/// A symmetric matrix as `Q T Qᵀ`, `Q = H₀ H₁ …` of reflections `H = I − β v vᵀ`.
struct Tridiagonal {
    n: usize,
    diagonal: Vec<f64>,
    /// Beside the diagonal; `off[i]` joins `i` and `i + 1`, the last is 0.
    off: Vec<f64>,
    /// `v` of reflection `k` in row `k`, from column `k + 1` on.
    reflections: Vec<f64>,
    factors: Vec<f64>,
}

impl Tridiagonal {
    fn of(mut a: Vec<f64>, n: usize) -> Self {
        let (mut off, mut factors) = (vec![0.0; n], vec![0.0; n]);
        let mut image = vec![0.0; n];
        for k in 0..n.saturating_sub(1) {
            let (done, rest) = a.split_at_mut((k + 1) * n);
            let v = &mut done[k * n + k + 1..];
            (off[k], factors[k]) = reflect(v);
            let w = &mut image[k + 1..];
            times(rest, n, v, w);
            w.iter_mut().for_each(|w| *w *= factors[k]);
            let half = -0.5 * factors[k] * dot(v, w);
            w.iter_mut().zip(&*v).for_each(|(w, &v)| *w += half * v);
            subtract_products(rest, n, v, w);
        }
        let diagonal = (0..n).map(|i| a[i * n + i]).collect();
        Tridiagonal { n, diagonal, off, reflections: a, factors }
    }

    /// `Qᵀ` `[n, n]`: the rows that [`Tridiagonal::solve`] turns into eigenvectors.
    fn directions(&self) -> Vec<f64> {
        let n = self.n;
        let mut rows: Vec<f64> = (0..n * n).map(|i| if i / n == i % n { 1.0 } else { 0.0 }).collect();
        // From the last on: what is not yet reflected is the identity, so only rows and columns beyond `k` change.
        for k in (0..n.saturating_sub(1)).rev() {
            let v = &self.reflections[k * n + k + 1..(k + 1) * n];
            for row in rows[(k + 1) * n..].chunks_exact_mut(n) {
                let row = &mut row[k + 1..];
                let along = -self.factors[k] * dot(row, v);
                row.iter_mut().zip(v).for_each(|(x, &v)| *x += along * v);
            }
        }
        rows
    }

    /// Makes the diagonal the eigenvalues; `turn(i, cos, sin)` is told each rotation of `i` and `i + 1`.
    fn solve(&mut self, mut turn: impl FnMut(usize, f64, f64)) {
        for first in 0..self.n {
            for _ in 0..STEPS {
                let last = self.end_of_block(first);
                if last == first {
                    break;
                }
                self.step(first, last, &mut turn);
            }
        }
    }

    /// The last index that is still joined to `first`.
    fn end_of_block(&self, first: usize) -> usize {
        let d = &self.diagonal;
        let apart = |i: usize| self.off[i].abs() <= f64::EPSILON * (d[i].abs() + d[i + 1].abs());
        (first..self.n - 1).find(|&i| apart(i)).unwrap_or(self.n - 1)
    }

    /// One implicit step of QL on `first..=last`.
    fn step(&mut self, first: usize, last: usize, turn: &mut impl FnMut(usize, f64, f64)) {
        let (d, e) = (&mut self.diagonal, &mut self.off);
        let half = (d[first + 1] - d[first]) / (2.0 * e[first]);
        let shift = d[first] - e[first] / (half + half.hypot(1.0).copysign(half));
        let (mut sin, mut cos, mut moved) = (1.0, 1.0, 0.0);
        let mut bulge = d[last] - shift;
        for i in (first..last).rev() {
            let (f, b) = (sin * e[i], cos * e[i]);
            let length = f.hypot(bulge);
            e[i + 1] = length;
            if length == 0.0 {
                // The block falls apart here.
                d[i + 1] -= moved;
                e[last] = 0.0;
                return;
            }
            (sin, cos) = (f / length, bulge / length);
            let next = d[i + 1] - moved;
            let product = (d[i] - next) * sin + 2.0 * cos * b;
            moved = sin * product;
            d[i + 1] = next + moved;
            bulge = cos * product - b;
            turn(i, cos, sin);
        }
        d[first] -= moved;
        e[first] = bulge;
        e[last] = 0.0;
    }
}

/// Turns `x` into `v` of a reflection `I − β v vᵀ` that maps `x` to `(α, 0, …)`; returns `α` and `β`.
fn reflect(x: &mut [f64]) -> (f64, f64) {
    let rest: f64 = x[1..].iter().map(|x| x * x).sum();
    if rest == 0.0 {
        return (x[0], 0.0);
    }
    let alpha = -(x[0] * x[0] + rest).sqrt().copysign(x[0]);
    x[0] -= alpha;
    (alpha, 2.0 / (x[0] * x[0] + rest))
}

vectorised! {
    /// `w = A v`, `A` the last `v.len()` columns of rows of `n`.
    fn times<'a>(rows: &'a [f64], n: usize, v: &'a [f64], w: &'a mut [f64]) -> () {
        for (w, row) in w.iter_mut().zip(rows.chunks_exact(n)) {
            *w = dot(&row[n - v.len()..], v);
        }
    }
}

vectorised! {
    /// `A ← A − v wᵀ − w vᵀ`, `A` the last `v.len()` columns of rows of `n`.
    fn subtract_products<'a>(rows: &'a mut [f64], n: usize, v: &'a [f64], w: &'a [f64]) -> () {
        for ((row, &vi), &wi) in rows.chunks_exact_mut(n).zip(v).zip(w) {
            for ((a, &vj), &wj) in row[n - v.len()..].iter_mut().zip(v).zip(w) {
                *a -= vi * wj + wi * vj;
            }
        }
    }
}

vectorised! {
    fn turn<'a>(first: &'a mut [f64], second: &'a mut [f64], cos: f64, sin: f64) -> () {
        for (a, b) in first.iter_mut().zip(second) {
            (*a, *b) = (cos * *a - sin * *b, sin * *a + cos * *b);
        }
    }
}

/// Sum of products in 16 lanes, in a fixed order.
#[inline(always)]
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut lanes = [0.0; 16];
    for (a, b) in a.0.iter().zip(b.0) {
        (0..16).for_each(|i| lanes[i] += a[i] * b[i]);
    }
    lanes.iter().sum::<f64>() + a.1.iter().zip(b.1).map(|(a, b)| a * b).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn finds_known_eigenvalues() {
        let a = vec![2.0, 1.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 5.0];
        let (values_of_a, vectors) = (values(a.clone(), 3), vectors(a, 3));
        assert!(values_of_a.iter().zip([5.0, 3.0, 1.0]).all(|(&found, expected)| near(found, expected)));
        assert!(near(vectors[2].abs(), 1.0) && near(vectors[3], vectors[4]));
        assert_eq!(values(vec![-4.0], 1), [-4.0]);
        assert_eq!(values(Vec::new(), 0), [0.0; 0]);
        assert_eq!(values(vec![0.0; 25], 5), [0.0; 5]);
    }

    /// Second differences: eigenvalues 2 − 2 cos(kπ/(n+1)).
    #[test]
    fn finds_the_spectrum_of_second_differences() {
        let n = 40;
        let mut a = vec![0.0; n * n];
        (0..n).for_each(|i| a[i * n + i] = 2.0);
        (1..n).for_each(|i| (a[i * n + i - 1], a[(i - 1) * n + i]) = (-1.0, -1.0));
        for (k, value) in values(a, n).into_iter().enumerate() {
            let angle = (n - k) as f64 * std::f64::consts::PI / (n + 1) as f64;
            assert!(near(value, 2.0 - 2.0 * angle.cos()), "{k}: {value}");
        }
    }

    #[test]
    fn vectors_are_orthonormal_and_give_the_matrix_back() {
        for (n, rank) in [(1, 1), (2, 2), (5, 2), (33, 33), (50, 7)] {
            // A sum of `rank` products: the other eigenvalues are 0.
            let b: Vec<f64> =
                (0..n * rank).map(|i| ((i * i * 31 + i * 7) % 97) as f64 / 97.0 - 0.5).collect();
            let a: Vec<f64> =
                (0..n * n).map(|at| dot(&b[at / n * rank..][..rank], &b[at % n * rank..][..rank])).collect();
            let (values, vectors) = (values(a.clone(), n), vectors(a.clone(), n));
            assert!(values.is_sorted_by(|a, b| a >= b));
            let row = |i: usize| &vectors[i * n..(i + 1) * n];
            for (at, &a) in a.iter().enumerate() {
                let (i, j) = (at / n, at % n);
                assert!(near(dot(row(i), row(j)), if i == j { 1.0 } else { 0.0 }));
                let back: f64 = (0..n).map(|k| values[k] * row(k)[i] * row(k)[j]).sum();
                assert!(near(back, a), "{n}: {back} {a}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_ends() {
        assert!(values(vec![f64::NAN; 16], 4).iter().any(|x| x.is_nan()));
        values(vec![f64::INFINITY; 16], 4);
    }
}
