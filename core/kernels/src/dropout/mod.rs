//! Dropout.

use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use crate::elementwise::PART;
use crate::simd::vectorised;
use crate::{Backward, Forward, Mode, Operator, Reads, check, elementwise};

/// Zeroes each element with `probability` in training and scales the rest by `1/(1 − probability)`.
///
/// The mask is a function of the seed and the element's index alone, so the backward pass draws it again and the number
/// of threads does not matter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    /// Probability that an element is zeroed, from 0 to 1.
    pub probability: f32,
}

impl Operator for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let allowed = (0.0..=1.0).contains(&self.probability);
        check::attribute("dropout probability", 0, allowed, "it must be from 0 to 1")?;
        check::one("dropout", inputs)
    }

    fn backward_reads(&self) -> Reads {
        Reads::NOTHING
    }

    fn forward(&self, pass: Forward<'_>) {
        let x = pass.inputs[0].data;
        let Mode::Train { seed } = pass.mode else {
            return elementwise::map(pass.threads, x, pass.output.data, |x| x);
        };
        let mask = Mask::new(self.probability, seed);
        pass.threads.for_each_chunk(pass.output.data, PART, |part, out| {
            let start = part * PART;
            apply(mask, start, &x[start..][..out.len()], out, false);
        });
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn backward(&self, pass: Backward<'_>) {
        let Some(grad) = &mut pass.grad_inputs[0] else { return };
        let dy = pass.grad_output.data;
        let Mode::Train { seed } = pass.mode else {
            return elementwise::pass_on(pass.threads, grad, dy);
        };
        let (mask, accumulate) = (Mask::new(self.probability, seed), grad.accumulate);
        pass.threads.for_each_chunk(grad.data, PART, |part, out| {
            let start = part * PART;
            apply(mask, start, &dy[start..][..out.len()], out, accumulate);
        });
    }
}

/// What a kept element is multiplied by, and how to tell which are kept.
#[derive(Clone, Copy)]
struct Mask {
    seed: u64,
    /// Elements whose 32 random bits are below this are zeroed.
    threshold: u64,
    scale: f32,
}

impl Mask {
    fn new(probability: f32, seed: u64) -> Self {
        let p = f64::from(probability);
        let scale = if p < 1.0 { (1.0 / (1.0 - p)) as f32 } else { 0.0 };
        Mask { seed: mix(seed), threshold: (p * 2f64.powi(32)).round() as u64, scale }
    }

    #[inline(always)]
    fn factor(&self, index: usize) -> f32 {
        let bits = mix(self.seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 32;
        if bits >= self.threshold { self.scale } else { 0.0 }
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood 2014): a bijection whose outputs on a counter look random.
#[inline(always)]
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

vectorised! {
    fn apply<'a>(
        mask: Mask,
        start: usize,
        source: &'a [f32],
        out: &'a mut [f32],
        accumulate: bool,
    ) -> () {
        for (i, (out, &x)) in out.iter_mut().zip(source).enumerate() {
            let kept = x * mask.factor(start + i);
            *out = if accumulate { *out + kept } else { kept };
        }
    }
}

#[cfg(test)]
mod tests;
