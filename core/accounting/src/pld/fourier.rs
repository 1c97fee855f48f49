//! A fast Fourier transform with a bound on its rounding error.
//!
//! Radix 2, in place, about sixty lines: a library would be a hundred times that in the enclave, without a stated bound.

use std::f64::consts::PI;

/// Bound on one butterfly's relative error: `μ + γ₄(√2 + μ)` for weights that are `μ = 4u` off, `u` the unit roundoff.
const BUTTERFLY: f64 = 10.0 * f64::EPSILON / 2.0;

/// Transforms of one length, a power of two.
pub(super) struct Fourier {
    /// `exp(−2πi k/n)` for `k < n/2`.
    weights: Vec<Complex>,
}

/// Real and imaginary part.
pub(super) type Complex = (f64, f64);

impl Fourier {
    /// Transforms of `length` numbers.
    ///
    /// # Panics
    /// Unless `length` is a power of two.
    pub(super) fn new(length: usize) -> Self {
        assert!(length.is_power_of_two(), "{length} is no power of two");
        Fourier { weights: (0..length / 2).map(|k| root(k, length)).collect() }
    }

    /// `y_k = Σ_j x_j exp(−2πi jk/n)` in place of `x`; the inverse is the transform of the conjugate, divided by `n`.
    ///
    /// `‖error‖₂ ≤ relative_error() · ‖y‖₂` (Higham 2002, Theorem 24.2).
    pub(super) fn transform(&self, x: &mut [Complex]) {
        let n = x.len();
        if n < 2 {
            return;
        }
        let shift = usize::BITS - n.trailing_zeros();
        for i in 0..n {
            let j = i.reverse_bits() >> shift;
            if i < j {
                x.swap(i, j);
            }
        }
        let mut half = 1;
        while half < n {
            let stride = n / 2 / half;
            for block in x.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                let weights = self.weights.iter().step_by(stride);
                for ((a, b), &weight) in low.iter_mut().zip(high).zip(weights) {
                    let product = times(*b, weight);
                    *b = (a.0 - product.0, a.1 - product.1);
                    *a = (a.0 + product.0, a.1 + product.1);
                }
            }
            half *= 2;
        }
    }

    /// Bound on the relative error of one transform, in the Euclidean norm.
    pub(super) fn relative_error(&self) -> f64 {
        let passes = f64::from((2 * self.weights.len()).trailing_zeros());
        passes * BUTTERFLY / (1.0 - passes * BUTTERFLY)
    }
}

/// `a · b`, with a relative error of at most √5 units of roundoff (Brent, Percival & Zimmermann 2007).
pub(super) fn times(a: Complex, b: Complex) -> Complex {
    (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
}

/// `z^n` by repeated squaring: `n − 1` multiplications' relative error.
pub(super) fn power(mut z: Complex, mut n: u64) -> Complex {
    let mut result = (1.0, 0.0);
    while n > 0 {
        if n & 1 == 1 {
            result = times(result, z);
        }
        n >>= 1;
        if n > 0 {
            z = times(z, z);
        }
    }
    result
}

/// `exp(−2πi k/n)` for `k < n/2`, from an angle of at most π/4, where its rounding does least.
fn root(k: usize, n: usize) -> Complex {
    let angle = |k: usize| 2.0 * PI * (k as f64 / n as f64);
    let quarter = n / 4;
    if 8 * k <= n {
        (libm::cos(angle(k)), -libm::sin(angle(k)))
    } else if 8 * k <= 3 * n {
        let (k, sign) = if k <= quarter { (quarter - k, 1.0) } else { (k - quarter, -1.0) };
        (sign * libm::sin(angle(k)), -libm::cos(angle(k)))
    } else {
        let k = n / 2 - k;
        (-libm::cos(angle(k)), -libm::sin(angle(k)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` numbers in [−1, 1) from a linear congruential generator.
    fn noise(n: usize) -> Vec<Complex> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        (0..n).map(|_| (next(), next())).collect()
    }

    fn norm(x: &[Complex]) -> f64 {
        x.iter().map(|z| z.0 * z.0 + z.1 * z.1).sum::<f64>().sqrt()
    }

    #[test]
    fn the_transform_is_that_of_its_definition() {
        for n in [1, 2, 4, 8, 64, 256] {
            let x = noise(n);
            let mut y = x.clone();
            Fourier::new(n).transform(&mut y);
            for (k, found) in y.iter().enumerate() {
                let sum = x.iter().enumerate().fold((0.0, 0.0), |sum: Complex, (j, &x)| {
                    let (s, c) = (-2.0 * PI * ((j * k) % n) as f64 / n as f64).sin_cos();
                    let term = times(x, (c, s));
                    (sum.0 + term.0, sum.1 + term.1)
                });
                let error = (sum.0 - found.0).abs() + (sum.1 - found.1).abs();
                assert!(error < 1e-13 * n as f64, "n = {n}, k = {k}: {found:?} is not {sum:?}");
            }
        }
    }

    #[test]
    fn there_and_back_stays_within_the_bound() {
        for n in [2, 1 << 10, 1 << 16] {
            let (x, fourier) = (noise(n), Fourier::new(n));
            let mut y = x.clone();
            fourier.transform(&mut y);
            y.iter_mut().for_each(|z| z.1 = -z.1);
            fourier.transform(&mut y);
            let back = y.iter().map(|z| (z.0 / n as f64, -z.1 / n as f64));
            let error: Vec<_> = x.iter().zip(back).map(|(x, y)| (x.0 - y.0, x.1 - y.1)).collect();
            let (found, bound) = (norm(&error), 2.1 * fourier.relative_error() * norm(&x));
            assert!(found <= bound, "n = {n}: error {found:e}, bound {bound:e}");
        }
    }

    #[test]
    fn powers_are_products() {
        let z = (0.9, 0.3);
        let product = (0..13).fold((1.0, 0.0), |product, _| times(product, z));
        let found = power(z, 13);
        assert!((found.0 - product.0).abs() + (found.1 - product.1).abs() < 1e-15);
        assert_eq!(power(z, 0), (1.0, 0.0));
        assert_eq!(power(z, 1), z);
    }
}
