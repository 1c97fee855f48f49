//! What left and what it cost, recomputed from files that anyone can read.
//!
//! [`check`] reads the ledger and the boundary log, prices every entry with the public accountant, and compares both with
//! each other and with what the run says of itself. It believes nothing that the trusted process concluded, and needs no
//! trusted code. It shows that the files agree; who can write all of them can replace all of them, so keep
//! [`Audit::ledger_head`] elsewhere.

mod charged;
mod claimed;
mod crossed;
mod disagreement;
mod mechanism_text;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::{Class, Digest, Direction, Head, Kind};

use charged::Charged;
use crossed::Crossed;
pub use disagreement::Disagreement;

/// What a run says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// `kind` in `[flow]` of config.toml.
    pub flow: String,
    /// δ of the guarantee, from `[privacy]`.
    pub delta: f64,
    /// ε per record that `[privacy]` grants; `None` where it asks for no noise.
    pub budget: Option<f64>,
    /// Clipping norm of a record's residual, from `[privacy]`; `None` where it is not given by hand.
    pub clip: Option<f64>,
    /// UNPROTECTED kinds that `[privacy]` lets through by name.
    pub allow: Vec<Kind>,
    /// summary.json; `None` for a run that is not finished.
    pub summary: Option<Summary>,
}

/// What summary.json states.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Summary {
    pub flow: String,
    /// Per record, replace-one; `None` where nothing is guaranteed.
    pub epsilon: Option<f64>,
    pub delta: Option<f64>,
    pub not_covered: Vec<String>,
    /// Bytes of bodies that crossed while training; `None` in summaries that do not say.
    pub bytes_out: Option<u64>,
    pub bytes_in: Option<u64>,
}

/// What the files amount to, and where they disagree.
#[derive(Clone, Debug)]
pub struct Audit {
    /// The largest ε of any record, where neighbours replace that record. `None` where nothing is guaranteed: something
    /// other than labels left UNPROTECTED, or a file cannot be read to its end.
    pub epsilon: Option<f64>,
    /// The same against an all-zero record, the papers' reading: beside `epsilon`, never instead of it.
    pub epsilon_zero_record: Option<f64>,
    /// δ at which both hold.
    pub delta: f64,
    /// Every kind that crossed or was charged, in the order of the table of kinds.
    pub kinds: Vec<KindReport>,
    /// Every data set of the ledger.
    pub datasets: Vec<DatasetReport>,
    /// Every mechanism of the ledger.
    pub mechanisms: Vec<MechanismReport>,
    /// Where the ledger ends, as far as it can be read. A copy kept elsewhere shows later whether it was replaced.
    pub ledger_head: Head,
    /// What a reader should know and need not act on.
    pub notes: Vec<String>,
    /// Where the files contradict each other, or themselves.
    pub disagreements: Vec<Disagreement>,
}

/// Messages of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindReport {
    pub kind: Kind,
    pub class: Class,
    pub direction: Direction,
    /// Lines of the boundary log; one may speak of many records.
    pub messages: u64,
    /// Records that these messages speak of, repetitions included.
    pub records: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Of the worst record over this kind's entries alone; 0 where no record was touched, `None` where nothing is
    /// guaranteed.
    pub epsilon: Option<f64>,
}

/// Losses of one data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatasetReport {
    /// Root of the data set.
    pub dataset: Digest,
    /// What its records were charged for.
    pub purposes: Vec<String>,
    /// Records that were charged at least once.
    pub records: u64,
    /// Of its worst record, replace-one.
    pub epsilon: f64,
    pub epsilon_zero_record: f64,
    /// The records with that ε, in words.
    pub worst: String,
}

/// Charges for one mechanism.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MechanismReport {
    /// Its name with all parameters.
    pub mechanism: String,
    /// The kind of message it makes; `None` for a number that is only published in the ledger.
    pub kind: Option<Kind>,
    pub entries: u64,
    /// Records charged, summed over the entries.
    pub records: u64,
    /// Bytes of one record's message.
    pub bytes_per_record: u64,
    /// Of one release by this mechanism, replace-one.
    pub epsilon: f64,
    pub epsilon_zero_record: f64,
    /// Clipping norm and noise, where the name tells them.
    pub clip: Option<f64>,
    pub sigma: Option<f64>,
    /// Numbers in one message, where the name tells their shape.
    pub numbers: Option<u64>,
    /// The most that one message can tell about its record, in bits: `k/2 · log₂(1 + C²/(kσ²))`.
    pub information_bits: Option<f64>,
}

