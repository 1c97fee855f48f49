//! Sets of records, as ranges.

use std::fmt;
use std::ops::Range;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};

/// A set of record numbers within one data set: ascending ranges that neither touch nor overlap.
///
/// Serialised as base64url (unpadded) of variable-length numbers (7 bits per byte, least significant first, high bit set
/// on all but the last byte). Per range: twice its distance from the end of the range before (from 0 for the first), plus
/// one if it holds more than one record, and then its number of records. A batch of 128 of a million records takes about
/// 350 characters, a whole data set about six.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecordSet {
    ranges: Vec<Range<u64>>,
}

/// A text that is not the one way to write a set of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record ranges must be non-empty, ascending, apart and written in the shortest way")]
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
    pub fn ascending(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
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

impl TryFrom<String> for RecordSet {
    type Error = InvalidRecords;

    fn try_from(text: String) -> Result<Self, InvalidRecords> {
        let bytes = Base64UrlUnpadded::decode_vec(&text).map_err(|_| InvalidRecords)?;
        let (mut rest, mut ranges, mut end) = (bytes.as_slice(), Vec::new(), 0u64);
        while !rest.is_empty() {
            let gap = take_number(&mut rest)?;
            let len = if gap & 1 == 1 { take_number(&mut rest)? } else { 1 };
            let start =
                u64::try_from(gap >> 1).ok().and_then(|gap| end.checked_add(gap)).ok_or(InvalidRecords)?;
            let apart = ranges.is_empty() || gap >> 1 > 0;
            let shortest = gap & 1 == 0 || len > 1;
            if !apart || !shortest {
                return Err(InvalidRecords);
            }
            end = u64::try_from(len).ok().and_then(|len| start.checked_add(len)).ok_or(InvalidRecords)?;
            ranges.push(start..end);
        }
        Ok(RecordSet { ranges })
    }
}

impl From<RecordSet> for String {
    fn from(set: RecordSet) -> String {
        let (mut bytes, mut end) = (Vec::new(), 0);
        for range in set.ranges {
            let (gap, len) = (u128::from(range.start - end), range.end - range.start);
            put_number(&mut bytes, gap << 1 | u128::from(len > 1));
            if len > 1 {
                put_number(&mut bytes, len.into());
            }
            end = range.end;
        }
        Base64UrlUnpadded::encode_string(&bytes)
    }
}

fn put_number(bytes: &mut Vec<u8>, mut number: u128) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes one number of at most 65 bits off the front; only the shortest way of writing it is accepted.
fn take_number(bytes: &mut &[u8]) -> Result<u128, InvalidRecords> {
    let mut number = 0u128;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(InvalidRecords)?;
        *bytes = rest;
        number |= u128::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let shortest = byte != 0 || shift == 0;
            return if shortest { Ok(number) } else { Err(InvalidRecords) };
        }
    }
    Err(InvalidRecords)
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
            let text = String::from(x.difference(&y));
            prop_assert_eq!(RecordSet::try_from(text), Ok(x.difference(&y)));
        }

        /// No two texts are the same set, and no text is a panic.
        #[test]
        fn there_is_one_text_per_set(text in "[A-Za-z0-9_-]{0,24}") {
            if let Ok(set) = RecordSet::try_from(text.clone()) {
                prop_assert_eq!(String::from(set), text);
            }
        }
    }

    #[test]
    fn refuses_what_is_not_a_set() {
        let text = |bytes: &[u8]| Base64UrlUnpadded::encode_string(bytes);
        // A range of one written as several, an empty one, two that touch, a number cut short, and one written too long.
        for bad in [&[1, 1][..], &[1, 0], &[0, 0], &[0x80], &[0x80, 0], &[2, 3]] {
            assert_eq!(RecordSet::try_from(text(bad)), Err(InvalidRecords), "{bad:?}");
        }
        let beyond = text(&[&[0xff; 9][..], &[0x7f]].concat());
        for bad in ["*", "A", "AA==", beyond.as_str()] {
            assert_eq!(RecordSet::try_from(bad.to_owned()), Err(InvalidRecords), "{bad}");
        }
        assert!(RecordSet::range(3..3).is_empty());
        assert!(!RecordSet::range(0..u64::MAX).contains(u64::MAX));
        let all = String::from(RecordSet::range(0..u64::MAX));
        assert_eq!(RecordSet::try_from(all), Ok(RecordSet::range(0..u64::MAX)));
        let last = RecordSet::of(&[u64::MAX - 1]);
        assert_eq!(RecordSet::try_from(String::from(last.clone())), Ok(last));
    }

    #[test]
    fn is_compact() {
        assert_eq!(String::from(RecordSet::default()), "");
        assert_eq!(String::from(RecordSet::range(0..1_000_000)).len(), 6);
        let batch: Vec<u64> = (0..128).map(|i| i * 7800 + i * i % 100).collect();
        assert!(String::from(RecordSet::of(&batch)).len() < 360);
    }

    #[test]
    fn is_short_in_errors() {
        assert_eq!(RecordSet::range(0..50_000).to_string(), "records 0 to 49999");
        assert_eq!(RecordSet::of(&[7]).to_string(), "record 7");
        assert_eq!(RecordSet::of(&[0, 2, 4, 6, 8, 10]).to_string(), "records 0, 2, 4, 6 and 2 more ranges");
    }
}
