//! A colour data set drawn from a seed: ten classes of shapes and textures, 3×32×32.
//!
//! Place, size, rotation (up to 29°), colours, a gradient, specks and noise are random, so that neither one pixel nor
//! colour tells the class: a linear model of the pixels fails, a small convolutional network does not. Record `n` of a split
//! depends on seed, split and `n` alone. Only integer arithmetic and `+ − × ÷ √ ⌊⌋` of IEEE floats are used: the same
//! bytes on every machine.

mod draw;
mod shape;

use draw::Draw;
use shape::Shape;

use crate::{DataError, Images, Source, Split, files};

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;

type Colour = [f32; 3];

pub(crate) fn load(source: &Source, split: Split, limit: usize) -> Result<Images, DataError> {
    let (records, stream) = match split {
        Split::Train => (source.records.0, 1),
        Split::Test => (source.records.1, 2),
    };
    if records == 0 {
        return Err(DataError::Setting { key: "records", problem: "each split needs at least one".into() });
    }
    let count = records.min(limit);
    let mut pixels = files::reserve(count, PIXELS)?;
    for (n, record) in pixels.chunks_exact_mut(PIXELS).enumerate() {
        draw_record(
            &mut Draw::new([source.seed, stream, n as u64]),
            Shape::ALL[n % Shape::ALL.len()],
            record,
        );
    }
    let labels = (0..count).map(|n| (n % Shape::ALL.len()) as u16).collect();
    let classes = Shape::ALL.iter().map(|shape| shape.name().to_owned()).collect();
    Ok(Images { shape: [3, SIDE, SIDE], pixels, labels, classes })
}

fn draw_record(draw: &mut Draw, shape: Shape, record: &mut [u8]) {
    let background = colour(draw);
    let mut canvas = gradient(draw, background);
    for _ in 0..3 {
        speck(draw, &mut canvas);
    }
    let ink = contrasting(draw, background);
    let distance = shape.place(draw);
    paint(&mut canvas, ink, distance);
    speck(draw, &mut canvas);
    let noise = draw.between(4.0, 26.0);
    for (at, value) in record.iter_mut().enumerate() {
        let clean = canvas[at % (SIDE * SIDE)][at / (SIDE * SIDE)];
        let noisy = clean + noise * (draw.unit() - draw.unit());
        *value = noisy.clamp(0.0, 255.0).round() as u8;
    }
}

/// Lays `ink` where the signed distance to the shape's edge, in pixels, is negative, softly over one pixel.
fn paint(canvas: &mut [Colour], ink: Colour, distance: impl Fn([f32; 2]) -> f32) {
    for (at, pixel) in canvas.iter_mut().enumerate() {
        let centre = [(at % SIDE) as f32 + 0.5, (at / SIDE) as f32 + 0.5];
        let cover = (0.5 - distance(centre)).clamp(0.0, 1.0);
        for (value, ink) in pixel.iter_mut().zip(ink) {
            *value += cover * (ink - *value);
        }
    }
}

fn gradient(draw: &mut Draw, base: Colour) -> Vec<Colour> {
    let slope = draw.direction();
    let change = [0; 3].map(|_| draw.between(-60.0, 60.0) / SIDE as f32);
    let pixel = |at: usize| {
        let (x, y) = ((at % SIDE) as f32 - 16.0, (at / SIDE) as f32 - 16.0);
        let along = x * slope[0] + y * slope[1];
        [0, 1, 2].map(|c| base[c] + change[c] * along)
    };
    (0..SIDE * SIDE).map(pixel).collect()
}

/// A small dot or dash that means nothing.
fn speck(draw: &mut Draw, canvas: &mut [Colour]) {
    let ink = colour(draw);
    let centre = [0; 2].map(|_| draw.between(0.0, SIDE as f32));
    let along = draw.direction();
    let half = [draw.between(0.7, 3.0), draw.between(0.6, 1.1)];
    paint(canvas, ink, |point| shape::block(shape::turned(point, centre, along), [0.0; 2], half));
}

fn colour(draw: &mut Draw) -> Colour {
    [0; 3].map(|_| draw.between(0.0, 255.0))
}

/// A colour that can be told from `other` through the noise.
fn contrasting(draw: &mut Draw, other: Colour) -> Colour {
    loop {
        let ink = colour(draw);
        let difference: f32 = ink.iter().zip(other).map(|(a, b)| (a - b).abs()).sum();
        if difference > 260.0 {
            return ink;
        }
    }
}
