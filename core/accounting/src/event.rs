//! What was released, and what it costs.

use serde::{Deserialize, Serialize};

use crate::sampling::Sampling;
use crate::{AccountingError, Pld, checked, gaussian};

/// A noise multiplier above which nothing useful is left of a release.
const LARGEST_MULTIPLIER: f64 = 1e15;

/// One kind of noised release about a record. A description only: [`epsilon_of`] prices it.
///
/// An event that is not listed here cannot be written down, and an unknown one in a ledger does not parse: nothing is
/// ever free because it was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Event {
    /// Gaussian noise on a vector clipped to a norm.
    Gaussian {
        /// Noise standard deviation ÷ L2 sensitivity, where neighbours replace one record (sensitivity = 2 · clipping
        /// norm).
        noise_multiplier: f64,
        /// How many such releases.
        count: u64,
    },
    /// Randomised response on a label.
    RandomisedResponse {
        /// ε of the response, in nats.
        epsilon: f64,
    },
    /// Any release that is ε-private without a δ, for instance by the exponential mechanism.
    Pure {
        /// ε of the release, in nats.
        epsilon: f64,
    },
    /// Gaussian noise on a vector clipped to a norm, rounded to a grid and drawn by a sampler of bounded error: every
    /// number's probability is within a factor of `e^±`[`LATTICE_ETA`](crate::LATTICE_ETA) of the ideal rounded Gaussian's, but for
    /// [`LATTICE_TAIL`](crate::LATTICE_TAIL).
    LatticeGaussian {
        /// Noise standard deviation ÷ L2 sensitivity, as for [`Event::Gaussian`].
        noise_multiplier: f64,
        /// How many numbers one release has.
        numbers: u64,
        /// How many such releases.
        count: u64,
        /// Whether the sensitivity is twice the clipping norm, so that it is half against an all-zero record; where it is
        /// something else, none of it is claimed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        clipped: bool,
    },
}

impl Event {
    /// What the sampler's distance from the ideal costs in `count` releases of so many numbers, beside their noise.
    pub fn lattice_sampling(numbers: u64, count: u64) -> Self {
        Event::LatticeGaussian { noise_multiplier: f64::MAX, numbers, count, clipped: true }
    }

    /// One Gaussian release with this noise multiplier.
    pub fn gaussian(noise_multiplier: f64) -> Self {
        Event::Gaussian { noise_multiplier, count: 1 }
    }
}

/// The privacy loss of one record so far: Gaussian releases composed exactly, pure losses added.
///
/// A running total of four numbers: what a ledger enforces a budget with. [`epsilon_tight`] is for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// `Σ (Δ_i/σ_i)²` over Gaussian releases, rounded up.
    mu_squared: f64,
    /// The same against an all-zero record.
    mu_squared_zero: f64,
    /// Σ ε over pure releases, rounded up.
    pure: f64,
    /// Numbers that a lattice sampler drew, rounded up.
    lattice: f64,
}

impl Loss {
    /// This loss and that of one more event.
    ///
    /// # Errors
    /// [`AccountingError::Parameter`] unless a noise multiplier is positive and finite, or an ε finite and not negative.
    pub fn and(self, event: &Event) -> Result<Loss, AccountingError> {
        match *event {
            // Against an all-zero record the sensitivity is the clipping norm, half of it.
            Event::Gaussian { noise_multiplier, count } => self.and_gaussian(noise_multiplier, count, 0.25),
            Event::RandomisedResponse { epsilon } | Event::Pure { epsilon } => self.and_pure(epsilon),
            Event::LatticeGaussian { noise_multiplier, numbers, count, clipped } => {
                let loss = self.and_gaussian(noise_multiplier, count, if clipped { 0.25 } else { 1.0 })?;
                let drawn = (numbers as f64).next_up() * (count as f64).next_up();
                let drawn = if numbers == 0 || count == 0 { 0.0 } else { drawn.next_up() };
                Ok(Loss { lattice: sum_up(loss.lattice, drawn), ..loss })
            }
        }
    }

