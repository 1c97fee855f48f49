//! Writes the first records of a data set as one PNG, a row for each class:
//! `cargo run -p asymflow-data --example contact_sheet -- synthetic . sheet.png`

use std::error::Error;

use asymflow_data::{Format, Images, Source, Split, load};
use image::{Rgb, RgbImage};

const COLUMNS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [format, path, out] = &arguments[..] else {
        return Err("usage: contact_sheet FORMAT PATH OUT.png".into());
    };
    let images = load(&Source::new(format.parse::<Format>()?, path), Split::Train)?;
    let (mean, std) = images.mean_std();
    println!(
        "{} records of {:?}, {:?}; mean {mean:.4?}, std {std:.4?}",
        images.len(),
        images.shape,
        images.classes
    );
    sheet(&images).save(out)?;
    Ok(())
}

fn sheet(images: &Images) -> RgbImage {
    let [channels, height, width] = images.shape;
    let rows = images.classes.len().min(20);
    let mut sheet = RgbImage::new((COLUMNS * width) as u32, (rows * height) as u32);
    let mut filled = vec![0; images.classes.len()];
    for n in 0..images.len() {
        let class = usize::from(images.labels[n]);
        let column = filled[class];
        filled[class] += 1;
        if column >= COLUMNS || class >= rows {
            continue;
        }
        let record = images.record(n);
        for at in 0..height * width {
            let value = |c: usize| record[c.min(channels - 1) * height * width + at];
            let (x, y) = (column * width + at % width, class * height + at / width);
            sheet.put_pixel(x as u32, y as u32, Rgb([value(0), value(1), value(2)]));
        }
    }
    sheet
}
