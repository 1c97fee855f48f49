//! Flip and padded crop, drawn from public randomness by (epoch, step).

use serde::{Deserialize, Serialize};

use crate::random::{Purpose, Stream};

/// Which augmentations are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Augment {
    /// Mirror left and right with probability one half.
    pub flip: bool,
    /// Pad by this many pixels on each side and crop back at a uniform place; 0 is off.
    pub crop: u32,
}

/// What is done to one record: mirrored first, then moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draw {
    pub flip: bool,
    /// Pixel `(y, x)` of the result is `(y + dy, x + dx)` of the mirrored record, or padding.
    pub dy: i32,
    pub dx: i32,
}

impl Augment {
    /// One draw per record of a step, in batch order.
    pub fn draws(
        &self,
        seed: u64,
        epoch: usize,
        step: usize,
        count: usize,
    ) -> impl ExactSizeIterator<Item = Draw> + use<> {
        let (augment, mut stream) = (*self, Stream::new(seed, Purpose::Augment, epoch as u64, step as u64));
        (0..count).map(move |_| augment.draw(&mut stream))
    }

    /// What is done to a record for one of its views; view 0 is the record itself.
    pub fn view(&self, seed: u64, view: u32, record: usize) -> Draw {
        match view {
            0 => Draw::default(),
            _ => self.draw(&mut Stream::new(seed, Purpose::View, u64::from(view), record as u64)),
        }
    }

    fn draw(&self, stream: &mut Stream) -> Draw {
        // All three numbers are always drawn, so that switching one augmentation leaves the others as they were.
        let flip = stream.below(2) == 1;
        let mut shift = || stream.below(2 * self.crop + 1) as i32 - self.crop as i32;
        let (dy, dx) = (shift(), shift());
        Draw { flip: flip && self.flip, dy, dx }
    }
}

impl Draw {
    /// The same augmentation on a map whose side is `1/factor` of the image's, rounded to whole pixels.
    pub fn scaled(self, factor: usize) -> Draw {
        let scale = |d: i32| (d as f32 / factor.max(1) as f32).round() as i32;
        Draw { flip: self.flip, dy: scale(self.dy), dx: scale(self.dx) }
    }

    /// Writes the augmented record.
    ///
    /// - Shapes: `out` `[C, H, W]` = `shape`
    /// - `value(c, i)` is element `i` of the record, which lies in channel `c`; `padding(c)` is what lies outside
    pub fn apply<T: Copy>(
        self,
        shape: [usize; 3],
        value: impl Fn(usize, usize) -> T,
        padding: impl Fn(usize) -> T,
        out: &mut [T],
    ) {
        let [channels, height, width] = shape;
        for c in 0..channels {
            let outside = padding(c);
            for y in 0..height {
                let row_out = &mut out[(c * height + y) * width..][..width];
                let from = y as i64 + i64::from(self.dy);
                if from < 0 || from >= height as i64 {
                    row_out.fill(outside);
                    continue;
                }
                let row = (c * height + from as usize) * width;
                for (x, o) in row_out.iter_mut().enumerate() {
                    *o = match usize::try_from(x as i64 + i64::from(self.dx)) {
                        Ok(at) if at < width => value(c, row + if self.flip { width - 1 - at } else { at }),
                        _ => outside,
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUGMENT: Augment = Augment { flip: true, crop: 2 };

    fn apply(draw: Draw, source: &[u8]) -> Vec<f32> {
        let mut out = vec![f32::NAN; 6];
        draw.apply([1, 2, 3], |_, i| f32::from(source[i]), |_| -1.0, &mut out);
        out
    }

    #[test]
    fn identity_flip_and_shift() {
        let source = [1, 2, 3, 4, 5, 6];
        assert_eq!(apply(Draw::default(), &source), [1., 2., 3., 4., 5., 6.]);
        assert_eq!(apply(Draw { flip: true, dy: 0, dx: 0 }, &source), [3., 2., 1., 6., 5., 4.]);
        assert_eq!(apply(Draw { flip: false, dy: 1, dx: -1 }, &source), [-1., 4., 5., -1., -1., -1.]);
        assert_eq!(apply(Draw { flip: true, dy: 0, dx: 1 }, &source), [2., 1., -1., 5., 4., -1.]);
        assert_eq!(apply(Draw { flip: false, dy: 9, dx: 0 }, &source), [-1.; 6]);
    }

    #[test]
    fn draws_are_keyed_and_in_range() {
        let of_step = |step| AUGMENT.draws(1, 2, step, 1000).collect::<Vec<_>>();
        let draws = of_step(3);
        assert_eq!(draws, of_step(3));
        assert_ne!(draws, of_step(4));
        assert!(draws.iter().all(|d| d.dy.abs() <= 2 && d.dx.abs() <= 2));
        let flips = draws.iter().filter(|d| d.flip).count();
        assert!((400..600).contains(&flips));
        assert!(draws.iter().any(|d| d.dy == -2) && draws.iter().any(|d| d.dx == 2));
    }

    #[test]
    fn views_are_keyed_and_the_first_is_the_record_itself() {
        assert_eq!(AUGMENT.view(1, 0, 5), Draw::default());
        assert_eq!(AUGMENT.view(1, 3, 5), AUGMENT.view(1, 3, 5));
        let some = |f: &dyn Fn(usize) -> Draw| (0..40).map(f).collect::<Vec<_>>();
        assert_ne!(some(&|r| AUGMENT.view(1, 1, r)), some(&|r| AUGMENT.view(1, 2, r)));
        assert_ne!(some(&|r| AUGMENT.view(1, 1, r)), some(&|r| AUGMENT.view(2, 1, r)));
        assert_eq!(Augment::default().view(1, 9, 5), Draw::default());
    }

    #[test]
    fn switching_the_flip_off_keeps_the_shifts() {
        let without = Augment { flip: false, ..AUGMENT };
        let shifts = |a: Augment| a.draws(1, 0, 0, 50).map(|d| (d.dy, d.dx)).collect::<Vec<_>>();
        assert_eq!(shifts(AUGMENT), shifts(without));
        assert!(without.draws(1, 0, 0, 50).all(|d| !d.flip));
    }

    #[test]
    fn scaled_to_a_coarser_map() {
        let draw = Draw { flip: true, dy: 4, dx: -3 };
        assert_eq!(draw.scaled(4), Draw { flip: true, dy: 1, dx: -1 });
        assert_eq!(draw.scaled(1), draw);
    }
}