    /// `zero_record`: the part of `(Δ/σ)²` against an all-zero record, a power of two.
    fn and_gaussian(self, m: f64, count: u64, zero_record: f64) -> Result<Loss, AccountingError> {
        checked("noise multiplier", m, m > 0.0 && m.is_finite(), "finite and positive")?;
        let one = (1.0 / m).next_up();
        let all = if count == 0 { 0.0 } else { ((one * one).next_up() * count as f64).next_up() };
        let mu_squared_zero = sum_up(self.mu_squared_zero, zero_record * all);
        Ok(Loss { mu_squared: sum_up(self.mu_squared, all), mu_squared_zero, ..self })
    }

    fn and_pure(self, epsilon: f64) -> Result<Loss, AccountingError> {
        checked("epsilon", epsilon, epsilon >= 0.0 && epsilon.is_finite(), "finite and not negative")?;
        Ok(Loss { pure: sum_up(self.pure, epsilon), ..self })
    }

    /// ε at this δ where neighbours replace one record, rounded up; infinite where no finite ε holds.
    pub fn epsilon(&self, delta: f64) -> f64 {
        self.at(self.mu_squared, delta)
    }

    /// ε at this δ against an all-zero record, rounded up: the papers' reading (sensitivity = clipping norm), half the μ
    /// of [`Event::Gaussian`]; other events count whole. To be shown beside [`Loss::epsilon`], never instead of it.
    pub fn epsilon_zero_record(&self, delta: f64) -> f64 {
        self.at(self.mu_squared_zero, delta)
    }

    /// Whether [`Loss::epsilon`] at this δ is at most `epsilon`; in general one evaluation instead of a search.
    pub fn within(&self, epsilon: f64, delta: f64) -> bool {
        let left = -sum_up(-epsilon, self.added());
        if self.mu_squared == 0.0 {
            return left >= 0.0;
        }
        let ideal = Sampling::of(self.lattice).ideal_delta(delta, sum_up(left, self.pure));
        let enough = left >= 0.0 && gaussian::delta(left, self.mu_squared.sqrt().next_up()) <= ideal;
        // An ε out of the sampler's reach is implied by a smaller one within it.
        enough || (ideal < 0.0 && self.epsilon(delta) <= epsilon)
    }

    fn at(&self, mu_squared: f64, delta: f64) -> f64 {
        if mu_squared == 0.0 {
            return self.added();
        }
        let mu = mu_squared.sqrt().next_up();
        let ideal = |delta| sum_up(gaussian::epsilon(mu, delta), self.pure);
        Sampling::of(self.lattice).epsilon(delta, ideal)
    }

    /// What is added to the ε of the Gaussian releases.
    fn added(&self) -> f64 {
        sum_up(self.pure, 2.0 * Sampling::of(self.lattice).ratio)
    }
}

/// `a + b` rounded up: exact where it fits, else the next float above.
pub(crate) fn sum_up(a: f64, b: f64) -> f64 {
    let sum = a + b;
    // The exact error of a sum (Knuth's TwoSum); NaN where something is infinite, and the sum then stands.
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    if error > 0.0 { sum.next_up() } else { sum }
}

/// ε at `delta` of all these events about one record, where neighbours replace that record; rounded up.
///
/// Gaussian events compose exactly (`μ² = Σ 1/multiplier²`), pure ones add their ε. The number that a ledger's budget is
/// compared with.
///
/// # Errors
/// [`AccountingError::Parameter`] if an event's parameter is out of range.
pub fn epsilon_of<'a>(
    events: impl IntoIterator<Item = &'a Event>,
    delta: f64,
) -> Result<f64, AccountingError> {
    Ok(loss_of(events)?.epsilon(delta))
}

/// [`epsilon_of`] against an all-zero record, as the papers read it; shown beside it, never instead of it.
///
/// # Errors
/// As [`epsilon_of`].
pub fn epsilon_zero_record_of<'a>(
    events: impl IntoIterator<Item = &'a Event>,
    delta: f64,
) -> Result<f64, AccountingError> {
    Ok(loss_of(events)?.epsilon_zero_record(delta))
}

