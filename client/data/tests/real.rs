//! The real data sets beside the checkout. Expected values: NumPy 2.4 on the files' bytes, and Pillow 13.0 with
//! `resize((256 on the shorter side), BILINEAR)` and the centre 224×224.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::path::Path;

use asymflow_data::{Format, Images, Source, Split, decode_image, load};

fn histogram(images: &Images) -> Vec<usize> {
    let mut counts = vec![0; images.classes.len()];
    images.labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
    counts
}

fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let close = found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= tolerance);
    assert!(close, "{what}: {found:?}, expected {expected:?} ± {tolerance}");
}

fn assert_mean_std(images: &Images, mean: &[f32], std: &[f32], tolerance: f32) {
    let found = images.mean_std();
    assert_close("mean", &found.0, mean, tolerance);
    assert_close("deviation", &found.1, std, tolerance);
}

/// Values of all channels of record `n` at a place.
fn pixel(images: &Images, n: usize, row: usize, column: usize) -> Vec<u8> {
    let [_, height, width] = images.shape;
    images.record(n).chunks(height * width).map(|plane| plane[row * width + column]).collect()
}

#[test]
fn vectors_data_mnist() {
    let Some(folder) = vectors::data("mnist") else { return };
    let source = Source::new(Format::Idx, folder);
    let train = load(&source, Split::Train).unwrap();
    assert_eq!((train.len(), train.shape), (60_000, [1, 28, 28]));
    assert_eq!(train.classes, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!((&train.labels[..5], train.labels[59_999]), ([5, 0, 4, 1, 9].as_slice(), 8));
    assert_eq!(histogram(&train), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);
    assert_eq!(train.record(0).iter().map(|&x| u32::from(x)).sum::<u32>(), 27_525);
    assert_mean_std(&train, &[0.130_660_5], &[0.308_107_8], 1e-6);
    let test = load(&source, Split::Test).unwrap();
    assert_eq!((test.len(), &test.classes), (10_000, &train.classes));
    assert_eq!((&test.labels[..5], test.labels[9_999]), ([7, 2, 1, 0, 4].as_slice(), 6));
    assert_eq!(histogram(&test), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]);
    assert_mean_std(&test, &[0.132_514_6], &[0.310_480_2], 1e-6);
}

#[test]
fn vectors_data_cifar10() {
    let Some(folder) = vectors::data("cifar10-subset") else { return };
    let source = Source::new(Format::Cifar10, folder);
    let train = load(&source, Split::Train).unwrap();
    assert_eq!((train.len(), train.shape, histogram(&train)), (10_000, [3, 32, 32], vec![1000; 10]));
    assert_eq!((train.classes[0].as_str(), train.classes[9].as_str()), ("airplane", "truck"));
    assert_eq!(train.labels[..6], [7, 9, 4, 6, 1, 7]);
    assert_eq!(
        (pixel(&train, 0, 0, 0), pixel(&train, 9_999, 31, 31)),
        (vec![255, 255, 246], vec![83, 83, 59])
    );
    assert_mean_std(&train, &[0.493_403, 0.483_115, 0.447_049], &[0.246_036, 0.244_056, 0.261_567], 2e-6);
    let test = load(&source, Split::Test).unwrap();
    assert_eq!((test.len(), histogram(&test), &test.classes), (2_000, vec![200; 10], &train.classes));
    assert_eq!(test.labels[..6], [7, 3, 2, 1, 2, 9]);
    assert_mean_std(&test, &[0.497_123, 0.488_069, 0.454_934], &[0.245_072, 0.241_690, 0.261_183], 2e-6);
}

#[test]
fn vectors_data_cifar100() {
    let Some(folder) = vectors::data("cifar100-format-fixture") else { return };
    let source = Source::new(Format::Cifar100, folder);
    let train = load(&source, Split::Train).unwrap();
    assert_eq!((train.len(), train.shape, histogram(&train)), (400, [3, 32, 32], vec![4; 100]));
    assert_eq!((&train.labels[..6], train.classes[99].as_str()), ([47, 70, 60, 92, 94, 8].as_slice(), "99"));
    assert_eq!((pixel(&train, 0, 0, 0), pixel(&train, 399, 31, 31)), (vec![255, 255, 246], vec![70, 64, 64]));
    let test = load(&source, Split::Test).unwrap();
    assert_eq!((test.len(), histogram(&test)), (100, vec![1; 100]));
    assert_eq!(
        (&test.labels[..6], pixel(&test, 99, 31, 31)),
        ([29, 79, 58, 30, 27, 8].as_slice(), vec![0, 9, 34])
    );
}

#[test]
fn vectors_data_flowers() {
    let Some(folder) = vectors::data("flowers-imagefolder") else { return };
    let source = Source::new(Format::ImageFolder, folder);
    let train = load(&source, Split::Train).unwrap();
    assert_eq!((train.len(), train.shape, histogram(&train)), (50, [3, 224, 224], vec![10; 5]));
    assert_eq!(train.classes, ["daisy", "dandelion", "roses", "sunflowers", "tulips"]);
    assert!(train.labels.is_sorted());
    // JPEG decoders differ in rounding and in how they enlarge colour.
    assert_mean_std(&train, &[0.505_123, 0.427_292, 0.334_958], &[0.291_146, 0.275_791, 0.307_301], 2e-3);
    let test = load(&source, Split::Test).unwrap();
    assert_eq!((test.len(), histogram(&test), &test.classes), (15, vec![3; 5], &train.classes));
    assert_mean_std(&test, &[0.466_937, 0.399_934, 0.274_489], &[0.302_589, 0.276_776, 0.275_564], 2e-3);
}

/// Means of the channels, and pixels at rows and columns (0, 0), (100, 50), (223, 223).
type Photo = (&'static str, [f32; 3], [[u8; 3]; 3]);

const PHOTOS: [Photo; 4] = [
    ("cat/chelsea.png", [146.433, 105.747, 73.704], [[170, 132, 109], [81, 58, 23], [193, 168, 148]]),
    ("coffee/coffee.png", [155.111, 79.449, 49.186], [[158, 63, 24], [106, 16, 6], [152, 82, 43]]),
    ("person/astronaut.png", [147.140, 108.278, 96.539], [[24, 10, 54], [150, 127, 115], [0, 0, 0]]),
    ("rocket/rocket.jpg", [58.983, 69.378, 93.600], [[25, 40, 71], [52, 72, 109], [28, 30, 43]]),
];

#[test]
fn vectors_data_photos() {
    let Some(folder) = vectors::data("photos-cc0") else { return };
    for (name, means, places) in PHOTOS {
        // What the filters round differently, and of JPEG what the decoders do.
        let (mean_tolerance, tolerance) = if name.ends_with("png") { (0.2, 1) } else { (0.5, 3) };
        let planes = decode_image(&folder.join(Path::new(name)), [3, 224, 224], Some(256)).unwrap();
        for (c, plane) in planes.chunks(224 * 224).enumerate() {
            let mean = plane.iter().map(|&x| u64::from(x)).sum::<u64>() as f32 / plane.len() as f32;
            assert_close(name, &[mean], &means[c..=c], mean_tolerance);
            for (at, expected) in [0, 100 * 224 + 50, 223 * 224 + 223].into_iter().zip(places) {
                assert!(
                    plane[at].abs_diff(expected[c]) <= tolerance,
                    "{name} {c} {at}: {} {expected:?}",
                    plane[at]
                );
            }
        }
    }
}
