//! One picture from its file: bounded, converted, resized and cropped as torchvision's `Resize` and `CenterCrop` do.

use std::io::Cursor;
use std::path::Path;

use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::files::{self, content};
use crate::{ContentError, DataError};

/// The largest `resize` or `crop`.
pub(crate) const MAX_SIDE: usize = 4096;
const MOST_BYTES: u64 = 256 << 20;
const MOST_PIXELS: u64 = 100_000_000;

/// One JPEG or PNG file as the input of a model.
///
/// The shorter side is scaled to `resize` pixels (or as many as the crop needs, if those are more, and by default),
/// with a triangle filter, then height and width are cut from the centre. Grey, palette, alpha and 16-bit pictures
/// become 8-bit RGB, or 8-bit grey for a model of one channel; transparency is dropped, and EXIF orientation is not
/// applied.
///
/// - Shapes: `shape` is channels (1 or 3), height, width; the result has that shape
///
/// # Errors
/// [`DataError::Setting`] for another number of channels or an absurd size, [`DataError::Read`], [`DataError::Decode`],
/// or [`DataError::Content`] for a file or picture too large, or a JPEG file without its end.
pub fn decode_image(path: &Path, shape: [usize; 3], resize: Option<usize>) -> Result<Vec<u8>, DataError> {
    let [channels, height, width] = shape;
    let sides = 1..=MAX_SIDE;
    if ![1, 3].contains(&channels) || !sides.contains(&height) || !sides.contains(&width) {
        let problem =
            format!("{shape:?}: pictures become 1 or 3 channels of 1 to {MAX_SIDE} rows and columns");
        return Err(DataError::Setting { key: "input shape", problem });
    }
    if let Some(resize) = resize.filter(|resize| !sides.contains(resize)) {
        return Err(DataError::Setting {
            key: "resize",
            problem: format!("{resize} is not from 1 to {MAX_SIDE}"),
        });
    }
    let picture = decode(path)?;
    let picture = if channels == 1 {
        DynamicImage::ImageLuma8(picture.into_luma8())
    } else {
        DynamicImage::ImageRgb8(picture.into_rgb8())
    };
    let picture = fit(picture, path, [height, width], resize.unwrap_or(1))?;
    Ok(planes(picture.as_bytes(), channels))
}

fn decode(path: &Path) -> Result<DynamicImage, DataError> {
    let bytes = files::read(path, MOST_BYTES)?;
    let fault = |reason| DataError::Decode { file: path.to_owned(), reason };
    let reader = ImageReader::new(Cursor::new(&bytes));
    let reader = reader.with_guessed_format().expect("reading from memory cannot fail");
    let format = reader.format();
    let mut decoder = reader.into_decoder().map_err(fault)?;
    check_pixels(path, decoder.dimensions())?;
    if format == Some(ImageFormat::Jpeg) && !jpeg_is_finished(&bytes) {
        return Err(content(path, ContentError::Unfinished));
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(8 * MOST_PIXELS);
    decoder.set_limits(limits).map_err(fault)?;
    DynamicImage::from_decoder(decoder).map_err(fault)
}

fn check_pixels(path: &Path, (width, height): (u32, u32)) -> Result<(), DataError> {
    if (1..=MOST_PIXELS).contains(&(u64::from(width) * u64::from(height))) {
        return Ok(());
    }
    Err(content(path, ContentError::Picture { width, height, most: MOST_PIXELS }))
}

/// Whether the data goes on to the end marker. The decoder does not mind where it stops: it fills in grey.
///
/// Source: ITU-T T.81, B.1.1: a marker is `FF` and a byte other than 0; but for a few, a segment with its length follows;
/// in scan data `FF` stands only before 0 and restart markers.
fn jpeg_is_finished(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[prefix, marker]) = bytes.get(at..at + 2) {
        at += match (prefix, marker) {
            (0xff, 0xd9) => return true,
            (0xff, 0 | 1 | 0xd0..=0xd8) => 2,
            (0xff, 0xff) => 1,
            (0xff, _) => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
            _ => 1,
        };
    }
    false
}

/// Scales the shorter side to `resize`, or more where `crop` (height, width) needs it, and cuts `crop` from the centre.
fn fit(
    picture: DynamicImage,
    path: &Path,
    crop: [usize; 2],
    resize: usize,
) -> Result<DynamicImage, DataError> {
    let [crop_height, crop_width] = crop.map(|side| side as u64);
    let (width, height) = (u64::from(picture.width()), u64::from(picture.height()));
    let shorter = width.min(height);
    // The smallest shorter side whose picture covers the crop.
    let cover = (crop_height * shorter).div_ceil(height).max((crop_width * shorter).div_ceil(width));
    let to = cover.max(resize as u64);
    let (new_width, new_height) = (width * to / shorter, height * to / shorter);
    let size = (u32::try_from(new_width).unwrap_or(u32::MAX), u32::try_from(new_height).unwrap_or(u32::MAX));
    check_pixels(path, size)?;
    let picture = if (width, height) == (new_width, new_height) {
        picture
    } else {
        picture.resize_exact(size.0, size.1, FilterType::Triangle)
    };
    let (left, top) = (margin(new_width, crop_width), margin(new_height, crop_height));
    Ok(picture.crop_imm(left, top, crop[1] as u32, crop[0] as u32))
}

/// Half of what is left over, rounded half to even.
fn margin(side: u64, crop: u64) -> u32 {
    let left_over = side - crop;
    (left_over / 2 + u64::from(left_over % 4 == 3)) as u32
}

/// `[H, W, C]` to `[C, H, W]`.
fn planes(pixels: &[u8], channels: usize) -> Vec<u8> {
    (0..channels).flat_map(|c| pixels.iter().skip(c).step_by(channels).copied()).collect()
}
