//! Signs of noised numbers, drawn without making the noise.
//!
//! The sign of `z + σN` with a standard normal `N` is 1 with probability `Φ(z/σ)` and nothing else about it matters, so a
//! uniform number is compared with that probability: one polynomial and 16 bits of the stream per number.

use kernels::vectorised;

use crate::noise::NoiseStream;
use crate::release_shape::Reduced;

/// Largest `clip/σ` for which the series below is used; beyond (ε above about 40) the noise itself is made.
const WIDEST: f64 = 3.0;

/// Numbers whose draws are made together.
const BLOCK: usize = 512;

/// Draws signs of numbers of size up to a bound under Gaussian noise.
#[derive(Clone, Debug)]
pub(crate) struct Signs {
    sigma: f64,
    /// `Φ(t) − 1/2 = t · Σ c_n t²ⁿ` for `|t| ≤ clip/σ`; `None` where the series is too wide.
    series: Option<Vec<f64>>,
}

impl Signs {
    /// For numbers of size up to `clip` under noise `N(0, σ²)`.
    ///
    /// The number of terms is public: it follows from `clip` and `sigma`. Each probability is right to 2e-15, its ratio to
    /// the true one to 2e-12 where it is smallest. Over 65,536 numbers near one half that is 3e-10 in ε; it is not counted.
    pub(crate) fn new(clip: f64, sigma: f64) -> Self {
        let widest = clip / sigma;
        Signs { sigma, series: (widest <= WIDEST).then(|| series(widest)) }
    }

    /// Packs the signs of `numbers`, scaled by `scale`, into `out`: number `i` is bit `i % 8` of byte `i / 8`, 1 if not
    /// negative.
    ///
    /// - `noise`: 16 bits per number; `ties`: 53 more for the one in 65,536 whose first 16 do not decide, however large the
    ///   numbers are
    pub(crate) fn draw(
        &self,
        numbers: Reduced<'_>,
        scale: f64,
        noise: &mut NoiseStream,
        ties: impl FnOnce() -> NoiseStream,
        out: &mut [u8],
    ) {
        let Some(series) = &self.series else {
            return self.draw_with_noise(numbers, scale, noise, out);
        };
        let mut ties = Ties { open: Some(ties), stream: None };
        let mut draws = [0u8; 2 * BLOCK];
        in_blocks(numbers, out, |block, bytes| {
            let draws = &mut draws[..2 * block.len()];
            noise.fill(draws);
            if subtract_draws(block, scale / self.sigma, series, draws) {
                // Between 0 and 1: a second draw decides, so that the probability is exact.
                block.iter_mut().filter(|d| (0.0..1.0).contains(*d)).for_each(|d| *d += ties.decide(*d));
            }
            pack(block, 1.0, bytes);
        });
    }

    fn draw_with_noise(&self, numbers: Reduced<'_>, scale: f64, noise: &mut NoiseStream, out: &mut [u8]) {
        let mut gaussians = [0.0; BLOCK];
        in_blocks(numbers, out, |block, bytes| {
            let gaussians = &mut gaussians[..block.len()];
            noise.fill_gaussian(gaussians);
            block.iter_mut().zip(gaussians).for_each(|(z, n)| *z = *z * scale + self.sigma * *n);
            pack(block, 0.0, bytes);
        });
    }
}

/// Copies the numbers block by block, with the bytes that their signs go to.
fn in_blocks(numbers: Reduced<'_>, out: &mut [u8], mut work: impl FnMut(&mut [f64], &mut [u8])) {
    let mut block = [0.0; BLOCK];
    for (i, bytes) in out.chunks_mut(BLOCK / 8).enumerate() {
        let first = i * BLOCK;
        let block = &mut block[..(numbers.len() - first).min(BLOCK)];
        numbers.copy(first, block);
        work(block, bytes);
    }
}

/// The second stream, made when it is first needed.
struct Ties<F> {
    open: Option<F>,
    stream: Option<NoiseStream>,
}

