use std::collections::VecDeque;

use crate::ALIGN;

/// Who has which part of a ring of bytes, in the order in which parts were taken.
///
/// Positions count on without end; a part lies at its position modulo the ring's length, in one piece.
#[derive(Debug)]
pub struct Ring {
    base: usize,
    len: u64,
    /// Where the next part begins, and where the oldest that is not free begins.
    head: u64,
    tail: u64,
    /// End of each part that is taken, in order, and whether it is free already.
    parts: VecDeque<(u64, bool)>,
}

/// A part of a [`Ring`]: where it is in the memory, and by what it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub at: usize,
    pub end: u64,
}

impl Ring {
    /// A ring of `len` bytes from `base` on.
    pub fn new(base: usize, len: usize) -> Self {
        let len = len / ALIGN * ALIGN;
        Ring { base, len: len as u64, head: 0, tail: 0, parts: VecDeque::new() }
    }

    /// A part of `bytes`, or `None` while there is no room.
    pub fn take(&mut self, bytes: usize) -> Option<Taken> {
        let bytes = (bytes.max(1)).next_multiple_of(ALIGN) as u64;
        if self.len == 0 || bytes > self.len {
            return None;
        }
        let within = self.head % self.len;
        // In one piece: what is left at the end may be too short.
        let skipped = if within + bytes > self.len { self.len - within } else { 0 };
        if self.head + skipped + bytes - self.tail > self.len {
            return None;
        }
        let begin = self.head + skipped;
        self.head = begin + bytes;
        self.parts.push_back((self.head, false));
        Some(Taken { at: self.base + (begin % self.len) as usize, end: self.head })
    }

    /// Gives a part back; it is free with all before it.
    pub fn give_back(&mut self, end: u64) {
        if let Some(part) = self.parts.iter_mut().find(|(other, _)| *other == end) {
            part.1 = true;
        }
        while let Some((end, true)) = self.parts.front() {
            self.tail = *end;
            self.parts.pop_front();
        }
    }

    /// Frees all parts up to a position that the other side says; what it cannot mean is ignored.
    pub fn free_to(&mut self, position: u64) {
        while let Some((end, _)) = self.parts.front()
            && *end <= position
        {
            self.tail = *end;
            self.parts.pop_front();
        }
    }

    /// Up to where all is free.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Follows what another process took of its ring, without having chosen it: `None` if the part does not lie within.
    pub fn follow(&mut self, at: usize, bytes: usize, end: u64) -> Option<Taken> {
        let inside = at >= self.base
            && at.is_multiple_of(ALIGN)
            && at.checked_add(bytes)? <= self.base.checked_add(self.len as usize)?;
        if !inside {
            return None;
        }
        self.parts.push_back((end, false));
        Some(Taken { at, end })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that fails says why

    use super::*;

    #[test]
    fn parts_lie_apart_and_in_one_piece() {
        let mut ring = Ring::new(4096, 1000);
        let mut held: VecDeque<(Taken, usize)> = VecDeque::new();
        for i in 0..500usize {
            let bytes = 1 + i * 37 % 400;
            while let Some(taken) = ring.take(bytes) {
                assert!(taken.at >= 4096 && taken.at + bytes <= 4096 + 960);
                for (other, len) in &held {
                    assert!(taken.at + bytes <= other.at || other.at + len <= taken.at, "{i}");
                }
                held.push_back((taken, bytes));
                if held.len() > i % 5 {
                    break;
                }
            }
            if let Some((oldest, _)) = held.pop_front() {
                ring.give_back(oldest.end);
            }
        }
        assert!(ring.take(2000).is_none(), "larger than the ring");
    }

    #[test]
    fn what_is_given_back_out_of_order_waits() {
        let mut ring = Ring::new(0, 256);
        let parts: Vec<Taken> = (0..4).map(|_| ring.take(64).unwrap()).collect();
        assert!(ring.take(1).is_none());
        ring.give_back(parts[1].end);
        assert!(ring.take(1).is_none() && ring.tail() == 0);
        ring.give_back(parts[0].end);
        assert_eq!(ring.tail(), parts[1].end);
        assert_eq!(ring.take(64).unwrap().at, parts[0].at);
        ring.free_to(u64::MAX);
        assert_eq!(ring.take(64).unwrap().at, parts[1].at);
    }

    #[test]
    fn parts_that_another_process_names_must_lie_within() {
        let mut ring = Ring::new(4096, 1024);
        assert!(ring.follow(4096, 1024, 1024).is_some());
        for (at, bytes) in [(4095, 8), (4097, 8), (4096, 1025), (5120, 1), (usize::MAX - 63, 128)] {
            assert!(ring.follow(at, bytes, 2048).is_none(), "{at} {bytes}");
        }
    }
}
