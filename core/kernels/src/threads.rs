//! An explicit pool of threads, with scratch memory they share.

use std::sync::{Mutex, PoisonError};

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::denormals::{self, Flushed};

/// The threads an operator may use, and scratch buffers that are handed out and come back.
///
/// Denormal numbers count as 0 in what they run ([`denormals`]).
///
/// Once every buffer has grown to the largest request, asking for scratch memory allocates nothing.
pub struct Threads {
    pool: Option<rayon::ThreadPool>,
    count: usize,
    scratch: Mutex<Vec<Vec<f32>>>,
}

impl Threads {
    /// A pool of `count` threads; with 1, everything runs on the calling thread.
    pub fn new(count: usize) -> Self {
        let count = count.max(1);
        let pool = (count > 1).then(|| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(count);
            let pool = pool.start_handler(|_| denormals::flush_this_thread());
            pool.build().expect("the system can start threads")
        });
        Threads { pool, count, scratch: Mutex::default() }
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs `job(0)`, …, `job(parts − 1)`, in any order, on the pool.
    pub fn for_each(&self, parts: usize, job: impl Fn(usize) + Send + Sync) {
        match &self.pool {
            Some(pool) if parts > 1 => pool.install(|| (0..parts).into_par_iter().for_each(job)),
            _ => {
                let _flushed = Flushed::new();
                (0..parts).for_each(job);
            }
        }
    }

    /// Runs `job` on every item, in any order, on the pool.
    pub fn for_each_item<T: Send>(&self, items: Vec<T>, job: impl Fn(T) + Send + Sync) {
        match &self.pool {
            Some(pool) if items.len() > 1 => pool.install(|| items.into_par_iter().for_each(job)),
            _ => {
                let _flushed = Flushed::new();
                items.into_iter().for_each(job);
            }
        }
    }

    /// Runs `job(i, chunk i)` on consecutive chunks of `len` elements (the last may be shorter), in any order.
    pub fn for_each_chunk(
        &self,
        data: &mut [f32],
        len: usize,
        job: impl Fn(usize, &mut [f32]) + Send + Sync,
    ) {
        let len = len.max(1);
        match &self.pool {
            Some(pool) if data.len() > len => {
                pool.install(|| data.par_chunks_mut(len).enumerate().for_each(|(i, chunk)| job(i, chunk)));
            }
            _ => {
                let _flushed = Flushed::new();
                data.chunks_mut(len).enumerate().for_each(|(i, chunk)| job(i, chunk));
            }
        }
    }

    /// Scratch memory of `len` elements, contents unspecified. A thread may hold any number of buffers.
    pub fn scratch(&self, len: usize) -> ScratchGuard<'_> {
        let mut buffer = self.take(len);
        if buffer.len() < len {
            // Not grown in place: the old contents need not be copied.
            buffer = vec![0.0; len];
        }
        ScratchGuard { home: self, buffer, len }
    }

    /// The smallest free buffer that is large enough, else the largest, else an empty one.
    fn take(&self, len: usize) -> Vec<f32> {
        let mut free = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |b: &Vec<f32>| if b.len() >= len { (0, b.len()) } else { (1, usize::MAX - b.len()) };
        let best = free.iter().enumerate().min_by_key(|(_, b)| fits(b)).map(|(i, _)| i);
        best.map(|i| free.swap_remove(i)).unwrap_or_default()
    }
}

/// A scratch buffer on loan; it goes back when dropped.
pub struct ScratchGuard<'a> {
    home: &'a Threads,
    buffer: Vec<f32>,
    len: usize,
}

impl std::ops::Deref for ScratchGuard<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[..self.len]
    }
}

impl std::ops::DerefMut for ScratchGuard<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.len]
    }
}

impl Drop for ScratchGuard<'_> {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.home.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_part_runs_once() {
        for count in [1, 2, 3] {
            let threads = Threads::new(count);
            let sum = AtomicUsize::new(0);
            threads.for_each(100, |i| _ = sum.fetch_add(i, Ordering::Relaxed));
            threads.for_each_item((0..100).collect(), |i| _ = sum.fetch_add(i, Ordering::Relaxed));
            assert_eq!(sum.into_inner(), 2 * 4950);
            let mut data = [0.0; 10];
            threads.for_each_chunk(&mut data, 4, |i, chunk| chunk.fill(i as f32));
            assert_eq!(data, [0., 0., 0., 0., 1., 1., 1., 1., 2., 2.]);
        }
    }

    #[test]
    fn scratch_buffers_are_used_again() {
        let threads = Threads::new(1);
        let address = |len| threads.scratch(len).as_ptr();
        {
            let (a, b) = (threads.scratch(10), threads.scratch(1000));
            assert_eq!((a.len(), b.len()), (10, 1000));
        }
        let large = address(1000);
        assert_eq!(address(500), large, "the small buffer does not fit");
        assert_ne!(address(5), large, "the small buffer is enough");
        assert_eq!(address(1000), large);
    }
}
