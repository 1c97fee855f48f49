//! A clipping norm from the data, without telling more than is charged: a private quantile of the records' norms.

use accounting::{AccountingError, Event};
use kernels::select::select_f64;
use ledger::{Charge, Digest, MechanismId, RecordSet};

use crate::bit_release::{ReleaseError, UnusableMechanism};
use crate::{NoiseKey, Receipt, ReleaseShape};

/// Candidates from 2⁻²⁰ to 2²⁰, eight to an octave: public, whatever the records are.
const OCTAVES: i32 = 20;
const PER_OCTAVE: i32 = 8;

/// How much more than asked is charged, for the rounding of the weights.
const ROUNDING: f64 = 1e-9;

/// The q-quantile of the L2 norms of all records' reduced residuals, by the exponential mechanism.
///
/// A candidate `c` scores `−|#{norm ≤ c} − q·n|` and is drawn with probability proportional to `exp(ε/2 · score)`.
///
/// - Privacy: ε for each record, but for what the sampler cannot draw, a probability below 2⁻¹¹⁰: another value of one record moves every score by at most 1 (McSherry & Talwar 2007)
/// - The answer is a number in the ledger's mechanism names and so public; it is charged to every record that was counted
#[derive(Clone, Debug)]
pub struct NormQuantile {
    quantile: f64,
    epsilon: f64,
    shape: ReleaseShape,
    residual: [usize; 3],
    mechanism: MechanismId,
    key: NoiseKey,
}

impl NormQuantile {
    /// - `function`: digest of all that turns a record into its residual
    ///
    /// # Errors
    /// [`UnusableMechanism`] unless `0 < quantile < 1`, `epsilon` is finite and positive, and the shape fits the residual.
    pub fn new(
        (quantile, epsilon): (f64, f64),
        (shape, residual): (ReleaseShape, [usize; 3]),
        function: Digest,
        key: NoiseKey,
    ) -> Result<Self, UnusableMechanism> {
        let check = |what, value, accepted: bool, must| {
            if accepted { Ok(()) } else { Err(AccountingError::Parameter { what, value, must }) }
        };
        check("quantile", quantile, quantile > 0.0 && quantile < 1.0, "between 0 and 1")?;
        check("epsilon", epsilon, epsilon > 0.0 && epsilon.is_finite(), "finite and positive")?;
        shape.output(residual)?;
        let [c, h, w] = residual;
        let mechanism = MechanismId::new(format!(
            "norm-quantile v1: {quantile} of {shape} of {c}x{h}x{w}, epsilon {epsilon}, function {function}"
        ));
        Ok(NormQuantile { quantile, epsilon, shape, residual, mechanism, key })
    }

    /// The name of this mechanism, all parameters included.
    pub fn mechanism(&self) -> &MechanismId {
        &self.mechanism
    }

    /// The loss of each record.
    pub fn event(&self) -> Event {
        Self::loss(self.epsilon)
    }

    /// What a quantile with this ε costs each record.
    pub fn loss(epsilon: f64) -> Event {
        Event::Pure { epsilon: epsilon * (1.0 + ROUNDING) }
    }

    /// The charge for the quantile over these records.
    pub fn charge(&self, dataset: Digest, records: RecordSet, purpose: &str) -> Charge {
        Charge {
            dataset: self.key.dataset(&dataset),
            records,
            view: 0,
            mechanism: self.mechanism.clone(),
            transcript: None,
            event: self.event(),
            bytes: 0,
            purpose: purpose.to_owned(),
        }
    }

    /// L2 norms of residuals `[N, C, H, W]`, reduced to the shape that leaves; private still.
    ///
    /// # Errors
    /// [`ReleaseError::Length`] if the data does not hold whole residuals.
    pub fn norms<'a>(&'a self, residuals: &'a [f32]) -> Result<impl Iterator<Item = f64> + 'a, ReleaseError> {
        let expected = self.residual.iter().product::<usize>().max(1);
        if !residuals.len().is_multiple_of(expected) {
            return Err(ReleaseError::Length { expected, found: residuals.len() % expected });
        }
        let mut scratch = vec![0.0; self.shape.scratch_len(self.residual)];
        let norm = move |residual| self.shape.reduce(self.residual, residual, &mut scratch).norm();
        Ok(residuals.chunks_exact(expected).map(norm))
    }

    /// The clipping norm, after the charge. The same records give the same answer in every call.
    ///
    /// - `norms`: one per record that was charged
    ///
    /// # Errors
    /// [`ReleaseError::NotCharged`] if `receipt` is for another mechanism; [`ReleaseError::Length`] if it is for another
    /// number of records.
    pub fn release(&self, receipt: &Receipt, norms: &[f64]) -> Result<f64, ReleaseError> {
        let charge = receipt.charge();
        if charge.mechanism != self.mechanism {
            return Err(ReleaseError::NotCharged { record: 0 });
        }
        if charge.records.len() != norms.len() as u64 {
            return Err(ReleaseError::Length { expected: charge.records.len() as usize, found: norms.len() });
        }
        let candidates: Vec<f64> = candidates().collect();
        let target = self.quantile * norms.len() as f64;
        let scores: Vec<f64> =
            candidates.iter().map(|&c| -(count_within(norms, c) as f64 - target).abs()).collect();
        let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // From the lightest on, so that no weight is lost beside a heavier one.
        let ranks = ranks(&scores);
        let weights: Vec<f64> = scores.iter().map(|s| libm::exp(0.5 * self.epsilon * (s - best))).collect();
        let (weights, candidates) = (arranged(&weights, &ranks), arranged(&candidates, &ranks));
        let total: f64 = weights.iter().sum();
        let mut noise = self.key.stream(&charge.dataset, 0, charge.view, &self.mechanism, None);
        let drawn = noise.small_uniform() * total;
        // The first whose weights up to it reach what was drawn; the last, where the sum's last rounding falls.
        let (mut passed, mut found, mut chosen) = (0.0, false, candidates[candidates.len() - 1]);
        for (&weight, &candidate) in weights.iter().zip(&candidates) {
            passed += weight;
            chosen = select_f64((drawn <= passed) & !found, candidate, chosen);
            found |= drawn <= passed;
        }
        Ok(chosen)
    }
}

/// How many norms are not above `bound`: one pass, whatever they are.
fn count_within(norms: &[f64], bound: f64) -> u64 {
    norms.iter().map(|&norm| u64::from(norm <= bound)).sum()
}

/// The place of each score in ascending order, equal ones as they come: every pair is compared, none is moved.
fn ranks(scores: &[f64]) -> Vec<u64> {
    let before = |a: usize, b: usize| (scores[b] < scores[a]) | ((scores[b] == scores[a]) & (b < a));
    let rank = |a| (0..scores.len()).map(|b| u64::from(before(a, b))).sum();
    (0..scores.len()).map(rank).collect()
}

/// `numbers[i]` at place `ranks[i]`, by a look at every number for every place.
fn arranged(numbers: &[f64], ranks: &[u64]) -> Vec<f64> {
    let at = |place: u64| {
        let look = |found, (&x, &rank): (&f64, &u64)| select_f64(rank == place, x, found);
        numbers.iter().zip(ranks).fold(0.0, look)
    };
    (0..numbers.len() as u64).map(at).collect()
}

fn candidates() -> impl Iterator<Item = f64> {
    (-OCTAVES * PER_OCTAVE..=OCTAVES * PER_OCTAVE).map(|i| libm::exp2(f64::from(i) / f64::from(PER_OCTAVE)))
}