/// The smaller of [`epsilon_of`] and what the privacy loss distribution ([`Pld`]) proves: both hold, so their minimum does.
///
/// Lower than [`epsilon_of`] where Gaussian releases meet pure ones, or many pure ones each other. For reports and
/// planning: it takes up to seconds, and the budget is enforced by [`Loss`], which needs one evaluation per charge.
///
/// # Errors
/// As [`epsilon_of`].
pub fn epsilon_tight<'a>(
    events: impl IntoIterator<Item = &'a Event>,
    delta: f64,
) -> Result<f64, AccountingError> {
    let (mut loss, mut pure) = (Loss::default(), Vec::new());
    for event in events {
        loss = loss.and(event)?;
        if let Event::RandomisedResponse { epsilon } | Event::Pure { epsilon } = *event {
            pure.push(epsilon);
        }
    }
    let added = loss.epsilon(delta);
    let composed = pure.len() + usize::from(loss.mu_squared > 0.0);
    if composed < 2 || !added.is_finite() {
        return Ok(added);
    }
    let ideal = distribution(&loss, pure)?;
    let tight = Sampling::of(loss.lattice).epsilon(delta, |delta| ideal.epsilon(delta));
    Ok(added.min(tight))
}

/// The smallest noise multiplier, rounded up (by 1e-9 relative), with which `count` more Gaussian releases after `base`
/// stay within (ε, δ), charged together or one by one.
///
/// # Errors
/// [`AccountingError::Parameter`] unless `epsilon ≥ 0`, `0 < delta < 1`, both finite, and `count ≥ 1`;
/// [`AccountingError::Exhausted`] if `base` leaves no room for any noise.
pub fn calibrate(base: Loss, count: u64, epsilon: f64, delta: f64) -> Result<f64, AccountingError> {
    checked("epsilon", epsilon, epsilon >= 0.0 && epsilon.is_finite(), "finite and not negative")?;
    checked("delta", delta, delta > 0.0 && delta < 1.0, "between 0 and 1")?;
    checked("count", count as f64, count >= 1, "at least 1")?;
    let enough = |m: f64| base.and_gaussian(m, count, 1.0).is_ok_and(|loss| loss.within(epsilon, delta));
    let exhausted = || AccountingError::Exhausted { spent: base.epsilon(delta), epsilon, delta };
    if !base.within(epsilon, delta) {
        return Err(exhausted());
    }
    let mut high = 1.0;
    while !enough(high) {
        high *= 2.0;
        if high > LARGEST_MULTIPLIER {
            return Err(exhausted());
        }
    }
    let mut low = high;
    while enough(low) {
        low /= 2.0;
    }
    Ok(gaussian::bisect(low, high, enough) * (1.0 + gaussian::SIGMA_MARGIN))
}

/// The Gaussian and pure releases of a loss on a grid fine enough for a window of a million points.
fn distribution(loss: &Loss, mut pure: Vec<f64>) -> Result<Pld, AccountingError> {
    let spread = loss.mu_squared / 2.0 + 16.0 * loss.mu_squared.sqrt() + 2.0 * loss.pure;
    let mut pld = Pld::new((spread / (1u64 << 20) as f64).clamp(Pld::INTERVAL, 1.0))?;
    if loss.mu_squared > 0.0 {
        pld.gaussian((1.0 / loss.mu_squared.sqrt()).next_down().next_down(), 1)?;
    }
    pure.sort_by(f64::total_cmp);
    for equal in pure.chunk_by(|a, b| a == b) {
        pld.pure(equal[0], equal.len() as u64)?;
    }
    Ok(pld)
}

fn loss_of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Result<Loss, AccountingError> {
    events.into_iter().try_fold(Loss::default(), |loss, event| loss.and(event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_rounded_up_and_exact_where_they_can_be() {
        assert_eq!(sum_up(0.0, 0.1), 0.1);
        assert_eq!(sum_up(1.5, 2.25), 3.75);
        assert_eq!(sum_up(1.0, 1e-30), 1.0f64.next_up());
        assert_eq!(sum_up(-1.0, 1e-30), (-1.0f64).next_up());
        assert_eq!(sum_up(1.0, -1e-30), 1.0);
        assert_eq!(sum_up(f64::INFINITY, 1.0), f64::INFINITY);
        assert_eq!(sum_up(f64::NEG_INFINITY, 1.0), f64::NEG_INFINITY);
    }
}
