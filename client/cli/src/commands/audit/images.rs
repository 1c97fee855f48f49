//! Training records as they are, as they were split, and as the accelerator saw them, side by side.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use data::{Images, Split};
use image::{ImageFormat, Rgb, RgbImage};
use wire::accelerator::RecordSet;
use wire::owner::{Event, Pictures, Request};

use super::super::{answer, opened};
use crate::config::Loaded;
use crate::prepare;
use crate::run_dir::RunDir;
use crate::session::{Session, unexpected};

/// Name of the picture.
const FILE: &str = "audit-images.png";
/// Smallest side of a panel, in pixels.
const PANEL: usize = 128;
/// Pixels between panels, and around them.
const GAP: usize = 6;
const COLUMNS: usize = 4;
/// Neither grey nor black nor white, so that no panel looks like it.
const BACKGROUND: Rgb<u8> = Rgb([196, 208, 226]);

/// Writes the picture of the first `count` training records into `folder`; returns its path, and of how many records
/// nothing was released.
pub(super) fn draw(run: &RunDir, loaded: &Loaded, count: usize, folder: &Path) -> Result<(PathBuf, usize)> {
    let source = prepare::source(loaded)?;
    let images = data::load(&source, Split::Train)
        .with_context(|| format!("{}: the training records", loaded.file.display()))?;
    let (pictures, body) = ask(run, loaded, &images, count)?;
    let rows = rows(&images, &pictures, &body)?;
    let missing = rows.iter().filter(|row| row.seen.is_none()).count();
    Ok((write(&sheet(&rows), folder)?, missing))
}

/// Lets the trusted process show what it stored. Only the owner gets this.
fn ask(run: &RunDir, loaded: &Loaded, images: &Images, count: usize) -> Result<(Pictures, Vec<u8>)> {
    let mut session = Session::start()?;
    let accelerator = prepare::accelerator_spec(&loaded.config, None);
    session.send(&run.open_request(&loaded.config, accelerator), &[])?;
    opened(&mut session)?;
    session.send_records(RecordSet::Train, images)?;
    session.send(&Request::Pictures { count }, &[])?;
    let answer = match answer(&mut session)? {
        (Event::Pictures(pictures), body) => (pictures, body),
        (other, _) => return Err(unexpected("`pictures`", &other).into()),
    };
    session.close();
    Ok(answer)
}

/// One grey map, `[height, width]`.
struct Plane {
    size: [usize; 2],
    values: Vec<f32>,
}

/// One record.
struct Row {
    input: RgbImage,
    main: Plane,
    residual: Plane,
    /// `None` if nothing was released.
    seen: Option<Plane>,
}

fn rows(images: &Images, pictures: &Pictures, body: &[u8]) -> Result<Vec<Row>> {
    let Pictures { map, bits, released } = pictures;
    let (area, message) = (map[0] * map[1], bits.iter().product::<usize>().div_ceil(8));
    let sent = released.iter().filter(|sent| **sent).count();
    let maps = 8 * area * released.len();
    if body.len() != maps + message * sent || released.len() > images.len() {
        bail!("the trusted process answered with pictures of another size than it says");
    }
    let numbers = wire::body::to_f32(&body[..maps], 2 * area * released.len())?;
    let mut planes =
        numbers.chunks_exact(area.max(1)).map(|map_values| Plane { size: *map, values: map_values.to_vec() });
    let mut messages = body[maps..].chunks_exact(message.max(1));
    let mut rows = Vec::new();
    for (record, sent) in released.iter().enumerate() {
        let (Some(main), Some(residual)) = (planes.next(), planes.next()) else { break };
        let seen = if *sent { messages.next().map(|packed| bits_plane(*bits, packed)) } else { None };
        rows.push(Row { input: input(images, record), main, residual, seen });
    }
    Ok(rows)
}

/// Share of ones at each place, over the channels of the message. Packed as the mechanism packs: bit `i % 8` of byte
/// `i / 8`.
fn bits_plane([channels, height, width]: [usize; 3], packed: &[u8]) -> Plane {
    let area = height * width;
    let mut values = vec![0.0; area];
    for i in 0..channels * area {
        values[i % area] += f32::from(packed[i / 8] >> (i % 8) & 1) / channels as f32;
    }
    Plane { size: [height, width], values }
}

/// The image itself; of other than three channels, the first one in grey.
fn input(images: &Images, record: usize) -> RgbImage {
    let [channels, height, width] = images.shape;
    let area = height * width;
    let pixels = &images.pixels[record * channels * area..][..channels * area];
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = y as usize * width + x as usize;
        Rgb([0, 1, 2].map(|c| pixels[if channels == 3 { c * area + at } else { at }]))
    })
}

