//! Gaussian noise on a grid: low-order bits of what leaves carry nothing.
//!
//! A floating-point sum `x + σN` shows in its low-order bits which `x` it came from (Mironov 2012). Here `x` is first put on
//! a grid of step 2⁻¹²σ or finer, towards zero, so that no norm grows; then the noise, rounded to the same grid, is added
//! in whole numbers. That is a function of the grid value plus ideal noise, so the Gaussian mechanism's guarantee holds.

use zeroize::Zeroize;

use crate::noise::NoiseStream;

/// The grid's step is the power of two just below `σ · 2⁻¹²`.
const STEPS_PER_SIGMA: i32 = 12;

/// Numbers whose noise is made in one piece: the same stream gives the same noise only in pieces of this length.
pub(crate) const BLOCK: usize = 512;

/// Random bytes for each number.
const DRAW: usize = 16;

/// Noise for which grid and result are ordinary numbers, in single precision as well.
pub(crate) const SIGMA: std::ops::RangeInclusive<f64> = 1e-30..=1e30;

/// A grid with its noise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lattice {
    step: f64,
    /// σ in steps, from 2¹² to 2¹³.
    sigma: f64,
}

impl Lattice {
    /// The grid for noise `N(0, σ²)`; `sigma` within [`SIGMA`].
    pub(crate) fn new(sigma: f64) -> Self {
        let step = libm::exp2(libm::floor(libm::log2(sigma)) - f64::from(STEPS_PER_SIGMA));
        Lattice { step, sigma: sigma / step }
    }

    /// Distance between neighbours on the grid.
    pub(crate) fn step(&self) -> f64 {
        self.step
    }

    /// Puts `scale · x[i]` on the grid, towards zero, and adds noise of whole steps: a normal number of standard deviation
    /// σ, rounded to the nearest step.
    ///
    /// By inversion: 127 bits pick a tail probability, and [`quantile`] says which step it belongs to. Every number takes the
    /// same draws and the same instructions, whatever they are. Up to 10.5 standard deviations each step's probability is
    /// within `e^±`[`accounting::LATTICE_ETA`] of the ideal one; beyond lies [`accounting::LATTICE_TAIL`] at most. Both are
    /// computed, step by step, in the tests.
    ///
    /// - Shapes: up to [`BLOCK`] numbers, all of them finite; a longer vector is done in pieces of that length
    pub(crate) fn perturb(&self, scale: f64, x: &mut [f64], stream: &mut NoiseStream, scratch: &mut Scratch) {
        let used = x.len().next_multiple_of(LANES);
        let (draws, noise) = (&mut scratch.draws[..DRAW * used], &mut scratch.noise[..used]);
        stream.fill(draws);
        rounded_normals(draws, self.sigma, noise);
        add_on_grid(x, scale / self.step, self.step, noise);
    }
}

/// Room for the noise of a block; wiped when dropped, because whoever has the noise can take it off.
pub(crate) struct Scratch {
    draws: [u8; DRAW * BLOCK],
    noise: [f64; BLOCK],
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Scratch { draws: [0; DRAW * BLOCK], noise: [0.0; BLOCK] }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.draws.zeroize();
        self.noise.zeroize();
    }
}

/// Numbers in flight at once: a whole number of vectors on every processor.
const LANES: usize = 32;

kernels::vectorised! {
    /// Each number's noise, in steps, from its [`DRAW`] bytes.
    ///
    /// - `draws`: for every [`LANES`] numbers first their high words, then their low ones
    fn rounded_normals<'a>(draws: &'a [u8], sigma: f64, out: &'a mut [f64]) -> () {
        for (draws, out) in draws.chunks_exact(DRAW * LANES).zip(out.chunks_exact_mut(LANES)) {
            let (words, _) = draws.as_chunks::<8>();
            let (mut high, mut low) = ([0u64; LANES], [0u64; LANES]);
            high.iter_mut().zip(words).for_each(|(w, bytes)| *w = u64::from_le_bytes(*bytes));
            low.iter_mut().zip(&words[LANES..]).for_each(|(w, bytes)| *w = u64::from_le_bytes(*bytes));
            for ((out, high), low) in out.iter_mut().zip(high).zip(low) {
                let steps = (quantile(tail(high, low)) * sigma + 0.5).floor();
                *out = f64::from_bits(steps.to_bits() | high & SIGN);
            }
        }
    }
}