impl<F: FnOnce() -> NoiseStream> Ties<F> {
    /// 1 with probability `fraction`, else −1.
    fn decide(&mut self, fraction: f64) -> f64 {
        if let Some(open) = self.open.take() {
            self.stream = Some(open());
        }
        let bits = self.stream.as_mut().expect("opened above").bits() >> 11;
        if (bits as f64) < fraction * (1u64 << 53) as f64 { 1.0 } else { -1.0 }
    }
}

/// `c_n = (−1)ⁿ / (√(2π) 2ⁿ n! (2n+1))`, as many as change a sum of numbers below 1.
fn series(widest: f64) -> Vec<f64> {
    let (mut coefficients, mut factor) = (Vec::new(), 1.0 / (2.0 * std::f64::consts::PI).sqrt());
    let (mut n, mut power) = (0.0f64, 1.0f64);
    loop {
        let coefficient: f64 = factor / (2.0 * n + 1.0);
        coefficients.push(coefficient);
        if coefficient.abs() * power < 1e-17 {
            return coefficients;
        }
        n += 1.0;
        factor /= -2.0 * n;
        power *= widest * widest;
    }
}

vectorised! {
    /// `x[i] = 2¹⁶ Φ(scale · x[i]) − u[i]` with 16-bit `u`; whether one of them lies in [0, 1).
    fn subtract_draws<'a>(x: &'a mut [f64], scale: f64, series: &'a [f64], draws: &'a [u8]) -> bool {
        let mut tied = false;
        let (blocks, _) = draws.as_chunks::<2>();
        for (x, u) in x.chunks_mut(LANES).zip(blocks.chunks(LANES)) {
            let mut t = [0.0; LANES];
            t.iter_mut().zip(x.iter()).for_each(|(t, x)| *t = scale * x);
            let square = t.map(|t| t * t);
            let mut sum = [0.0; LANES];
            for &c in series.iter().rev() {
                sum.iter_mut().zip(square).for_each(|(sum, s)| *sum = *sum * s + c);
            }
            for (((x, u), t), sum) in x.iter_mut().zip(u).zip(t).zip(sum) {
                let d = 65536.0 * (0.5 + t * sum) - f64::from(u16::from_le_bytes(*u));
                tied |= (0.0..1.0).contains(&d);
                *x = d;
            }
        }
        tied
    }
}

/// Numbers in flight at once: enough to hide the latency of a multiply and an add on every processor.
const LANES: usize = 64;

/// Signs of numbers as they are, packed as [`Signs::draw`] does.
pub(crate) fn of(numbers: Reduced<'_>) -> Vec<u8> {
    let mut out = vec![0; numbers.len().div_ceil(8)];
    in_blocks(numbers, &mut out, |block, bytes| pack(block, 0.0, bytes));
    out
}

vectorised! {
    /// Bit `i` is whether `x[i] ≥ limit`.
    fn pack<'a>(x: &'a [f64], limit: f64, out: &'a mut [u8]) -> () {
        let (bytes, rest) = x.as_chunks::<8>();
        let mut out = out.iter_mut();
        for (eight, byte) in bytes.iter().zip(out.by_ref()) {
            *byte = (0..8).fold(0, |byte, i| byte | u8::from(eight[i] >= limit) << i);
        }
        if let Some(byte) = out.next() {
            *byte = rest.iter().enumerate().fold(0, |byte, (i, &x)| byte | u8::from(x >= limit) << i);
        }
    }
}

#[cfg(test)]
mod tests {
    use ledger::{Digest, MechanismId};

    use super::*;
    use crate::NoiseKey;

    fn stream(name: &str) -> NoiseStream {
        NoiseKey::new([7; 32]).stream(&Digest([0; 32]), 0, 0, &MechanismId::new(name), None)
    }

    fn phi(t: f64) -> f64 {
        0.5 * libm::erfc(-t * std::f64::consts::FRAC_1_SQRT_2)
    }

