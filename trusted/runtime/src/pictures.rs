//! What records are split into, and what the accelerator was given of them: for the owner's eyes alone.

use engine::InputForm;
use ledger::{ChainError, Ledger, LedgerError};
use mechanism::{
    Budget, Crossing, LedgerStore, LedgerWriter, NoiseKey, PlainBits, Receipt, RecordRelease, StoreError,
};
use wire::accelerator::RecordSet;
use wire::owner::Pictures;

use crate::flow::request;
use crate::messages::{self, Messenger};
use crate::records::Chosen;
use crate::run::Run;
use crate::trusted_model::TrustedModel;
use crate::{Host, RunError};

/// What a record left as.
type Message = Option<Vec<u8>>;

impl Run {
    /// The first `count` training records: what stays, the residual, and the bits as the accelerator got them.
    ///
    /// Released bits are those that were stored when they were made; nothing is charged, made anew or written. Without
    /// noise they are computed again, which gives the same.
    ///
    /// - Shapes: per record the main part and the residual, means over channels, `[H, W]` each; then one message per
    ///   released record, packed
    /// - Privacy: the result is private; it goes to the owner and never to the accelerator
    ///
    /// # Errors
    /// [`RunError::Request`] for a flow that splits nothing; [`RunError`] if ledger or stored messages were altered.
    pub fn pictures(&mut self, host: &dyn Host, count: usize) -> Result<(Pictures, Vec<u8>), RunError> {
        let nothing = || {
            let flow = self.spec.flow.name();
            RunError::Request(format!("flow `{flow}` splits nothing, so there is nothing to show"))
        };
        let outsourced = self.parts.outsourced.clone().ok_or_else(nothing)?;
        let InputForm::Bits { shape: bits, .. } = outsourced.input else { return Err(nothing()) };
        let count = count.min(self.data.get(RecordSet::Train).len());
        let key = NoiseKey::new(host.job_key()?);
        let trusted = self.trusted.as_ref().ok_or_else(nothing)?;
        let messenger = match messages::known_clipping_norm(host, &self.spec, trusted)? {
            Some(clip) => Some(Messenger::new(&outsourced, &self.spec, (Some(trusted), Some(clip)), key)?),
            None => None,
        };
        let (stored, plain) = match &messenger {
            Some(Messenger::Released(release)) => {
                (self.stored_messages(host, release.as_ref(), count)?, None)
            }
            Some(Messenger::Plain(plain)) => (vec![None; count], Some(plain)),
            Some(Messenger::Inputs) => return Err(nothing()),
            // The clipping norm is still to be found: nothing has left.
            None => (vec![None; count], None),
        };
        let (mut pictures, mut body, mut messages) =
            (Pictures { bits, ..Pictures::default() }, vec![], vec![]);
        for (record, stored) in stored.into_iter().enumerate() {
            let shown = self.split_record(record, plain)?;
            pictures.map = shown.map;
            wire::body::append_f32(&mut body, &shown.main);
            wire::body::append_f32(&mut body, &shown.residual);
            let message = stored.or(shown.plain);
            pictures.released.push(message.is_some());
            messages.extend(message.unwrap_or_default());
        }
        body.extend(messages);
        Ok((pictures, body))
    }

    /// The stored messages of the first `count` training records, in their first view; `None` for those that never left.
    fn stored_messages(
        &self,
        host: &dyn Host,
        release: &dyn RecordRelease,
        count: usize,
    ) -> Result<Vec<Message>, RunError> {
        let records = self.data.get(RecordSet::Train);
        let mut messages: Vec<Message> = Vec::with_capacity(count);
        let all = ledger::RecordSet::range(0..records.len() as u64);
        let charge = release.charge(records.root(), all, 0, "pictures for the owner");
        let Some(receipt) = paid_before(host, self.spec.privacy.delta, charge)? else {
            return Ok(vec![None; count]);
        };
        let chunks = Messenger::chunks(RecordSet::Train, 0, records.len());
        for chunk in chunks.take_while(|chunk| chunk.range.start < count) {
            let (ids, len) = (chunk.range.start as u64..chunk.range.end as u64, chunk.range.len());
            match host.load(&chunk.name())? {
                Some(stored) => {
                    let released = release.from_stored(&receipt, ids, &stored)?;
                    messages.extend(released.iter().map(|message| Some(message.value().clone())));
                }
                None => messages.resize(messages.len() + len, None),
            }
        }
        messages.truncate(count);
        Ok(messages)
    }

    /// Main part, residual and, without noise, the message of one training record.
    fn split_record(&mut self, record: usize, plain: Option<&PlainBits>) -> Result<Shown, RunError> {
        self.take_memory();
        let records = self.data.get(RecordSet::Train);
        let model = self.trusted.as_mut().ok_or_else(|| request("there is no trusted part"))?;
        records.fill(&self.pixels, std::iter::once(Chosen::plain(record)), model.input_mut(1));
        let residual = model.residuals(1, &self.threads)?.to_vec();
        let TrustedModel::Split(split) = &*model else { return Err(request("there is no split")) };
        let sample = split.sample();
        let &[_, _, height, width] = sample.shape.dims() else { return Err(request("no map to show")) };
        let kept: Vec<f32> = sample.data.iter().zip(&residual).map(|(x, r)| x - r).collect();
        let area = height * width;
        // Without noise nothing is stored; it has left if the accelerator has been trained on it.
        let plain = plain.filter(|_| self.remote.is_some());
        let plain = plain.map(|plain| plain.release(&self.permissions, 1, &residual)).transpose()?;
        let plain = plain.and_then(|messages| messages.first().map(|message| message.value().clone()));
        Ok(Shown {
            map: [height, width],
            main: mean_over_channels(&kept, area),
            residual: mean_over_channels(&residual, area),
            plain,
        })
    }
}

/// One record, split.
struct Shown {
    map: [usize; 2],
    main: Vec<f32>,
    residual: Vec<f32>,
    plain: Message,
}

/// The receipt of a charge that was made before; `None` if any of it was not. Appends nothing.
fn paid_before(host: &dyn Host, delta: f64, charge: ledger::Charge) -> Result<Option<Receipt>, RunError> {
    let bytes = host.ledger()?;
    let ledger = match Ledger::verify(&bytes) {
        Err(LedgerError::Chain(ChainError::Truncated { intact, .. })) => Ledger::verify(&bytes[..intact])?,
        other => other?,
    };
    let counting = Budget::new(f64::INFINITY, delta).map_err(request)?;
    let mut ledger = LedgerWriter::new(ledger, counting, Box::new(ReadOnly));
    if !ledger.due(&charge)?.is_empty() {
        return Ok(None);
    }
    Ok(Some(ledger.charge(charge)?))
}

/// A ledger that is only looked at.
struct ReadOnly;

impl LedgerStore for ReadOnly {
    fn append_durably(&mut self, _line: &[u8]) -> Result<(), StoreError> {
        Err(StoreError("the ledger is only looked at".to_owned()))
    }
}

/// - Shapes: `values` `[C, area]` → `[area]`
fn mean_over_channels(values: &[f32], area: usize) -> Vec<f32> {
    let channels = values.chunks_exact(area.max(1));
    let count = channels.len().max(1) as f32;
    let mut mean = vec![0.0; area];
    for channel in channels {
        mean.iter_mut().zip(channel).for_each(|(sum, x)| *sum += x / count);
    }
    mean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_channels() {
        assert_eq!(mean_over_channels(&[1.0, 2.0, 3.0, 6.0], 2), [2.0, 4.0]);
        assert_eq!(mean_over_channels(&[], 2), [0.0, 0.0]);
    }
}
