//! Releases of records that leave once: charged, made, stored before they are sent, and sent again as the same bytes.

use std::ops::Range;

use ledger::{Charge, Digest, Kind, MechanismId, RecordSet};

use crate::bit_release::ReleaseError;
use crate::boundary::{Crossing, Released};
use crate::{NoiseKey, Receipt};

/// A mechanism that makes one message of each record and view.
///
/// Only the mechanisms of this crate are one.
pub trait RecordRelease: Keyed {
    /// What its messages are.
    fn kind(&self) -> Kind;

    /// The name of this mechanism, all parameters included.
    fn mechanism(&self) -> &MechanismId;

    /// Bytes of one message.
    fn message_len(&self) -> usize;

    /// The charge for one message of each of these records.
    fn charge(&self, dataset: Digest, records: RecordSet, view: u32, purpose: &str) -> Charge;

    /// The messages of records that were charged. NaN and infinities count as 0.
    ///
    /// The same record, view and mechanism give the same bytes for the same numbers in every call.
    ///
    /// - Shapes: `numbers` `[N, C, H, W]` for the `N` records
    ///
    /// # Errors
    /// [`ReleaseError::NotCharged`] if `receipt` does not cover a record; [`ReleaseError::Length`].
    fn release(
        &self,
        receipt: &Receipt,
        records: Range<u64>,
        numbers: &[f32],
    ) -> Result<Vec<Released<Vec<u8>>>, ReleaseError>;

    /// Number of a record that is known by its content alone. It stands in the ledger, so it depends on the key.
    fn record_of(&self, content: &[u8]) -> u64 {
        let digest = self.key().digest("asymflow image v2", &[content]);
        let (number, _) = digest.0.split_first_chunk::<8>().expect("a digest has 32 bytes");
        // The last number has no successor and names no record.
        u64::from_le_bytes(*number).min(u64::MAX - 1)
    }

    /// The messages of these records, with a keyed tag over them and all that identifies them.
    ///
    /// Stored before they are sent, they can be sent again after a restart as the same bytes.
    fn to_stored(&self, receipt: &Receipt, records: Range<u64>, messages: &[Released<Vec<u8>>]) -> Vec<u8> {
        let mut bytes: Vec<u8> = messages.iter().flat_map(|message| message.value()).copied().collect();
        let tag = tag(self.key(), self.mechanism(), receipt, &records, &bytes);
        bytes.extend(tag);
        bytes
    }

    /// The messages of these records, as [`RecordRelease::to_stored`] left them.
    ///
    /// # Errors
    /// [`ReleaseError::NotCharged`] if `receipt` does not cover them; [`ReleaseError::Stored`] if the bytes were altered,
    /// cut short, or made by another mechanism, for other records, or with another key.
    #[allow(clippy::wrong_self_convention)] // The mechanism makes messages of stored bytes, not itself.
    fn from_stored(
        &self,
        receipt: &Receipt,
        records: Range<u64>,
        stored: &[u8],
    ) -> Result<Vec<Released<Vec<u8>>>, ReleaseError> {
        if let Some(record) = records.clone().find(|&record| !receipt.covers(record, self.mechanism())) {
            return Err(ReleaseError::NotCharged { record });
        }
        let wrong = ReleaseError::Stored { first: records.start };
        let (count, len) = ((records.end - records.start) as usize, self.message_len());
        let Some((bytes, found)) = stored.split_last_chunk::<TAG>() else { return Err(wrong) };
        let expected = tag(self.key(), self.mechanism(), receipt, &records, bytes);
        if bytes.len() != count * len || !same(&expected, found) {
            return Err(wrong);
        }
        let message = |bytes: &[u8]| Released::new(self.kind(), bytes.to_vec(), receipt.clone());
        Ok(bytes.chunks_exact(len).map(message).collect())
    }
}

/// What has the job key; it stays in this crate, so that nothing outside can be a [`RecordRelease`].
pub trait Keyed {
    /// The key of its noise.
    fn key(&self) -> &NoiseKey;
}

/// Bytes of the tag at the end.
const TAG: usize = 32;

fn tag(
    key: &NoiseKey,
    mechanism: &MechanismId,
    receipt: &Receipt,
    records: &Range<u64>,
    bytes: &[u8],
) -> [u8; TAG] {
    let charge = receipt.charge();
    let parts: [&[u8]; 6] = [
        &charge.dataset.0,
        &records.start.to_le_bytes(),
        &records.end.to_le_bytes(),
        &charge.view.to_le_bytes(),
        mechanism.as_str().as_bytes(),
        bytes,
    ];
    key.digest("asymflow stored messages v1", &parts).0
}

/// Compares in the same time wherever the tags differ.
fn same(a: &[u8; TAG], b: &[u8; TAG]) -> bool {
    a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}
