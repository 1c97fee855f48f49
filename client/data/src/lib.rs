//! Image data sets at the client, decoded into u8 pixels of one fixed shape.
//!
//! [`load`] reads one split of CIFAR-10/100, IDX, an image folder, or of a data set drawn from a seed;
//! [`decode_image`] reads one picture for a trained model. The parsers of the binary formats, [`cifar::parse`],
//! [`idx::parse_images`] and [`idx::parse_labels`], are pure functions of bytes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub mod cifar;
mod decode;
mod error;
mod files;
mod folder;
pub mod idx;
mod synthetic;

pub use decode::decode_image;
pub use error::{ContentError, DataError};

/// Images of one split: one shape, one label each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Shape of one record: channels, height, width.
    pub shape: [usize; 3],
    /// Pixels `[N, C, H, W]`, row-major, 0 to 255.
    pub pixels: Vec<u8>,
    /// Label of each record, an index into `classes`.
    pub labels: Vec<u16>,
    /// Names of the classes; the same, in the same order, for both splits of a source.
    pub classes: Vec<String>,
}

impl Images {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Pixels `[C, H, W]` of record `n`.
    ///
    /// # Panics
    /// If `n` is not below [`Images::len`].
    pub fn record(&self, n: usize) -> &[u8] {
        let size = self.record_size();
        &self.pixels[n * size..][..size]
    }

    /// Mean and standard deviation of each channel, over all records and positions.
    ///
    /// - Shapes: two vectors of `C`
    /// - Units: pixel values scaled to `[0, 1]`; the deviation of a constant channel, or of no records, is 0
    pub fn mean_std(&self) -> (Vec<f32>, Vec<f32>) {
        let [channels, height, width] = self.shape;
        (0..channels).map(|c| mean_std(self.channel(c), self.len() * height * width)).unzip()
    }

    fn record_size(&self) -> usize {
        self.shape.iter().product()
    }

    fn channel(&self, c: usize) -> impl Iterator<Item = &[u8]> {
        let plane = self.shape[1] * self.shape[2];
        self.pixels.chunks_exact(self.record_size().max(1)).map(move |record| &record[c * plane..][..plane])
    }
}

fn mean_std<'a>(planes: impl Iterator<Item = &'a [u8]>, count: usize) -> (f32, f32) {
    let (mut sum, mut squares) = (0u64, 0u64);
    for plane in planes {
        sum += plane.iter().map(|&x| u64::from(x)).sum::<u64>();
        squares += plane.iter().map(|&x| u64::from(x) * u64::from(x)).sum::<u64>();
    }
    let count = count.max(1) as f64;
    let mean = sum as f64 / count;
    let variance = (squares as f64 / count - mean * mean).max(0.0);
    ((mean / 255.0) as f32, (variance.sqrt() / 255.0) as f32)
}

/// Which part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What the model learns from.
    Train,
    /// What it is measured on.
    Test,
}

/// How a data set lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// CIFAR-10, binary version: `data_batch_*.bin`, `test_batch.bin`.
    Cifar10,
    /// CIFAR-100, binary version: `train.bin`, `test.bin`; the fine label.
    Cifar100,
    /// MNIST and its kin: `train-images-idx3-ubyte` and so on, plain or gzip.
    Idx,
    /// JPEG and PNG files in `train/CLASS/` and `val/CLASS/` or `test/CLASS/`.
    ImageFolder,
    /// Ten classes of shapes and textures, 3×32×32, drawn from a seed; nothing is read.
    Synthetic,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 5] = [Self::Cifar10, Self::Cifar100, Self::Idx, Self::ImageFolder, Self::Synthetic];

    /// The name in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Idx => "idx",
            Self::ImageFolder => "imagefolder",
            Self::Synthetic => "synthetic",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| DataError::UnknownFormat { found: text.to_owned() })
    }
}

/// A data set and how to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// How it lies on disk.
    pub format: Format,
    /// The folder it lies in; not used by [`Format::Synthetic`].
    pub path: PathBuf,
    /// Pixels of the shorter side before cropping; image folders only, default 8/7 of `crop`.
    pub resize: Option<usize>,
    /// Height and width cut from the centre; image folders only, default 224, or 7/8 of `resize` where that is given.
    pub crop: Option<usize>,
    /// At most this many training records: the first ones, or of an image folder about equally many of each class.
    pub limit_train: Option<usize>,
    /// The same for test records.
    pub limit_test: Option<usize>,
    /// Seed of [`Format::Synthetic`].
    pub seed: u64,
    /// Training and test records of [`Format::Synthetic`].
    pub records: (usize, usize),
}

