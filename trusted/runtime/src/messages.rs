//! The messages that records leave as: made once, stored before they are sent, and sent again as the same bytes.

use std::ops::Range;

use kernels::Threads;
use ledger::{Digest, Kind};
use mechanism::{
    BitRelease, BitReleaseConfig, LedgerWriter, NoiseKey, Permissions, PlainBits, Receipt, Released,
};
use wire::accelerator::RecordSet;
use wire::spec::{Privacy, Protection};

use crate::accelerator::Body;
use crate::flow::{Outsourced, request};
use crate::records::Records;
use crate::trusted_model::TrustedModel;
use crate::{Host, RunError};

/// A message that may cross.
pub(crate) type Message = Box<Body>;

/// Records whose messages are made, stored and sent together.
const CHUNK: usize = 1024;

/// How records become messages.
pub(crate) enum Messenger {
    /// Images in the clear (flow `plain`), by permission.
    Inputs,
    /// Signs of residuals without noise, by permission.
    Plain(PlainBits),
    /// Signs of clipped, noised residuals, charged to the ledger.
    Released(Box<BitRelease>),
}

/// Everything a message depends on beside its record.
pub(crate) struct Context<'a> {
    pub(crate) permissions: &'a Permissions,
    pub(crate) threads: &'a Threads,
    pub(crate) form: &'a engine::InputForm,
    pub(crate) batch: usize,
}

impl Messenger {
    /// The way in which records leave for `outsourced`; for residuals, from the frozen backbone of `trusted`.
    pub(crate) fn new(
        outsourced: &Outsourced,
        privacy: &Privacy,
        trusted: Option<&TrustedModel>,
        pixels: &engine::InputForm,
        key: NoiseKey,
    ) -> Result<Self, RunError> {
        let (Some(shape), Some(trusted)) = (outsourced.shape, trusted) else { return Ok(Messenger::Inputs) };
        let residual = residual_shape(trusted)?;
        let Protection::Epsilon(epsilon) = privacy.protection else {
            return Ok(Messenger::Plain(PlainBits::new(shape, residual).map_err(request)?));
        };
        let sigma = sigma(epsilon, privacy)?;
        let function = trusted.residual_function(format!("{pixels:?}").as_bytes());
        let config = BitReleaseConfig { clip: privacy.clip, sigma, shape, residual, function };
        Ok(Messenger::Released(Box::new(BitRelease::new(config, key).map_err(request)?)))
    }

    /// Chunks of `count` records.
    pub(crate) fn chunks(count: usize) -> impl Iterator<Item = Range<usize>> {
        (0..count).step_by(CHUNK).map(move |first| first..(first + CHUNK).min(count))
    }

    /// Charges for a message of every record of a set; before anything is made or sent.
    pub(crate) fn charge(
        &self,
        ledger: &mut LedgerWriter,
        records: &Records,
        purpose: &str,
    ) -> Result<Option<Receipt>, RunError> {
        let Messenger::Released(release) = self else { return Ok(None) };
        if records.len() == 0 {
            return Ok(None);
        }
        let all = ledger::RecordSet::range(0..records.len() as u64);
        Ok(Some(ledger.charge(release.charge(records.root(), all, 0, purpose))?))
    }

    /// Messages of one chunk of a set: as stored, or made now and stored.
    pub(crate) fn chunk(
        &self,
        host: &mut dyn Host,
        trusted: Option<&mut TrustedModel>,
        (records, receipt): (&Records, Option<&Receipt>),
        (set, range): (RecordSet, Range<usize>),
        context: &Context<'_>,
    ) -> Result<Vec<Message>, RunError> {
        match (self, receipt, trusted) {
            (Messenger::Released(release), Some(receipt), Some(trusted)) => {
                let name = format!("messages-{}-{:08}", set_name(set), range.start);
                let ids = range.start as u64..range.end as u64;
                if let Some(stored) = host.load(&name)? {
                    return Ok(boxed(release.from_stored(receipt, ids, &stored)?));
                }
                let mut made = Vec::with_capacity(range.len());
                for part in batches(range, context.batch) {
                    let residuals = residuals(trusted, records, part.clone(), context)?;
                    let len = residuals.len() / part.len();
                    for (record, residual) in part.zip(residuals.chunks_exact(len)) {
                        made.push(release.release(receipt, record as u64, residual)?);
                    }
                }
                host.save(&name, &release.to_stored(receipt, ids, &made))?;
                Ok(boxed(made))
            }
            (Messenger::Plain(plain), _, Some(trusted)) => {
                let mut made: Vec<Message> = Vec::with_capacity(range.len());
                for part in batches(range, context.batch) {
                    let residuals = residuals(trusted, records, part.clone(), context)?;
                    for residual in residuals.chunks_exact(residuals.len() / part.len()) {
                        made.push(Box::new(plain.release(context.permissions, residual)?));
                    }
                }
                Ok(made)
            }
            (Messenger::Inputs, ..) => range
                .map(|record| {
                    let image = records.pixels(record).to_vec();
                    Ok(Box::new(context.permissions.allow(Kind::Inputs, image)?) as Message)
                })
                .collect(),
            _ => {
                Err(RunError::Request("records leave only after a charge and with a trusted part".to_owned()))
            }
        }
    }

