//! Pictures and folders of them: generated files, and faults put into them.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::fs;
use std::path::{Path, PathBuf};

use asymflow_data::{ContentError, DataError, Format, Source, Split, decode_image, load};
use image::{DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba};
use proptest::prelude::*;
use tempfile::TempDir;

/// Red is 10 times the row, green 10 times the column, blue 99.
fn ramp(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([10 * y as u8, 10 * x as u8, 99]))
}

fn save(folder: &TempDir, name: &str, picture: impl Into<DynamicImage>) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    picture.into().save(&path).unwrap();
    path
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    ramp(24, 20).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn decode_bytes(bytes: &[u8]) -> Result<Vec<u8>, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture");
    fs::write(&path, bytes).unwrap();
    decode_image(&path, [3, 8, 8], Some(8))
}

#[test]
fn the_crop_is_from_the_centre_and_planar() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(&folder, "a.png", ramp(10, 7));
    let pixels = decode_image(&path, [3, 4, 4], Some(7)).unwrap();
    // Half of 7 - 4 rows is 1.5, to even 2; half of 10 - 4 columns is 3.
    let rows: Vec<u8> = (0..16).map(|i| 10 * (2 + i / 4)).collect();
    let columns: Vec<u8> = (0..16).map(|i| 10 * (3 + i % 4)).collect();
    assert_eq!(pixels, [rows, columns, vec![99; 16]].concat());
}

#[test]
fn halving_averages_and_keeps_ramps() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(&folder, "a.png", ramp(20, 20));
    let pixels = decode_image(&path, [3, 8, 8], Some(10)).unwrap();
    for (i, &red) in pixels[..64].iter().enumerate() {
        // Row r of the crop is row r + 1 of 10, between rows 2 r + 2 and 2 r + 3 of 20.
        let expected = 10.0 * (2.5 + 2.0 * (i / 8) as f32);
        assert!((f32::from(red) - expected).abs() <= 1.0, "{i}: {red} {expected}");
    }
}

#[test]
fn a_picture_too_small_for_the_crop_is_enlarged() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(&folder, "a.png", RgbImage::from_pixel(3, 5, Rgb([1, 2, 3])));
    for resize in [None, Some(2), Some(40)] {
        let pixels = decode_image(&path, [3, 9, 30], resize).unwrap();
        assert_eq!(pixels, [[1; 270], [2; 270], [3; 270]].concat(), "{resize:?}");
    }
}

#[test]
fn every_kind_of_pixel_becomes_the_channels_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let grey = save(&folder, "l8.png", GrayImage::from_pixel(2, 2, Luma([200])));
    let pictures: [(&str, DynamicImage); 4] = [
        ("l16.png", ImageBuffer::from_pixel(2, 2, Luma([200u16 * 257])).into()),
        ("la8.png", ImageBuffer::from_pixel(2, 2, LumaA([200u8, 0])).into()),
        ("rgb16.png", ImageBuffer::from_pixel(2, 2, Rgb([200u16 * 257; 3])).into()),
        ("rgba8.png", ImageBuffer::from_pixel(2, 2, Rgba([200u8, 200, 200, 7])).into()),
    ];
    for (name, picture) in pictures {
        let path = save(&folder, name, picture);
        assert_eq!(decode_image(&path, [3, 2, 2], None).unwrap(), [200; 12], "{name}");
        assert_eq!(decode_image(&path, [1, 2, 2], None).unwrap(), [200; 4], "{name}");
    }
    assert_eq!(decode_image(&grey, [3, 2, 2], None).unwrap(), [200; 12]);
    assert!(matches!(decode_image(&grey, [2, 2, 2], None), Err(DataError::Setting { .. })));
    assert!(matches!(decode_image(&grey, [3, 0, 2], None), Err(DataError::Setting { .. })));
    assert!(matches!(decode_image(&grey, [3, 2, 2], Some(0)), Err(DataError::Setting { key: "resize", .. })));
}

#[test]
fn the_content_tells_the_kind_not_the_name() {
    assert!(decode_bytes(&encoded(ImageFormat::Jpeg)).is_ok());
    assert!(decode_bytes(&encoded(ImageFormat::Png)).is_ok());
    for other in [b"GIF89a\x01\0\x01\0\0\0\0;".as_slice(), b"", b"text", b"BM"] {
        assert!(matches!(decode_bytes(other), Err(DataError::Decode { .. })), "{other:?}");
    }
}

