//! Released messages at rest: only the mechanism that made them can turn stored bytes back into a release.

use std::ops::Range;

use ledger::Kind;

use crate::Receipt;
use crate::bit_release::{BitRelease, ReleaseError};
use crate::boundary::{Crossing, Released};

/// Bytes of the tag at the end.
const TAG: usize = 32;

/// Compares in the same time wherever the tags differ.
fn same(a: &[u8; TAG], b: &[u8; TAG]) -> bool {
    a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

impl BitRelease {
    /// The messages of these records, with a keyed tag over them and all that identifies them.
    ///
    /// Stored before they are sent, they can be sent again after a restart as the same bytes.
    pub fn to_stored(
        &self,
        receipt: &Receipt,
        records: Range<u64>,
        messages: &[Released<Vec<u8>>],
    ) -> Vec<u8> {
        let mut bytes: Vec<u8> = messages.iter().flat_map(|message| message.value()).copied().collect();
        let tag = self.tag(receipt, &records, &bytes);
        bytes.extend(tag);
        bytes
    }

    /// The messages of these records, as [`BitRelease::to_stored`] left them.
    ///
    /// # Errors
    /// [`ReleaseError::NotCharged`] if `receipt` does not cover them; [`ReleaseError::Stored`] if the bytes were altered,
    /// cut short, or made by another mechanism, for other records, or with another key.
    pub fn from_stored(
        &self,
        receipt: &Receipt,
        records: Range<u64>,
        stored: &[u8],
    ) -> Result<Vec<Released<Vec<u8>>>, ReleaseError> {
        if let Some(record) = records.clone().find(|&record| !receipt.covers(record, self.mechanism())) {
            return Err(ReleaseError::NotCharged { record });
        }
        let wrong = ReleaseError::Stored { first: records.start };
        let count = (records.end - records.start) as usize;
        let Some((bytes, tag)) = stored.split_last_chunk::<TAG>() else { return Err(wrong) };
        if bytes.len() != count * self.message_len() || !same(&self.tag(receipt, &records, bytes), tag) {
            return Err(wrong);
        }
        let message = |bytes: &[u8]| Released::new(Kind::ResidualBits, bytes.to_vec(), receipt.clone());
        Ok(bytes.chunks_exact(self.message_len()).map(message).collect())
    }

    fn tag(&self, receipt: &Receipt, records: &Range<u64>, bytes: &[u8]) -> [u8; TAG] {
        let charge = receipt.charge();
        let parts: [&[u8]; 6] = [
            &charge.dataset.0,
            &records.start.to_le_bytes(),
            &records.end.to_le_bytes(),
            &charge.view.to_le_bytes(),
            self.mechanism().as_str().as_bytes(),
            bytes,
        ];
        self.key().digest("asymflow stored messages v1", &parts).0
    }
}
