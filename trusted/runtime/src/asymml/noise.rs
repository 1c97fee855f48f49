//! Residuals with noise (3LegRace): clipped per record, noised on a grid, and charged for every record, layer and step.

use accounting::LayerRelease;
use kernels::Threads;
use kernels::compact::Format;
use ledger::{Digest, Kind, RecordSet};
use mechanism::{
    Encoding, LedgerWriter, NoiseKey, RecordRelease, Released, VectorRelease, VectorReleaseConfig,
};
use tensor::Shape;
use wire::RunSpec;
use wire::spec::{Asymml, Clip, Protection};

use super::rewrite::LayerPlan;
use crate::RunError;
use crate::flow::request;

/// What makes residuals into messages, and what it is charged to.
pub(crate) struct Noise {
    /// By layer.
    releases: Vec<VectorRelease>,
    ledger: LedgerWriter,
    /// Root of the records of the batch under way, their numbers in it, and what they are released for.
    dataset: Digest,
    records: Vec<u64>,
    purpose: &'static str,
    residuals: Vec<f32>,
}

impl Noise {
    /// The releases of every layer, calibrated so that a record that takes part in every epoch, and once more, stays within
    /// the run's ε. `None` where no noise is asked for.
    ///
    /// # Errors
    /// [`RunError::Request`] if the budget leaves no room, or the clipping norm is not a number.
    pub(crate) fn of<'a>(
        spec: &RunSpec,
        asymml: &Asymml,
        plans: impl Iterator<Item = &'a LayerPlan>,
        key: &NoiseKey,
        ledger: LedgerWriter,
    ) -> Result<Option<Self>, RunError> {
        let shapes: Vec<[usize; 3]> = plans.map(LayerPlan::input).collect();
        let Some(sigmas) = sigmas(spec, asymml, &shapes)? else { return Ok(None) };
        let clip = clipping_norm(spec)?;
        // What maps a record to its residual changes with every step; the transcript stands for it.
        let function = Digest::of("asymflow residual of a layer v1", &[format!("{asymml:?}").as_bytes()]);
        let release = |(layer, (&shape, &sigma)): (usize, (&[usize; 3], &f64))| {
            let encoding = encoding(asymml.residuals);
            let kind = Kind::NoisedResiduals;
            let config = VectorReleaseConfig { kind, shape, clip, sigma, layer, function, encoding };
            VectorRelease::new(config, key.clone()).map_err(request)
        };
        let releases = shapes.iter().zip(&sigmas).enumerate().map(release).collect::<Result<_, _>>()?;
        let (dataset, records, residuals) = (Digest::of("none", &[]), Vec::new(), Vec::new());
        Ok(Some(Noise { releases, ledger, dataset, records, purpose: "", residuals }))
    }

    /// The next batch is of these records of a data set.
    pub(crate) fn begin(
        &mut self,
        dataset: Digest,
        records: impl Iterator<Item = u64>,
        purpose: &'static str,
    ) {
        (self.dataset, self.purpose) = (dataset, purpose);
        self.records.clear();
        self.records.extend(records);
    }

    /// The number of an image that belongs to no set.
    pub(crate) fn record_of(&self, content: &[u8]) -> u64 {
        self.releases.first().map_or(0, |release| release.record_of(content))
    }

    pub(crate) fn ledger(&self) -> &ledger::Ledger {
        self.ledger.ledger()
    }

    /// Charges every record of the batch for a layer's residual after this transcript.
    pub(crate) fn charge(
        &mut self,
        layer: usize,
        transcript: Digest,
    ) -> Result<mechanism::Receipt, RunError> {
        let purpose = format!("{}, layer {layer}", self.purpose);
        let records = RecordSet::of(&self.records);
        let charge = self.releases[layer].charge_step(self.dataset, records, transcript, &purpose);
        Ok(self.ledger.charge(charge)?)
    }

    /// One piece's message: the residuals of the records from `first` on, as [`Format::F32`] made them, clipped and noised.
    pub(crate) fn release(
        &mut self,
        layer: usize,
        receipt: &mechanism::Receipt,
        (first, count): (usize, usize),
        residuals: &[u8],
        threads: &Threads,
    ) -> Result<Released<Vec<u8>>, RunError> {
        self.residuals.resize(residuals.len() / 4, 0.0);
        // What is not finite counts as 0 in a release.
        let _ = Format::F32.decode(residuals, 1, &mut self.residuals);
        let records = &self.records[first..first + count];
        let messages = self.releases[layer].release(threads, receipt, records, &self.residuals)?;
        let message = Released::gather(messages).expect("a piece has records");
        Ok(message.concat())
    }
}

/// Noise of each layer; `None` where there is none.
pub(crate) fn sigmas(
    spec: &RunSpec,
    asymml: &Asymml,
    shapes: &[[usize; 3]],
) -> Result<Option<Vec<f64>>, RunError> {
    let Protection::Epsilon(epsilon) = spec.privacy.protection else { return Ok(None) };
    if shapes.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let sensitivity = 2.0 * clipping_norm(spec)?;
    // Once in every epoch, and once when the run is evaluated.
    let releases = spec.train.epochs as u64 + 1;
    let layer = |shape: &[usize; 3]| LayerRelease {
        sensitivity,
        numbers: Shape::from(*shape).len() as u64,
        releases,
    };
    let layers: Vec<LayerRelease> = shapes.iter().map(layer).collect();
    let share = asymml.noise.sigmas(&layers, accounting::Loss::default(), epsilon, spec.privacy.delta);
    share.map(Some).map_err(request)
}

fn clipping_norm(spec: &RunSpec) -> Result<f64, RunError> {
    match spec.privacy.clip {
        Clip::Norm(norm) => Ok(norm),
        Clip::Quantile { .. } => Err(RunError::Request(
            "privacy.clip: `asymml` clips every layer in every step, so its norm is given as a number"
                .to_owned(),
        )),
    }
}

/// A format as a function of released values.
fn encoding(format: Format) -> Encoding {
    match format {
        Format::F32 => Encoding::F32,
        Format::Bf16 => Encoding {
            name: "bf16",
            len: |planes, plane| Format::Bf16.encoded_len(planes, plane),
            write: |numbers, planes, bytes| Format::Bf16.encode(numbers, planes, bytes),
        },
        Format::Int8 => Encoding {
            name: "int8",
            len: |planes, plane| Format::Int8.encoded_len(planes, plane),
            write: |numbers, planes, bytes| Format::Int8.encode(numbers, planes, bytes),
        },
    }
}
