use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// A stretch of shared memory, as words that are read and written one by one.
///
/// Both processes may read and write at the same time: words are atomic, so that this is never undefined, and what is read
/// while it is written is some mixture of words.
pub struct Mapping {
    words: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the memory is reached through atomic words alone.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl Mapping {
    /// New memory of at least `bytes` zeros, and its descriptor. Its size is sealed: nobody can cut it short under the
    /// other's feet.
    ///
    /// # Errors
    /// If the operating system has no such memory.
    pub fn create(bytes: usize) -> io::Result<(Self, OwnedFd)> {
        let bytes = bytes.next_multiple_of(rustix::param::page_size()).max(rustix::param::page_size());
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let descriptor = memfd_create("asymflow", flags)?;
        ftruncate(&descriptor, bytes as u64)?;
        fcntl_add_seals(&descriptor, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Mapping::map(&descriptor, bytes)?, descriptor))
    }

    /// The memory behind a descriptor that another process made.
    ///
    /// # Errors
    /// If it could be cut short, or has no size that can be mapped.
    pub fn open(descriptor: &OwnedFd) -> io::Result<Self> {
        if !fcntl_get_seals(descriptor)?.contains(SealFlags::SHRINK) {
            return Err(io::Error::other("shared memory whose size is not sealed"));
        }
        let bytes = usize::try_from(fstat(descriptor)?.st_size).unwrap_or(0);
        Mapping::map(descriptor, bytes)
    }

    fn map(descriptor: &OwnedFd, bytes: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the system chooses overlaps nothing; its size is sealed, so that no access
        // within it faults.
        #[allow(unsafe_code)]
        let address = unsafe {
            mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, descriptor.as_fd(), 0)?
        };
        let words = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(Mapping { words, len: bytes / WORD })
    }

    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.len * WORD
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `len` words lie there as long as this exists; pages are aligned for words, and any bits are a word.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.words.as_ptr(), self.len)
        }
    }

    /// Copies bytes from `at` on; each is read once.
    ///
    /// # Panics
    /// If they are not all within the memory.
    pub fn read(&self, at: usize, out: &mut [u8]) {
        let skipped = at % WORD;
        let words = &self.words()[at / WORD..][..(skipped + out.len()).div_ceil(WORD)];
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed).to_le_bytes();
        let (begin, out) = out.split_at_mut(out.len().min((WORD - skipped) % WORD));
        let mut words = words.iter();
        if let Some(first) = words.next().filter(|_| !begin.is_empty()) {
            begin.copy_from_slice(&load(first)[skipped..skipped + begin.len()]);
        } else {
            words = self.words()[at / WORD..][..out.len().div_ceil(WORD)].iter();
        }
        let (whole, rest) = out.as_chunks_mut::<WORD>();
        for (out, word) in whole.iter_mut().zip(&mut words) {
            *out = load(word);
        }
        if let Some(last) = words.next() {
            rest.copy_from_slice(&load(last)[..rest.len()]);
        }
    }

    /// Copies bytes to `at`, a multiple of 8; bytes up to the end of the last word become zeros.
    ///
    /// # Panics
    /// If they are not all within the memory, or `at` is no multiple of 8.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let words = &self.words()[first_word(at)..][..bytes.len().div_ceil(WORD)];
        let (whole, rest) = bytes.as_chunks::<WORD>();
        for (word, bytes) in words.iter().zip(whole) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        if let Some(last) = words.get(whole.len()) {
            let mut bytes = [0; WORD];
            bytes[..rest.len()].copy_from_slice(rest);
            last.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }

    /// Word `index` of the header: what the other process stored there is seen with all that it wrote before.
    ///
    /// # Panics
    /// If it is not within the memory.
    pub fn load(&self, index: usize) -> u64 {
        self.words()[index].load(Ordering::Acquire)
    }

    /// Stores word `index` of the header.
    ///
    /// # Panics
    /// If it is not within the memory.
    pub fn store(&self, index: usize, value: u64) {
        self.words()[index].store(value, Ordering::Release);
    }
}

fn first_word(at: usize) -> usize {
    assert!(at.is_multiple_of(WORD), "{at} is no multiple of {WORD}");
    at / WORD
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this size, and nothing refers to it any more.
        #[allow(unsafe_code)]
        let _ = unsafe { munmap(self.words.as_ptr().cast(), self.len()) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that fails says why

    use super::*;

    #[test]
    fn both_see_the_same_bytes() {
        let (ours, descriptor) = Mapping::create(10_000).unwrap();
        let theirs = Mapping::open(&descriptor).unwrap();
        assert_eq!((ours.len() % 4096, theirs.len()), (0, ours.len()));
        for len in [0usize, 1, 7, 8, 9, 4000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
            ours.write(64, &bytes);
            for begin in 0..len.min(20) {
                for end in [len, begin, begin + 1, begin + 9].into_iter().filter(|end| *end <= len) {
                    let mut found = vec![0; end - begin];
                    theirs.read(64 + begin, &mut found);
                    assert_eq!(found, bytes[begin..end], "{begin}..{end} of {len}");
                }
            }
        }
        theirs.store(3, 77);
        assert_eq!(ours.load(3), 77);
    }

    #[test]
    fn nobody_can_cut_it_short() {
        let (_ours, descriptor) = Mapping::create(8192).unwrap();
        assert!(ftruncate(&descriptor, 4096).is_err());
        let unsealed = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 4096).unwrap();
        assert!(Mapping::open(&unsealed).is_err());
    }

    #[test]
    #[should_panic(expected = "range end")]
    fn nothing_beyond_its_end_is_read() {
        let (ours, _descriptor) = Mapping::create(4096).unwrap();
        ours.read(4096 - 8, &mut [0; 9]);
    }
}
