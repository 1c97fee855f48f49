//! Keyed noise: a pseudo-random function of a secret key and of what is released.
//!
//! The same release always gets the same noise, so that a restart sends the same bytes and reveals nothing new.

use std::fmt;

use chacha20::XChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use ledger::{Digest, MechanismId};
use zeroize::Zeroize;

/// The job key that all private randomness comes from; wiped when dropped, never shown.
///
/// It comes from the operating system or the owner's key release, never from an experiment's seed.
#[derive(Clone)]
pub struct NoiseKey([u8; 32]);

impl NoiseKey {
    /// A key of 32 uniformly random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        NoiseKey(bytes)
    }

    /// The noise of one release.
    ///
    /// - `dataset`: root of the data set; `view`: which augmentation of the record
    /// - `transcript`: for a release that depends on what the accelerator sent before, digest of that
    pub(crate) fn stream(
        &self,
        dataset: &Digest,
        record: u64,
        view: u32,
        mechanism: &MechanismId,
        transcript: Option<&Digest>,
    ) -> NoiseStream {
        let transcript = transcript.map_or(&[][..], |digest| &digest.0);
        let name = mechanism.as_str().as_bytes();
        let parts: [&[u8]; 5] = [&dataset.0, &record.to_le_bytes(), &view.to_le_bytes(), name, transcript];
        let nonce = Digest::of("asymflow noise v2", &parts).0;
        let (nonce, _) = nonce.split_first_chunk::<24>().expect("a digest has 32 bytes");
        NoiseStream { cipher: XChaCha20::new(&self.0.into(), nonce.into()) }
    }
}

impl Drop for NoiseKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl NoiseKey {
    /// A digest of `parts` that nobody without the key can make.
    pub(crate) fn digest(&self, domain: &str, parts: &[&[u8]]) -> Digest {
        // Every part is preceded by its length, so nothing can be appended to a known digest's input.
        let keyed: Vec<&[u8]> = std::iter::once(&self.0[..]).chain(parts.iter().copied()).collect();
        Digest::of(domain, &keyed)
    }
}

impl NoiseKey {
    /// Name of a data set in the ledger, which others may read: without the key it cannot be compared with a guess.
    pub(crate) fn dataset(&self, root: &Digest) -> Digest {
        self.digest("asymflow ledger data set v1", &[&root.0])
    }
}

impl fmt::Debug for NoiseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoiseKey(..)")
    }
}

const TWO_128: f64 = 340_282_366_920_938_463_463_374_607_431_768_211_456.0;

/// A stream of random numbers; every sample takes a fixed number of draws.
pub(crate) struct NoiseStream {
    cipher: XChaCha20,
}

