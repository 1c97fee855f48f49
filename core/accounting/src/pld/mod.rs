//! Privacy loss distributions: an upper bound on (ε, δ) for releases that do not compose exactly.
//!
//! The loss `ln(P/Q)` of each release is put on a grid ([`distribution`]), the losses of all releases are added by a Fourier
//! transform ([`fourier`]), and `δ(ε) = E[(1 − e^{ε−L})₊]` is read off the sum.
//!
//! The transform is of the tilted distribution `p(l)·e^{θl}/M(θ)`, whose mass lies where δ is decided: its rounding error,
//! which is bounded and added to every probability, is then small beside δ however small δ is.
//!
//! - Units: losses, ε and intervals in nats
//! - Neighbours: one record added or removed for sampled releases (the worse of both), else as the sensitivity says
//! - Source: Koskela, Jälkö & Honkela 2020 (Fourier accountant); Doroshenko et al. 2022 (the grid); Zhu, Dong & Wang 2022
//!   (dominating pairs compose)

mod distribution;
mod fourier;
mod tilt;

use self::distribution::{Direction, Distribution};
use self::fourier::{Complex, Fourier, power, times};
use self::tilt::{Tilt, Window};
use crate::normal::ROUNDING;
use crate::{AccountingError, checked};

/// Relative rounding of one release's tilted probabilities: an exponential of at most ±745, and as much for `ln M`.
const ENTRY_ROUNDING: f64 = 1e-12;

/// Relative rounding of a sum over the window.
const SUM_ROUNDING: f64 = 1e-8;

/// The privacy loss of many releases about one record.
///
/// Gaussian releases without sampling are composed exactly first; all others are summed on the grid.
///
/// ```
/// use asymflow_accounting::Pld;
/// let mut pld = Pld::new(Pld::INTERVAL)?;
/// pld.gaussian(2.0, 1)?;
/// pld.pure(0.5, 4)?;
/// assert!(pld.epsilon(1e-5) < 4.0); // adding the two would give 4.1
/// # Ok::<(), asymflow_accounting::AccountingError>(())
/// ```
pub struct Pld {
    interval: f64,
    mu_squared: f64,
    parts: Vec<Part>,
}

/// So many equal releases, seen from either neighbour.
struct Part {
    count: u64,
    remove: Distribution,
    /// Where it is not as `remove`.
    add: Option<Distribution>,
}

/// A distribution and how many times it is added.
type Term<'a> = (&'a Distribution, u64);

impl Pld {
    /// The default distance of the grid's points, in nats.
    pub const INTERVAL: f64 = 1e-4;

    /// No releases, on a grid of this interval. A finer grid costs time and gives a lower bound.
    ///
    /// # Errors
    /// [`AccountingError::Parameter`] unless the interval is between 1e-7 and 1.
    pub fn new(interval: f64) -> Result<Pld, AccountingError> {
        checked("interval", interval, (1e-7..=1.0).contains(&interval), "between 1e-7 and 1")?;
        Ok(Pld { interval, mu_squared: 0.0, parts: Vec::new() })
    }

    /// Adds `count` Gaussian releases.
    ///
    /// # Errors
    /// [`AccountingError::Parameter`] unless the noise multiplier is positive and finite.
    pub fn gaussian(&mut self, noise_multiplier: f64, count: u64) -> Result<(), AccountingError> {
        let m = checked_multiplier(noise_multiplier)?;
        if count > 0 {
            let one = (1.0 / m).next_up();
            let all = ((one * one).next_up() * count as f64).next_up();
            self.mu_squared = (self.mu_squared + all).next_up();
        }
        Ok(())
    }

    /// Adds `count` Gaussian releases, each about its own Poisson sample of the records with this sampling rate.
    ///
    /// # Errors
    /// [`AccountingError::Parameter`] unless the noise multiplier is positive and finite, and the rate between 0 and 1.
    pub fn sampled_gaussian(
        &mut self,
        noise_multiplier: f64,
        rate: f64,
        count: u64,
    ) -> Result<(), AccountingError> {
        let m = checked_multiplier(noise_multiplier)?;
        checked("sampling rate", rate, (0.0..=1.0).contains(&rate), "between 0 and 1")?;
        if rate == 1.0 {
            return self.gaussian(m, count);
        }
        if rate > 0.0 && count > 0 {
            let seen = |direction| Distribution::sampled_gaussian(m, rate, self.interval, direction);
            let (remove, add) = (seen(Direction::Remove), Some(seen(Direction::Add)));
            self.parts.push(Part { count, remove, add });
        }
        Ok(())
    }

