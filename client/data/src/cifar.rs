//! CIFAR-10 and CIFAR-100, binary version: records of one or two label bytes, then 1,024 bytes each of red, green, blue.
//!
//! Source: <https://www.cs.toronto.edu/~kriz/cifar.html>, "Binary version".

use std::path::{Path, PathBuf};

use crate::files::{self, content, missing};
use crate::{ContentError, DataError, Images, Split, numbered};

const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = 3 * 32 * 32;
const COARSE_CLASSES: usize = 20;

/// Which of the two data sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// One label of 10.
    Cifar10,
    /// A coarse label of 20, which is checked and left out, then a fine label of 100.
    Cifar100,
}

impl Variant {
    /// Number of classes.
    pub fn classes(self) -> usize {
        match self {
            Self::Cifar10 => 10,
            Self::Cifar100 => 100,
        }
    }

    /// Bytes of one record.
    pub fn record(self) -> usize {
        self.label_bytes() + PIXELS
    }

    fn label_bytes(self) -> usize {
        match self {
            Self::Cifar10 => 1,
            Self::Cifar100 => 2,
        }
    }

    fn archive_folder(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar-10-batches-bin",
            Self::Cifar100 => "cifar-100-binary",
        }
    }

    fn names_file(self) -> &'static str {
        match self {
            Self::Cifar10 => "batches.meta.txt",
            Self::Cifar100 => "fine_label_names.txt",
        }
    }
}

/// Pixels and labels of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Pixels `[N, 3, 32, 32]`.
    pub pixels: Vec<u8>,
    /// Labels, below [`Variant::classes`].
    pub labels: Vec<u16>,
}

/// The first `most` records of a file's bytes.
///
/// # Errors
/// [`ContentError::Records`] if the bytes are not whole records, [`ContentError::Label`] for a label beyond the classes.
pub fn parse(bytes: &[u8], variant: Variant, most: usize) -> Result<Batch, ContentError> {
    let size = variant.record();
    if bytes.is_empty() || !bytes.len().is_multiple_of(size) {
        return Err(ContentError::Records { found: bytes.len() as u64, record: size });
    }
    let count = (bytes.len() / size).min(most);
    let mut batch = Batch { pixels: Vec::with_capacity(count * PIXELS), labels: Vec::with_capacity(count) };
    for (n, record) in bytes.chunks_exact(size).take(count).enumerate() {
        let (labels, pixels) = record.split_at(variant.label_bytes());
        batch.labels.push(label(labels, variant, n)?);
        batch.pixels.extend_from_slice(pixels);
    }
    Ok(batch)
}

fn label(bytes: &[u8], variant: Variant, record: usize) -> Result<u16, ContentError> {
    let check = |label: u8, classes: usize| {
        let label = usize::from(label);
        if label < classes { Ok(label as u16) } else { Err(ContentError::Label { label, classes, record }) }
    };
    if let [coarse, _] = bytes {
        check(*coarse, COARSE_CLASSES)?;
    }
    check(bytes[bytes.len() - 1], variant.classes())
}

/// The names of `classes` classes, one on each line; blank lines do not count.
///
/// # Errors
/// [`ContentError::ClassNames`] if there are more or fewer.
pub fn parse_names(bytes: &[u8], classes: usize) -> Result<Vec<String>, ContentError> {
    let text = String::from_utf8_lossy(bytes);
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
    if names.len() == classes {
        Ok(names)
    } else {
        Err(ContentError::ClassNames { found: names.len(), expected: classes })
    }
}

pub(crate) fn load(folder: &Path, variant: Variant, split: Split, limit: usize) -> Result<Images, DataError> {
    let mut images = Images { shape: SHAPE, pixels: vec![], labels: vec![], classes: vec![] };
    for file in batch_files(folder, variant, split)? {
        let left = limit - images.len();
        if left == 0 {
            break;
        }
        let bytes = files::read(&file, files::MOST_DATA)?;
        let batch = parse(&bytes, variant, left).map_err(|problem| content(&file, problem))?;
        images.pixels.extend_from_slice(&batch.pixels);
        images.labels.extend_from_slice(&batch.labels);
    }
    images.classes = class_names(folder, variant)?;
    Ok(images)
}

fn batch_files(folder: &Path, variant: Variant, split: Split) -> Result<Vec<PathBuf>, DataError> {
    let name = match (variant, split) {
        (Variant::Cifar10, Split::Train) => return training_batches(folder, variant),
        (Variant::Cifar10, Split::Test) => "test_batch.bin",
        (Variant::Cifar100, Split::Train) => "train.bin",
        (Variant::Cifar100, Split::Test) => "test.bin",
    };
    Ok(vec![files::find(folder, variant.archive_folder(), &[name.to_owned()])?])
}

/// All `data_batch_NUMBER.bin`, in the order of their numbers.
fn training_batches(folder: &Path, variant: Variant) -> Result<Vec<PathBuf>, DataError> {
    let sub = folder.join(variant.archive_folder());
    let place = if sub.is_dir() { &sub } else { folder };
    let numbered = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        let number: u32 = name.strip_prefix("data_batch_")?.strip_suffix(".bin")?.parse().ok()?;
        Some((number, path))
    };
    let mut batches: Vec<_> = files::list(place)?.into_iter().filter_map(numbered).collect();
    if batches.is_empty() {
        return Err(missing(folder, "data_batch_1.bin, data_batch_2.bin, …".into()));
    }
    batches.sort();
    Ok(batches.into_iter().map(|(_, path)| path).collect())
}

fn class_names(folder: &Path, variant: Variant) -> Result<Vec<String>, DataError> {
    let Ok(file) = files::find(folder, variant.archive_folder(), &[variant.names_file().to_owned()]) else {
        return Ok(numbered(variant.classes()));
    };
    parse_names(&files::read(&file, 1 << 20)?, variant.classes()).map_err(|problem| content(&file, problem))
}
