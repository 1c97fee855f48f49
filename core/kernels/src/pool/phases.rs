//! Padded planes with each row taken apart by column, so that the windows of an output row lie next to each other.
//!
//! Element `(i, j)` of windows `0, 1, …` of output row `y` is a run of numbers whatever the stride: one loop over
//! windows serves every pool and depthwise convolution, and neither its steps nor its addresses depend on the numbers.

use pulp::Simd;

use super::{Attributes, Plane};

/// Most windows that are worked on at a time: the widest vector.
pub(crate) const LANES: usize = 16;

/// Where the numbers of one padded plane lie: `[rows, stride, run]`.
#[derive(Clone, Copy)]
pub(crate) struct Phases {
    attributes: Attributes,
    plane: Plane,
    rows: usize,
    run: usize,
}

impl Phases {
    #[inline(always)]
    pub(crate) fn new(attributes: Attributes, plane: Plane) -> Self {
        let Attributes { kernel, stride, padding } = attributes;
        // Room for every window, and for every element.
        let rows =
            (plane.output[0].saturating_sub(1) * stride[0] + kernel[0]).max(plane.input[0] + padding[0]);
        let run = (plane.output[1] + (kernel[1] - 1) / stride[1])
            .max((plane.input[1] + padding[1]).div_ceil(stride[1]));
        Phases { attributes, plane, rows, run }
    }

    /// Height and width of the output.
    #[inline(always)]
    pub(crate) fn output(self) -> [usize; 2] {
        self.plane.output
    }

    /// How far an element of a window lies before that of the window below.
    #[inline(always)]
    pub(crate) fn down(self) -> usize {
        self.attributes.stride[0] * self.attributes.stride[1] * self.run
    }

    /// Where window `(y, x)` begins: a position in the plane, wrapped below 0 where that lies in the padding.
    #[inline(always)]
    pub(crate) fn origin(self, y: usize, x: usize) -> u32 {
        let Attributes { stride, padding, .. } = self.attributes;
        let row = (y * stride[0]).wrapping_sub(padding[0]).wrapping_mul(self.plane.input[1]);
        row.wrapping_add(x * stride[1]).wrapping_sub(padding[1]) as u32
    }

    /// How far the first element that exists of window `(y, x)` lies behind the window's origin.
    #[inline(always)]
    pub(crate) fn first(self, y: usize, x: usize) -> u32 {
        let Attributes { stride, padding, .. } = self.attributes;
        let rows = padding[0].saturating_sub(y * stride[0]) * self.plane.input[1];
        (rows + padding[1].saturating_sub(x * stride[1])) as u32
    }

    /// `number(x)` for the windows from `start` on.
    #[inline(always)]
    pub(crate) fn each<S: Simd>(self, simd: S, start: usize, number: impl Fn(usize) -> u32) -> S::u32s {
        let mut numbers = [0; LANES];
        for (l, to) in numbers.iter_mut().enumerate() {
            *to = number(start + l);
        }
        S::as_simd_u32s(&numbers).0.first().copied().unwrap_or(simd.splat_u32s(0))
    }

    /// Whether the first element of every window exists.
    #[inline(always)]
    pub(crate) fn is_padded(self) -> bool {
        self.attributes.padding != [0; 2]
    }

    /// Numbers in a padded plane, and room for lanes behind the last.
    pub(crate) fn len(self) -> usize {
        self.rows * self.attributes.stride[1] * self.run + LANES
    }

    /// Where columns `column, column + stride, …` of an input row lie.
    #[inline(always)]
    fn columns(self, row: usize, column: usize) -> std::ops::Range<usize> {
        let Attributes { stride, padding, .. } = self.attributes;
        let padded = column + padding[1];
        let start = ((row + padding[0]) * stride[1] + padded % stride[1]) * self.run + padded / stride[1];
        start..start + (self.plane.input[1] - column).div_ceil(stride[1])
    }

    /// Takes the plane `x` apart; what lies outside is `outside`.
    #[inline(always)]
    pub(crate) fn split(self, x: &[f32], outside: f32, phases: &mut [f32]) {
        let (stride, width) = (self.attributes.stride[1], self.plane.input[1]);
        if self.attributes.padding != [0; 2] || self.len() != x.len() + LANES {
            phases.fill(outside);
        }
        phases[self.len() - LANES..].fill(outside);
        for (y, row) in x.chunks_exact(width).enumerate() {
            let (pairs, last) = row.as_chunks::<2>();
            match stride {
                1 => phases[self.columns(y, 0)].copy_from_slice(row),
                2 if width > 1 => {
                    let even = phases[self.columns(y, 0)].iter_mut();
                    even.zip(pairs).for_each(|(to, pair)| *to = pair[0]);
                    if let Some(&last) = last.first() {
                        phases[self.columns(y, 0).end - 1] = last;
                    }
                    let odd = phases[self.columns(y, 1)].iter_mut();
                    odd.zip(pairs).for_each(|(to, pair)| *to = pair[1]);
                }
                _ => {
                    for column in 0..stride.min(width) {
                        let from = row[column..].iter().step_by(stride);
                        phases[self.columns(y, column)].iter_mut().zip(from).for_each(|(to, &x)| *to = x);
                    }
                }
            }
        }
    }