#[test]
fn every_truncation_is_an_error() {
    for format in [ImageFormat::Jpeg, ImageFormat::Png] {
        let bytes = encoded(format);
        // The last chunk of PNG says nothing but that it is the last.
        let end = if format == ImageFormat::Png { bytes.len() - 12 } else { bytes.len() };
        for length in (0..end).step_by(3).chain([end - 2, end - 1]) {
            let fault =
                decode_bytes(&bytes[..length]).expect_err(&format!("{format:?} {length} of {}", bytes.len()));
            let unfinished = matches!(fault, DataError::Content { problem: ContentError::Unfinished, .. });
            assert!(unfinished || matches!(fault, DataError::Decode { .. }), "{fault}");
        }
    }
}

#[test]
fn a_changed_byte_of_a_png_is_an_error() {
    let bytes = encoded(ImageFormat::Png);
    for at in (0..bytes.len() - 12).step_by(5) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(decode_bytes(&changed).is_err(), "byte {at} of {}", bytes.len());
    }
}

#[test]
fn bytes_after_the_end_of_a_jpeg_are_fine() {
    let bytes = encoded(ImageFormat::Jpeg);
    assert_eq!(decode_bytes(&[bytes.clone(), vec![0; 100]].concat()).unwrap(), decode_bytes(&bytes).unwrap());
}

#[test]
fn a_decompression_bomb_is_not_decoded() {
    let mut png = encoded(ImageFormat::Png);
    png[16..24].copy_from_slice(&[0, 0, 0x80, 0, 0, 0, 0x80, 0]);
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let fault = decode_bytes(&png).unwrap_err();
    assert!(fault.to_string().contains("picture of 32768×32768"), "{fault}");

    let folder = tempfile::tempdir().unwrap();
    let thin = save(&folder, "thin.png", GrayImage::new(1, 10_000));
    let fault = decode_image(&thin, [3, 224, 224], None).unwrap_err();
    assert!(
        matches!(fault, DataError::Content { problem: ContentError::Picture { width: 224, .. }, .. }),
        "{fault}"
    );
}

#[test]
fn a_file_larger_than_a_picture_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.png");
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let fault = decode_image(&path, [3, 8, 8], None).unwrap_err();
    let expected = ContentError::TooLarge { found: 1 << 40, most: 256 << 20 };
    assert!(matches!(&fault, DataError::Content { problem, .. } if *problem == expected), "{fault}");
    let missing = decode_image(&folder.path().join("none.png"), [3, 8, 8], None);
    assert!(matches!(missing, Err(DataError::Read { .. })));
}

/// The checksum of PNG chunks, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), bit))
}

/// Two classes with 3 and 2 training pictures, one test picture each; all pixels of a picture are its number.
fn flowers() -> (TempDir, Source) {
    let folder = tempfile::tempdir().unwrap();
    let names = [
        "train/rose/b.png",
        "train/rose/a.PNG",
        "train/rose/c.jpeg",
        "train/lily/x.png",
        "train/lily/w.JPG",
        "val/rose/z.png",
        "val/lily/z.png",
    ];
    for (n, name) in names.into_iter().enumerate() {
        save(&folder, name, RgbImage::from_pixel(9, 12, Rgb([n as u8; 3])));
    }
    for extra in ["train/README.md", "train/rose/list.csv", "train/rose/.hidden.jpg", "train/.git"] {
        fs::write(folder.path().join(extra), "not a picture").unwrap();
    }
    let source = Source { crop: Some(7), ..Source::new(Format::ImageFolder, folder.path()) };
    (folder, source)
}

fn numbers(source: &Source, split: Split) -> Vec<u8> {
    let images = load(source, split).unwrap();
    (0..images.len()).map(|n| images.record(n)[0]).collect()
}

#[test]
fn classes_and_pictures_are_in_the_order_of_their_names() {
    let (_folder, source) = flowers();
    let train = load(&source, Split::Train).unwrap();
    assert_eq!((train.shape, train.labels.as_slice()), ([3, 7, 7], [0, 0, 1, 1, 1].as_slice()));
    assert_eq!(train.classes, ["lily", "rose"]);
    assert_eq!(numbers(&source, Split::Train), [4, 3, 1, 0, 2]);
    assert_eq!(numbers(&source, Split::Test), [6, 5]);
}

