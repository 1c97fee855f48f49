//! The owner's records, as they came in.

use engine::{Draw, InputForm};
use ledger::Digest;
use mechanism::Private;
use wire::accelerator::RecordSet;

use crate::RunError;

/// One set of private records.
#[derive(Default)]
pub(crate) struct Records {
    pixels: Private<Vec<u8>>,
    labels: Private<Vec<u16>>,
    record_len: usize,
}

/// Both sets of a run.
#[derive(Default)]
pub(crate) struct DataSets {
    train: Records,
    test: Records,
}

impl DataSets {
    pub(crate) fn get(&self, set: RecordSet) -> &Records {
        match set {
            RecordSet::Train => &self.train,
            RecordSet::Test => &self.test,
        }
    }

    pub(crate) fn get_mut(&mut self, set: RecordSet) -> &mut Records {
        match set {
            RecordSet::Train => &mut self.train,
            RecordSet::Test => &mut self.test,
        }
    }
}

impl Records {
    /// Adds `count` records: their pixels, then their labels (little-endian).
    ///
    /// # Errors
    /// [`RunError::Request`] if the body does not hold them, or a label names no class.
    pub(crate) fn append(
        &mut self,
        count: usize,
        body: &[u8],
        record_len: usize,
        classes: usize,
    ) -> Result<(), RunError> {
        let expected = count.checked_mul(record_len + 2);
        if expected != Some(body.len()) {
            return Err(RunError::Request(format!(
                "{count} records of {record_len} bytes with labels do not make a body of {} bytes",
                body.len()
            )));
        }
        let (pixels, labels) = body.split_at(count * record_len);
        let labels = labels.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]]));
        if labels.clone().any(|l| usize::from(l) >= classes) {
            return Err(RunError::Request(format!("a label names no class of the model's {classes}")));
        }
        self.record_len = record_len;
        self.pixels.get_mut().extend_from_slice(pixels);
        self.labels.get_mut().extend(labels);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.labels.get().len()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.pixels.get().len() + 2 * self.len()
    }

    /// Pixels of one record.
    pub(crate) fn pixels(&self, record: usize) -> &[u8] {
        &self.pixels.get()[record * self.record_len..][..self.record_len]
    }

    pub(crate) fn labels(&self) -> &[u16] {
        self.labels.get()
    }

    /// Labels of the chosen records.
    pub(crate) fn labels_of(&self, chosen: &[u32]) -> Vec<u32> {
        chosen.iter().map(|&r| u32::from(self.labels()[r as usize])).collect()
    }

    /// A digest of all records, which stands for this data set in the ledger and in every noise derivation.
    pub(crate) fn root(&self) -> Digest {
        let labels: Vec<u8> = self.labels().iter().flat_map(|l| l.to_le_bytes()).collect();
        Digest::of("asymflow data set v1", &[self.pixels.get(), &labels])
    }

    /// Writes the chosen records, augmented, as the model's input.
    pub(crate) fn fill(
        &self,
        form: &InputForm,
        chosen: impl Iterator<Item = (usize, Draw)>,
        input: &mut [f32],
    ) {
        let len: usize = form.input_shape().iter().product();
        for ((record, draw), out) in chosen.zip(input.chunks_exact_mut(len.max(1))) {
            form.fill(self.pixels(record), draw, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_must_fit_and_labels_must_exist() {
        let mut records = Records::default();
        assert!(records.append(1, &[1, 2, 3, 1, 0], 3, 2).is_ok());
        assert!(records.append(1, &[1, 2, 3, 2, 0], 3, 2).is_err());
        assert!(records.append(1, &[1, 2, 3, 1], 3, 2).is_err());
        assert!(records.append(usize::MAX, &[1, 2, 3, 1], 3, 2).is_err());
        assert_eq!((records.len(), records.pixels(0), records.labels()), (1, &[1, 2, 3][..], &[1][..]));
    }

    #[test]
    fn the_root_depends_on_every_pixel_and_label() {
        let root = |body: &[u8]| {
            let mut records = Records::default();
            records.append(2, body, 1, 9).expect("the body fits");
            records.root()
        };
        let base = root(&[1, 2, 3, 0, 4, 0]);
        assert_eq!(base, root(&[1, 2, 3, 0, 4, 0]));
        for other in [[1, 3, 3, 0, 4, 0], [2, 1, 3, 0, 4, 0], [1, 2, 4, 0, 4, 0], [1, 2, 4, 0, 3, 0]] {
            assert_ne!(base, root(&other));
        }
    }
}
