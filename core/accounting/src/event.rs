//! What was released, and what it costs.

use serde::{Deserialize, Serialize};

use crate::{AccountingError, checked, gaussian};

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
    /// Any mechanism with a pure guarantee.
    Pure {
        epsilon: f64,
    },
    LatticeGaussian {
        noise_multiplier: f64,
        numbers: u64,
        count: u64,
    },
}

/// ETA
pub const LATTICE_ETA: f64 = 1.0 / (1u64 << 34) as f64;

impl Event {
    /// One Gaussian release with this noise multiplier.
    pub fn gaussian(noise_multiplier: f64) -> Self {
        Event::Gaussian { noise_multiplier, count: 1 }
    }
}

/// The privacy loss of one record so far: Gaussian releases composed exactly, randomised responses added.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// `Σ (Δ_i/σ_i)²` over Gaussian releases, rounded up.
    mu_squared: f64,
    /// Σ ε over randomised responses, rounded up.
    pure: f64,
}

impl Loss {
    /// This loss and that of one more event.
    ///
    /// # Errors
    /// [`AccountingError::Parameter`] unless a noise multiplier is positive and finite, or an ε finite and not negative.
    pub fn and(self, event: &Event) -> Result<Loss, AccountingError> {
        match *event {
            Event::Gaussian { noise_multiplier: m, count } => {
                checked("noise multiplier", m, m > 0.0 && m.is_finite(), "finite and positive")?;
                let one = (1.0 / m).next_up();
                let all = if count == 0 { 0.0 } else { ((one * one).next_up() * count as f64).next_up() };
                Ok(Loss { mu_squared: sum_up(self.mu_squared, all), ..self })
            }
            Event::LatticeGaussian { noise_multiplier, numbers, count } => self
                .and(&Event::Gaussian { noise_multiplier, count })?
                .and(&Event::Pure { epsilon: 2.0 * LATTICE_ETA * numbers as f64 * count as f64 }),
            Event::RandomisedResponse { epsilon } | Event::Pure { epsilon } => {
                checked(
                    "epsilon",
                    epsilon,
                    epsilon >= 0.0 && epsilon.is_finite(),
                    "finite and not negative",
                )?;
                Ok(Loss { pure: sum_up(self.pure, epsilon), ..self })
            }
        }
    }

    /// ε at this δ where neighbours replace one record, rounded up; infinite where no finite ε holds.
    pub fn epsilon(&self, delta: f64) -> f64 {
        self.at(1.0, delta)
    }

    /// ε at this δ against an all-zero record, rounded up: the papers' reading (sensitivity = clipping norm), half the
    /// Gaussian μ. To be shown beside [`Loss::epsilon`], never instead of it.
    pub fn epsilon_zero_record(&self, delta: f64) -> f64 {
        self.at(0.5, delta)
    }

    /// Whether [`Loss::epsilon`] at this δ is at most `epsilon`; one evaluation instead of a search.
    pub fn within(&self, epsilon: f64, delta: f64) -> bool {
        if self.mu_squared == 0.0 {
            return self.pure <= epsilon;
        }
        let left = -sum_up(-epsilon, self.pure);
        left >= 0.0 && gaussian::delta(left, self.mu_squared.sqrt().next_up()) <= delta
    }

    fn at(&self, scale: f64, delta: f64) -> f64 {
        if self.mu_squared == 0.0 {
            return self.pure;
        }
        sum_up(gaussian::epsilon(scale * self.mu_squared.sqrt().next_up(), delta), self.pure)
    }
}

/// stub
pub fn calibrate(base: Loss, count: u64, epsilon: f64, delta: f64) -> Result<f64, AccountingError> {
    let enough = |m: f64| {
        base.and(&Event::Gaussian { noise_multiplier: m, count }).is_ok_and(|l| l.within(epsilon, delta))
    };
    let mut high = 1.0;
    while !enough(high) {
        high *= 2.0;
        checked("epsilon", epsilon, high < 1e12, "more than what is spent already")?;
    }
    let mut low = high;
    while enough(low) {
        low /= 2.0;
    }
    for _ in 0..200 {
        let m = (low + high) / 2.0;
        if enough(m) { high = m } else { low = m }
    }
    Ok(high * (1.0 + 1e-9))
}

/// `a + b` rounded up: exact where it fits, else the next float above.
fn sum_up(a: f64, b: f64) -> f64 {
    let sum = a + b;
    // The exact error of a sum (Knuth's TwoSum); NaN where something is infinite, and the sum then stands.
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    if error > 0.0 { sum.next_up() } else { sum }
}

/// ε at `delta` of all these events about one record, where neighbours replace that record; rounded up.
///
/// Gaussian events compose exactly (`μ² = Σ 1/multiplier²`), randomised responses add their ε.
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