impl Audit {
    /// Whether no file contradicts another.
    pub fn consistent(&self) -> bool {
        self.disagreements.is_empty()
    }

    /// UNPROTECTED kinds that left.
    pub fn unprotected(&self) -> impl Iterator<Item = Kind> + '_ {
        let left = |report: &&KindReport| report.class == Class::Unprotected && report.messages > 0;
        self.kinds.iter().filter(left).map(|report| report.kind)
    }

    /// Whether anything left at all.
    pub fn anything_left(&self) -> bool {
        self.kinds.iter().any(|report| report.direction == Direction::Outward && report.messages > 0)
    }
}

impl MechanismReport {
    /// The papers' ε of one release with the same noise, at sampling rate `rate`. **Not a guarantee**: to be shown beside
    /// `epsilon` only. `None` where the name tells no clipping norm and noise.
    pub fn epsilon_of_the_papers(&self, rate: f64, delta: f64) -> Option<f64> {
        let paper = accounting::paper::epsilon_not_a_guarantee(self.clip?, self.sigma?, rate, delta);
        Some(paper).filter(|epsilon| epsilon.is_finite())
    }
}

/// What was found on the way.
#[derive(Default)]
struct Findings {
    notes: Vec<String>,
    disagreements: Vec<Disagreement>,
}

impl Findings {
    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    fn disagree(&mut self, found: impl Into<Disagreement>) {
        self.disagreements.push(found.into());
    }
}

/// Recomputes everything from the bytes of `ledger` and `boundary.jsonl`, and compares.
///
/// It goes on after a disagreement, as far as the files can be read.
pub fn check(ledger: &[u8], boundary: &[u8], claims: &Claims) -> Audit {
    let mut findings = Findings::default();
    let mut charged = Charged::read(ledger, &mut findings);
    let mut crossed = Crossed::read(boundary, &mut charged, &mut findings);
    crossed.compare(&charged, claims, &mut findings);
    charged.compare(claims, &mut findings);
    let readable = charged.whole && crossed.whole;
    let guaranteed = readable && !crossed.unprotected().any(voids_the_guarantee);
    let epsilon = guaranteed.then(|| charged.ledger.epsilon(claims.delta));
    let epsilon_zero_record = guaranteed.then(|| charged.ledger.epsilon_zero_record(claims.delta));
    if readable {
        claimed::compare(claims, epsilon, &crossed, &mut findings);
    }
    Audit {
        epsilon,
        epsilon_zero_record,
        delta: claims.delta,
        kinds: kinds(&charged, &crossed, claims.delta),
        datasets: charged.datasets(claims.delta),
        mechanisms: charged.mechanisms(claims.delta),
        ledger_head: charged.ledger.head(),
        notes: findings.notes,
        disagreements: findings.disagreements,
    }
}

/// Whether nothing can be said of records any more once this kind left: it is what a mechanism would have protected. Labels,
/// gradients and weights leave beside what was released: ε speaks of the rest, given them, and every report lists them.
fn voids_the_guarantee(kind: Kind) -> bool {
    let beside = matches!(kind, Kind::Labels | Kind::OutputGradients | Kind::WeightUpdates);
    kind.class() == Class::Unprotected && !beside
}

fn kinds(charged: &Charged, crossed: &Crossed, delta: f64) -> Vec<KindReport> {
    let report = |kind: Kind| {
        let (traffic, spent) = (crossed.of(kind), charged.of(kind));
        if traffic.messages == 0 && spent.is_none() {
            return None;
        }
        let epsilon = match kind.class() {
            Class::NoisedCounted => Some(spent.map_or(0.0, |ledger| ledger.epsilon(delta))),
            Class::Unprotected => None,
            Class::Public | Class::PostProcessing => Some(0.0),
        };
        Some(KindReport {
            kind,
            class: kind.class(),
            direction: kind.direction(),
            messages: traffic.messages,
            records: traffic.records,
            bytes: traffic.bytes,
            epsilon,
        })
    };
    Kind::ALL.iter().copied().filter_map(report).collect()
}
