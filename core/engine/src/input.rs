//! How one record's bytes become a model's input.

use serde::{Deserialize, Serialize};
use tensor::Shape;

use crate::Draw;

/// What the bytes of one record are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum InputForm {
    /// `C·H·W` bytes; channel `c` becomes `(x/255 − mean[c]) / std[c]`, outside is black.
    Pixels { shape: [usize; 3], mean: Vec<f32>, std: Vec<f32> },
    /// `⌈C·H·W/8⌉` bytes; bit i (least significant first) becomes ±1, outside is 0. Each number then covers
    /// `repeat`×`repeat` elements of the model's input, and the image's shifts are divided by `shift`.
    Bits { shape: [usize; 3], repeat: usize, shift: usize },
    /// `4·C·H·W` bytes: the model's input as little-endian `f32`; outside is 0.
    Numbers { shape: [usize; 3] },
}

/// An input form that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the input form is impossible: {0}")]
pub struct FormError(&'static str);

impl InputForm {
    /// Checks sizes and constants, as received from another process.
    ///
    /// # Errors
    /// [`FormError`] for absurd sizes or constants.
    pub fn check(&self) -> Result<(), FormError> {
        Shape::try_new(&self.shape()).map_err(|_| FormError("the record is too large"))?;
        match self {
            InputForm::Numbers { .. } => Ok(()),
            InputForm::Pixels { shape, mean, std } => {
                if mean.len() != shape[0] || std.len() != shape[0] {
                    return Err(FormError("mean and std must have one number per channel"));
                }
                let good =
                    mean.iter().all(|m| m.is_finite()) && std.iter().all(|s| s.is_finite() && *s > 0.0);
                if good { Ok(()) } else { Err(FormError("mean must be finite, std finite and positive")) }
            }
            InputForm::Bits { shape: [c, h, w], repeat, shift } => {
                let side = |n: &usize| n.checked_mul(*repeat);
                let larger = side(h).zip(side(w)).map(|(h, w)| Shape::try_new(&[*c, h, w]));
                match larger {
                    Some(Ok(_)) if *repeat > 0 && *shift > 0 => Ok(()),
                    _ => {
                        Err(FormError("repeat and shift must be at least 1 and the repeated record must fit"))
                    }
                }
            }
        }
    }

    /// Bytes of one record.
    pub fn message_len(&self) -> usize {
        match self {
            InputForm::Pixels { .. } => self.numbers(),
            InputForm::Bits { .. } => self.numbers().div_ceil(8),
            InputForm::Numbers { .. } => 4 * self.numbers(),
        }
    }

    /// Shape `[C, H, W]` of what one record's bytes hold.
    fn shape(&self) -> [usize; 3] {
        let (InputForm::Pixels { shape, .. } | InputForm::Bits { shape, .. } | InputForm::Numbers { shape }) =
            self;
        *shape
    }

    /// Numbers that one record's bytes hold.
    pub fn numbers(&self) -> usize {
        self.shape().iter().product()
    }

    /// Record shape `[C, H, W]` of the model's input.
    pub fn input_shape(&self) -> [usize; 3] {
        match *self {
            InputForm::Pixels { shape, .. } | InputForm::Numbers { shape } => shape,
            InputForm::Bits { shape: [c, h, w], repeat, .. } => [c, h * repeat, w * repeat],
        }
    }

    /// Writes the model's input for one record.
    ///
    /// - Shapes: `message` [`InputForm::message_len`] bytes, `out` [`InputForm::input_shape`]
    pub fn fill(&self, message: &[u8], draw: Draw, out: &mut [f32]) {
        match self {
            InputForm::Pixels { shape, mean, std } => {
                let normal = |c: usize, x: u8| (f32::from(x) / 255.0 - mean[c]) / std[c];
                draw.apply(*shape, |c, i| normal(c, message[i]), |c| normal(c, 0), out);
            }
            InputForm::Bits { shape, repeat, shift } => {
                let sign = |i: usize| if message[i / 8] >> (i % 8) & 1 == 1 { 1.0 } else { -1.0 };
                let [c, h, w] = *shape;
                let small = &mut out[..c * h * w];
                draw.scaled(*shift).apply(*shape, |_, i| sign(i), |_| 0.0, small);
                repeat_in_place(out, *shape, *repeat);
            }
            InputForm::Numbers { shape } => {
                let (words, _) = message.as_chunks::<4>();
                draw.apply(*shape, |_, i| f32::from_le_bytes(words[i]), |_| 0.0, out);
            }
        }
    }
}

/// Spreads `[C, H, W]` at the front of `out` over `[C, H·r, W·r]`, from the back so that nothing is overwritten early.
fn repeat_in_place(out: &mut [f32], [c, h, w]: [usize; 3], r: usize) {
    if r == 1 {
        return;
    }
    for row in (0..c * h).rev() {
        for x in (0..w).rev() {
            let value = out[row * w + x];
            out[row * w * r * r + x * r..][..r].fill(value);
        }
        let first = row * w * r * r;
        for copy in 1..r {
            out.copy_within(first..first + w * r, first + copy * w * r);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_normalised_and_padded_with_black() {
        let form = InputForm::Pixels { shape: [2, 1, 2], mean: vec![0.5, 0.0], std: vec![0.5, 2.0] };
        assert_eq!(form.message_len(), 4);
        let mut out = [0.0; 4];
        form.fill(&[255, 0, 255, 51], Draw::default(), &mut out);
        assert_eq!(out, [1.0, -1.0, 0.5, 0.1]);
        form.fill(&[255, 255, 255, 255], Draw { flip: false, dy: 0, dx: 1 }, &mut out);
        assert_eq!(out, [1.0, -1.0, 0.5, 0.0]);
    }

    #[test]
    fn bits_become_signs_and_are_repeated() {
        let form = InputForm::Bits { shape: [1, 2, 2], repeat: 2, shift: 1 };
        assert_eq!((form.message_len(), form.input_shape()), (1, [1, 4, 4]));
        let mut out = [f32::NAN; 16];
        form.fill(&[0b0110], Draw::default(), &mut out);
        #[rustfmt::skip]
        assert_eq!(out, [
            -1., -1., 1., 1.,
            -1., -1., 1., 1.,
            1., 1., -1., -1.,
            1., 1., -1., -1.,
        ]);
        form.fill(&[0b1111], Draw { flip: false, dy: 1, dx: 0 }, &mut out);
        assert_eq!(out[..8], [1.0; 8]);
        assert_eq!(out[8..], [0.0; 8]);
    }

    #[test]
    fn numbers_are_read_as_they_are_and_padded_with_zeros() {
        let form = InputForm::Numbers { shape: [1, 1, 3] };
        assert_eq!((form.message_len(), form.numbers(), form.input_shape()), (12, 3, [1, 1, 3]));
        assert!(form.check().is_ok() && InputForm::Numbers { shape: [usize::MAX, 2, 2] }.check().is_err());
        let message: Vec<u8> = [1.5f32, -2.0, 1e-20].into_iter().flat_map(f32::to_le_bytes).collect();
        let mut out = [f32::NAN; 3];
        form.fill(&message, Draw::default(), &mut out);
        assert_eq!(out, [1.5, -2.0, 1e-20]);
        form.fill(&message, Draw { flip: true, dy: 0, dx: 1 }, &mut out);
        assert_eq!(out[2], 0.0);
        assert!(out.contains(&-2.0));
    }

    #[test]
    fn repeating_several_channels_and_odd_factors() {
        let form = InputForm::Bits { shape: [2, 1, 3], repeat: 3, shift: 1 };
        let mut out = vec![f32::NAN; 2 * 3 * 9];
        form.fill(&[0b101010], Draw::default(), &mut out);
        for (i, v) in out.iter().enumerate() {
            let bit = (i / 27) * 3 + (i % 9) / 3;
            assert_eq!(*v, if 0b101010 >> bit & 1 == 1 { 1.0 } else { -1.0 }, "element {i}");
        }
    }

    #[test]
    fn absurd_forms_are_refused() {
        let bits = |shape, repeat, shift| InputForm::Bits { shape, repeat, shift }.check();
        assert!(bits([1, 4, 4], 1, 1).is_ok());
        assert!(bits([1, 4, 4], 0, 1).is_err());
        assert!(bits([1, 4, 4], 1, 0).is_err());
        assert!(bits([1, 4, 4], usize::MAX, 1).is_err());
        assert!(bits([usize::MAX, 4, 4], 1, 1).is_err());
        let pixels = |mean: f32, std: f32| {
            InputForm::Pixels { shape: [1, 1, 1], mean: vec![mean], std: vec![std] }.check()
        };
        assert!(pixels(0.0, 1.0).is_ok());
        assert!(pixels(f32::NAN, 1.0).is_err());
        assert!(pixels(0.0, 0.0).is_err());
    }
}
