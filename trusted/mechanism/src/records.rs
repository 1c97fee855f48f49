//! Sets of records, as ranges.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A set of record numbers within one data set: ascending ranges that neither touch nor overlap.
///
/// Serialised as `[[start, end], …]`, ends excluded.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<[u64; 2]>", into = "Vec<[u64; 2]>")]
pub struct RecordSet {
    ranges: Vec<Range<u64>>,
}

/// Ranges that are empty, out of order, or touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record ranges must be non-empty, ascending and apart")]
pub struct InvalidRecords;

impl RecordSet {
    /// The records `range.start`, …, `range.end − 1`.
    pub fn range(range: Range<u64>) -> Self {
        RecordSet { ranges: if range.is_empty() { Vec::new() } else { vec![range] } }
    }

    /// These records, in any order; repeated ones count once.
    pub fn of(ids: &[u64]) -> Self {
        let mut sorted = ids.to_vec();
        sorted.sort_unstable();
        // The last number has no successor and no range that ends after it; it names no record.
        Self::ascending(sorted.into_iter().filter(|&id| id < u64::MAX).map(|id| id..id + 1))
    }

    /// The records of ranges with ascending starts.
    pub(crate) fn ascending(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut set = RecordSet::default();
        ranges.into_iter().for_each(|range| set.push_if_any(range));
        set
    }

    /// The ranges, ascending and apart.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Number of records.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|r| r.end - r.start).sum()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether this record is in the set.
    pub fn contains(&self, record: u64) -> bool {
        let after = self.ranges.partition_point(|r| r.start <= record);
        after > 0 && record < self.ranges[after - 1].end
    }

    /// The records of either.
    pub fn union(&self, other: &RecordSet) -> RecordSet {
        let mut all: Vec<_> = self.ranges.iter().chain(&other.ranges).cloned().collect();
        all.sort_unstable_by_key(|r| r.start);
        Self::ascending(all)
    }

    /// The records of this set that are not in the other.
    pub fn difference(&self, other: &RecordSet) -> RecordSet {
        let mut set = RecordSet::default();
        let mut others = other.ranges.iter().peekable();
        for range in &self.ranges {
            let mut start = range.start;
            while let Some(cut) = others.peek() {
                if cut.start >= range.end {
                    break;
                }
                if cut.end > start {
                    set.push_if_any(start..cut.start.max(start));
                    start = cut.end.min(range.end);
                }
                if cut.end > range.end {
                    break;
                }
                others.next();
            }
            set.push_if_any(start..range.end);
        }
        set
    }

    fn push_if_any(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.push(range);
        }
    }

    /// Adds a range that starts no earlier than the last one does.
    fn push(&mut self, range: Range<u64>) {
        match self.ranges.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => self.ranges.push(range),
        }
    }
}

impl TryFrom<Vec<[u64; 2]>> for RecordSet {
    type Error = InvalidRecords;

    fn try_from(pairs: Vec<[u64; 2]>) -> Result<Self, InvalidRecords> {
        let ranges: Vec<_> = pairs.into_iter().map(|[start, end]| start..end).collect();
        let apart = ranges.windows(2).all(|pair| pair[0].end < pair[1].start);
        if ranges.iter().any(Range::is_empty) || !apart {
            return Err(InvalidRecords);
        }
        Ok(RecordSet { ranges })
    }
}

impl From<RecordSet> for Vec<[u64; 2]> {
    fn from(set: RecordSet) -> Self {
        set.ranges.into_iter().map(|r| [r.start, r.end]).collect()
    }
}

/// `records 0 to 9, 12 and 20 more ranges`: short enough for an error.
impl fmt::Display for RecordSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        if self.ranges.is_empty() {
            return f.write_str("no records");
        }
        f.write_str(if self.len() == 1 { "record " } else { "records " })?;
        for (i, range) in self.ranges.iter().take(SHOWN).enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            match range.end - range.start {
                1 => write!(f, "{comma}{}", range.start)?,
                _ => write!(f, "{comma}{} to {}", range.start, range.end - 1)?,
            }
        }
        match self.ranges.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            1 => f.write_str(" and 1 more range"),
            more => write!(f, " and {more} more ranges"),
        }
    }
}

impl fmt::Debug for RecordSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn members(set: &RecordSet) -> BTreeSet<u64> {
        set.ranges().iter().cloned().flatten().collect()
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(a in proptest::collection::vec(0u64..40, 0..30), b in proptest::collection::vec(0u64..40, 0..30)) {
            let (x, y) = (RecordSet::of(&a), RecordSet::of(&b));
            let (sx, sy): (BTreeSet<_>, BTreeSet<_>) = (a.into_iter().collect(), b.into_iter().collect());
            prop_assert_eq!(members(&x), sx.clone());
            prop_assert_eq!(x.len(), sx.len() as u64);
            prop_assert_eq!(members(&x.union(&y)), &sx | &sy);
            prop_assert_eq!(members(&x.difference(&y)), &sx - &sy);
            prop_assert!((0..41).all(|i| x.contains(i) == sx.contains(&i)));
            let pairs = Vec::from(x.difference(&y));
            prop_assert_eq!(RecordSet::try_from(pairs), Ok(x.difference(&y)));
        }
    }

    #[test]
    fn refuses_ranges_out_of_order() {
        for bad in [vec![[1, 1]], vec![[2, 1]], vec![[0, 2], [2, 3]], vec![[5, 6], [0, 1]]] {
            assert_eq!(RecordSet::try_from(bad), Err(InvalidRecords));
        }
        assert!(RecordSet::range(3..3).is_empty());
        assert!(!RecordSet::range(0..u64::MAX).contains(u64::MAX));
    }

    #[test]
    fn is_short_in_errors() {
        assert_eq!(RecordSet::range(0..50_000).to_string(), "records 0 to 49999");
        assert_eq!(RecordSet::of(&[7]).to_string(), "record 7");
        assert_eq!(RecordSet::of(&[0, 2, 4, 6, 8, 10]).to_string(), "records 0, 2, 4, 6 and 2 more ranges");
    }
}
