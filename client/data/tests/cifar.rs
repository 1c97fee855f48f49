//! CIFAR-10 and CIFAR-100: small generated files, and faults put into them.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::fs;
use std::path::Path;

use asymflow_data::cifar::{self, Variant};
use asymflow_data::{ContentError, DataError, Format, Source, Split, load};
use proptest::prelude::*;

const VARIANTS: [Variant; 2] = [Variant::Cifar10, Variant::Cifar100];

/// Records with these fine labels; pixel `i` of record `n` is `n + 7 i` modulo 256, the coarse label 19.
fn records(variant: Variant, labels: &[u8]) -> Vec<u8> {
    let record = |(n, &label): (usize, &u8)| {
        let head = if variant == Variant::Cifar10 { vec![label] } else { vec![19, label] };
        head.into_iter().chain((0..3072).map(move |i| (n + 7 * i) as u8)).collect::<Vec<u8>>()
    };
    labels.iter().enumerate().flat_map(record).collect()
}

fn cifar10(folder: &Path) -> Source {
    Source::new(Format::Cifar10, folder)
}

#[test]
fn records_are_split_into_pixels_and_labels() {
    for variant in VARIANTS {
        let bytes = records(variant, &[3, 9, 0]);
        let batch = cifar::parse(&bytes, variant, usize::MAX).unwrap();
        assert_eq!(batch.labels, [3, 9, 0]);
        let size = variant.record();
        for n in 0..3 {
            assert_eq!(
                batch.pixels[n * 3072..][..3072],
                bytes[n * size + size - 3072..][..3072],
                "{variant:?} {n}"
            );
        }
        let two = cifar::parse(&bytes, variant, 2).unwrap();
        assert_eq!((two.labels.len(), two.pixels.len()), (2, 2 * 3072));
    }
}

#[test]
fn every_truncation_is_an_error() {
    for variant in VARIANTS {
        let bytes = records(variant, &[1, 2]);
        let size = variant.record();
        for length in [0, 1, 2, size - 1, size + 1, 2 * size - 1] {
            let expected = ContentError::Records { found: length as u64, record: size };
            assert_eq!(
                cifar::parse(&bytes[..length], variant, usize::MAX),
                Err(expected),
                "{variant:?} {length}"
            );
        }
    }
}

#[test]
fn a_label_beyond_the_classes_is_an_error() {
    for (variant, at, label, classes) in
        [(Variant::Cifar10, 0, 10, 10), (Variant::Cifar100, 1, 100, 100), (Variant::Cifar100, 0, 20, 20)]
    {
        let mut bytes = records(variant, &[0; 18]);
        bytes[17 * variant.record() + at] = label;
        let expected = ContentError::Label { label: label.into(), classes, record: 17 };
        assert_eq!(cifar::parse(&bytes, variant, usize::MAX), Err(expected));
    }
}

#[test]
fn batches_follow_their_numbers_and_limits_cut_them() {
    let folder = tempfile::tempdir().unwrap();
    for (number, label) in [(10, 3), (2, 2), (1, 1)] {
        let bytes = records(Variant::Cifar10, &[label; 2]);
        fs::write(folder.path().join(format!("data_batch_{number}.bin")), bytes).unwrap();
    }
    fs::write(folder.path().join("data_batch_x.bin"), b"not a batch").unwrap();
    let mut source = cifar10(folder.path());
    let images = load(&source, Split::Train).unwrap();
    assert_eq!(images.labels, [1, 1, 2, 2, 3, 3]);
    assert_eq!((images.shape, images.classes.len(), images.classes[9].as_str()), ([3, 32, 32], 10, "9"));
    source.limit_train = Some(3);
    let images = load(&source, Split::Train).unwrap();
    assert_eq!((images.labels.as_slice(), images.pixels.len()), ([1, 1, 2].as_slice(), 3 * 3072));
}

#[test]
fn the_folder_of_the_official_archive_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("cifar-100-binary");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("train.bin"), records(Variant::Cifar100, &[99])).unwrap();
    let names: String = (0..100).map(|n| format!("name{n}\r\n")).collect();
    fs::write(inner.join("fine_label_names.txt"), names).unwrap();
    let images = load(&Source::new(Format::Cifar100, folder.path()), Split::Train).unwrap();
    assert_eq!((images.labels[0], images.classes[99].as_str()), (99, "name99"));
}

#[test]
fn errors_name_the_file_and_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let source = cifar10(folder.path());
    let fault = |split| load(&source, split).unwrap_err();
    assert!(matches!(fault(Split::Train), DataError::Missing { .. }));
    assert!(fault(Split::Test).to_string().ends_with("found none of test_batch.bin"));

    fs::write(folder.path().join("test_batch.bin"), [0; 1234]).unwrap();
    let text = fault(Split::Test).to_string();
    assert!(
        text.contains("test_batch.bin: file has 1234 bytes; a whole number of 3073-byte records"),
        "{text}"
    );

    fs::write(folder.path().join("test_batch.bin"), records(Variant::Cifar10, &[9, 10])).unwrap();
    let text = fault(Split::Test).to_string();
    assert!(text.ends_with("test_batch.bin: label 10 of 10 classes at record 1"), "{text}");

    fs::write(folder.path().join("test_batch.bin"), records(Variant::Cifar10, &[9])).unwrap();
    fs::write(folder.path().join("batches.meta.txt"), "one\ntwo\n\n").unwrap();
    let problem = ContentError::ClassNames { found: 2, expected: 10 };
    assert!(matches!(fault(Split::Test), DataError::Content { problem: p, .. } if p == problem));

    let nowhere = cifar10(&folder.path().join("nowhere"));
    assert!(matches!(load(&nowhere, Split::Train), Err(DataError::Read { .. })));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), records in 0usize..3, most in 0usize..4) {
        for variant in VARIANTS {
            let mut padded = bytes.clone();
            padded.resize(records * variant.record(), 200);
            let _ = cifar::parse(&padded, variant, most);
            let _ = cifar::parse(&bytes, variant, most);
        }
        let _ = cifar::parse_names(&bytes, 10);
    }
}
