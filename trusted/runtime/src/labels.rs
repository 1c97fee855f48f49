//! What the accelerator gets in place of each record's label.

use ledger::{Digest, Kind, RecordSet};
use mechanism::{Answered, GradientRelease, LabelRelease, LedgerWriter, NoiseKey, Permissions, Released};
use wire::RunSpec;
use wire::spec::Labels;

use crate::RunError;
use crate::accelerator::Body;
use crate::calibration::Calibration;
use crate::flow::{Outsourced, request};
use crate::records::Records;

/// How labels leave.
pub(crate) enum LabelMessenger {
    /// As they are, by permission.
    Plain,
    /// After randomised response, charged once.
    Randomised(LabelRelease),
    /// Not at all: each step's gradients leave, noised and charged.
    Withheld(Box<GradientRelease>),
}

impl LabelMessenger {
    /// As `spec` says for `outsourced`.
    pub(crate) fn new(spec: &RunSpec, outsourced: &Outsourced, key: NoiseKey) -> Result<Self, RunError> {
        let classes = spec.graph.classes();
        match spec.privacy.labels {
            Labels::Public => Ok(LabelMessenger::Plain),
            Labels::Randomised { epsilon } => {
                Ok(LabelMessenger::Randomised(LabelRelease::new(classes, epsilon, key).map_err(request)?))
            }
            Labels::Withheld { clip, .. } => {
                let gradient = Calibration::of(spec, outsourced)?.gradient;
                let multiplier = gradient.ok_or_else(|| request("withheld labels need a label_epsilon"))?;
                let release = GradientRelease::calibrated(classes, clip, multiplier, key).map_err(request)?;
                Ok(LabelMessenger::Withheld(Box::new(release)))
            }
        }
    }

    /// Whether every step of the accelerator waits for its gradients.
    pub(crate) fn withholds(&self) -> bool {
        matches!(self, LabelMessenger::Withheld(_))
    }

    /// Labels of all training records, as one message to be sent in parts; `None` where none leave.
    pub(crate) fn message(
        &self,
        permissions: &Permissions,
        ledger: &mut LedgerWriter,
        records: &Records,
        range: std::ops::Range<usize>,
    ) -> Result<Option<Box<Body>>, RunError> {
        let labels = &records.labels()[range.clone()];
        match self {
            LabelMessenger::Plain => {
                let labels = wire::body::from_u16(labels);
                Ok(Some(Box::new(permissions.allow(Kind::Labels, labels)?)))
            }
            LabelMessenger::Randomised(release) => {
                let all = RecordSet::range(0..records.len() as u64);
                let receipt =
                    ledger.charge(release.charge(records.root(), all, "labels of training records"))?;
                let range = range.start as u64..range.end as u64;
                Ok(Some(Box::new(release.release(&receipt, range, labels)?)))
            }
            LabelMessenger::Withheld(_) => Ok(None),
        }
    }

    /// Gradients of one step's records, charged now unless the same exchange was paid for before; `None` where labels left.
    ///
    /// - Shapes: `chosen` `[N]` records, `logits` `[N, K]` as the accelerator sent them
    pub(crate) fn gradients(
        &self,
        ledger: &mut LedgerWriter,
        (records, root): (&Records, Digest),
        (epoch, step): (usize, usize),
        chosen: &[u32],
        logits: &[f32],
    ) -> Result<Option<Released<Vec<u8>>>, RunError> {
        let LabelMessenger::Withheld(release) = self else { return Ok(None) };
        let ids: Vec<u64> = chosen.iter().map(|&record| u64::from(record)).collect();
        let place = [epoch as u64, step as u64].map(u64::to_le_bytes).concat();
        let transcript = Digest::of("asymflow step v1", &[&place, &wire::body::from_f32(logits)]);
        let charge = release.charge(root, RecordSet::of(&ids), transcript, "gradients of one training step");
        let receipt = ledger.charge(charge)?;
        let classes = logits.len() / chosen.len().max(1);
        let labels = records.labels();
        let answers = ids.iter().zip(logits.chunks_exact(classes.max(1))).map(|(&record, logits)| Answered {
            record,
            label: labels[record as usize],
            logits,
        });
        Ok(Some(release.release(&receipt, answers)?))
    }
}
