//! The owner's records, as they came in.

use std::cell::OnceCell;

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
    /// Found when it is first asked for: it takes a pass over all records.
    root: OnceCell<Digest>,
}

/// A record, and how it is augmented.
#[derive(Clone, Copy)]
pub(crate) struct Chosen {
    pub(crate) record: usize,
    /// What makes the view that leaves out of the record.
    pub(crate) view: Draw,
    /// What is done to that view in a step of training, on both sides.
    pub(crate) draw: Draw,
}

impl Chosen {
    /// The record itself.
    pub(crate) fn plain(record: usize) -> Self {
        Chosen { record, view: Draw::default(), draw: Draw::default() }
    }
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
        self.root.take();
        // Not more than is needed: this is the largest thing that is held.
        self.pixels.get_mut().reserve_exact(pixels.len());
        self.pixels.get_mut().extend_from_slice(pixels);
        self.labels.get_mut().reserve_exact(count);
        self.labels.get_mut().extend(labels);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.labels.get().len()
    }

    /// Pixels of one record.
    pub(crate) fn pixels(&self, record: usize) -> &[u8] {
        &self.pixels.get()[record * self.record_len..][..self.record_len]
    }

    pub(crate) fn labels(&self) -> &[u16] {
        self.labels.get()
    }

    /// Labels of the chosen records.
    pub(crate) fn labels_of(&self, chosen: &[u32]) -> impl Iterator<Item = u32> {
        chosen.iter().map(|&r| u32::from(self.labels()[r as usize]))
    }

    /// A digest of all records, which stands for this data set in the ledger and in every noise derivation.
    pub(crate) fn root(&self) -> Digest {
        *self.root.get_or_init(|| {
            let labels: Vec<u8> = self.labels().iter().flat_map(|l| l.to_le_bytes()).collect();
            Digest::of("asymflow data set v1", &[self.pixels.get(), &labels])
        })
    }

    /// Writes the chosen records, augmented, as the model's input.
    pub(crate) fn fill(&self, form: &InputForm, chosen: impl Iterator<Item = Chosen>, input: &mut [f32]) {
        let shape = form.input_shape();
        let len: usize = shape.iter().product();
        let mut view = Vec::new();
        for (chosen, out) in chosen.zip(input.chunks_exact_mut(len.max(1))) {
            let pixels = self.pixels(chosen.record);
            if chosen.view == Draw::default() {
                form.fill(pixels, chosen.draw, out);
                continue;
            }
            view.resize(len, 0);
            chosen.view.apply(shape, |_, i| pixels[i], |_| 0, &mut view);
            form.fill(&view, chosen.draw, out);
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
    fn a_view_is_augmented_again() {
        let mut records = Records::default();
        records.append(1, &[10, 20, 30, 0, 0], 3, 2).expect("the body fits");
        let form = InputForm::Pixels { shape: [1, 1, 3], mean: vec![0.0], std: vec![1.0 / 255.0] };
        let shifted = Draw { flip: false, dy: 0, dx: 1 };
        let flipped = Draw { flip: true, dy: 0, dx: 0 };
        for (view, draw, expected) in [
            (Draw::default(), Draw::default(), [10.0, 20.0, 30.0]),
            (shifted, Draw::default(), [20.0, 30.0, 0.0]),
            (shifted, flipped, [0.0, 30.0, 20.0]),
        ] {
            let mut input = [0.0; 3];
            records.fill(&form, std::iter::once(Chosen { record: 0, view, draw }), &mut input);
            assert!(input.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{input:?}");
        }
    }

    #[test]
    fn a_root_that_was_asked_for_follows_later_records() {
        let mut records = Records::default();
        records.append(1, &[1, 0, 0], 1, 9).expect("the body fits");
        let first = records.root();
        records.append(1, &[2, 3, 0], 1, 9).expect("the body fits");
        let mut whole = Records::default();
        whole.append(2, &[1, 2, 0, 0, 3, 0], 1, 9).expect("the body fits");
        assert!(first != whole.root() && records.root() == whole.root());
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