    /// Messages of images that belong to no set, each charged, stored and recognised by its content.
    pub(crate) fn single(
        &self,
        host: &mut dyn Host,
        ledger: &mut LedgerWriter,
        trusted: Option<&mut TrustedModel>,
        images: &Records,
        context: &Context<'_>,
    ) -> Result<Vec<Message>, RunError> {
        let Messenger::Released(release) = self else {
            let all = 0..images.len();
            return self.chunk(host, trusted, (images, None), (RecordSet::Test, all), context);
        };
        let trusted =
            trusted.ok_or_else(|| RunError::Request("a release needs a trusted part".to_owned()))?;
        let dataset = Digest::of("asymflow single images v1", &[]);
        let mut messages: Vec<Message> = Vec::new();
        for image in 0..images.len() {
            let id = content_id(images.pixels(image));
            let charge = release.charge(dataset, ledger::RecordSet::of(&[id]), 0, "inference");
            let receipt = ledger.charge(charge)?;
            let name = format!("message-{id:016x}-{}", &release.config().function.to_string()[..8]);
            let made = match host.load(&name)? {
                Some(stored) => release.from_stored(&receipt, id..id + 1, &stored)?,
                None => {
                    let residual = residuals(trusted, images, image..image + 1, context)?;
                    let made = vec![release.release(&receipt, id, residual)?];
                    host.save(&name, &release.to_stored(&receipt, id..id + 1, &made))?;
                    made
                }
            };
            messages.extend(boxed(made));
        }
        Ok(messages)
    }
}

/// σ for ε: sensitivity is `2C`, where neighbours replace the record.
pub(crate) fn sigma(epsilon: f64, privacy: &Privacy) -> Result<f64, RunError> {
    accounting::gaussian::sigma(epsilon, privacy.delta, 2.0 * privacy.clip).map_err(request)
}

fn residual_shape(trusted: &TrustedModel) -> Result<[usize; 3], RunError> {
    let (_, backbone, _) = trusted.parts()[0];
    let shape = backbone.shape(backbone.output(), 1).record();
    shape
        .dims()
        .try_into()
        .map_err(|_| RunError::Request(format!("a residual has three axes, {shape} has not")))
}

fn residuals<'a>(
    trusted: &'a mut TrustedModel,
    records: &Records,
    range: Range<usize>,
    context: &Context<'_>,
) -> Result<&'a [f32], RunError> {
    let count = range.len();
    let chosen = range.map(|record| (record, engine::Draw::default()));
    records.fill(context.form, chosen, trusted.input_mut(count));
    trusted.residuals(count, context.threads)
}

fn batches(range: Range<usize>, batch: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(batch.max(1)).map(move |first| first..(first + batch.max(1)).min(end))
}

fn boxed(released: Vec<Released<Vec<u8>>>) -> Vec<Message> {
    released.into_iter().map(|message| Box::new(message) as Message).collect()
}

fn set_name(set: RecordSet) -> &'static str {
    match set {
        RecordSet::Train => "train",
        RecordSet::Test => "test",
    }
}

fn content_id(pixels: &[u8]) -> u64 {
    let digest = Digest::of("asymflow image v1", &[pixels]);
    // The last number has no successor and names no record.
    u64::from_le_bytes(digest.0[..8].try_into().expect("8 of 32 bytes")).min(u64::MAX - 1)
}
