//! The messages that records leave as: made once, stored before they are sent, and sent again as the same bytes.

use std::ops::Range;

use engine::{Augment, InputForm};
use kernels::Threads;
use ledger::{Digest, Kind};
use mechanism::{
    BitRelease, BitReleaseConfig, Encoding, LedgerWriter, NoiseKey, NormQuantile, Permissions, PlainBits,
    Receipt, RecordRelease, ReleaseShape, Released, VectorRelease, VectorReleaseConfig,
};
use wire::RunSpec;
use wire::accelerator::RecordSet;
use wire::spec::Clip;

use crate::accelerator::Body;
use crate::calibration::Calibration;
use crate::flow::{Outsourced, request};
use crate::records::Records;
use crate::trusted_model::TrustedModel;
use crate::vectors::{self, Vectors};
use crate::{Host, RunError};

/// A message that may cross.
pub(crate) type Message = Box<Body>;

/// Records whose messages are made, stored and sent together.
pub(crate) const CHUNK: usize = 1024;

/// How records become messages.
pub(crate) enum Messenger {
    /// Images in the clear (flow `plain`), by permission.
    Inputs,
    /// Signs of residuals without noise, by permission.
    Plain(PlainBits),
    /// Signs of clipped, noised residuals, or clipped, noised images; charged to the ledger.
    Released(Box<dyn RecordRelease>),
}

/// Everything a message depends on beside its record.
pub(crate) struct Context<'a> {
    pub(crate) permissions: &'a Permissions,
    pub(crate) threads: &'a Threads,
    pub(crate) form: &'a InputForm,
    pub(crate) batch: usize,
    /// What views are made with.
    pub(crate) augment: Augment,
    pub(crate) seed: u64,
}

/// Some messages: of which set, which view, which records.
#[derive(Clone)]
pub(crate) struct Chunk {
    pub(crate) set: RecordSet,
    pub(crate) view: u32,
    pub(crate) range: Range<usize>,
}

impl Messenger {
    /// The way in which records leave for `outsourced`, clipped to `clip`; for residuals, from the frozen backbone of
    /// `trusted`.
    pub(crate) fn new(
        outsourced: &Outsourced,
        spec: &RunSpec,
        (trusted, clip): (Option<&TrustedModel>, Option<f64>),
        key: NoiseKey,
    ) -> Result<Self, RunError> {
        let (Some(shape), Some(clip)) = (outsourced.shape, clip) else { return Ok(Messenger::Inputs) };
        let whole = vectors::shape(trusted, spec)?;
        let Some(multiplier) = Calibration::of(spec, outsourced)?.residual else {
            return Ok(Messenger::Plain(PlainBits::new(shape, whole).map_err(request)?));
        };
        let (sigma, function) = (multiplier * 2.0 * clip, vectors::function(trusted, spec)?);
        Ok(Messenger::Released(match trusted {
            Some(_) => {
                let config = BitReleaseConfig { clip, sigma, shape, residual: whole, function };
                Box::new(BitRelease::new(config, key).map_err(request)?)
            }
            None => {
                let (kind, encoding) = (outsourced.kind, Encoding::F32);
                let config =
                    VectorReleaseConfig { kind, shape: whole, clip, sigma, layer: 0, function, encoding };
                Box::new(VectorRelease::new(config, key).map_err(request)?)
            }
        }))
    }

    /// Chunks of `count` records.
    pub(crate) fn chunks(set: RecordSet, view: u32, count: usize) -> impl Iterator<Item = Chunk> {
        let chunk = move |first| Chunk { set, view, range: first..(first + CHUNK).min(count) };
        (0..count).step_by(CHUNK).map(chunk)
    }

    /// Charges for a message of every record of a set; before anything is made or sent.
    pub(crate) fn charge(
        &self,
        ledger: &mut LedgerWriter,
        records: &Records,
        view: u32,
        purpose: &str,
    ) -> Result<Option<Receipt>, RunError> {
        let Messenger::Released(release) = self else { return Ok(None) };
        if records.len() == 0 {
            return Ok(None);
        }
        let all = ledger::RecordSet::range(0..records.len() as u64);
        Ok(Some(ledger.charge(release.charge(records.root(), all, view, purpose))?))
    }

