//! How much scratch memory an operation takes.

use tensor::Aligned;

/// Lengths (in floats) of the scratch buffers that an operation holds at the same time, at most.
///
/// Each length stands for one buffer of its own: what is reserved for it serves every request up to that length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scratch {
    /// Taken by the calling thread, around what it divides among threads; longest first.
    shared: Vec<usize>,
    /// Taken by every thread at work; longest first.
    each: Vec<usize>,
}

impl Scratch {
    /// No buffers.
    pub const NONE: Scratch = Scratch { shared: Vec::new(), each: Vec::new() };

    /// Buffers that the calling thread takes, around what it divides among threads.
    pub fn shared(lengths: impl IntoIterator<Item = usize>) -> Self {
        Scratch { shared: sorted(lengths.into_iter().collect()), each: Vec::new() }
    }

    /// Buffers that every thread at work takes.
    pub fn each(lengths: impl IntoIterator<Item = usize>) -> Self {
        Scratch { shared: Vec::new(), each: sorted(lengths.into_iter().collect()) }
    }

    /// What this operation takes if it is run inside a job of each thread, where work is not divided any further.
    pub fn in_each(self) -> Self {
        Scratch::each([self.shared, self.each].concat())
    }

    /// These buffers and those of `other`, at the same time.
    pub fn and(self, other: Scratch) -> Self {
        Scratch {
            shared: sorted([self.shared, other.shared].concat()),
            each: sorted([self.each, other.each].concat()),
        }
    }

    /// Enough for either operation, one after the other.
    pub fn or(self, other: Scratch) -> Self {
        Scratch { shared: larger(self.shared, other.shared), each: larger(self.each, other.each) }
    }

    /// Lengths of the buffers of one thread; the first one's are the calling thread's too.
    pub(crate) fn of_thread(&self, thread: usize) -> Vec<usize> {
        match thread {
            0 => sorted([&*self.shared, &*self.each].concat()),
            _ => self.each.clone(),
        }
    }

    /// Bytes that [`crate::Threads::reserve`] sets aside for this on so many threads.
    pub fn bytes(&self, threads: usize) -> usize {
        (0..threads.max(1)).flat_map(|thread| self.of_thread(thread)).map(Aligned::bytes).sum()
    }
}

fn sorted(mut lengths: Vec<usize>) -> Vec<usize> {
    lengths.retain(|&len| len > 0);
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths
}

/// The larger of each pair: buffers of these lengths serve both lists.
fn larger(a: Vec<usize>, b: Vec<usize>) -> Vec<usize> {
    let at = |list: &[usize], i: usize| list.get(i).copied().unwrap_or(0);
    (0..a.len().max(b.len())).map(|i| at(&a, i).max(at(&b, i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_alternatives() {
        let product = Scratch::shared([5]).and(Scratch::each([3, 0, 9]));
        assert_eq!(product.of_thread(0), [9, 5, 3]);
        assert_eq!(product.of_thread(1), [9, 3]);
        assert_eq!(product.bytes(2), [9, 5, 3, 9, 3].map(Aligned::bytes).iter().sum::<usize>());
        let either = product.clone().or(Scratch::shared([2, 8]).and(Scratch::each([4])));
        assert_eq!((either.of_thread(0), either.of_thread(1)), (vec![9, 8, 3, 2], vec![9, 3]));
        assert_eq!(product.clone().in_each().of_thread(1), product.of_thread(0));
        assert_eq!(product.clone().or(Scratch::NONE), product);
    }
}
