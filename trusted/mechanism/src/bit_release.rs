//! Delta's message: one noised bit per number of the reduced residual.

use std::ops::Range;

use accounting::Event;
use ledger::{Charge, Digest, Kind, MechanismId, RecordSet};
use serde::{Deserialize, Serialize};
use tensor::ShapeError;

use crate::boundary::{Released, Unprotected};
use crate::permissions::{Permissions, Refused};
use crate::record_release::{Keyed, RecordRelease};
use crate::signs::{self, Signs};
use crate::writer::ChargeError;
use crate::{NoiseKey, Receipt, ReleaseShape};

/// Scales a clipped vector a little further in, so that rounding cannot leave it outside the clipping norm.
const INSIDE: f64 = 1.0 - 1e-12;

/// Parameters of a [`BitRelease`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BitReleaseConfig {
    /// Clipping norm: largest L2 norm of one reduced residual.
    pub clip: f64,
    /// Noise standard deviation, in the units of the clipping norm.
    pub sigma: f64,
    /// The shape that leaves.
    pub shape: ReleaseShape,
    /// Shape of one residual, `[C, H, W]`.
    pub residual: [usize; 3],
    /// Digest of all that turns a record into its residual (weights of the backbone, the split, preprocessing). Another
    /// function of the same record is another release: it has other noise and is charged.
    pub function: Digest,
}

/// A mechanism whose parameters give no guarantee or no output.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UnusableMechanism {
    /// A clipping norm that bounds nothing.
    #[error(
        "the clipping norm is {0}; it must be finite and positive, and from 1e-30 to 1e30 for noise on a grid"
    )]
    Clip(f64),
    /// Noise that hides nothing.
    #[error(
        "the noise is {0}; it must be finite and positive, and from 1e-30 to 1e30 on a grid (without noise, residuals are plain-residuals)"
    )]
    Sigma(f64),
    /// Numbers that nothing is released of.
    #[error("the released vector has no numbers")]
    Empty,
    /// A kind of message that is no noised vector.
    #[error("{0} is no noised vector")]
    Kind(Kind),
    /// Labels that tell nothing apart.
    #[error("there are {0} labels; there must be at least 2")]
    Labels(usize),
    /// ε or the number of labels is out of range.
    #[error(transparent)]
    Accounting(#[from] accounting::AccountingError),
    /// The released shape does not fit the residual.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// A release that did not happen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The receipt is for other records or another mechanism.
    #[error("record {record} was not charged for this release")]
    NotCharged {
        /// The record.
        record: u64,
    },
    /// The ledger refused.
    #[error(transparent)]
    Charge(#[from] ChargeError),
    /// A buffer of another length than the shape says.
    #[error("expected {expected} numbers per record, found {found}")]
    Length {
        /// Numbers of one residual.
        expected: usize,
        /// Numbers found.
        found: usize,
    },
    /// A label that does not exist.
    #[error("record {record} has a label that is not below {labels}")]
    Label {
        /// The record.
        record: u64,
        /// Number of labels.
        labels: usize,
    },
    /// A number that the accelerator should not have sent.
    #[error("the accelerator's logits for record {record} are not finite")]
    NotFinite {
        /// The record.
        record: u64,
    },
    /// Stored messages that this mechanism did not make with this key for these records.
    #[error(
        "the stored messages from record {first} on were altered, or belong to another run; nothing is sent"
    )]
    Stored {
        /// First of the records.
        first: u64,
    },
    /// Without noise, and not allowed.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Signs of a clipped and noised residual: `bit(clip_C(S(X_res)) + N(0, σ²))`, `bit(z) = 1` if `z ≥ 0`.
///
/// - Privacy: each record's bits are a Gaussian release of sensitivity `2C` (replace one record) followed by
///   post-processing; how much work it is does not depend on the residual
/// - Packed: number `i` is bit `i % 8` of byte `i / 8`; unused bits are zero
#[derive(Clone, Debug)]
pub struct BitRelease {
    config: BitReleaseConfig,
    output: [usize; 3],
    signs: Signs,
    mechanism: MechanismId,
    /// Names the stream of second draws.
    ties: MechanismId,
    key: NoiseKey,
}

impl BitRelease {
    /// # Errors
    /// [`UnusableMechanism`] unless clipping norm and noise are finite and positive and the shape fits the residual.
    pub fn new(config: BitReleaseConfig, key: NoiseKey) -> Result<Self, UnusableMechanism> {
        let BitReleaseConfig { clip, sigma, shape, residual, function } = config;
        if !(clip > 0.0 && clip.is_finite()) {
            return Err(UnusableMechanism::Clip(clip));
        }
        if !(sigma > 0.0 && sigma.is_finite()) {
            return Err(UnusableMechanism::Sigma(sigma));
        }
        let output = shape.output(residual)?;
        let [c, h, w] = residual;
        let mechanism = MechanismId::new(format!(
            "{} v2: {shape} of {c}x{h}x{w}, clip {clip}, sigma {sigma}, function {function}",
            Kind::ResidualBits
        ));
        let ties = MechanismId::new(format!("ties of {mechanism}"));
        Ok(BitRelease { config, output, signs: Signs::new(clip, sigma), mechanism, ties, key })
    }