/// All rows, four panels each, every panel as large as the image enlarged a whole number of times.
fn sheet(rows: &[Row]) -> RgbImage {
    let size = rows.first().map_or([1, 1], |row| [row.input.width() as usize, row.input.height() as usize]);
    let times = PANEL.div_ceil(size[0].min(size[1]).max(1));
    let [width, height] = size.map(|side| side * times);
    let total = |panels: usize, side: usize| (panels * (side + GAP) + GAP) as u32;
    let mut sheet = RgbImage::from_pixel(total(COLUMNS, width), total(rows.len(), height), BACKGROUND);
    for (i, row) in rows.iter().enumerate() {
        let panels = [
            Some(row.input.clone()),
            Some(grey(&row.main)),
            Some(grey(&row.residual)),
            row.seen.as_ref().map(grey),
        ];
        for (j, panel) in panels.iter().enumerate() {
            let Some(panel) = panel else { continue };
            let enlarged = enlarge(panel, width as u32, height as u32);
            let at = |n: usize, side: usize| (GAP + n * (side + GAP)) as i64;
            image::imageops::replace(&mut sheet, &enlarged, at(j, width), at(i, height));
        }
    }
    sheet
}

/// The plane in grey: its smallest value black, its largest white; of one value only, middle grey.
fn grey(plane: &Plane) -> RgbImage {
    let Plane { size: [height, width], values } = plane;
    let (low, high) =
        values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    let shade =
        |value: f32| if high > low { ((value - low) / (high - low) * 255.0).round() as u8 } else { 128 };
    RgbImage::from_fn(*width as u32, *height as u32, |x, y| {
        Rgb([shade(values[y as usize * width + x as usize]); 3])
    })
}

/// Nearest neighbour.
fn enlarge(panel: &RgbImage, width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        *panel.get_pixel(x * panel.width() / width, y * panel.height() / height)
    })
}

/// Writes in one step, readable by its owner alone.
fn write(sheet: &RgbImage, folder: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(folder.join(FILE)).with_context(|| format!("{}", folder.display()))?;
    let store = || -> Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        sheet.write_to(&mut file, ImageFormat::Png)?;
        file.persist(&path)?;
        Ok(())
    };
    store().with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Images {
        Images {
            shape: [3, 2, 4],
            pixels: (0..48).collect(),
            labels: vec![0, 1],
            classes: vec!["a".into(), "b".into()],
        }
    }

    #[test]
    fn answers_are_read_as_the_trusted_process_wrote_them() {
        let pictures = Pictures { map: [1, 2], bits: [2, 1, 3], released: vec![false, true] };
        let mut body = wire::body::from_f32(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        body.push(0b0010_1001);
        let rows = rows(&images(), &pictures, &body).unwrap();
        assert_eq!(
            (rows[0].main.values.as_slice(), rows[0].residual.values.as_slice()),
            (&[1.0, 2.0][..], &[3.0, 4.0][..])
        );
        assert_eq!(rows[1].residual.values, [7.0, 8.0]);
        assert!(rows[0].seen.is_none());
        assert_eq!(rows[1].seen.as_ref().unwrap().values, [1.0, 0.0, 0.5]);
        assert_eq!(rows[1].input.get_pixel(1, 1).0, [29, 37, 45]);
        body.pop();
        assert!(super::rows(&images(), &pictures, &body).is_err());
    }

    #[test]
    fn panels_are_enlarged_and_what_is_missing_stays_empty() {
        let plane = |values: &[f32]| Plane { size: [1, 2], values: values.to_vec() };
        let row = Row {
            input: RgbImage::from_pixel(4, 2, Rgb([9, 8, 7])),
            main: plane(&[-1.0, 3.0]),
            residual: plane(&[2.0, 2.0]),
            seen: None,
        };
        let sheet = sheet(&[row]);
        assert_eq!(sheet.dimensions(), (4 * 256 + 5 * 6, 128 + 2 * 6));
        let at = |panel: u32, x: u32| sheet.get_pixel(6 + panel * 262 + x, 70).0;
        assert_eq!(
            [at(0, 0), at(1, 127), at(1, 128), at(2, 0), at(3, 0)],
            [[9, 8, 7], [0; 3], [255; 3], [128; 3], BACKGROUND.0]
        );
        assert_eq!(*sheet.get_pixel(3, 70), BACKGROUND);
    }
}
