//! The ledger, read for an audit.

use std::collections::{BTreeMap, BTreeSet};

use accounting::information::information_bound_bits;
use accounting::{AccountingError, Event, Loss};

use super::mechanism_text::MechanismText;
use super::{Claims, DatasetReport, Disagreement, Findings, MechanismReport};
use crate::{ChainError, Class, Digest, Entry, Kind, Ledger, LedgerError, MechanismId, RecordSet, entries};

/// How far two ways to the same number may lie apart, relative to it: rounding only.
pub(super) const ROUNDING: f64 = 1e-9;

/// All charges, as far as they can be read.
pub(super) struct Charged {
    pub(super) ledger: Ledger,
    /// By position in the ledger.
    pub(super) entries: Vec<PaidEntry>,
    /// Whether the ledger could be read to its end.
    pub(super) whole: bool,
    by_kind: BTreeMap<Kind, Ledger>,
    by_mechanism: BTreeMap<MechanismId, Charges>,
    /// Data sets in the order of their first entries, each with what it was charged for.
    purposes: Vec<(Digest, BTreeSet<String>)>,
}

/// What one entry paid for.
pub(super) struct PaidEntry {
    pub(super) hash: Digest,
    pub(super) kind: Option<Kind>,
    /// Bytes of one record's message.
    pub(super) bytes: u64,
    /// Records paid for by it and by earlier entries of the same release.
    pub(super) records: u64,
    pub(super) purpose: String,
    /// Whether a message left on it.
    pub(super) sent: bool,
}

/// All charges for one mechanism.
struct Charges {
    text: MechanismText,
    event: Event,
    /// Line of its first entry.
    line: usize,
    entries: u64,
    records: u64,
    bytes: u64,
}

impl Charged {
    pub(super) fn read(bytes: &[u8], findings: &mut Findings) -> Self {
        let mut charged = Charged {
            ledger: Ledger::empty(),
            entries: Vec::new(),
            whole: true,
            by_kind: BTreeMap::new(),
            by_mechanism: BTreeMap::new(),
            purposes: Vec::new(),
        };
        for (i, entry) in entries(bytes).enumerate() {
            let line = i + 1;
            let added = match entry {
                Ok(entry) => {
                    charged.add(line, &entry, findings).map_err(|source| LedgerError::Loss { line, source })
                }
                Err(ChainError::Truncated { .. }) => {
                    findings.note(format!(
                        "ledger line {line} is cut short: a crash, before anything left for it; the next command removes it"
                    ));
                    break;
                }
                Err(error) => Err(error.into()),
            };
            if let Err(error) = added {
                charged.whole = false;
                findings.disagree(error);
                break;
            }
        }
        charged
    }

    fn add(&mut self, line: usize, entry: &Entry, findings: &mut Findings) -> Result<(), AccountingError> {
        self.ledger.add(entry)?;
        let text = MechanismText::parse(entry.mechanism.as_str());
        let kind = text.kind.filter(|kind| kind.class() == Class::NoisedCounted);
        if let Some(kind) = kind {
            self.by_kind.entry(kind).or_default().add(entry)?;
        }
        self.check_entry(line, entry, &MechanismText { kind, ..text }, findings);
        let records = self.ledger.issued(&entry.charge()).map_or(0, |issued| issued.records.len());
        self.entries.push(PaidEntry {
            hash: entry.hash,
            kind,
            bytes: entry.bytes,
            records,
            purpose: entry.purpose.clone(),
            sent: false,
        });
        let charges = self.by_mechanism.entry(entry.mechanism.clone()).or_insert(Charges {
            text: MechanismText { kind, ..text },
            event: entry.event,
            line,
            entries: 0,
            records: 0,
            bytes: entry.bytes,
        });
        charges.entries += 1;
        charges.records = charges.records.saturating_add(entry.records.len());
        self.add_purpose(entry);
        Ok(())
    }