    /// The parameters.
    pub fn config(&self) -> &BitReleaseConfig {
        &self.config
    }

    /// Channels, height and width of the bits.
    pub fn output(&self) -> [usize; 3] {
        self.output
    }

    /// The loss of one message: sensitivity is `2C`, where neighbours replace the record.
    pub fn event(&self) -> Event {
        Event::gaussian(self.config.sigma / (2.0 * self.config.clip))
    }

    fn one(
        &self,
        receipt: &Receipt,
        record: u64,
        residual: &[f32],
        scratch: &mut [f64],
    ) -> Result<Released<Vec<u8>>, ReleaseError> {
        if !receipt.covers(record, &self.mechanism) {
            return Err(ReleaseError::NotCharged { record });
        }
        let numbers = self.config.shape.reduce(self.config.residual, residual, scratch);
        let scale = clip_scale(numbers.norm(), self.config.clip);
        let Charge { dataset, view, .. } = receipt.charge();
        let stream = |mechanism| self.key.stream(dataset, record, *view, mechanism, None);
        let mut message = vec![0; self.message_len()];
        let (mut noise, ties) = (stream(&self.mechanism), || stream(&self.ties));
        self.signs.draw(numbers, scale, &mut noise, ties, &mut message);
        Ok(Released::new(Kind::ResidualBits, message, receipt.clone()))
    }
}

impl Keyed for BitRelease {
    fn key(&self) -> &NoiseKey {
        &self.key
    }
}

impl RecordRelease for BitRelease {
    fn kind(&self) -> Kind {
        Kind::ResidualBits
    }

    fn mechanism(&self) -> &MechanismId {
        &self.mechanism
    }

    fn message_len(&self) -> usize {
        bits_of(self.output).div_ceil(8)
    }

    fn charge(&self, dataset: Digest, records: RecordSet, view: u32, purpose: &str) -> Charge {
        let (mechanism, event, purpose) = (self.mechanism.clone(), self.event(), purpose.to_owned());
        let (bytes, dataset) = (self.message_len() as u64, self.key.dataset(&dataset));
        Charge { dataset, records, view, mechanism, transcript: None, event, bytes, purpose }
    }

    fn release(
        &self,
        receipt: &Receipt,
        records: Range<u64>,
        residuals: &[f32],
    ) -> Result<Vec<Released<Vec<u8>>>, ReleaseError> {
        let count = (records.end - records.start) as usize;
        let samples = samples(self.config.residual, residuals, count)?;
        let mut scratch = vec![0.0; self.config.shape.scratch_len(self.config.residual)];
        records.zip(samples).map(|(record, sample)| self.one(receipt, record, sample, &mut scratch)).collect()
    }
}

/// Signs of a residual without noise: the comparison `σ = 0`, which guarantees nothing.
#[derive(Clone, Copy, Debug)]
pub struct PlainBits {
    shape: ReleaseShape,
    residual: [usize; 3],
}

impl PlainBits {
    /// Signs of residuals `[C, H, W]` in this shape.
    ///
    /// # Errors
    /// [`UnusableMechanism::Shape`] if the shape does not fit the residual.
    pub fn new(shape: ReleaseShape, residual: [usize; 3]) -> Result<Self, UnusableMechanism> {
        shape.output(residual)?;
        Ok(PlainBits { shape, residual })
    }

    /// The bits of `count` residuals, as [`BitRelease`] packs them.
    ///
    /// # Errors
    /// [`ReleaseError::Refused`] unless the configuration allows `plain-residuals`; [`ReleaseError::Length`].
    pub fn release(
        &self,
        permissions: &Permissions,
        count: usize,
        residuals: &[f32],
    ) -> Result<Vec<Unprotected<Vec<u8>>>, ReleaseError> {
        permissions.check(Kind::PlainResiduals)?;
        let samples = samples(self.residual, residuals, count)?;
        let mut scratch = vec![0.0; self.shape.scratch_len(self.residual)];
        let bits = samples.map(|sample| {
            let numbers = self.shape.reduce(self.residual, sample, &mut scratch);
            Ok(permissions.allow(Kind::PlainResiduals, signs::of(numbers))?)
        });
        bits.collect()
    }
}

fn bits_of(shape: [usize; 3]) -> usize {
    shape.iter().product()
}

/// Splits residuals of `count` records.
pub(crate) fn samples(
    residual: [usize; 3],
    data: &[f32],
    count: usize,
) -> Result<std::slice::ChunksExact<'_, f32>, ReleaseError> {
    let expected = bits_of(residual).max(1);
    if data.len() != expected * count {
        return Err(ReleaseError::Length { expected, found: data.len() / count.max(1) });
    }
    Ok(data.chunks_exact(expected))
}

/// What brings a vector of this size to an L2 norm of at most `clip`, without a branch on it.
pub(crate) fn clip_scale(size: f64, clip: f64) -> f64 {
    (clip / size).min(1.0) * INSIDE
}