    #[test]
    fn the_series_is_the_normal_distribution() {
        for widest in [1e-6, 0.1, 0.83, 1.0, 2.5, WIDEST] {
            let series = series(widest);
            for i in -100..=100 {
                let t = widest * f64::from(i) / 100.0;
                let sum = series.iter().rev().fold(0.0, |sum, c| sum * t * t + c);
                let error = (0.5 + t * sum - phi(t)).abs();
                assert!(error < 2e-15, "Φ({t}) is off by {error:e}");
                assert!(error / phi(-t.abs()) < 2e-12, "Φ({t}) is off by {error:e}");
            }
        }
        assert!(series(1.0).len() < 20 && series(WIDEST).len() < 45);
    }

    /// How often each of `values` is told to be positive, of `repeats` draws.
    fn shares(signs: &Signs, values: &[f64], repeats: usize, name: &str) -> Vec<f64> {
        let all: Vec<f64> = (0..values.len() * repeats).map(|i| values[i % values.len()]).collect();
        let mut out = vec![0u8; all.len().div_ceil(8)];
        signs.draw(Reduced::Means(&all), 1.0, &mut stream(name), || stream("ties"), &mut out);
        let mut counts = vec![0usize; values.len()];
        for i in 0..all.len() {
            counts[i % values.len()] += usize::from(out[i / 8] >> (i % 8) & 1);
        }
        counts.into_iter().map(|count| count as f64 / repeats as f64).collect()
    }

    #[test]
    fn signs_are_as_likely_as_under_the_noise() {
        let values = [-2.0, -0.7, -0.01, 0.0, 0.3, 1.1, 2.0];
        let repeats = 200_000;
        for (clip, sigma) in [(2.0, 2.4), (2.0, 0.7), (2.0, 0.5)] {
            let signs = Signs::new(clip, sigma);
            assert_eq!(signs.series.is_some(), clip / sigma <= WIDEST);
            let off = |sigma: f64| {
                let shares = shares(&signs, &values, repeats, &format!("{sigma}"));
                let deviation = |(share, z): (&f64, &f64)| {
                    let p = phi(z / sigma);
                    (share - p).abs() / (p * (1.0 - p) / repeats as f64).sqrt().max(1e-9)
                };
                shares.iter().zip(&values).map(deviation).fold(0.0, f64::max)
            };
            assert!(off(sigma) < 4.5, "σ = {sigma}: {} standard deviations", off(sigma));
            // The test can fail: 4 % less noise shows.
            assert!(off(1.04 * sigma) > 4.5, "σ = {sigma}: {}", off(1.04 * sigma));
        }
    }

    /// With a first draw that never decides, only the second one does.
    #[test]
    fn ties_are_decided_in_proportion() {
        let mut ties = Ties { open: Some(|| stream("only ties")), stream: None };
        let ones = (0..100_000).filter(|_| ties.decide(0.3) > 0.0).count();
        assert!((29_300..30_700).contains(&ones), "{ones}");
        assert_eq!(ties.decide(0.0), -1.0);
    }

    #[test]
    fn lengths_that_fill_no_block_are_packed() {
        for len in [1usize, 7, 8, 9, 31, 33, 511, 512, 513, 1025] {
            let signs = Signs::new(1.0, 1e-12 + 1.0 / WIDEST);
            let numbers: Vec<f64> = (0..len).map(|i| if i % 3 == 0 { 1.0 } else { -1.0 }).collect();
            let mut out = vec![0u8; len.div_ceil(8)];
            signs.draw(Reduced::Means(&numbers), 1.0, &mut stream("a"), || stream("b"), &mut out);
            // At three standard deviations hardly any sign is wrong.
            let wrong = (0..len).filter(|i| (out[i / 8] >> (i % 8) & 1 == 1) != (i % 3 == 0)).count();
            assert!(wrong <= 1 + len / 50, "{wrong} of {len}");
        }
    }
}
