//! IDX: small generated files, plain and gzip, and faults put into them.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::fs;
use std::io::Write;
use std::path::Path;

use asymflow_data::idx::{parse_images, parse_labels};
use asymflow_data::{ContentError, DataError, Format, Source, Split, load};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

fn header(magic: u32, dims: &[u32]) -> Vec<u8> {
    std::iter::once(&magic).chain(dims).flat_map(|word| word.to_be_bytes()).collect()
}

fn images(count: u32, height: u32, width: u32) -> Vec<u8> {
    let mut bytes = header(0x803, &[count, height, width]);
    bytes.extend((0..count * height * width).map(|i| (3 * i) as u8));
    bytes
}

fn labels(labels: &[u8]) -> Vec<u8> {
    [header(0x801, &[labels.len() as u32]), labels.to_vec()].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    fs::write(folder.join(name), bytes).unwrap();
}

#[test]
fn plain_and_gzip_give_the_same() {
    let bytes = images(2, 3, 4);
    let plain = parse_images(&bytes).unwrap();
    assert_eq!((plain.count, plain.size), (2, [3, 4]));
    assert_eq!(plain.pixels, bytes[16..]);
    assert_eq!(parse_images(&gzip(&bytes)).unwrap(), plain);
    assert_eq!(parse_labels(&labels(&[5, 0, 4])).unwrap(), [5, 0, 4]);
    assert_eq!(parse_labels(&gzip(&labels(&[5, 0, 4]))).unwrap(), [5, 0, 4]);
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = images(2, 3, 4);
    for length in 0..bytes.len() {
        let expected = if length < 16 { 16 } else { bytes.len() as u64 };
        let fault = parse_images(&bytes[..length]).unwrap_err();
        match fault {
            ContentError::Length { expected: e, .. } => assert_eq!(e, expected, "{length}"),
            other => panic!("{length}: {other:?}"),
        }
    }
    let bytes = gzip(&bytes);
    for length in 2..bytes.len() {
        let fault = parse_images(&bytes[..length]).unwrap_err();
        assert!(matches!(fault, ContentError::Gzip { .. }), "{length} of {}: {fault:?}", bytes.len());
    }
}

#[test]
fn bytes_after_the_end_are_an_error() {
    let mut long = images(2, 3, 4);
    long.push(0);
    assert_eq!(parse_images(&long), Err(ContentError::Length { found: 41, expected: 40 }));
    assert_eq!(parse_images(&gzip(&long)), Err(ContentError::Length { found: 41, expected: 40 }));
    let garbage = [gzip(&images(2, 3, 4)), vec![1, 2, 3]].concat();
    assert!(matches!(parse_images(&garbage), Err(ContentError::Gzip { .. })));
}

#[test]
fn a_damaged_gzip_trailer_is_an_error() {
    let good = gzip(&images(2, 3, 4));
    for from_end in 1..=8 {
        let mut bytes = good.clone();
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        assert!(matches!(parse_images(&bytes), Err(ContentError::Gzip { .. })), "{from_end} from the end");
    }
}

#[test]
fn another_kind_of_file_is_an_error() {
    let fault = parse_images(&labels(&[1; 20])).unwrap_err();
    assert_eq!(fault.to_string(), "starts with 0x00000801; 0x00000803 (an IDX file of images) is expected");
    assert!(matches!(parse_labels(&images(1, 2, 2)), Err(ContentError::Magic { found: 0x803, .. })));
}

#[test]
fn headers_that_claim_too_much_allocate_nothing() {
    let huge = header(0x803, &[u32::MAX; 3]);
    assert!(matches!(parse_images(&huge), Err(ContentError::Dimensions { .. })));
    assert!(matches!(parse_images(&header(0x803, &[0, 28, 28])), Err(ContentError::Dimensions { .. })));
    let large = header(0x803, &[1 << 18, 64, 64]);
    assert!(
        matches!(parse_images(&large), Err(ContentError::Length { expected, .. }) if expected == (1 << 30) + 16)
    );
    assert_eq!(
        parse_images(&gzip(&large)),
        Err(ContentError::Length { found: 16, expected: (1 << 30) + 16 })
    );
}

#[test]
fn a_gzip_bomb_stops_after_the_stated_length() {
    let bomb = gzip(&[images(1, 2, 2), vec![0; 50 << 20]].concat());
    assert_eq!(parse_images(&bomb), Err(ContentError::Length { found: 21, expected: 20 }));
}

#[test]
fn classes_are_those_of_the_training_labels() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::new(Format::Idx, folder.path());
    write(folder.path(), "train-images-idx3-ubyte", &images(3, 2, 5));
    write(folder.path(), "train-labels.idx1-ubyte.gz", &gzip(&labels(&[0, 11, 2])));
    write(folder.path(), "t10k-images-idx3-ubyte.gz", &images(2, 2, 5));
    write(folder.path(), "t10k-labels-idx1-ubyte", &labels(&[3, 3]));
    let train = load(&source, Split::Train).unwrap();
    assert_eq!((train.shape, train.labels.as_slice()), ([1, 2, 5], [0, 11, 2].as_slice()));
    assert_eq!(train.record(2), &images(3, 2, 5)[16 + 20..]);
    let test = load(&source, Split::Test).unwrap();
    assert_eq!((train.classes.len(), &train.classes), (12, &test.classes));
    let one = load(&Source { limit_test: Some(1), ..source.clone() }, Split::Test).unwrap();
    assert_eq!((one.len(), one.pixels.len()), (1, 10));

    write(folder.path(), "t10k-labels-idx1-ubyte", &labels(&[3, 12]));
    let text = load(&source, Split::Test).unwrap_err().to_string();
    assert!(text.ends_with("t10k-labels-idx1-ubyte: label 12 of 12 classes at record 1"), "{text}");
}

#[test]
fn images_and_labels_must_be_as_many() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::new(Format::Idx, folder.path());
    write(folder.path(), "train-images-idx3-ubyte", &images(3, 2, 2));
    let text = load(&source, Split::Train).unwrap_err().to_string();
    assert!(text.contains("train-labels-idx1-ubyte, train-labels-idx1-ubyte.gz"), "{text}");
    write(folder.path(), "train-labels-idx1-ubyte", &labels(&[0; 4]));
    let fault = load(&source, Split::Train).unwrap_err();
    assert!(matches!(fault, DataError::Count { images: 3, labels: 4, .. }), "{fault}");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), rank in 1usize..4) {
        let _ = (parse_images(&bytes), parse_labels(&bytes));
        let _ = (parse_images(&gzip(&bytes)), parse_labels(&gzip(&bytes)));
        let headed = [&header(0x800 + rank as u32, &[]), &bytes[..]].concat();
        let _ = (parse_images(&headed), parse_labels(&headed), parse_images(&gzip(&headed)));
        let zipped = [&[0x1f, 0x8b, 8, 0][..], &bytes].concat();
        let _ = (parse_images(&zipped), parse_labels(&zipped));
    }

    #[test]
    fn what_parses_has_its_stated_size(dims in proptest::array::uniform3(0u32..5), length in 0usize..70) {
        let bytes = [header(0x803, &dims), vec![7; length]].concat();
        let size = dims.iter().product::<u32>() as usize;
        let parsed = parse_images(&bytes);
        prop_assert_eq!(parsed.is_ok(), size == length && size > 0);
        if let Ok(images) = parsed {
            prop_assert_eq!(images.pixels.len(), images.count * images.size[0] * images.size[1]);
        }
    }
}