    /// Checks that an entry is of a known mechanism and charges what that costs.
    fn check_entry(&self, line: usize, entry: &Entry, text: &MechanismText, findings: &mut Findings) {
        let mechanism = || entry.mechanism.to_string();
        if text.kind.is_none() && !(text.published && entry.bytes == 0) {
            findings.disagree(Disagreement::Mechanism { line, mechanism: mechanism() });
        }
        if self.by_mechanism.get(&entry.mechanism).is_some_and(|before| before.event != entry.event) {
            findings.disagree(Disagreement::Renamed { line, mechanism: mechanism() });
        }
        if let Some(Kind::ResidualBits | Kind::NoisedInputs | Kind::NoisedResiduals | Kind::LogitGradients) =
            text.kind
        {
            check_gaussian(line, entry, text, findings);
        }
        if let Some(expected) = text.epsilon {
            check_epsilon(line, entry, expected, findings);
        }
    }

    /// Whether anything was charged that leaves as a message.
    pub(super) fn sends_anything(&self) -> bool {
        self.entries.iter().any(|entry| entry.bytes > 0)
    }

    fn add_purpose(&mut self, entry: &Entry) {
        let purpose = entry.purpose.clone();
        match self.purposes.iter_mut().find(|(dataset, _)| *dataset == entry.dataset) {
            Some((_, purposes)) => {
                purposes.insert(purpose);
            }
            None => self.purposes.push((entry.dataset, BTreeSet::from([purpose]))),
        }
    }

    /// Charges for this kind alone.
    pub(super) fn of(&self, kind: Kind) -> Option<&Ledger> {
        self.by_kind.get(&kind)
    }

    /// Compares with the configuration.
    pub(super) fn compare(&self, claims: &Claims, findings: &mut Findings) {
        for DatasetReport { dataset, epsilon, .. } in self.datasets(claims.delta) {
            match claims.budget {
                Some(budget) if epsilon > budget * (1.0 + ROUNDING) => {
                    findings.disagree(Disagreement::Budget { dataset, epsilon, budget });
                }
                _ => {}
            }
        }
        for Charges { text, line, .. } in self.by_mechanism.values() {
            match (text.kind, text.clip, claims.clip) {
                (Some(Kind::ResidualBits | Kind::NoisedInputs), Some(found), Some(stated))
                    if differ(found, stated) =>
                {
                    findings.disagree(Disagreement::Clip { line: *line, found, stated });
                }
                _ => {}
            }
        }
    }

    /// What each data set has spent.
    pub(super) fn datasets(&self, delta: f64) -> Vec<DatasetReport> {
        let report = |(dataset, purposes): &(Digest, BTreeSet<String>)| {
            let mut priced = Priced { delta, known: Vec::new() };
            let (mut records, mut worst, mut epsilons) = (0u64, Vec::new(), (0.0, 0.0));
            for (_, range, loss) in self.ledger.losses().filter(|(of, ..)| *of == dataset) {
                records = records.saturating_add(range.end - range.start);
                let found = priced.epsilons(loss);
                if worst.is_empty() || found.0 > epsilons.0 {
                    (worst, epsilons) = (Vec::new(), found);
                }
                if found.0 == epsilons.0 {
                    worst.push(range);
                }
            }
            DatasetReport {
                dataset: *dataset,
                purposes: purposes.iter().cloned().collect(),
                records,
                epsilon: epsilons.0,
                epsilon_zero_record: epsilons.1,
                worst: RecordSet::ascending(worst).to_string(),
            }
        };
        self.purposes.iter().map(report).collect()
    }

    /// What each mechanism was charged for.
    pub(super) fn mechanisms(&self, delta: f64) -> Vec<MechanismReport> {
        let report = |(name, charges): (&MechanismId, &Charges)| {
            let Charges { text, event, entries, records, bytes, .. } = charges;
            let loss = Loss::default().and(event).unwrap_or_default();
            let bits =
                |k: u64| Some(information_bound_bits(usize::try_from(k).ok()?, text.clip?, text.sigma?));
            MechanismReport {
                mechanism: name.to_string(),
                kind: text.kind,
                entries: *entries,
                records: *records,
                bytes_per_record: *bytes,
                epsilon: loss.epsilon(delta),
                epsilon_zero_record: loss.epsilon_zero_record(delta),
                clip: text.clip,
                sigma: text.sigma,
                numbers: text.numbers,
                information_bits: text.numbers.and_then(bits),
            }
        };
        let mut in_order: Vec<_> = self.by_mechanism.iter().collect();
        in_order.sort_by_key(|(_, charges)| charges.line);
        in_order.into_iter().map(report).collect()
    }
}

