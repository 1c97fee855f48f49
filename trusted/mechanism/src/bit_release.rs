//! Delta's message: one noised bit per number of the reduced residual.

use accounting::Event;
use ledger::{Charge, Digest, Kind, MechanismId, RecordSet};
use serde::{Deserialize, Serialize};
use tensor::ShapeError;

use crate::boundary::{Released, Unprotected};
use crate::permissions::{Permissions, Refused};
use crate::writer::{ChargeError, LedgerWriter};
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
    #[error("the clipping norm is {0}; it must be finite and positive")]
    Clip(f64),
    /// Noise that hides nothing.
    #[error(
        "the noise is {0}; it must be finite and positive (without noise, residuals are plain-residuals)"
    )]
    Sigma(f64),
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
    /// A batch that names a record twice.
    #[error("a batch of {records} records names one of them twice")]
    Repeated {
        /// Records in the batch.
        records: usize,
    },
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
///   post-processing; every sample of noise takes the same number of draws
/// - Packed: number `i` is bit `i % 8` of byte `i / 8`; unused bits are zero
#[derive(Clone, Debug)]
pub struct BitRelease {
    config: BitReleaseConfig,
    output: [usize; 3],
    mechanism: MechanismId,
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
            "{} v1: {shape} of {c}x{h}x{w}, clip {clip}, sigma {sigma}, function {function}",
            Kind::ResidualBits
        ));
        Ok(BitRelease { config, output, mechanism, key })
    }

    /// The name of this mechanism, all parameters included.
    pub fn mechanism(&self) -> &MechanismId {
        &self.mechanism
    }

    pub(crate) fn key(&self) -> &NoiseKey {
        &self.key
    }

    /// The parameters.
    pub fn config(&self) -> &BitReleaseConfig {
        &self.config
    }

    /// Channels, height and width of the bits.
    pub fn output(&self) -> [usize; 3] {
        self.output
    }

    /// Bytes of one message.
    pub fn message_len(&self) -> usize {
        bits_of(self.output).div_ceil(8)
    }

    /// The loss of one message: sensitivity is `2C`, where neighbours replace the record.
    pub fn event(&self) -> Event {
        Event::gaussian(self.config.sigma / (2.0 * self.config.clip))
    }

    /// The charge for one message of each of these records.
    pub fn charge(&self, dataset: Digest, records: RecordSet, view: u32, purpose: &str) -> Charge {
        let (mechanism, event, purpose) = (self.mechanism.clone(), self.event(), purpose.to_owned());
        let bytes = self.message_len() as u64;
        Charge { dataset, records, view, mechanism, transcript: None, event, bytes, purpose }
    }

    /// The message of one record that was charged.
    ///
    /// NaN and infinities count as 0. The same record, view and mechanism give the same noise in every call.
    ///
    /// - Shapes: `residual` `[C, H, W]`
    ///
    /// # Errors
    /// [`ReleaseError::NotCharged`] if `receipt` does not cover the record; [`ReleaseError::Length`].
    pub fn release(
        &self,
        receipt: &Receipt,
        record: u64,
        residual: &[f32],
    ) -> Result<Released<Vec<u8>>, ReleaseError> {
        if !receipt.covers(record, &self.mechanism) {
            return Err(ReleaseError::NotCharged { record });
        }
        let mut numbers = reduced(self.config.shape, self.config.residual, residual)?;
        clip(&mut numbers, self.config.clip);
        let mut noise = vec![0.0; numbers.len()];
        let Charge { dataset, view, .. } = receipt.charge();
        self.key.stream(dataset, record, *view, &self.mechanism, None).fill_gaussian(&mut noise);
        for (number, noise) in numbers.iter_mut().zip(&noise) {
            *number += self.config.sigma * noise;
        }
        Ok(Released::new(Kind::ResidualBits, signs(&numbers), receipt.clone()))
    }

    /// Charges for a batch, then makes the message of each record.
    ///
    /// - Shapes: `residuals` `[N, C, H, W]` for `N` records
    ///
    /// # Errors
    /// [`ReleaseError::Charge`] if the ledger refuses; [`ReleaseError::Repeated`], [`ReleaseError::Length`] before anything is
    /// charged.
    pub fn release_batch(
        &self,
        ledger: &mut LedgerWriter,
        batch: &ReleaseBatch<'_>,
        residuals: &[f32],
    ) -> Result<Vec<Released<Vec<u8>>>, ReleaseError> {
        let set = batch.distinct()?;
        let expected = self.config.residual.iter().product::<usize>();
        if residuals.len() != expected * batch.records.len() {
            let found = residuals.len() / batch.records.len().max(1);
            return Err(ReleaseError::Length { expected, found });
        }
        let receipt = ledger.charge(self.charge(batch.dataset, set, batch.view, batch.purpose))?;
        let samples = residuals.chunks_exact(expected.max(1));
        batch.records.iter().zip(samples).map(|(&record, x)| self.release(&receipt, record, x)).collect()
    }
}

/// Which records a batch holds, and why they are released.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseBatch<'a> {
    /// Root of the data set.
    pub dataset: Digest,
    /// The record of each sample, all different.
    pub records: &'a [u64],
    /// Which augmentation of each record; 0 for the record itself.
    pub view: u32,
    /// Why, in words.
    pub purpose: &'a str,
}

impl ReleaseBatch<'_> {
    /// The records as a set, if they are all different.
    pub(crate) fn distinct(&self) -> Result<RecordSet, ReleaseError> {
        let set = RecordSet::of(self.records);
        if set.len() == self.records.len() as u64 {
            Ok(set)
        } else {
            Err(ReleaseError::Repeated { records: self.records.len() })
        }
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

    /// The bits of one residual, as [`BitRelease`] packs them.
    ///
    /// # Errors
    /// [`ReleaseError::Refused`] unless the configuration allows `plain-residuals`; [`ReleaseError::Length`].
    pub fn release(
        &self,
        permissions: &Permissions,
        residual: &[f32],
    ) -> Result<Unprotected<Vec<u8>>, ReleaseError> {
        permissions.check(Kind::PlainResiduals)?;
        let numbers = reduced(self.shape, self.residual, residual)?;
        Ok(permissions.allow(Kind::PlainResiduals, signs(&numbers))?)
    }
}

fn bits_of(shape: [usize; 3]) -> usize {
    shape.iter().product()
}

fn reduced(shape: ReleaseShape, residual: [usize; 3], data: &[f32]) -> Result<Vec<f64>, ReleaseError> {
    let expected = bits_of(residual);
    if data.len() != expected {
        return Err(ReleaseError::Length { expected, found: data.len() });
    }
    let mut numbers = vec![0.0; bits_of(shape.output(residual).unwrap_or([0; 3]))];
    shape.reduce(residual, data, &mut numbers);
    Ok(numbers)
}

/// Scales `numbers` to an L2 norm of at most `norm`, without a branch on them.
///
/// Double precision holds the squares of all single-precision numbers, so no sum overflows.
fn clip(numbers: &mut [f64], norm: f64) {
    let size = numbers.iter().map(|z| z * z).sum::<f64>().sqrt();
    let scale = (norm / size).min(1.0) * INSIDE;
    numbers.iter_mut().for_each(|z| *z *= scale);
}

fn signs(numbers: &[f64]) -> Vec<u8> {
    let byte = |eight: &[f64]| {
        eight.iter().enumerate().fold(0, |byte, (i, &number)| byte | u8::from(number >= 0.0) << i)
    };
    numbers.chunks(8).map(byte).collect()
}
