//! IDX, the format of MNIST: a big-endian header, then the bytes of all images or labels; plain or gzip.
//!
//! Source: <http://yann.lecun.com/exdb/mnist/>, "The IDX file format".

use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::files::{self, content};
use crate::{ContentError, DataError, Images, Split, numbered};

const IMAGES_MAGIC: u32 = 0x803;
const LABELS_MAGIC: u32 = 0x801;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The bytes of an image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxImages {
    /// Number of images.
    pub count: usize,
    /// Height and width.
    pub size: [usize; 2],
    /// Pixels `[N, H, W]`.
    pub pixels: Vec<u8>,
}

/// The images in a file's bytes, plain or gzip by their first two.
///
/// # Errors
/// [`ContentError::Magic`], [`ContentError::Length`], [`ContentError::Dimensions`] or [`ContentError::Gzip`]. Memory
/// grows with what is there, not with what the header claims.
pub fn parse_images(bytes: &[u8]) -> Result<IdxImages, ContentError> {
    let (dims, pixels) = parse(bytes, IMAGES_MAGIC, "an IDX file of images", 3)?;
    Ok(IdxImages { count: dims[0], size: [dims[1], dims[2]], pixels })
}

/// The labels in a file's bytes, plain or gzip by their first two.
///
/// # Errors
/// As [`parse_images`].
pub fn parse_labels(bytes: &[u8]) -> Result<Vec<u8>, ContentError> {
    Ok(parse(bytes, LABELS_MAGIC, "an IDX file of labels", 1)?.1)
}

fn parse(
    bytes: &[u8],
    magic: u32,
    what: &'static str,
    rank: usize,
) -> Result<(Vec<usize>, Vec<u8>), ContentError> {
    if bytes.starts_with(&GZIP_MAGIC) {
        body(MultiGzDecoder::new(bytes), u64::MAX, magic, what, rank)
    } else {
        body(bytes, bytes.len() as u64, magic, what, rank)
    }
}

/// Dimensions and bytes of a stream, which is known to hold `most` bytes or fewer.
fn body(
    mut stream: impl Read,
    most: u64,
    magic: u32,
    what: &'static str,
    rank: usize,
) -> Result<(Vec<usize>, Vec<u8>), ContentError> {
    let header = 4 + 4 * rank as u64;
    let mut head = Vec::new();
    (&mut stream).take(header).read_to_end(&mut head).map_err(gzip_fault)?;
    let mut words = head.chunks_exact(4).map(|w| u32::from_be_bytes(w.try_into().expect("chunks of 4")));
    match words.next() {
        Some(found) if found != magic => return Err(ContentError::Magic { found, expected: magic, what }),
        _ if (head.len() as u64) < header => {
            return Err(ContentError::Length { found: head.len() as u64, expected: header });
        }
        _ => {}
    }
    let dims: Vec<u32> = words.collect();
    let length = length(&dims)?;
    if length > most {
        return Err(ContentError::Length { found: most, expected: header + length });
    }
    let mut values = Vec::new();
    stream.take(length + 1).read_to_end(&mut values).map_err(gzip_fault)?;
    if values.len() as u64 != length {
        return Err(ContentError::Length { found: header + values.len() as u64, expected: header + length });
    }
    Ok((dims.into_iter().map(|d| d as usize).collect(), values))
}

fn length(dims: &[u32]) -> Result<u64, ContentError> {
    let product = dims.iter().try_fold(1u64, |product, &d| product.checked_mul(d.into()));
    let fits = |&length: &u64| (1..=files::MOST_DATA).contains(&length);
    product
        .filter(fits)
        .ok_or_else(|| ContentError::Dimensions { dims: dims.to_vec(), most: files::MOST_DATA })
}

fn gzip_fault(fault: io::Error) -> ContentError {
    ContentError::Gzip { problem: fault.to_string() }
}

pub(crate) fn load(folder: &Path, split: Split, limit: usize) -> Result<Images, DataError> {
    let stem = stem(split);
    let images_file = find(folder, stem, "images", 3)?;
    let labels_file = find(folder, stem, "labels", 1)?;
    let bytes = files::read(&images_file, files::MOST_DATA)?;
    let images = parse_images(&bytes).map_err(|problem| content(&images_file, problem))?;
    let mut labels = read_labels(&labels_file)?;
    if images.count != labels.len() {
        return Err(DataError::Count {
            images_file,
            images: images.count,
            labels_file,
            labels: labels.len(),
        });
    }
    let classes = classes(folder, split, &labels)?;
    if let Some(record) = labels.iter().position(|&label| usize::from(label) >= classes) {
        let problem = ContentError::Label { label: labels[record].into(), classes, record };
        return Err(content(&labels_file, problem));
    }
    let [height, width] = images.size;
    let mut pixels = images.pixels;
    labels.truncate(limit);
    pixels.truncate(labels.len() * height * width);
    let labels = labels.into_iter().map(u16::from).collect();
    Ok(Images { shape: [1, height, width], pixels, labels, classes: numbered(classes) })
}

/// How many classes the training labels have: one more than the largest.
fn classes(folder: &Path, split: Split, labels: &[u8]) -> Result<usize, DataError> {
    let largest = |labels: &[u8]| labels.iter().copied().max().map_or(0, |label| usize::from(label) + 1);
    match split {
        Split::Train => Ok(largest(labels)),
        Split::Test => Ok(largest(&read_labels(&find(folder, stem(Split::Train), "labels", 1)?)?)),
    }
}

fn stem(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Test => "t10k",
    }
}

fn find(folder: &Path, stem: &str, what: &str, rank: usize) -> Result<std::path::PathBuf, DataError> {
    let plain = [format!("{stem}-{what}-idx{rank}-ubyte"), format!("{stem}-{what}.idx{rank}-ubyte")];
    let names: Vec<String> = plain.iter().flat_map(|name| [name.clone(), format!("{name}.gz")]).collect();
    files::find(folder, "raw", &names)
}

fn read_labels(file: &Path) -> Result<Vec<u8>, DataError> {
    parse_labels(&files::read(file, files::MOST_DATA)?).map_err(|problem| content(file, problem))
}
