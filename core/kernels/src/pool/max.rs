use serde::{Deserialize, Serialize};
use tensor::{Shape, ShapeError};

use super::phases::{Phases, load, load_mut, load_some, store_some};
use super::{Attributes, Plane, infer_windows};
use crate::parts::Chunks;
use crate::simd;
use crate::{Backward, Forward, Operator, Reads, SavedLen, Scratch, check};
use pulp::{Simd, WithSimd};

/// Maximum over each window; of equal maxima, the first in row-major order gets the gradient.
///
/// Padding never wins; a NaN does. At most half of the kernel may be padding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxPool2d {
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Rows above and below, columns left and right.
    pub padding: [usize; 2],
}

impl Operator for MaxPool2d {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn infer(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        let output = infer_windows("max_pool2d", inputs, self.attributes())?;
        let plane = Plane::new(inputs[0], output).input_len();
        let fits = u32::try_from(plane).is_ok();
        check::attribute("max_pool2d", plane, fits, "positions in an image must fit 32 bits")?;
        Ok(output)
    }

    /// Position `h·W + w` of each maximum.
    fn saved_len(&self, inputs: &[Shape]) -> SavedLen {
        SavedLen { floats: 0, indices: self.infer(inputs).map_or(0, |output| output.len()) }
    }

    fn backward_reads(&self) -> Reads {
        Reads::NOTHING
    }

    fn scratch(&self, inputs: &[Shape], _threads: usize) -> Scratch {
        let len = |output| Phases::new(self.attributes(), Plane::new(inputs[0], output)).len();
        Scratch::each(self.infer(inputs).map(len))
    }

    fn forward(&self, pass: Forward<'_>) {
        forward(self, false, pass);
    }

    fn backward(&self, pass: Backward<'_>) {
        backward(self, false, pass);
    }
}

impl MaxPool2d {
    fn attributes(&self) -> Attributes {
        Attributes { kernel: self.kernel, stride: self.stride, padding: self.padding }
    }
}

/// Maxima and their positions; with `relu`, their positive parts.
pub(crate) fn forward(op: &MaxPool2d, relu: bool, pass: Forward<'_>) {
    let (x, plane) = (pass.inputs[0].data, Plane::new(pass.inputs[0].shape, pass.output.shape));
    let (len, phases) = (plane.output_len(), Phases::new(op.attributes(), plane));
    let part = len * plane.together();
    let indices = Chunks { data: &mut pass.saved.indices[..pass.output.data.len()], len: part };
    let outputs = Chunks { data: pass.output.data, len: part };
    pass.threads.for_each_part((outputs, indices), |part, (output, indices)| {
        let mut scratch = pass.threads.scratch(phases.len());
        let inputs = x[part * plane.together() * plane.input_len()..].chunks(plane.input_len());
        let outputs = output.chunks_mut(len).zip(indices.chunks_mut(len));
        for ((output, indices), x) in outputs.zip(inputs) {
            let scratch = &mut scratch;
            simd::dispatch(Maxima { phases, relu, x, scratch, out: output, indices });
        }
    });
}

/// Gives each output's gradient to the position of its maximum; with `relu`, where that is positive.
pub(crate) fn backward(op: &MaxPool2d, relu: bool, pass: Backward<'_>) {
    let Some(grad) = &mut pass.grad_inputs[0] else { return };
    let plane = Plane::new(pass.inputs[0].shape, pass.output.shape);
    let (len, phases) = (plane.output_len(), Phases::new(op.attributes(), plane));
    let (y, dy, indices) = (pass.output.data, pass.grad_output.data, &pass.saved.indices);
    let accumulate = grad.accumulate;
    pass.threads.for_each_chunk(grad.data, plane.together() * plane.input_len(), |part, dx| {
        let mut scratch = pass.threads.scratch(phases.len());
        for (i, dx) in dx.chunks_mut(plane.input_len()).enumerate() {
            let at = (part * plane.together() + i) * len..(part * plane.together() + i + 1) * len;
            let (relu, dy) = (relu.then(|| &y[at.clone()]), &dy[at.clone()]);
            let (indices, scratch) = (&indices[at], &mut *scratch);
            simd::dispatch(Give { phases, relu, dy, indices, scratch, dx, accumulate });
        }
    });
}

