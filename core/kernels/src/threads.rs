//! An explicit pool of threads, with scratch memory per thread.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The threads an operator may use, and a scratch buffer for each that grows to the largest request and stays.
pub struct Threads {
    pool: Option<rayon::ThreadPool>,
    scratch: Vec<Mutex<Vec<f32>>>,
}

impl Threads {
    /// A pool of `count` threads; with 1, everything runs on the calling thread.
    pub fn new(count: usize) -> Self {
        let count = count.max(1);
        let pool = (count > 1).then(|| {
            rayon::ThreadPoolBuilder::new().num_threads(count).build().expect("the system can start threads")
        });
        Threads { pool, scratch: (0..count).map(|_| Mutex::default()).collect() }
    }

    pub fn count(&self) -> usize {
        self.scratch.len()
    }

    /// Runs `job(0)`, …, `job(parts − 1)`, in any order, on the pool.
    pub fn for_each(&self, parts: usize, job: impl Fn(usize) + Send + Sync) {
        use rayon::iter::{IntoParallelIterator, ParallelIterator};
        match &self.pool {
            Some(pool) if parts > 1 => pool.install(|| (0..parts).into_par_iter().for_each(job)),
            _ => (0..parts).for_each(job),
        }
    }

    /// Scratch memory of at least `len` elements, contents unspecified.
    pub fn scratch(&self, len: usize) -> ScratchGuard<'_> {
        // Any free buffer will do: there is one per thread, and a thread holds at most one.
        let mut guard = self
            .scratch
            .iter()
            .find_map(|s| s.try_lock().ok())
            .unwrap_or_else(|| self.scratch[0].lock().unwrap_or_else(PoisonError::into_inner));
        if guard.len() < len {
            guard.resize(len, 0.0);
        }
        ScratchGuard { guard, len }
    }
}

/// A borrowed scratch buffer.
pub struct ScratchGuard<'a> {
    guard: MutexGuard<'a, Vec<f32>>,
    len: usize,
}

impl std::ops::Deref for ScratchGuard<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.guard[..self.len]
    }
}

impl std::ops::DerefMut for ScratchGuard<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.guard[..self.len]
    }
}