kernels::vectorised! {
    /// `x[i] ← step · (trunc(scale · x[i]) + noise[i])`.
    fn add_on_grid<'a>(x: &'a mut [f64], scale: f64, step: f64, noise: &'a [f64]) -> () {
        for (x, noise) in x.iter_mut().zip(noise) {
            // A zero has a sign, which could be that of x: adding 0 makes every zero a positive one.
            *x = ((scale * *x).trunc() + *noise + 0.0) * step;
        }
    }
}

const SIGN: u64 = 1 << 63;

/// A uniform number in (0, 1/2] of 127 bits, rounded to 53.
#[inline(always)]
fn tail(high: u64, low: u64) -> f64 {
    const TWO_64: f64 = 18_446_744_073_709_551_616.0;
    ((high & !SIGN) as f64 + (low as f64 + 0.5) / TWO_64) / TWO_64
}

/// The `x ≥ 0` with `P[N > x] = u`, for `u` in `[2⁻¹²⁹, 1/2]`.
///
/// A quotient of two polynomials in `t = √(−2 ln u)`, interpolated at 18 places of that range (Chebyshev's on a logarithmic
/// scale) in 60 digits: 3e-14 from the true one. What counts is its slope, which says how likely each step is: 2e-12.
#[inline(always)]
fn quantile(u: f64) -> f64 {
    let t = (-2.0 * ln(u)).sqrt();
    let numerator = NUMERATOR.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let denominator = DENOMINATOR.iter().rev().fold(0.0, |sum, c| sum * t + c);
    // Near u = 1/2 the quotient may fall a rounding below 0.
    (numerator / denominator).max(0.0)
}

const NUMERATOR: [f64; 10] = [
    -3.714812451123645,
    -38.22968750448578,
    -61.0797765596603,
    -1.6241338350082202,
    30.51339971003032,
    22.382184441281357,
    8.362059562159137,
    1.3405132742424253,
    0.07525704743777799,
    0.0010767763055053211,
];
const DENOMINATOR: [f64; 9] = [
    1.0,
    16.206756557724194,
    49.75992770571839,
    51.43166140583913,
    26.77817328847658,
    8.693366123527444,
    1.34707697744852,
    0.07526436365450012,
    0.0010767578644645288,
];

/// The natural logarithm of a normal number in (0, 1], to a unit in the last place or two.
///
/// `u = 2ᵏ·m` with `m` from √½ to √2; `ln m = 2·artanh((m−1)/(m+1))` by its series, of which 11 terms reach 2⁻⁵⁵.
#[inline(always)]
fn ln(u: f64) -> f64 {
    const ONE: u64 = 0x3ff0_0000_0000_0000;
    /// Bits of √½, rounded.
    const ROOT: u64 = 0x3fe6_a09e_667f_3bcd;
    /// 2⁵², whose last bits hold whole numbers.
    const WHOLE: u64 = 0x4330_0000_0000_0000;
    /// ln 2 in two parts; products of the first with small whole numbers are exact.
    const LN_2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];
    let exponent = (u.to_bits() + (ONE - ROOT)) >> 52;
    let m = f64::from_bits(u.to_bits() + ONE - (exponent << 52));
    let k = f64::from_bits(WHOLE | exponent) - (f64::from_bits(WHOLE) + 1023.0);
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut series = 0.0;
    for odd in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        series = series * square + 1.0 / odd;
    }
    k * LN_2[0] + (k * LN_2[1] + 2.0 * (s + s * square * series))
}

#[cfg(test)]
#[path = "lattice_tests.rs"]
mod tests;
