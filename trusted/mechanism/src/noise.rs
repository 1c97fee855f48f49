//! Keyed noise: a pseudo-random function of a secret key and of what is released.
//!
//! The same release always gets the same noise, so that a restart sends the same bytes and reveals nothing new.

use std::fmt;

use chacha20::XChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::Digest;

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
    pub(crate) fn stream(
        &self,
        dataset: &Digest,
        record: u64,
        view: u32,
        mechanism: &MechanismId,
    ) -> NoiseStream {
        let parts: [&[u8]; 4] =
            [&dataset.0, &record.to_le_bytes(), &view.to_le_bytes(), mechanism.as_str().as_bytes()];
        let nonce = Digest::of("asymflow noise v1", &parts).0;
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

impl fmt::Debug for NoiseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoiseKey(..)")
    }
}

/// Name of a mechanism with every parameter that shapes its output, as the ledger and the noise derivation use it.
///
/// Two mechanisms with the same name are the same function of a record; any difference must show in it, or two releases
/// would share their noise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MechanismId(String);

impl MechanismId {
    /// A mechanism of that name.
    pub fn new(name: impl Into<String>) -> Self {
        MechanismId(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MechanismId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A stream of random numbers; every sample takes a fixed number of draws.
pub(crate) struct NoiseStream {
    cipher: XChaCha20,
}

impl NoiseStream {
    /// 64 uniform bits.
    pub(crate) fn bits(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.cipher.apply_keystream(&mut bytes);
        u64::from_le_bytes(bytes)
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