impl Source {
    /// A data set with nothing limited, every setting its default: seed 0, 4,000 and 1,000 synthetic records.
    pub fn new(format: Format, path: impl Into<PathBuf>) -> Self {
        Self {
            format,
            path: path.into(),
            resize: None,
            crop: None,
            limit_train: None,
            limit_test: None,
            seed: 0,
            records: (4000, 1000),
        }
    }

    /// What [`decode_image`] must be told as `resize`, so that a picture is seen as those of this data set are.
    ///
    /// # Errors
    /// [`DataError::Setting`] as in [`load`].
    pub fn resized(&self) -> Result<Option<usize>, DataError> {
        Ok(self.geometry()?.map(|(resize, _)| resize))
    }

    fn limit(&self, split: Split) -> usize {
        let limit = match split {
            Split::Train => self.limit_train,
            Split::Test => self.limit_test,
        };
        limit.unwrap_or(usize::MAX)
    }

    /// Shorter side and crop of an image folder; `None` for formats whose size is fixed.
    fn geometry(&self) -> Result<Option<(usize, usize)>, DataError> {
        let fault = |key, problem: String| Err(DataError::Setting { key, problem });
        if self.format != Format::ImageFolder {
            return match (self.resize, self.crop) {
                (None, None) => Ok(None),
                (Some(_), _) => {
                    fault("resize", format!("{} images have one size already; leave it out", self.format))
                }
                (None, Some(_)) => {
                    fault("crop", format!("{} images have one size already; leave it out", self.format))
                }
            };
        }
        let crop = self
            .crop
            .unwrap_or_else(|| self.resize.map_or(224, |resize| (resize / 8 * 7 + resize % 8).max(1)));
        let resize = self.resize.unwrap_or(crop.saturating_add(crop / 7));
        if !(1..=decode::MAX_SIDE).contains(&crop) {
            return fault("crop", format!("{crop} is not from 1 to {}", decode::MAX_SIDE));
        }
        if !(crop..=decode::MAX_SIDE).contains(&resize) {
            let range = format!("from {crop} (the crop) to {}", decode::MAX_SIDE);
            return fault("resize", format!("{resize} is not {range}"));
        }
        Ok(Some((resize, crop)))
    }
}

/// One split of a data set.
///
/// # Errors
/// [`DataError::Setting`] for `resize` and `crop` that make no sense or do not apply, otherwise the variant that names
/// the file or folder at fault. A split without records is an error.
pub fn load(source: &Source, split: Split) -> Result<Images, DataError> {
    let geometry = source.geometry()?;
    let limit = source.limit(split);
    if limit == 0 {
        let key = if split == Split::Train { "limit_train" } else { "limit_test" };
        return Err(DataError::Setting {
            key,
            problem: "0 leaves nothing; leave it out for all records".into(),
        });
    }
    match source.format {
        Format::Cifar10 => cifar::load(&source.path, cifar::Variant::Cifar10, split, limit),
        Format::Cifar100 => cifar::load(&source.path, cifar::Variant::Cifar100, split, limit),
        Format::Idx => idx::load(&source.path, split, limit),
        Format::ImageFolder => {
            let (resize, crop) = geometry.expect("geometry gives sizes for image folders");
            folder::load(&source.path, split, limit, resize, crop)
        }
        Format::Synthetic => synthetic::load(source, split, limit),
    }
}

/// How many records [`load`] would give; pictures are counted without being decoded.
///
/// # Errors
/// As [`load`], apart from pictures that cannot be decoded.
pub fn count(source: &Source, split: Split) -> Result<usize, DataError> {
    match source.format {
        Format::ImageFolder => Ok(folder::count(&source.path, split)?.min(source.limit(split))),
        _ => Ok(load(source, split)?.labels.len()),
    }
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|class| class.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation_of_each_channel() {
        let images = Images {
            shape: [2, 1, 2],
            pixels: vec![0, 255, 51, 51, 255, 0, 51, 51],
            labels: vec![0, 0],
            classes: numbered(1),
        };
        let (mean, std) = images.mean_std();
        assert_eq!((mean, std), (vec![0.5, 0.2], vec![0.5, 0.0]));
        assert_eq!(images.record(1), [255, 0, 51, 51]);
        let none = Images { pixels: vec![], labels: vec![], ..images };
        assert!(none.is_empty());
        assert_eq!(none.mean_std(), (vec![0.0; 2], vec![0.0; 2]));
    }

    #[test]
    fn formats_are_read_by_name() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        let fault = "cifar".parse::<Format>().unwrap_err().to_string();
        assert!(fault.contains("`cifar`"), "{fault}");
        assert!(Format::ALL.iter().all(|format| fault.contains(format.name())), "{fault}");
    }
}
