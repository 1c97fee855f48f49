//! A record's vector after clipping and Gaussian noise on a grid: 3LegRace's residuals, and whole images.

use std::ops::Range;

use accounting::Event;
use kernels::Threads;
use kernels::parts::Chunks;
use ledger::{Charge, Digest, Kind, MechanismId, RecordSet};

use crate::bit_release::{ReleaseError, UnusableMechanism, clip_scale, samples};
use crate::boundary::Released;
use crate::lattice::{self, Lattice, Scratch};
use crate::noise::NoiseStream;
use crate::record_release::{Keyed, RecordRelease};
use crate::release_shape::Reduced;
use crate::{NoiseKey, Receipt};

/// How noised numbers are written: post-processing, by plain functions, which cannot capture anything private.
#[derive(Clone, Copy, Debug)]
pub struct Encoding {
    /// What it is called in the mechanism's name, and so in the ledger: `f32`, `bf16` or `int8`.
    pub name: &'static str,
    /// Bytes of a record of so many planes of so many numbers.
    pub len: fn(usize, usize) -> usize,
    /// Writes a record of so many planes to that many bytes.
    pub write: fn(&[f32], usize, &mut [u8]),
}

impl Encoding {
    /// Little-endian single precision: the grid's numbers as they are, if they have up to 24 bits.
    pub const F32: Encoding =
        Encoding { name: "f32", len: |planes, plane| 4 * planes * plane, write: to_f32 };
}

fn to_f32(numbers: &[f32], _: usize, bytes: &mut [u8]) {
    let (words, _) = bytes.as_chunks_mut::<4>();
    words.iter_mut().zip(numbers).for_each(|(word, x)| *word = x.to_le_bytes());
}

/// Parameters of a [`VectorRelease`].
#[derive(Clone, Copy, Debug)]
pub struct VectorReleaseConfig {
    /// [`Kind::NoisedInputs`] or [`Kind::NoisedResiduals`].
    pub kind: Kind,
    /// Shape of one record's vector, `[C, H, W]`: `C` planes.
    pub shape: [usize; 3],
    /// Clipping norm: largest L2 norm of one record's vector.
    pub clip: f64,
    /// Noise standard deviation, in the units of the clipping norm.
    pub sigma: f64,
    /// The layer it is released at; vectors of different layers have different noise.
    pub layer: usize,
    /// Digest of all that turns a record into its vector, where that is fixed. Where it changes from step to step, the
    /// transcript of [`VectorRelease::charge_step`] stands for it.
    pub function: Digest,
    pub encoding: Encoding,
}

/// `clip_C(x) + N(0, σ²)` on a grid, for each record.
///
/// - Privacy: clipping leaves any two records' vectors at most `2C` apart, and putting them on the grid towards zero keeps
///   their norms below `C`: a Gaussian release of sensitivity `2C` (replace one record), drawn by a sampler whose distance
///   from the ideal is charged. Encoding is post-processing
/// - The time it takes depends on sizes alone
/// - Noise is a function of key, data set, record, view, mechanism and transcript: the same message again is the same bytes,
///   and after another transcript it is another message, with new noise and a charge
#[derive(Clone, Debug)]
pub struct VectorRelease {
    config: VectorReleaseConfig,
    lattice: Lattice,
    mechanism: MechanismId,
    key: NoiseKey,
}

impl VectorRelease {
    /// # Errors
    /// [`UnusableMechanism`] unless the kind is one of the two, the vector has numbers, and clipping norm and noise are
    /// from 1e-30 to 1e30.
    pub fn new(config: VectorReleaseConfig, key: NoiseKey) -> Result<Self, UnusableMechanism> {
        let VectorReleaseConfig { kind, shape: [c, h, w], clip, sigma, layer, function, encoding } = config;
        if !matches!(kind, Kind::NoisedInputs | Kind::NoisedResiduals) {
            return Err(UnusableMechanism::Kind(kind));
        }
        if !lattice::SIGMA.contains(&clip) {
            return Err(UnusableMechanism::Clip(clip));
        }
        if !lattice::SIGMA.contains(&sigma) {
            return Err(UnusableMechanism::Sigma(sigma));
        }
        if c * h * w == 0 {
            return Err(UnusableMechanism::Empty);
        }
        let format = encoding.name;
        let mechanism = MechanismId::new(format!(
            "{kind} v1: {c}x{h}x{w} in {format}, clip {clip}, sigma {sigma}, layer {layer}, function {function}"
        ));
        Ok(VectorRelease { config, lattice: Lattice::new(sigma), mechanism, key })
    }

    /// The parameters.
    pub fn config(&self) -> &VectorReleaseConfig {
        &self.config
    }

    /// Numbers of one record.
    pub fn numbers(&self) -> usize {
        self.config.shape.iter().product()
    }

