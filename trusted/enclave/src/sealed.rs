//! Encryption of what is stored: XChaCha20-Poly1305 with a key derived from the job key, bound to the file's name.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"asymseal";
const NONCE: usize = 24;
const HEADER: usize = MAGIC.len() + NONCE;
const TAG: usize = 16;

/// A key that seals files of one run.
pub(crate) struct SealingKey(XChaCha20Poly1305);

/// A sealed file that does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsealable {
    NotSealed,
    Altered,
}

impl Unsealable {
    pub(crate) fn why(self) -> &'static str {
        match self {
            Unsealable::NotSealed => "it is not a sealed file, or is cut short",
            Unsealable::Altered => "it was altered, renamed, cut short, or sealed with another key",
        }
    }
}

impl SealingKey {
    /// The sealing key of a run; knowing it does not tell the job key.
    pub(crate) fn derive(job_key: &[u8; 32]) -> Self {
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(
            Sha256::new().chain_update(b"asymflow sealing v1").chain_update(job_key).finalize().into(),
        );
        SealingKey(XChaCha20Poly1305::new((&*key).into()))
    }

    /// `bytes`, encrypted under a fresh random nonce and bound to `name`.
    ///
    /// # Errors
    /// If the operating system gives no randomness.
    pub(crate) fn seal(&self, name: &str, bytes: &[u8]) -> Result<Vec<u8>, getrandom::Error> {
        let mut nonce = [0u8; NONCE];
        getrandom::fill(&mut nonce)?;
        // One copy, encrypted where it lies: files may be as large as the model.
        let mut sealed = Vec::with_capacity(HEADER + bytes.len() + TAG);
        sealed.extend_from_slice(MAGIC);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(bytes);
        let tag = self
            .0
            .encrypt_inout_detached(&XNonce::from(nonce), name.as_bytes(), (&mut sealed[HEADER..]).into())
            .expect("a file is shorter than the cipher's limit");
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// What [`SealingKey::seal`] was given.
    ///
    /// # Errors
    /// [`Unsealable`] if a single bit differs, or the name or key is another.
    pub(crate) fn open(&self, name: &str, mut sealed: Vec<u8>) -> Result<Vec<u8>, Unsealable> {
        let rest = sealed.strip_prefix(&MAGIC[..]).ok_or(Unsealable::NotSealed)?;
        let (&nonce, rest) = rest.split_first_chunk::<NONCE>().ok_or(Unsealable::NotSealed)?;
        let (_, &tag) = rest.split_last_chunk::<TAG>().ok_or(Unsealable::Altered)?;
        // Decrypted where it lies.
        sealed.truncate(sealed.len() - TAG);
        sealed.drain(..HEADER);
        self.0
            .decrypt_inout_detached(
                &XNonce::from(nonce),
                name.as_bytes(),
                sealed.as_mut_slice().into(),
                &Tag::from(tag),
            )
            .map_err(|_| Unsealable::Altered)?;
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_altered_byte_and_truncation_is_refused() {
        let key = SealingKey::derive(&[7; 32]);
        let sealed = key.seal("checkpoint-1", b"weights").unwrap();
        assert_eq!(key.open("checkpoint-1", sealed.clone()).unwrap(), b"weights");
        assert!(!sealed.windows(7).any(|w| w == b"weights"));
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(key.open("checkpoint-1", altered).is_err(), "byte {at}");
            assert!(key.open("checkpoint-1", sealed[..at].to_vec()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_name_or_key_does_not_open_it() {
        let key = SealingKey::derive(&[7; 32]);
        let sealed = key.seal("checkpoint-1", b"weights").unwrap();
        assert_eq!(key.open("checkpoint-2", sealed.clone()), Err(Unsealable::Altered));
        assert_eq!(
            SealingKey::derive(&[8; 32]).open("checkpoint-1", sealed.clone()),
            Err(Unsealable::Altered)
        );
        assert_ne!(sealed, key.seal("checkpoint-1", b"weights").unwrap());
    }
}