    /// Messages of one chunk of a set: as stored, or made now and stored.
    ///
    /// Where they are made now and `own` is asked for, the trusted part's logits for these records are appended to it, from
    /// the same pass.
    pub(crate) fn chunk(
        &self,
        host: &mut dyn Host,
        trusted: Option<&mut TrustedModel>,
        (records, receipt): (&Records, Option<&Receipt>),
        chunk: &Chunk,
        own: Option<&mut Vec<f32>>,
        context: &Context<'_>,
    ) -> Result<Vec<Message>, RunError> {
        let source = (records, chunk.view, chunk.range.clone());
        let mut vectors = Vectors::of(trusted);
        match (self, receipt) {
            (Messenger::Released(release), Some(receipt)) => {
                let (name, ids) = (chunk.name(), chunk.range.start as u64..chunk.range.end as u64);
                if let Some(stored) = host.load(&name)? {
                    return Ok(boxed(release.from_stored(receipt, ids, &stored)?));
                }
                let mut made = Vec::with_capacity(chunk.range.len());
                vectors.for_each_batch(source, own, context, |part, numbers| {
                    let ids = part.start as u64..part.end as u64;
                    made.extend(release.release(receipt, ids, numbers)?);
                    Ok(())
                })?;
                host.save(&name, &release.to_stored(receipt, ids, &made))?;
                Ok(boxed(made))
            }
            (Messenger::Plain(plain), _) => {
                let mut made: Vec<Message> = Vec::with_capacity(chunk.range.len());
                vectors.for_each_batch(source, own, context, |part, residuals| {
                    let bits = plain.release(context.permissions, part.len(), residuals)?;
                    made.extend(bits.into_iter().map(|bits| Box::new(bits) as Message));
                    Ok(())
                })?;
                Ok(made)
            }
            (Messenger::Inputs, _) => chunk
                .range
                .clone()
                .map(|record| {
                    let image = records.pixels(record).to_vec();
                    Ok(Box::new(context.permissions.allow(Kind::Inputs, image)?) as Message)
                })
                .collect(),
            (Messenger::Released(_), None) => {
                Err(RunError::Request("records leave only after a charge".to_owned()))
            }
        }
    }

    /// Messages of images that belong to no set, each charged, stored and recognised by its content.
    ///
    /// The trusted part's logits for them are appended to `own`, from the same pass; but for images in the clear.
    pub(crate) fn single(
        &self,
        host: &mut dyn Host,
        ledger: &mut LedgerWriter,
        trusted: Option<&mut TrustedModel>,
        images: &Records,
        own: &mut Vec<f32>,
        context: &Context<'_>,
    ) -> Result<Vec<Message>, RunError> {
        let all = Chunk { set: RecordSet::Test, view: 0, range: 0..images.len() };
        let Messenger::Released(release) = self else {
            return self.chunk(host, trusted, (images, None), &all, Some(own), context);
        };
        let pay = |image| {
            let id = release.record_of(images.pixels(image));
            let charge = release.charge(single_images(), ledger::RecordSet::of(&[id]), 0, "inference");
            Ok((id, ledger.charge(charge)?))
        };
        let paid = all.range.clone().map(pay).collect::<Result<Vec<_>, RunError>>()?;
        let mut messages: Vec<Message> = Vec::with_capacity(paid.len());
        Vectors::of(trusted).for_each_batch(
            (images, 0, all.range),
            Some(own),
            context,
            |part, numbers| {
                let each = numbers.chunks_exact(numbers.len() / part.len());
                for ((id, receipt), numbers) in paid[part].iter().zip(each) {
                    messages.extend(boxed(stored_or_made(host, release.as_ref(), receipt, *id, numbers)?));
                }
                Ok(())
            },
        )?;
        Ok(messages)
    }
}

/// Stands for the data set of images that belong to none.
pub(crate) fn single_images() -> Digest {
    Digest::of("asymflow single images v1", &[])
}