impl NoiseStream {
    /// Fills `out` with uniform bytes.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        out.fill(0);
        self.cipher.apply_keystream(out);
    }

    /// 64 uniform bits.
    pub(crate) fn bits(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.cipher.apply_keystream(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A uniform number in (0, 1] of 128 bits, rounded to 53: in full precision down to 2⁻⁷⁵, in steps of 2⁻¹²⁸ below.
    pub(crate) fn small_uniform(&mut self) -> f64 {
        let bits = u128::from(self.bits()) << 64 | u128::from(self.bits());
        // The conversion rounds to 53 bits.
        (bits as f64 + 1.0) / TWO_128
    }

    /// Fills `out` with independent standard normal numbers.
    ///
    /// Box–Muller from 53-bit uniforms; the largest possible size is 8.57, beyond which a true normal lies with
    /// probability 1e-17.
    pub(crate) fn fill_gaussian(&mut self, out: &mut [f64]) {
        const PAIRS: usize = 64;
        let mut bytes = [0u8; 16 * PAIRS];
        for chunk in out.chunks_mut(2 * PAIRS) {
            let pairs = chunk.len().div_ceil(2);
            let bytes = &mut bytes[..16 * pairs];
            bytes.fill(0);
            self.cipher.apply_keystream(bytes);
            for (pair, draws) in chunk.chunks_mut(2).zip(bytes.chunks_exact(16)) {
                let gaussians = box_muller(uniform(&draws[..8]), uniform(&draws[8..]));
                pair.copy_from_slice(&gaussians[..pair.len()]);
            }
        }
        bytes.zeroize();
    }
}

/// A uniform number in (0, 1] with 53 bits.
fn uniform(bytes: &[u8]) -> f64 {
    let bits = u64::from_le_bytes(bytes.try_into().expect("eight bytes per draw"));
    ((bits >> 11) + 1) as f64 / (1u64 << 53) as f64
}

fn box_muller(u: f64, v: f64) -> [f64; 2] {
    // `libm` rather than the platform's library: the same bytes on every machine.
    let radius = libm::sqrt(-2.0 * libm::log(u));
    let (sin, cos) = libm::sincos(2.0 * std::f64::consts::PI * v);
    [radius * cos, radius * sin]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The normal distribution function.
    fn phi(x: f64) -> f64 {
        0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
    }

    fn stream(key: u8, dataset: u8, record: u64, view: u32, mechanism: &str) -> NoiseStream {
        let (dataset, mechanism) = (Digest([dataset; 32]), MechanismId::new(mechanism));
        NoiseKey::new([key; 32]).stream(&dataset, record, view, &mechanism, None)
    }

    fn gaussians(mut stream: NoiseStream, count: usize) -> Vec<f64> {
        let mut out = vec![0.0; count];
        stream.fill_gaussian(&mut out);
        out
    }

    /// Kolmogorov–Smirnov statistic times √n; above 1.63 with probability 1 % for normal numbers.
    fn kolmogorov(mut x: Vec<f64>) -> f64 {
        x.sort_by(f64::total_cmp);
        let n = x.len() as f64;
        let gap = |(i, &x): (usize, &f64)| (phi(x) - i as f64 / n).max((i + 1) as f64 / n - phi(x));
        x.iter().enumerate().map(gap).fold(0.0, f64::max) * n.sqrt()
    }

    #[test]
    fn noise_is_standard_normal() {
        let x = gaussians(stream(1, 2, 3, 0, "test"), 200_000);
        assert!(kolmogorov(x.clone()) < 1.63, "{}", kolmogorov(x));
        // The test can fail: 2 % too little noise shows.
        assert!(kolmogorov(x.iter().map(|v| 0.98 * v).collect()) > 1.63);
        // Tails: beyond 4 lie 2 · 3.167e-5, about 12.7 of 200 000.
        let beyond = x.iter().filter(|v| v.abs() > 4.0).count();
        assert!((3..30).contains(&beyond), "{beyond}");
        assert!(x.iter().all(|v| v.is_finite()));
    }

    /// Numbers of one record, and the n-th numbers of many records, are both independent.
    #[test]
    fn noise_is_independent_within_and_across_records() {
        let many: Vec<f64> =
            (0..20_000).flat_map(|record| gaussians(stream(1, 2, record, 0, "m"), 2)).collect();
        assert!(kolmogorov(many.iter().step_by(2).copied().collect()) < 1.63);
        let correlation = |lag: usize| {
            let pairs = many.iter().zip(&many[lag..]);
            pairs.map(|(a, b)| a * b).sum::<f64>() / (many.len() as f64).sqrt()
        };
        for lag in [1, 2, 3, 4] {
            assert!(correlation(lag).abs() < 4.0, "lag {lag}: {}", correlation(lag));
        }
    }

    #[test]
    fn noise_is_a_function_of_its_names() {
        let after = |transcript: Digest| {
            let (dataset, mechanism) = (Digest([2; 32]), MechanismId::new("m"));
            NoiseKey::new([1; 32]).stream(&dataset, 3, 4, &mechanism, Some(&transcript))
        };
        let first = gaussians(stream(1, 2, 3, 4, "m"), 5);
        assert_eq!(first, gaussians(stream(1, 2, 3, 4, "m"), 5));
        for other in [
            stream(0, 2, 3, 4, "m"),
            stream(1, 0, 3, 4, "m"),
            stream(1, 2, 0, 4, "m"),
            stream(1, 2, 3, 0, "m"),
            stream(1, 2, 3, 4, "n"),
            stream(1, 2, 4, 3, "m"),
            after(Digest([0; 32])),
            after(Digest([5; 32])),
        ] {
            assert!(gaussians(other, 5).iter().zip(&first).all(|(a, b)| a != b));
        }
    }

    #[test]
    fn the_key_is_never_shown() {
        assert_eq!(format!("{:?}", NoiseKey::new([42; 32])), "NoiseKey(..)");
    }

    /// The extreme draws give finite numbers.
    #[test]
    fn the_largest_noise_is_finite() {
        let [x, y] = box_muller(uniform(&[0; 8]), uniform(&[0xff; 8]));
        assert!((8.57..8.58).contains(&x) && y.abs() < 1e-10);
        assert_eq!(box_muller(uniform(&[0xff; 8]), 0.5)[0], 0.0);
    }
}
