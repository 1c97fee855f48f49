//! An explicit pool of threads, with scratch memory they share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;
use tensor::Aligned;

use crate::Scratch;
use crate::denormals::{self, Flushed};
use crate::parts::Parts;
use crate::trace::{Span, Trace, Work};

/// The threads an operator may use, and scratch buffers that are handed out and come back.
///
/// Denormal numbers count as 0 in what they run ([`denormals`]).
///
/// A job that runs on the pool does not divide its own work again: then every thread runs one job at a time, and what
/// scratch memory it takes can be told beforehand.
pub struct Threads {
    pool: Option<rayon::ThreadPool>,
    count: usize,
    /// Free buffers of each thread; the calling thread, which waits while others work, uses those of the first.
    scratch: Vec<Mutex<Vec<Aligned>>>,
    grown: AtomicUsize,
    trace: Option<Trace>,
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
        let scratch = (0..count).map(|_| Mutex::default()).collect();
        Threads { pool, count, scratch, grown: AtomicUsize::new(0), trace: None }
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.count
    }

    /// From now on spans of work are recorded, by `clock`, in seconds.
    pub fn trace(&mut self, clock: fn() -> f64) {
        self.trace = Some(Trace::new(clock));
    }

    /// Does `work` and records how long it took, if anything is recorded at all.
    pub fn span<R>(&self, work: Work, job: impl FnOnce() -> R) -> R {
        let begin = self.span_begin();
        let result = job();
        self.span_end(work, begin);
        result
    }

    /// Where a span begins that [`Threads::span_end`] ends; `None` if nothing is recorded.
    pub fn span_begin(&self) -> Option<f64> {
        self.trace.as_ref().map(|trace| (trace.clock)())
    }

    /// Records a span.
    pub fn span_end(&self, work: Work, begin: Option<f64>) {
        if let (Some(trace), Some(begin)) = (&self.trace, begin) {
            trace.end(work, begin);
        }
    }

    /// What was recorded since this was last asked; `None` if nothing is recorded at all.
    pub fn take_spans(&self) -> Option<Vec<Span>> {
        self.trace.as_ref().map(Trace::take)
    }

    /// The pool, unless this is a job on it.
    fn pool(&self) -> Option<&rayon::ThreadPool> {
        self.pool.as_ref().filter(|pool| pool.current_thread_index().is_none())
    }

    /// Runs `job(0)`, …, `job(parts − 1)`, in any order, on the pool.
    pub fn for_each(&self, parts: usize, job: impl Fn(usize) + Send + Sync) {
        match self.pool() {
            Some(pool) if parts > 1 => pool.install(|| (0..parts).into_par_iter().for_each(job)),
            _ => {
                let _flushed = Flushed::new();
                (0..parts).for_each(job);
            }
        }
    }

    /// Runs `job(i, part i)` on every part, in any order, on the pool. Allocates nothing.
    pub fn for_each_part<P: Parts>(&self, parts: P, job: impl Fn(usize, P::Part) + Send + Sync) {
        match self.pool() {
            Some(pool) if parts.count() > 1 => pool.install(|| crate::parts::divided(parts, 0, &job)),
            _ => {
                let _flushed = Flushed::new();
                crate::parts::in_order(parts, &job);
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
        match self.pool() {
            Some(pool) if data.len() > len => {
                pool.install(|| data.par_chunks_mut(len).enumerate().for_each(|(i, chunk)| job(i, chunk)));
            }
            _ => {
                let _flushed = Flushed::new();
                data.chunks_mut(len).enumerate().for_each(|(i, chunk)| job(i, chunk));
            }
        }
    }

    /// Sets scratch memory aside, so that what takes no more than `scratch` allocates nothing.
    ///
    /// Nothing may be on loan.
    pub fn reserve(&self, scratch: &Scratch) {
        for (thread, free) in self.scratch.iter().enumerate() {
            let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
            free.sort_unstable_by_key(|buffer| usize::MAX - buffer.len());
            for (i, len) in scratch.of_thread(thread).into_iter().enumerate() {
                match free.get_mut(i) {
                    Some(buffer) if buffer.len() >= len => {}
                    Some(buffer) => *buffer = Aligned::zeros(len),
                    None => free.push(Aligned::zeros(len)),
                }
            }
        }
    }

    /// How often scratch memory was asked for that no free buffer was large enough for.
    pub fn grown(&self) -> usize {
        self.grown.load(Ordering::Relaxed)
    }

    /// Scratch memory of `len` elements from the start of a line of the cache on, contents unspecified. A thread may hold
    /// any number of buffers.
    pub fn scratch(&self, len: usize) -> ScratchGuard<'_> {
        let thread = self.pool.as_ref().and_then(|pool| pool.current_thread_index()).unwrap_or(0);
        let home = &self.scratch[thread];
        let mut buffer = if len == 0 { Aligned::default() } else { take(home, len) };
        if buffer.len() < len {
            self.grown.fetch_add(1, Ordering::Relaxed);
            // Not grown in place: the old contents need not be copied.
            buffer = Aligned::zeros(len);
        }
        ScratchGuard { home, buffer, len }
    }
}

/// The smallest free buffer that is large enough, else the largest, else an empty one.
fn take(free: &Mutex<Vec<Aligned>>, len: usize) -> Aligned {
    let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = |b: &Aligned| if b.len() >= len { (0, b.len()) } else { (1, usize::MAX - b.len()) };
    let best = free.iter().enumerate().min_by_key(|(_, b)| fits(b)).map(|(i, _)| i);
    best.map(|i| free.swap_remove(i)).unwrap_or_default()
}

/// A scratch buffer on loan; it goes back when dropped.
pub struct ScratchGuard<'a> {
    home: &'a Mutex<Vec<Aligned>>,
    buffer: Aligned,
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
        if buffer.is_empty() {
            return;
        }
        self.home.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::Chunks;

    #[test]
    fn every_part_runs_once() {
        for count in [1, 2, 3] {
            let threads = Threads::new(count);
            let sum = AtomicUsize::new(0);
            threads.for_each(100, |i| _ = sum.fetch_add(i, Ordering::Relaxed));
            let (mut a, mut b) = ([1usize; 100], [2usize; 200]);
            let rows = (Chunks { data: &mut a, len: 1 }, Chunks { data: &mut b, len: 2 });
            threads.for_each_part((rows, None::<Chunks<'_, u8>>), |i, ((a, b), none)| {
                assert!(a == [1] && b == [2, 2] && none.is_none());
                sum.fetch_add(i, Ordering::Relaxed);
            });
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

    #[test]
    fn what_was_reserved_is_enough_on_every_thread() {
        for count in [1, 2, 3] {
            let threads = Threads::new(count);
            let jobs = |long: usize| {
                let _shared = threads.scratch(100);
                threads.for_each(20, |i| {
                    let (a, b) = (threads.scratch(10 + i), threads.scratch(50));
                    // Inside a job nothing is divided again.
                    threads.for_each(3, |_| assert_eq!(threads.scratch(long).len(), long));
                    assert_eq!((a.len(), b.len()), (10 + i, 50));
                });
            };
            threads.reserve(&Scratch::shared([100]).and(Scratch::each([30, 50, 7])));
            jobs(7);
            assert_eq!(threads.grown(), 0, "{count} threads");
            jobs(101);
            assert_ne!(threads.grown(), 0, "{count} threads");
        }
    }
}
