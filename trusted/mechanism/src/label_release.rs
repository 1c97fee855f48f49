//! Labels after k-ary randomised response.

use std::ops::Range;

use accounting::{Event, randomised_response};
use kernels::select::select_u64;
use ledger::{Charge, Digest, Kind, MechanismId, RecordSet};

use crate::bit_release::{ReleaseError, UnusableMechanism};
use crate::boundary::Released;
use crate::{NoiseKey, Receipt};

/// Bytes of one label on the wire.
const LABEL_BYTES: u64 = 2;

const TWO_64: f64 = 18_446_744_073_709_551_616.0;

/// Tells the true label with probability `e^ε/(e^ε + k − 1)`, else one of the others, all equally likely.
///
/// - Privacy: ε per label, δ = 0; two draws per label whatever it is
#[derive(Clone, Debug)]
pub struct LabelRelease {
    labels: usize,
    epsilon: f64,
    keep: f64,
    mechanism: MechanismId,
    key: NoiseKey,
}

impl LabelRelease {
    /// # Errors
    /// [`UnusableMechanism::Accounting`] unless `2 ≤ labels ≤ 65536` and `epsilon ≥ 0` is finite.
    pub fn new(labels: usize, epsilon: f64, key: NoiseKey) -> Result<Self, UnusableMechanism> {
        if labels > 1 << 16 {
            let (value, must) = (labels as f64, "at most 65536");
            return Err(accounting::AccountingError::Parameter { what: "labels", value, must }.into());
        }
        let keep = randomised_response::keep(labels, epsilon)?;
        let mechanism =
            MechanismId::new(format!("{} v1: {labels} labels, epsilon {epsilon}", Kind::RandomisedLabels));
        Ok(LabelRelease { labels, epsilon, keep, mechanism, key })
    }

    /// The name of this mechanism, all parameters included.
    pub fn mechanism(&self) -> &MechanismId {
        &self.mechanism
    }

    /// The loss of one label.
    pub fn event(&self) -> Event {
        Event::RandomisedResponse { epsilon: self.epsilon }
    }

    /// The charge for the label of each of these records.
    pub fn charge(&self, dataset: Digest, records: RecordSet, purpose: &str) -> Charge {
        Charge {
            dataset: self.key.dataset(&dataset),
            records,
            view: 0,
            mechanism: self.mechanism.clone(),
            transcript: None,
            event: self.event(),
            bytes: LABEL_BYTES,
            purpose: purpose.to_owned(),
        }
    }

    /// The labels of records that were charged, as little-endian numbers of two bytes. The same record gives the same
    /// answer in every call.
    ///
    /// - Shapes: `labels`, one per record of `records`
    ///
    /// # Errors
    /// [`ReleaseError::NotCharged`] if `receipt` does not cover a record; [`ReleaseError::Label`] if there is no such
    /// label; [`ReleaseError::Length`].
    pub fn release(
        &self,
        receipt: &Receipt,
        records: Range<u64>,
        labels: &[u16],
    ) -> Result<Released<Vec<u8>>, ReleaseError> {
        let expected = (records.end - records.start) as usize;
        if labels.len() != expected {
            return Err(ReleaseError::Length { expected, found: labels.len() });
        }
        let mut told = Vec::with_capacity(LABEL_BYTES as usize * labels.len());
        for (record, &label) in records.zip(labels) {
            told.extend(self.answer(receipt, record, label)?.to_le_bytes());
        }
        Ok(Released::new(Kind::RandomisedLabels, told, receipt.clone()))
    }

    fn answer(&self, receipt: &Receipt, record: u64, label: u16) -> Result<u16, ReleaseError> {
        if !receipt.covers(record, &self.mechanism) {
            return Err(ReleaseError::NotCharged { record });
        }
        if usize::from(label) >= self.labels {
            return Err(ReleaseError::Label { record, labels: self.labels });
        }
        let Charge { dataset, view, .. } = receipt.charge();
        let mut noise = self.key.stream(dataset, record, *view, &self.mechanism, None);
        // Both numbers are always drawn. The truth is told with probability `keep` rounded down to a multiple of 2⁻⁶⁴.
        let truth = noise.bits() < (self.keep * TWO_64) as u64;
        // 1 to k − 1 steps on from the true label: every other label with equal probability.
        let others = self.labels as u64 - 1;
        let step = 1 + ((u128::from(noise.bits()) * u128::from(others)) >> 64) as u64;
        // Neither a division nor a branch: both can take longer for some labels.
        let (on, labels) = (u64::from(label) + step, self.labels as u64);
        let other = select_u64(on >= labels, on.wrapping_sub(labels), on);
        Ok(select_u64(truth, u64::from(label), other) as u16)
    }
}