    /// Puts a plane together; `accumulate` adds it to what is there.
    #[inline(always)]
    pub(crate) fn join(self, phases: &[f32], dx: &mut [f32], accumulate: bool) {
        let (stride, width) = (self.attributes.stride[1], self.plane.input[1]);
        for (y, row) in dx.chunks_exact_mut(width).enumerate() {
            if stride == 2 && width > 1 {
                let [even, odd] = [0, 1].map(|column| &phases[self.columns(y, column)]);
                let (pairs, last) = row.as_chunks_mut::<2>();
                for ((pair, &even), &odd) in pairs.iter_mut().zip(even).zip(odd) {
                    *pair = if accumulate { [pair[0] + even, pair[1] + odd] } else { [even, odd] };
                }
                if let (Some(to), Some(&g)) = (last.first_mut(), even.get(width / 2)) {
                    *to = if accumulate { *to + g } else { g };
                }
                continue;
            }
            for column in 0..stride.min(width) {
                let from = &phases[self.columns(y, column)];
                let to = row[column..].iter_mut().step_by(stride);
                to.zip(from).for_each(|(to, &g)| *to = if accumulate { *to + g } else { g });
            }
        }
    }

    /// The elements of the windows of output row `y` from `start` on, in row-major order.
    #[inline(always)]
    pub(crate) fn elements(self, y: usize, start: usize) -> Elements {
        let row = y * self.attributes.stride[0] * self.attributes.stride[1] * self.run + start;
        Elements { phases: self, row, at: row, element: [0, 0], phase: 0 }
    }
}

/// Walks over the elements of some neighbouring windows; `(at, offset)` are where the first window's element lies among
/// the phases (the next windows' follow), and how far it lies behind the window's origin in the plane.
pub(crate) struct Elements {
    phases: Phases,
    row: usize,
    at: usize,
    element: [usize; 2],
    phase: usize,
}

impl Iterator for Elements {
    type Item = (usize, u32);

    #[inline(always)]
    fn next(&mut self) -> Option<(usize, u32)> {
        let Phases { attributes: Attributes { kernel, stride, .. }, plane, run, .. } = self.phases;
        let [i, j] = self.element;
        if i == kernel[0] {
            return None;
        }
        let item = (self.at, (i * plane.input[1] + j) as u32);
        if j + 1 == kernel[1] {
            self.row += stride[1] * run;
            (self.element, self.at, self.phase) = ([i + 1, 0], self.row, 0);
        } else if self.phase + 1 == stride[1] {
            // The next element of the first phase.
            (self.element, self.at, self.phase) = ([i, j + 1], self.at + 1 - self.phase * run, 0);
        } else {
            (self.element, self.at, self.phase) = ([i, j + 1], self.at + run, self.phase + 1);
        }
        Some(item)
    }
}

/// The numbers from `at` on, a whole vector of them.
#[inline(always)]
pub(crate) fn load<S: Simd>(numbers: &[f32], at: usize) -> S::f32s {
    S::as_simd_f32s(&numbers[at..at + S::F32_LANES]).0[0]
}

/// [`load`], to write.
#[inline(always)]
pub(crate) fn load_mut<S: Simd>(numbers: &mut [f32], at: usize) -> &mut S::f32s {
    &mut S::as_mut_simd_f32s(&mut numbers[at..at + S::F32_LANES]).0[0]
}

/// A vector that ends with zeros where there are fewer numbers.
#[inline(always)]
pub(crate) fn load_some<S: Simd>(simd: S, numbers: &[f32]) -> S::f32s {
    match S::as_simd_f32s(numbers).0.first() {
        Some(whole) => *whole,
        None => simd.partial_load_f32s(numbers),
    }
}

/// Writes as many numbers as there is room for.
#[inline(always)]
pub(crate) fn store_some<S: Simd>(simd: S, numbers: &mut [f32], vector: S::f32s) {
    match S::as_mut_simd_f32s(numbers).0.first_mut() {
        Some(whole) => *whole = vector,
        None => simd.partial_store_f32s(numbers, vector),
    }
}