    /// Adds `count` releases that are ε-private each, whichever they are.
    ///
    /// # Errors
    /// [`AccountingError::Parameter`] unless `epsilon ≥ 0` is finite.
    pub fn pure(&mut self, epsilon: f64, count: u64) -> Result<(), AccountingError> {
        checked("epsilon", epsilon, epsilon >= 0.0 && epsilon.is_finite(), "finite and not negative")?;
        if epsilon > 0.0 && count > 0 {
            self.parts.push(Part { count, remove: Distribution::pure(epsilon, self.interval), add: None });
        }
        Ok(())
    }

    /// An ε ≥ 0 at which all releases together are (ε, δ)-private, rounded up; infinite where none was found.
    ///
    /// At `delta = 0` the sum of the largest losses: finite for pure releases only.
    pub fn epsilon(&self, delta: f64) -> f64 {
        if !(0.0..=1.0).contains(&delta) {
            return f64::INFINITY;
        }
        self.worst(|terms| self.epsilon_of(terms, delta)).unwrap_or(0.0)
    }

    /// A δ at which all releases together are (ε, δ)-private, rounded up; 1 where `epsilon` is negative or not a number.
    pub fn delta(&self, epsilon: f64) -> f64 {
        if !(epsilon >= 0.0 && epsilon.is_finite()) {
            return if epsilon == f64::INFINITY { 0.0 } else { 1.0 };
        }
        self.worst(|terms| self.delta_of(terms, epsilon)).unwrap_or(0.0)
    }