/// The message of an image that belongs to no set: as stored, or made of its numbers and stored.
fn stored_or_made(
    host: &mut dyn Host,
    release: &dyn RecordRelease,
    receipt: &Receipt,
    id: u64,
    numbers: &[f32],
) -> Result<Vec<Released<Vec<u8>>>, RunError> {
    let mechanism = Digest::of("asymflow mechanism v1", &[release.mechanism().as_str().as_bytes()]);
    let name = format!("message-{id:016x}-{}", short(&mechanism));
    if let Some(stored) = host.load(&name)? {
        return Ok(release.from_stored(receipt, id..id + 1, &stored)?);
    }
    let made = release.release(receipt, id..id + 1, numbers)?;
    host.save(&name, &release.to_stored(receipt, id..id + 1, &made))?;
    Ok(made)
}

impl Chunk {
    /// Name of the file that its messages are stored in.
    pub(crate) fn name(&self) -> String {
        let set = match self.set {
            RecordSet::Train => "train",
            RecordSet::Test => "test",
        };
        match self.view {
            0 => format!("messages-{set}-{:08}", self.range.start),
            view => format!("messages-{set}-view{view:04}-{:08}", self.range.start),
        }
    }
}

/// The norm that records' released numbers are clipped to: as given, or a private quantile over the training records, charged and found
/// once and stored.
pub(crate) fn clipping_norm(
    host: &mut dyn Host,
    ledger: &mut LedgerWriter,
    spec: &RunSpec,
    (trusted, shape): (Option<&mut TrustedModel>, ReleaseShape),
    records: &Records,
    (key, context): (NoiseKey, &Context<'_>),
) -> Result<f64, RunError> {
    let (quantile, epsilon) = match spec.privacy.clip {
        Clip::Norm(norm) => return Ok(norm),
        Clip::Quantile { quantile, epsilon } => (quantile, epsilon),
    };
    let function = vectors::function(trusted.as_deref(), spec)?;
    let name = clipping_norm_name(&function);
    let stored = host.load(&name)?.map(|bytes| stored_norm(&name, bytes)).transpose()?;
    if records.len() == 0 {
        let never = "the clipping norm was never found: this run was not trained";
        return stored.ok_or_else(|| RunError::Request(never.to_owned()));
    }
    let shape = (shape, vectors::shape(trusted.as_deref(), spec)?);
    let mechanism = NormQuantile::new((quantile, epsilon), shape, function, key).map_err(request)?;
    let all = ledger::RecordSet::range(0..records.len() as u64);
    // Free if it was paid for; a ledger that has forgotten it must learn of it again.
    let receipt =
        ledger.charge(mechanism.charge(records.root(), all, "clipping norm, a private quantile"))?;
    if let Some(norm) = stored {
        return Ok(norm);
    }
    let mut norms = Vec::with_capacity(records.len());
    Vectors::of(trusted).for_each_batch((records, 0, 0..records.len()), None, context, |_, numbers| {
        norms.extend(mechanism.norms(numbers)?);
        Ok(())
    })?;
    let norm = mechanism.release(&receipt, &norms)?;
    host.save(&name, &norm.to_le_bytes())?;
    Ok(norm)
}

/// The norm that residuals are clipped to, if it is known without finding it now.
pub(crate) fn known_clipping_norm(
    host: &dyn Host,
    spec: &RunSpec,
    trusted: &TrustedModel,
) -> Result<Option<f64>, RunError> {
    match spec.privacy.clip {
        Clip::Norm(norm) => Ok(Some(norm)),
        Clip::Quantile { .. } => {
            let name = clipping_norm_name(&vectors::function(Some(trusted), spec)?);
            host.load(&name)?.map(|bytes| stored_norm(&name, bytes)).transpose()
        }
    }
}

fn clipping_norm_name(function: &Digest) -> String {
    format!("clipping-norm-{}", short(function))
}

fn stored_norm(name: &str, bytes: Vec<u8>) -> Result<f64, RunError> {
    let bytes = bytes.try_into().map_err(|_| RunError::Request(format!("{name} holds no number")))?;
    Ok(f64::from_le_bytes(bytes))
}

fn short(function: &Digest) -> String {
    function.to_string()[..8].to_owned()
}

fn boxed(released: Vec<Released<Vec<u8>>>) -> Vec<Message> {
    released.into_iter().map(|message| Box::new(message) as Message).collect()
}