#[test]
fn a_limit_takes_from_all_classes() {
    let (_folder, mut source) = flowers();
    for (limit, expected) in [(1, vec![4]), (2, vec![4, 1]), (3, vec![4, 3, 1]), (4, vec![4, 3, 1, 0])] {
        source.limit_train = Some(limit);
        assert_eq!(numbers(&source, Split::Train), expected);
    }
    source.limit_train = Some(0);
    assert!(matches!(load(&source, Split::Train), Err(DataError::Setting { key: "limit_train", .. })));
}

#[test]
fn test_pictures_may_lie_in_test() {
    let (folder, source) = flowers();
    fs::rename(folder.path().join("val"), folder.path().join("test")).unwrap();
    assert_eq!(numbers(&source, Split::Test), [6, 5]);
}

#[test]
fn the_first_broken_picture_is_named() {
    let (folder, source) = flowers();
    for name in ["train/rose/b.png", "train/rose/c.jpeg"] {
        fs::write(folder.path().join(name), b"\xff\xd8\xffbroken").unwrap();
    }
    for _ in 0..10 {
        let text = load(&source, Split::Train).unwrap_err().to_string();
        assert!(text.contains("rose/b.png"), "{text}");
    }
    fs::rename(folder.path().join("train/rose/b.png"), folder.path().join("train/rose/b.webp")).unwrap();
    let text = load(&source, Split::Train).unwrap_err().to_string();
    assert!(text.contains("rose/b.webp") && text.contains("JPEG and PNG are read"), "{text}");
}

#[test]
fn other_layouts_are_errors_that_say_what_is_expected() {
    let layout = |change: &dyn Fn(&Path), split, problem: &str| {
        let (folder, source) = flowers();
        change(folder.path());
        let fault = load(&source, split).unwrap_err();
        assert!(matches!(fault, DataError::Layout { .. }), "{fault}");
        let text = fault.to_string();
        assert!(text.contains(problem) && text.contains("expected train/CLASS/IMAGE"), "{text}");
    };
    let remove = |name: &'static str| move |folder: &Path| fs::remove_dir_all(folder.join(name)).unwrap();
    layout(&remove("train"), Split::Train, "no folder train/ in it");
    layout(&remove("val"), Split::Test, "no folder val/ or test/ in it");
    let empty = |folder: &Path| fs::create_dir(folder.join("train/iris")).unwrap();
    layout(&empty, Split::Train, "no pictures of class `iris`");
    let nested = |folder: &Path| fs::create_dir(folder.join("train/rose/red")).unwrap();
    layout(&nested, Split::Train, "holds pictures, not folders such as red");
    let stray = |folder: &Path| fs::write(folder.join("train/stray.jpg"), "").unwrap();
    layout(&stray, Split::Train, "picture stray.jpg is in no class folder");
    let classless = |folder: &Path| {
        fs::remove_dir_all(folder.join("val")).unwrap();
        fs::create_dir(folder.join("val")).unwrap();
    };
    layout(&classless, Split::Test, "no pictures in its class folders");
}

#[test]
fn a_test_class_without_training_pictures_is_an_error() {
    let (folder, source) = flowers();
    fs::rename(folder.path().join("val/rose"), folder.path().join("val/iris")).unwrap();
    let fault = load(&source, Split::Test).unwrap_err();
    assert!(matches!(&fault, DataError::UnknownClass { class, .. } if class == "iris"), "{fault}");
}

#[test]
fn sizes_have_defaults_and_bounds() {
    let sizes = |resize, crop| {
        let source = Source { resize, crop, ..Source::new(Format::ImageFolder, "") };
        source.resized().map(Option::unwrap).ok()
    };
    assert_eq!(sizes(None, None), Some(256));
    assert_eq!(sizes(None, Some(112)), Some(128));
    assert_eq!(sizes(Some(64), None), Some(64));
    assert_eq!(sizes(Some(60), Some(64)), None);
    assert_eq!(sizes(None, Some(0)), None);
    assert_eq!(sizes(Some(1), None), Some(1));
    assert_eq!(sizes(Some(usize::MAX), Some(usize::MAX)), None);
    let fixed = Source { crop: Some(16), ..Source::new(Format::Cifar10, "") };
    assert!(matches!(load(&fixed, Split::Train), Err(DataError::Setting { key: "crop", .. })));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..600, jpeg in any::<bool>()) {
        let _ = decode_bytes(&bytes);
        let mut picture = encoded(if jpeg { ImageFormat::Jpeg } else { ImageFormat::Png });
        let at = at.min(picture.len());
        let end = (at + bytes.len() / 20).min(picture.len());
        picture.splice(at..end, bytes[..bytes.len() / 20].iter().copied());
        let _ = decode_bytes(&picture);
    }
}
