//! In place of a label: the clipped and noised gradient of the loss with respect to the accelerator's logits.

use accounting::Event;
use ledger::{Charge, Digest, Kind, MechanismId, RecordSet};

use crate::bit_release::{ReleaseError, UnusableMechanism, clip_scale};
use crate::boundary::Released;
use crate::lattice::{self, Lattice, Scratch};
use crate::release_shape::norm;
use crate::{NoiseKey, Receipt};

/// Parameters of a [`GradientRelease`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientReleaseConfig {
    /// Number of labels.
    pub labels: usize,
    /// Clipping norm of one record's gradient.
    pub clip: f64,
    /// Noise standard deviation, in the units of the gradient.
    pub sigma: f64,
}

/// One record's label and what the accelerator said of it.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    pub record: u64,
    pub label: u16,
    /// The accelerator's logits: what it knows already.
    pub logits: &'a [f32],
}

/// `clip_C(softmax(logits) − e_label) + N(0, σ²)` on a grid, per record and step.
///
/// - Privacy: the logits are the accelerator's own, so only the label is private. Two labels' gradients are √2 apart,
///   clipping is a projection onto a ball and moves nothing further apart, rounding to the grid adds at most a step per
///   number, and no norm exceeds `C`: the sensitivity is `min(2C, √2 + √K·step)` where neighbours replace the record
/// - The noise depends on the logits, so that the same question gets the same bytes and another one new noise and a charge
#[derive(Clone, Debug)]
pub struct GradientRelease {
    config: GradientReleaseConfig,
    lattice: Lattice,
    mechanism: MechanismId,
    key: NoiseKey,
}

impl GradientRelease {
    /// # Errors
    /// [`UnusableMechanism`] unless clipping norm and noise are finite and positive and there are at least 2 labels.
    pub fn new(config: GradientReleaseConfig, key: NoiseKey) -> Result<Self, UnusableMechanism> {
        let GradientReleaseConfig { labels, clip, sigma } = config;
        if !(clip > 0.0 && clip.is_finite()) {
            return Err(UnusableMechanism::Clip(clip));
        }
        if !lattice::SIGMA.contains(&sigma) {
            return Err(UnusableMechanism::Sigma(sigma));
        }
        if labels < 2 {
            return Err(UnusableMechanism::Labels(labels));
        }
        let name = format!("{} v2: {labels} labels, clip {clip}, sigma {sigma}", Kind::LogitGradients);
        let mechanism = MechanismId::new(name);
        Ok(GradientRelease { config, lattice: Lattice::new(sigma), mechanism, key })
    }

    /// The release whose noise is `multiplier` times its sensitivity.
    ///
    /// # Errors
    /// As [`GradientRelease::new`].
    pub fn calibrated(
        labels: usize,
        clip: f64,
        multiplier: f64,
        key: NoiseKey,
    ) -> Result<Self, UnusableMechanism> {
        // The grid's step, below 2⁻¹²σ, is part of the sensitivity: one more term on both sides.
        let grid = (labels as f64).sqrt() * libm::exp2(-12.0);
        let room = 1.0 - multiplier * grid;
        let apart = if room > 0.0 { std::f64::consts::SQRT_2 / room } else { f64::INFINITY };
        let sensitivity = apart.min(2.0 * clip) * (1.0 + 1e-12);
        Self::new(GradientReleaseConfig { labels, clip, sigma: multiplier * sensitivity }, key)
    }

    /// The name of this mechanism, all parameters included.
    pub fn mechanism(&self) -> &MechanismId {
        &self.mechanism
    }

    /// Largest L2 distance of what two labels release, before noise.
    pub fn sensitivity(&self) -> f64 {
        let grid = (self.config.labels as f64).sqrt() * self.lattice.step();
        (2.0 * self.config.clip).min(std::f64::consts::SQRT_2.next_up() + grid).next_up()
    }

    /// The loss of one record's gradient in one step.
    pub fn event(&self) -> Event {
        Event::LatticeGaussian {
            noise_multiplier: (self.config.sigma / self.sensitivity()).next_down(),
            numbers: self.config.labels as u64,
            count: 1,
            clipped: false,
        }
    }

    /// The charge for one step's gradients of these records, after the exchange of this digest.
    pub fn charge(&self, dataset: Digest, records: RecordSet, transcript: Digest, purpose: &str) -> Charge {
        Charge {
            dataset: self.key.dataset(&dataset),
            records,
            view: 0,
            mechanism: self.mechanism.clone(),
            transcript: Some(transcript),
            event: self.event(),
            bytes: 4 * self.config.labels as u64,
            purpose: purpose.to_owned(),
        }
    }

    /// The gradients of records that were charged, `[N, K]` as little-endian single-precision numbers.
    ///
    /// # Errors
    /// [`ReleaseError::NotCharged`] if `receipt` does not cover a record, [`ReleaseError::Label`] if a label does not
    /// exist, [`ReleaseError::Length`] for another number of logits than of labels, [`ReleaseError::NotFinite`].
    pub fn release<'a>(
        &self,
        receipt: &Receipt,
        answers: impl ExactSizeIterator<Item = Answered<'a>>,
    ) -> Result<Released<Vec<u8>>, ReleaseError> {
        let mut message = Vec::with_capacity(4 * self.config.labels * answers.len());
        let (mut gradient, mut scratch) = (vec![0.0; self.config.labels], Scratch::new());
        for answer in answers {
            self.one(receipt, answer, (&mut gradient, &mut scratch), &mut message)?;
        }
        Ok(Released::new(Kind::LogitGradients, message, receipt.clone()))
    }

    fn one(
        &self,
        receipt: &Receipt,
        Answered { record, label, logits }: Answered<'_>,
        (gradient, scratch): (&mut [f64], &mut Scratch),
        message: &mut Vec<u8>,
    ) -> Result<(), ReleaseError> {
        let labels = self.config.labels;
        if !receipt.covers(record, &self.mechanism) {
            return Err(ReleaseError::NotCharged { record });
        }
        if usize::from(label) >= labels {
            return Err(ReleaseError::Label { record, labels });
        }
        if logits.len() != labels {
            return Err(ReleaseError::Length { expected: labels, found: logits.len() });
        }
        if logits.iter().any(|x| !x.is_finite()) {
            return Err(ReleaseError::NotFinite { record });
        }
        softmax(logits, gradient);
        // Not by index: which number is touched would depend on the label.
        gradient.iter_mut().enumerate().for_each(|(i, g)| *g -= f64::from(u8::from(i == usize::from(label))));
        let scale = clip_scale(norm(gradient), self.config.clip);
        let Charge { dataset, view, transcript, .. } = receipt.charge();
        let mut noise = self.key.stream(dataset, record, *view, &self.mechanism, transcript.as_ref());
        for part in gradient.chunks_mut(lattice::BLOCK) {
            self.lattice.perturb(scale, part, &mut noise, scratch);
        }
        message.extend(gradient.iter().flat_map(|g| (*g as f32).to_le_bytes()));
        Ok(())
    }
}

fn softmax(logits: &[f32], out: &mut [f64]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    out.iter_mut().zip(logits).for_each(|(o, &x)| *o = libm::exp(f64::from(x) - f64::from(largest)));
    let sum: f64 = out.iter().sum();
    out.iter_mut().for_each(|o| *o /= sum);
}
