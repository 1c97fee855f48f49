//! How much has been spent per record, as intervals of equal loss.

use std::collections::BTreeMap;
use std::ops::Range;

use accounting::{AccountingError, Event, Loss};

use crate::{Digest, RecordSet};

/// Loss per record; records that were never charged have none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spending {
    datasets: BTreeMap<Digest, Intervals>,
}

/// Start of an interval → its end and the loss of every record in it. Intervals do not overlap.
type Intervals = BTreeMap<u64, (u64, Loss)>;

impl Spending {
    /// Adds an event to each of these records.
    ///
    /// # Errors
    /// [`AccountingError`] if the event has no stated loss; nothing is added then.
    pub(crate) fn add(
        &mut self,
        dataset: Digest,
        records: &RecordSet,
        event: &Event,
    ) -> Result<(), AccountingError> {
        Loss::default().and(event)?;
        let intervals = self.datasets.entry(dataset).or_default();
        for range in records.ranges() {
            add_range(intervals, range, event)?;
        }
        Ok(())
    }

    /// The loss of these records so far: ranges that cover them, each with the loss of its records.
    pub(crate) fn of<'a>(
        &'a self,
        dataset: &Digest,
        records: &'a RecordSet,
    ) -> impl Iterator<Item = (Range<u64>, Loss)> + 'a {
        let intervals = self.datasets.get(dataset);
        records.ranges().iter().flat_map(move |range| segments(intervals, range.clone()))
    }

    /// Every data set with its intervals of equal loss.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Digest, Range<u64>, Loss)> {
        self.datasets.iter().flat_map(|(dataset, intervals)| {
            intervals.iter().map(move |(&start, &(end, loss))| (dataset, start..end, loss))
        })
    }
}

/// Splits `range` where its loss changes; gaps between intervals have no loss.
fn segments(intervals: Option<&Intervals>, range: Range<u64>) -> Vec<(Range<u64>, Loss)> {
    let Some(intervals) = intervals else { return vec![(range, Loss::default())] };
    let mut found = Vec::new();
    let mut at = range.start;
    let before = intervals.range(..range.start).next_back().filter(|(_, (end, _))| *end > range.start);
    for (&start, &(end, loss)) in before.into_iter().chain(intervals.range(range.clone())) {
        if at < start {
            found.push((at..start, Loss::default()));
        }
        found.push((start.max(range.start)..end.min(range.end), loss));
        at = end.min(range.end);
    }
    if at < range.end {
        found.push((at..range.end, Loss::default()));
    }
    found
}

fn add_range(intervals: &mut Intervals, range: &Range<u64>, event: &Event) -> Result<(), AccountingError> {
    cut(intervals, range.start);
    cut(intervals, range.end);
    for (part, loss) in segments(Some(intervals), range.clone()) {
        intervals.insert(part.start, (part.end, loss.and(event)?));
    }
    join(intervals, range);
    Ok(())
}

/// Makes `at` a border between intervals, if it lies inside one.
fn cut(intervals: &mut Intervals, at: u64) {
    if let Some((_, (end, loss))) = intervals.range_mut(..at).next_back()
        && *end > at
    {
        let rest = (*end, *loss);
        *end = at;
        intervals.insert(at, rest);
    }
}

/// Joins touching intervals of equal loss within and at the borders of `range`.
fn join(intervals: &mut Intervals, range: &Range<u64>) {
    let first = intervals.range(..range.start).next_back().map_or(range.start, |(&start, _)| start);
    let starts: Vec<u64> = intervals.range(first..=range.end).map(|(&start, _)| start).collect();
    let mut kept = first;
    for start in starts {
        if start == kept {
            continue;
        }
        let (end, loss) = intervals[&start];
        match intervals.get_mut(&kept) {
            Some(before) if before.0 == start && before.1 == loss => {
                before.0 = end;
                intervals.remove(&start);
            }
            _ => kept = start,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_one_loss_per_record(
            charges in proptest::collection::vec((proptest::collection::vec(0u64..20, 1..8), 1u8..3), 1..12)
        ) {
            let (dataset, mut spending, mut plain) = (Digest([1; 32]), Spending::default(), BTreeMap::new());
            for (ids, multiplier) in charges {
                let (records, event) = (RecordSet::of(&ids), Event::gaussian(multiplier.into()));
                spending.add(dataset, &records, &event).unwrap();
                for record in records.ranges().iter().cloned().flatten() {
                    let loss: &mut Loss = plain.entry(record).or_default();
                    *loss = loss.and(&event).unwrap();
                }
            }
            let all = RecordSet::range(0..21);
            let mut covered = 0;
            for (range, loss) in spending.of(&dataset, &all) {
                prop_assert_eq!(range.start, covered);
                covered = range.end;
                for record in range {
                    prop_assert_eq!(loss, plain.get(&record).copied().unwrap_or_default());
                }
            }
            prop_assert_eq!(covered, 21);
            // No two touching intervals are alike.
            let intervals: Vec<_> = spending.iter().collect();
            for pair in intervals.windows(2) {
                prop_assert!(pair[0].1.end < pair[1].1.start || pair[0].2 != pair[1].2);
            }
        }
    }

    #[test]
    fn an_epoch_in_pieces_is_one_interval() {
        let mut spending = Spending::default();
        for start in [40, 0, 20, 60, 80] {
            let records = RecordSet::range(start..start + 20);
            spending.add(Digest([0; 32]), &records, &Event::gaussian(1.0)).unwrap();
        }
        let ranges: Vec<_> = spending.iter().map(|(_, range, _)| (range.start, range.end)).collect();
        assert_eq!(ranges, [(0, 100)]);
    }
}
