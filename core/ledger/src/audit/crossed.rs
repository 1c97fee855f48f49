//! The boundary log, read for an audit.

use std::collections::BTreeMap;

use super::charged::Charged;
use super::{Claims, Disagreement, Findings};
use crate::chain::{self, ChainError};
use crate::{BoundaryLine, Class, Direction, Kind, Paid};

/// The job that asks about records the accelerator does not keep: one request may name a record twice.
const ANSWER: &str = "answer";
/// Entries that a note names one by one.
const NAMED: usize = 4;

/// All messages, as far as they can be read.
pub(super) struct Crossed {
    /// Whether the log could be read to its end, and nothing shows that lines are missing.
    pub(super) whole: bool,
    lines: usize,
    kinds: BTreeMap<Kind, Traffic>,
    /// First line of anything outward.
    first_outward: Option<usize>,
    bytes_out: u64,
    bytes_in: u64,
}

/// Messages of one kind.
#[derive(Clone, Copy, Default)]
pub(super) struct Traffic {
    pub(super) messages: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Line of the first.
    first: usize,
}

impl Crossed {
    /// Reads the log; marks the entries of the ledger that something left on.
    pub(super) fn read(bytes: &[u8], charged: &mut Charged, findings: &mut Findings) -> Self {
        let mut crossed = Crossed {
            whole: true,
            lines: 0,
            kinds: BTreeMap::new(),
            first_outward: None,
            bytes_out: 0,
            bytes_in: 0,
        };
        for (i, line) in chain::lines::<BoundaryLine>(bytes).enumerate() {
            match line {
                Ok(line) => crossed.add(i + 1, &line, charged, findings),
                Err(ChainError::Truncated { line, .. }) => findings.note(format!(
                    "boundary.jsonl line {line} is cut short: a crash, before its message left; the next command removes it"
                )),
                Err(error) => {
                    crossed.whole = false;
                    findings.disagree(error);
                }
            }
        }
        crossed
    }

    /// Messages of this kind.
    pub(super) fn of(&self, kind: Kind) -> Traffic {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }

    /// UNPROTECTED kinds that left.
    pub(super) fn unprotected(&self) -> impl Iterator<Item = Kind> + '_ {
        self.kinds.keys().copied().filter(|kind| kind.class() == Class::Unprotected)
    }

    /// Compares with the ledger and the configuration.
    pub(super) fn compare(&mut self, charged: &Charged, claims: &Claims, findings: &mut Findings) {
        for kind in self.unprotected().filter(|kind| !claims.allow.contains(kind)) {
            findings.disagree(Disagreement::NotAllowed { line: self.of(kind).first, kind });
        }
        if let (Some(line), "enclave") = (self.first_outward, claims.flow.as_str()) {
            findings.disagree(Disagreement::NothingShouldLeave { line, flow: claims.flow.clone() });
        }
        // A connection is opened, and that logged, before a message is charged.
        if self.whole && self.lines == 0 && charged.sends_anything() {
            self.whole = false;
            findings.disagree(Disagreement::NoLog { entries: charged.ledger.len() });
        }
        self.compare_traffic(claims, findings);
        if self.whole {
            note_unsent(charged, findings);
        }
    }

    /// At least what the summary counts must be in the log. More may be: what was sent before a crash and again after it
    /// counts once in the summary, and evaluation and inference go on writing to the log after the summary was written.
    fn compare_traffic(&mut self, claims: &Claims, findings: &mut Findings) {
        let Some(summary) = claims.summary.as_ref().filter(|_| self.whole) else { return };
        let both =
            [("bytes_out", summary.bytes_out, self.bytes_out), ("bytes_in", summary.bytes_in, self.bytes_in)];
        for (key, stated, found) in both {
            if let Some(stated) = stated.filter(|&stated| found < stated) {
                self.whole = false;
                findings.disagree(Disagreement::Traffic { key, stated, found });
            }
        }
    }

    fn add(&mut self, at: usize, line: &BoundaryLine, charged: &mut Charged, findings: &mut Findings) {
        self.lines += 1;
        let traffic = self.kinds.entry(line.kind).or_insert(Traffic { first: at, ..Traffic::default() });
        traffic.messages += 1;
        traffic.records = traffic.records.saturating_add(line.records);
        traffic.bytes = traffic.bytes.saturating_add(line.bytes);
        let total = match line.direction {
            Direction::Outward => &mut self.bytes_out,
            Direction::Inward => &mut self.bytes_in,
        };
        *total = total.saturating_add(line.bytes);
        if line.direction == Direction::Outward {
            self.first_outward.get_or_insert(at);
        }
        check_line(at, line, charged, findings);
    }
}

fn check_line(at: usize, line: &BoundaryLine, charged: &mut Charged, findings: &mut Findings) {
    let kind = line.kind;
    if line.class != kind.class() {
        findings.disagree(Disagreement::Class { line: at, kind, found: line.class });
    }
    if line.direction != kind.direction() {
        findings.disagree(Disagreement::Direction { line: at, kind, found: line.direction });
    }
    if let Some(paid) = &line.receipt {
        check_receipt(at, line, paid, charged, findings);
    } else if kind.class() == Class::NoisedCounted {
        findings.disagree(Disagreement::NoReceipt { line: at, kind });
    } else if line.direction == Direction::Outward && kind.class() != Class::Unprotected && line.bytes > 0 {
        let stated = line.reason.as_ref().is_some_and(|reason| !reason.trim().is_empty());
        if !stated {
            findings.disagree(Disagreement::NoReason { line: at, kind });
        }
    }
}

fn check_receipt(
    at: usize,
    line: &BoundaryLine,
    paid: &Paid,
    charged: &mut Charged,
    findings: &mut Findings,
) {
    let entry = paid.entry;
    let position = usize::try_from(entry).ok();
    let Some(found) = position.and_then(|position| charged.entries.get_mut(position)) else {
        // What lies beyond a damaged line of the ledger is not known, and the damage is reported already.
        if charged.whole {
            findings.disagree(Disagreement::NoEntry { line: at, entry });
        }
        return;
    };
    if found.hash != paid.hash {
        findings.disagree(Disagreement::OtherEntry { line: at, entry });
        return;
    }
    found.sent = true;
    let kind = line.kind;
    if kind.class() != Class::NoisedCounted {
        // A function of what was released, by the same receipt.
        return;
    }
    if let Some(paid) = found.kind.filter(|paid| *paid != kind) {
        findings.disagree(Disagreement::OtherKind { line: at, kind, entry, paid });
    }
    let (records, paid) = (line.records, found.bytes);
    if records.checked_mul(paid) != Some(line.bytes) {
        findings.disagree(Disagreement::Bytes { line: at, entry, found: line.bytes, records, paid });
    }
    if records > found.records && line.job != ANSWER {
        findings.disagree(Disagreement::Records { line: at, entry, found: records, paid: found.records });
    }
}

/// Charges stand, whether or not their messages left.
fn note_unsent(charged: &Charged, findings: &mut Findings) {
    let unsent: Vec<(usize, &str)> = charged
        .entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| !entry.sent && entry.bytes > 0)
        .map(|(i, entry)| (i, entry.purpose.as_str()))
        .collect();
    if unsent.is_empty() {
        return;
    }
    let named: Vec<String> =
        unsent.iter().take(NAMED).map(|(i, purpose)| format!("entry {i} ({purpose})")).collect();
    let more = match unsent.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    findings
        .note(format!("charged, but never sent: {}{more}; the charge counts all the same", named.join(", ")));
}