    /// The loss of one record's vector: sensitivity is `2C`, where neighbours replace the record.
    pub fn event(&self) -> Event {
        Event::LatticeGaussian {
            noise_multiplier: (self.config.sigma / (2.0 * self.config.clip)).next_down(),
            numbers: self.numbers() as u64,
            count: 1,
            clipped: true,
        }
    }

    /// The charge for one vector of each of these records in a step whose vectors depend on more than the record: on the
    /// accelerator's answers or the step's weights, of which `transcript` is a digest.
    pub fn charge_step(
        &self,
        dataset: Digest,
        records: RecordSet,
        transcript: Digest,
        purpose: &str,
    ) -> Charge {
        Charge { transcript: Some(transcript), ..self.charge(dataset, records, 0, purpose) }
    }

    /// The vectors of records that were charged, one message each; [`Released::gather`] makes one of them all. Threads divide
    /// the records.
    ///
    /// NaN and infinities count as 0, as in every release: an error would tell that there were some.
    ///
    /// - Shapes: `vectors` `[N, C, H, W]` for the `N` records
    ///
    /// # Errors
    /// [`ReleaseError::NotCharged`] if `receipt` does not cover a record; [`ReleaseError::Length`].
    pub fn release(
        &self,
        threads: &Threads,
        receipt: &Receipt,
        records: &[u64],
        vectors: &[f32],
    ) -> Result<Vec<Released<Vec<u8>>>, ReleaseError> {
        if let Some(&record) = records.iter().find(|&&record| !receipt.covers(record, &self.mechanism)) {
            return Err(ReleaseError::NotCharged { record });
        }
        let vectors: Vec<&[f32]> = samples(self.config.shape, vectors, records.len())?.collect();
        let mut messages = vec![vec![0; self.message_len()]; records.len()];
        let each = Chunks { data: &mut messages, len: 1 };
        threads.for_each_part(each, |n, message| {
            let mut noised = threads.scratch(self.numbers());
            message
                .iter_mut()
                .for_each(|message| self.one(receipt, records[n], vectors[n], &mut noised, message));
        });
        let released = |message| Released::new(self.config.kind, message, receipt.clone());
        Ok(messages.into_iter().map(released).collect())
    }

    fn one(&self, receipt: &Receipt, record: u64, vector: &[f32], noised: &mut [f32], message: &mut [u8]) {
        let VectorReleaseConfig { shape: [planes, ..], encoding, .. } = self.config;
        let Charge { dataset, view, transcript, .. } = receipt.charge();
        let mut noise = self.key.stream(dataset, record, *view, &self.mechanism, transcript.as_ref());
        self.perturb(Reduced::All(vector), &mut noise, noised);
        (encoding.write)(noised, planes, message);
    }

    fn perturb(&self, vector: Reduced<'_>, noise: &mut NoiseStream, out: &mut [f32]) {
        // The norm of so many numbers may have been rounded down by so many units.
        let rounded = 1.0 + f64::EPSILON * vector.len() as f64;
        let scale = clip_scale(vector.norm() * rounded, self.config.clip);
        let (mut block, mut scratch) = ([0.0; lattice::BLOCK], Scratch::new());
        for (i, out) in out.chunks_mut(lattice::BLOCK).enumerate() {
            let block = &mut block[..out.len()];
            vector.copy(i * lattice::BLOCK, block);
            self.lattice.perturb(scale, block, noise, &mut scratch);
            out.iter_mut().zip(block).for_each(|(out, x)| *out = *x as f32);
        }
    }
}

impl Keyed for VectorRelease {
    fn key(&self) -> &NoiseKey {
        &self.key
    }
}

impl RecordRelease for VectorRelease {
    fn kind(&self) -> Kind {
        self.config.kind
    }

    fn mechanism(&self) -> &MechanismId {
        &self.mechanism
    }

    fn message_len(&self) -> usize {
        let [planes, height, width] = self.config.shape;
        (self.config.encoding.len)(planes, height * width)
    }

    fn charge(&self, dataset: Digest, records: RecordSet, view: u32, purpose: &str) -> Charge {
        Charge {
            dataset: self.key.dataset(&dataset),
            records,
            view,
            mechanism: self.mechanism.clone(),
            transcript: None,
            event: self.event(),
            bytes: self.message_len() as u64,
            purpose: purpose.to_owned(),
        }
    }

    fn release(
        &self,
        receipt: &Receipt,
        records: Range<u64>,
        vectors: &[f32],
    ) -> Result<Vec<Released<Vec<u8>>>, ReleaseError> {
        let records: Vec<u64> = records.collect();
        VectorRelease::release(self, &Threads::new(1), receipt, &records, vectors)
    }
}

#[cfg(test)]
#[path = "vector_tests.rs"]
mod tests;
