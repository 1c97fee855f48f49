//! Labels after k-ary randomised response.

use accounting::{Event, randomised_response};

use crate::bit_release::{ReleaseBatch, ReleaseError, UnusableMechanism};
use crate::boundary::Released;
use crate::kind::Kind;
use crate::ledger::{Charge, LedgerWriter, Receipt};
use crate::{Digest, MechanismId, NoiseKey, RecordSet};

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
    /// [`UnusableMechanism::Accounting`] unless `labels ≥ 2` and `epsilon ≥ 0` is finite.
    pub fn new(labels: usize, epsilon: f64, key: NoiseKey) -> Result<Self, UnusableMechanism> {
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
        let (mechanism, event, purpose) = (self.mechanism.clone(), self.event(), purpose.to_owned());
        Charge { dataset, records, view: 0, mechanism, event, purpose }
    }

    /// The label of one record that was charged. The same record gives the same answer in every call.
    ///
    /// # Errors
    /// [`ReleaseError::NotCharged`] if `receipt` does not cover the record; [`ReleaseError::Label`] if there is no such label.
    pub fn release(&self, receipt: &Receipt, record: u64, label: u32) -> Result<Released<u32>, ReleaseError> {
        if !receipt.covers(record, &self.mechanism) {
            return Err(ReleaseError::NotCharged { record });
        }
        if label as usize >= self.labels {
            return Err(ReleaseError::Label { record, labels: self.labels });
        }
        let Charge { dataset, view, .. } = receipt.charge();
        let mut noise = self.key.stream(dataset, record, *view, &self.mechanism);
        let coin = (noise.bits() >> 11) as f64 / (1u64 << 53) as f64;
        // 1 to k − 1 steps on from the true label: every other label with equal probability.
        let others = self.labels as u64 - 1;
        let step = 1 + ((u128::from(noise.bits()) * u128::from(others)) >> 64) as u64;
        let other = (u64::from(label) + step) % self.labels as u64;
        let told = if coin < self.keep { u64::from(label) } else { other };
        Ok(Released::new(Kind::RandomisedLabels, told as u32, receipt.clone()))
    }

    /// Charges for a batch, then releases the label of each record.
    ///
    /// # Errors
    /// [`ReleaseError::Charge`] if the ledger refuses; [`ReleaseError::Repeated`] or [`ReleaseError::Length`] (another number of
    /// labels than records) before anything is charged.
    pub fn release_batch(
        &self,
        ledger: &mut LedgerWriter,
        batch: &ReleaseBatch<'_>,
        labels: &[u32],
    ) -> Result<Vec<Released<u32>>, ReleaseError> {
        let set = batch.distinct()?;
        if labels.len() != batch.records.len() {
            return Err(ReleaseError::Length { expected: batch.records.len(), found: labels.len() });
        }
        let charge = Charge { view: batch.view, ..self.charge(batch.dataset, set, batch.purpose) };
        let receipt = ledger.charge(charge)?;
        batch
            .records
            .iter()
            .zip(labels)
            .map(|(&record, &label)| self.release(&receipt, record, label))
            .collect()
    }
}