    /// The larger of what both directions give; `None` without releases.
    fn worst(&self, bound: impl Fn(&[Term<'_>]) -> f64) -> Option<f64> {
        let gaussian = (self.mu_squared > 0.0)
            .then(|| Distribution::gaussian(self.mu_squared.sqrt().next_up(), self.interval));
        let terms = |direction| {
            let parts = self.parts.iter().map(move |part| match (direction, &part.add) {
                (Direction::Add, Some(add)) => (add, part.count),
                _ => (&part.remove, part.count),
            });
            parts.chain(gaussian.iter().map(|g| (g, 1))).collect::<Vec<_>>()
        };
        let remove = terms(Direction::Remove);
        if remove.is_empty() {
            return None;
        }
        let worst = bound(&remove);
        let differ = self.parts.iter().any(|part| part.add.is_some());
        Some(if differ { worst.max(bound(&terms(Direction::Add))) } else { worst })
    }

    fn epsilon_of(&self, terms: &[Term<'_>], delta: f64) -> f64 {
        let infinite: f64 = terms.iter().map(|(d, n)| *n as f64 * d.infinite).sum::<f64>() * (1.0 + ROUNDING);
        if delta < infinite || delta == 0.0 && infinite > 0.0 {
            return f64::INFINITY;
        }
        let largest = terms.iter().map(|(d, n)| *n as f64 * d.last() as f64).sum::<f64>() * self.interval;
        if delta == 0.0 {
            return (largest + self.place_rounding(terms)).max(0.0);
        }
        let tilt = Tilt::for_delta(terms, self.interval, delta);
        let Some(sum) = self.sum(terms, &tilt, tilt.window_at(delta, None)) else { return f64::INFINITY };
        let epsilon = sum.epsilon(delta, infinite).unwrap_or(f64::INFINITY);
        (epsilon + self.place_rounding(terms)).max(0.0)
    }

    fn delta_of(&self, terms: &[Term<'_>], epsilon: f64) -> f64 {
        let infinite: f64 = terms.iter().map(|(d, n)| *n as f64 * d.infinite).sum::<f64>() * (1.0 + ROUNDING);
        let epsilon = (epsilon - self.place_rounding(terms)).max(0.0);
        let tilt = Tilt::for_epsilon(terms, self.interval, epsilon);
        let window = tilt.window_at(tilt.chernoff(epsilon), Some(epsilon));
        let Some(sum) = self.sum(terms, &tilt, window) else { return 1.0 };
        sum.delta(epsilon, infinite).min(1.0)
    }

    /// How far the true losses may lie above the grid's points: their places are found to a few units in the last place.
    fn place_rounding(&self, terms: &[Term<'_>]) -> f64 {
        let farthest = |d: &Distribution| d.first.abs().max(d.last().abs()) as f64 * self.interval;
        2.0 * ROUNDING * terms.iter().map(|(d, n)| *n as f64 * (1.0 + farthest(d))).sum::<f64>()
    }

    /// The distribution of the sum of all losses in a window, each probability rounded up; `None` where the window would
    /// not fit in memory.
    fn sum(&self, terms: &[Term<'_>], tilt: &Tilt<'_>, window: Option<Window>) -> Option<Sum> {
        let Window { first, length, beyond } = window?;
        let fourier = Fourier::new(length);
        let one = fourier.relative_error();
        let (mut product, mut error, mut growth) = (vec![(1.0, 0.0); length], 0.0, 0.0);
        for &(distribution, count) in terms {
            let mut spectrum = vec![(0.0, 0.0); length];
            for (i, x) in (distribution.first..).zip(tilt.tilted(distribution)) {
                spectrum[i.rem_euclid(length as i64) as usize].0 += x;
            }
            let norm = norm(&spectrum);
            fourier.transform(&mut spectrum);
            product.iter_mut().zip(spectrum).for_each(|(y, z)| *y = times(*y, power(z, count)));
            // |(z+e)ⁿ − zⁿ| ≤ n|e| (|z|+|e|)ⁿ⁻¹, with |z| ≤ 1 but for rounding and ‖e‖₂ ≤ one·√N·norm; and n products.
            let n = count as f64;
            error += n * (one * norm + 2.0 * f64::EPSILON);
            growth += n * (one * norm * (length as f64).sqrt() + SUM_ROUNDING);
        }
        product.iter_mut().for_each(|z| z.1 = -z.1);
        error = error * libm::exp(growth) + one * norm(&product) / (length as f64).sqrt();
        fourier.transform(&mut product);

        let count: f64 = terms.iter().map(|(_, n)| *n as f64).sum();
        let log_rounding = SUM_ROUNDING + ENTRY_ROUNDING * (count + tilt.log_total().abs());
        let mass = (first..first + length as i64).map(|i| {
            let y = product[i.rem_euclid(length as i64) as usize].0 / length as f64;
            let untilt = tilt.log_total() - tilt.theta() * i as f64 * self.interval + log_rounding;
            (y.max(0.0) + error) * libm::exp(untilt)
        });
        Some(Sum { interval: self.interval, first, mass: mass.collect(), beyond })
    }
}

/// Distribution of a sum of losses above some loss.
struct Sum {
    interval: f64,
    /// Loss of `mass[0]`, in intervals.
    first: i64,
    mass: Vec<f64>,
    /// Probability above the window.
    beyond: f64,
}

impl Sum {
    /// Smallest ε in the window with `δ(ε) ≤ delta`; `None` if there is none.
    fn epsilon(&self, delta: f64, infinite: f64) -> Option<f64> {
        let mut last = None;
        for cell in self.cells(infinite) {
            // What overflowed to no number proves nothing.
            let proven = cell.above <= delta && cell.weight >= 0.0;
            if !proven {
                return last;
            }
            // δ(ε) = above + (1 − e^{ε−end})·weight within the cell
            let down = libm::log1p(-((delta - cell.above) / cell.weight).min(1.0));
            last = Some(cell.end + down.max(-self.interval) + 4.0 * f64::EPSILON * cell.end.abs());
        }
        last
    }

    /// δ(ε), for an ε at or above the window's first loss.
    fn delta(&self, epsilon: f64, infinite: f64) -> f64 {
        let cell = self.cells(infinite).take_while(|cell| cell.end > epsilon).last();
        cell.map_or(infinite + self.beyond, |cell| cell.delta_at(cell.end - epsilon))
    }

    /// The cells between grid points, from the highest.
    fn cells(&self, infinite: f64) -> impl Iterator<Item = Cell> + '_ {
        let (fall, shrink) = (-libm::expm1(-self.interval), libm::exp(-self.interval));
        let mut above = infinite + self.beyond;
        let mut scaled = 0.0; // Σ m(l)·e^{end−l} over the losses above the cell's end
        self.mass.iter().enumerate().rev().map(move |(i, m)| {
            let weight = scaled + m;
            let cell = Cell { end: (self.first + i as i64) as f64 * self.interval, above, weight };
            above += fall * weight;
            scaled = shrink * weight;
            cell
        })
    }
}

/// δ(ε) for ε from one grid point below `end` to it.
struct Cell {
    end: f64,
    /// δ at `end`.
    above: f64,
    /// `Σ m(l)·e^{end−l}` over the losses from `end` up.
    weight: f64,
}

impl Cell {
    fn delta_at(&self, below: f64) -> f64 {
        self.above - libm::expm1(-below) * self.weight
    }
}

fn norm(x: &[Complex]) -> f64 {
    x.iter().map(|z| z.0 * z.0 + z.1 * z.1).sum::<f64>().sqrt() * (1.0 + SUM_ROUNDING)
}

fn checked_multiplier(m: f64) -> Result<f64, AccountingError> {
    checked("noise multiplier", m, m > 0.0 && m.is_finite(), "finite and positive")
}
