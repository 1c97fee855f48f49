//! Denormal numbers as zeros: arithmetic on them takes a hundred times as long on some processors, which slows training
//! down and tells how many there are.
//!
//! Results are the same bits with any number of threads, since every operator runs like this on each of them. A constant
//! that the compiler computes is not flushed; no constant here is that small. On processors other than x86-64, denormal
//! numbers stay what they are.

use std::marker::PhantomData;

/// While this lives, denormal results and operands count as 0 on this thread; then, what was before.
pub struct Flushed {
    before: u32,
    /// The state is the thread's own.
    thread: PhantomData<*const ()>,
}

impl Flushed {
    /// From here on, until dropped.
    #[must_use]
    #[allow(clippy::new_without_default)] // it changes the thread: nothing to be made by default
    pub fn new() -> Self {
        let before = control::read();
        control::write(before | control::FLUSH);
        Flushed { before, thread: PhantomData }
    }
}

impl Drop for Flushed {
    fn drop(&mut self) {
        control::write(self.before);
    }
}

/// For the rest of this thread's life.
pub(crate) fn flush_this_thread() {
    control::write(control::read() | control::FLUSH);
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // the control register has no safe interface
mod control {
    use std::arch::asm;

    /// Flush to zero (bit 15) and denormals are zeros (bit 6).
    pub(super) const FLUSH: u32 = 1 << 15 | 1 << 6;

    pub(super) fn read() -> u32 {
        let mut register = 0u32;
        // SAFETY: writes the 32 bits of `register`, and nothing else. SSE is part of x86-64.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut register, options(nostack, preserves_flags)) };
        register
    }

    pub(super) fn write(register: u32) {
        // SAFETY: reads the 32 bits of `register`. It came from `read`, with at most the two bits of `FLUSH` added, so
        // no reserved bit is set and no exception is unmasked. The two bits change the results of denormal operands
        // alone, and `Flushed` puts them back.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const register, options(nostack, preserves_flags)) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod control {
    pub(super) const FLUSH: u32 = 0;

    pub(super) fn read() -> u32 {
        0
    }

    pub(super) fn write(_: u32) {}
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::hint::black_box;

    use crate::add::Add;
    use crate::testing::Node;
    use tensor::Tensor;

    use super::*;

    /// A half of the smallest normal number, by arithmetic at run time.
    fn half() -> f32 {
        black_box(f32::MIN_POSITIVE) * black_box(0.5)
    }

    #[test]
    fn lasts_as_long_as_the_guard() {
        assert_ne!(half(), 0.0);
        {
            let _outer = Flushed::new();
            assert_eq!(half(), 0.0);
            drop(Flushed::new());
            assert_eq!(half(), 0.0, "the inner guard puts back the outer state");
        }
        assert_ne!(half(), 0.0);
    }

    #[test]
    fn operators_take_denormals_for_zeros_on_every_thread() {
        let tiny = Tensor::from_fn([4, 50_000], |_| f32::MIN_POSITIVE / 2.0);
        for threads in [1, 2, 3] {
            let mut node = Node::new(&Add, vec![tiny.clone(), tiny.clone()], Vec::new()).threads(threads);
            assert!(node.forward().0.data().iter().all(|&y| y == 0.0), "{threads} threads");
        }
        assert_ne!(half(), 0.0, "the caller's state is put back");
    }
}
