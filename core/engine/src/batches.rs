//! Which records a step trains on: public, so that both sides of the boundary agree without a message.

use std::ops::Range;

use crate::random::{Purpose, Stream, permutation};

/// Number of steps of one epoch; the last one may be partial.
pub fn steps(records: usize, batch_size: usize) -> usize {
    records.div_ceil(batch_size.max(1))
}

/// Order of the records in `epoch`.
pub fn order(seed: u64, epoch: usize, records: usize) -> Vec<u32> {
    permutation(&mut Stream::new(seed, Purpose::Order, epoch as u64, 0), records)
}

/// Positions in the epoch's order that `step` covers.
pub fn range(records: usize, batch_size: usize, step: usize) -> Range<usize> {
    let first = (step * batch_size).min(records);
    first..(first + batch_size).min(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cover_every_record_once() {
        for (records, batch) in [(10, 3), (9, 3), (1, 64), (0, 4)] {
            let covered: Vec<usize> =
                (0..steps(records, batch)).flat_map(|s| range(records, batch, s)).collect();
            assert_eq!(covered, (0..records).collect::<Vec<_>>());
        }
    }

    #[test]
    fn epochs_have_different_orders() {
        assert_ne!(order(1, 0, 100), order(1, 1, 100));
        assert_eq!(order(1, 5, 100), order(1, 5, 100));
    }
}