/// Finds the maxima of one plane and where they are.
struct Maxima<'a> {
    phases: Phases,
    relu: bool,
    x: &'a [f32],
    scratch: &'a mut [f32],
    out: &'a mut [f32],
    indices: &'a mut [u32],
}

impl WithSimd for Maxima<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Maxima { phases, relu, x, scratch, out, indices } = self;
        phases.split(x, f32::NEG_INFINITY, scratch);
        let ([height, width], zero) = (phases.output(), simd.splat_f32s(0.0));
        let steps = phases.each(simd, 0, |x| phases.origin(0, x).wrapping_sub(phases.origin(0, 0)));
        for (y, start) in (0..height).flat_map(|y| (0..width).step_by(S::F32_LANES).map(move |x| (y, x))) {
            let mut best = simd.splat_f32s(f32::NEG_INFINITY);
            // Where all is −∞, the first position that exists wins.
            let mut offset = simd.splat_u32s(0);
            if phases.is_padded() {
                offset = phases.each(simd, start, |x| phases.first(y, x));
            }
            for (at, element) in phases.elements(y, start) {
                let x = load::<S>(scratch, at);
                // In row-major order, so the first of equal maxima stays; a NaN, which is not equal to itself, wins.
                let nan = simd.not_m32s(simd.equal_f32s(x, x));
                let larger = simd.or_m32s(simd.greater_than_f32s(x, best), nan);
                best = simd.select_f32s(larger, x, best);
                offset = simd.select_u32s(larger, simd.splat_u32s(element), offset);
            }
            if relu {
                best = simd.select_f32s(simd.less_than_or_equal_f32s(best, zero), zero, best);
            }
            let at = y * width + start..y * width + width.min(start + S::F32_LANES);
            let origins = simd.add_u32s(steps, simd.splat_u32s(phases.origin(y, start)));
            let (indices, index) = (&mut indices[at.clone()], simd.add_u32s(origins, offset));
            store_some(simd, &mut out[at], best);
            match S::as_mut_simd_u32s(indices).0.first_mut() {
                Some(whole) => *whole = index,
                None => simd.partial_store_u32s(indices, index),
            }
        }
    }
}

/// Gives each output's gradient to one element: every element asks every window it lies in, so that where a maximum was
/// shows in no address.
struct Give<'a> {
    phases: Phases,
    /// The output, where a ReLU follows.
    relu: Option<&'a [f32]>,
    dy: &'a [f32],
    indices: &'a [u32],
    scratch: &'a mut [f32],
    dx: &'a mut [f32],
    accumulate: bool,
}

impl WithSimd for Give<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Give { phases, relu, dy, indices, scratch, dx, accumulate } = self;
        scratch.fill(0.0);
        let ([height, width], zero) = (phases.output(), simd.splat_f32s(0.0));
        let steps = phases.each(simd, 0, |x| phases.origin(0, x).wrapping_sub(phases.origin(0, 0)));
        for (y, start) in (0..height).flat_map(|y| (0..width).step_by(S::F32_LANES).map(move |x| (y, x))) {
            let at = y * width + start..y * width + width.min(start + S::F32_LANES);
            // Lanes behind the last window hold zeros, and give them.
            let mut dy = load_some(simd, &dy[at.clone()]);
            if let Some(y) = relu {
                let y = load_some(simd, &y[at.clone()]);
                dy = simd.select_f32s(simd.greater_than_f32s(y, zero), dy, zero);
            }
            let origins = simd.add_u32s(steps, simd.splat_u32s(phases.origin(y, start)));
            let index = match S::as_simd_u32s(&indices[at.clone()]).0.first() {
                Some(whole) => *whole,
                None => simd.partial_load_u32s(&indices[at]),
            };
            let offset = simd.sub_u32s(index, origins);
            for (at, element) in phases.elements(y, start) {
                let here = simd.equal_u32s(offset, simd.splat_u32s(element));
                let to = load_mut::<S>(scratch, at);
                *to = simd.add_f32s(*to, simd.select_f32s(here, dy, zero));
            }
        }
        phases.join(scratch, dx, accumulate);
    }
}