/// Checks that an entry for a Gaussian release charges what its mechanism's name says, for messages of the length that
/// follows from it.
///
/// Residual bits: σ over the sensitivity `2C`, a bit per number. Noised vectors: the same, on a grid. Gradients in place of
/// labels: at most σ over `min(2C, √2 + √K·step)` for K numbers on a grid.
fn check_gaussian(line: usize, entry: &Entry, text: &MechanismText, findings: &mut Findings) {
    let (Some(clip), Some(sigma), Some(numbers), Some(length)) =
        (text.clip, text.sigma, text.numbers, text.bytes)
    else {
        let mechanism = entry.mechanism.to_string();
        findings.disagree(Disagreement::Mechanism { line, mechanism });
        return;
    };
    let gradients = text.kind == Some(Kind::LogitGradients);
    let vector = matches!(text.kind, Some(Kind::NoisedInputs | Kind::NoisedResiduals));
    let apart = if gradients { gradient_sensitivity(clip, sigma, numbers) } else { 2.0 * clip };
    let expected = sigma / apart;
    let found = match entry.event {
        Event::Gaussian { noise_multiplier, count: 1 } if !gradients && !vector => noise_multiplier,
        Event::LatticeGaussian { noise_multiplier, numbers: charged, count: 1, clipped }
            if charged == numbers && (gradients && !clipped || vector) =>
        {
            noise_multiplier
        }
        _ => f64::NAN,
    };
    let wrong = if gradients {
        found.is_nan() || found > expected * (1.0 + ROUNDING)
    } else {
        differ(found, expected)
    };
    if wrong {
        findings.disagree(Disagreement::Loss { line, found, expected });
    }
    if entry.bytes != length {
        findings.disagree(Disagreement::MessageSize { line, found: entry.bytes, expected: length });
    }
}

/// Checks that an entry charges no less than the ε in its mechanism's name, which holds at every δ.
fn check_epsilon(line: usize, entry: &Entry, expected: f64, findings: &mut Findings) {
    let found = Loss::default().and(&entry.event).map_or(f64::NAN, |loss| loss.epsilon(f64::MIN_POSITIVE));
    if found.is_nan() || found < expected * (1.0 - ROUNDING) {
        findings.disagree(Disagreement::Epsilon { line, found, expected });
    }
}

/// Sensitivity of gradients in place of labels, whose grid has the power of two just below `σ · 2⁻¹²` as its step.
fn gradient_sensitivity(clip: f64, sigma: f64, numbers: u64) -> f64 {
    let step = (sigma.log2().floor() - 12.0).exp2();
    (2.0 * clip).min(std::f64::consts::SQRT_2 + (numbers as f64).sqrt() * step)
}

/// Whether two numbers differ by more than rounding; NaN differs from all.
fn differ(a: f64, b: f64) -> bool {
    let gap = (a - b).abs();
    gap.is_nan() || gap > ROUNDING * a.abs().max(b.abs())
}

/// ε of losses at one δ, each searched for once.
struct Priced {
    delta: f64,
    known: Vec<(Loss, (f64, f64))>,
}

impl Priced {
    /// ε, and ε against an all-zero record.
    fn epsilons(&mut self, loss: Loss) -> (f64, f64) {
        if let Some((_, epsilons)) = self.known.iter().find(|(known, _)| *known == loss) {
            return *epsilons;
        }
        let epsilons = (loss.epsilon(self.delta), loss.epsilon_zero_record(self.delta));
        self.known.push((loss, epsilons));
        epsilons
    }
}
