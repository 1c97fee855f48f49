//! Pooling of one plane, window by window, in `f64`.

use super::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};

/// A window: rows and columns that exist, and what an average is divided by.
type Window = (Vec<[usize; 2]>, usize);

/// Positions that exist of the window at output `o`.
fn fixed(
    o: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    len: [usize; 2],
) -> Vec<[usize; 2]> {
    let at = |axis: usize, i: usize| {
        (o[axis] * stride[axis] + i).checked_sub(padding[axis]).filter(|&p| p < len[axis])
    };
    let all = (0..kernel[0]).flat_map(|i| (0..kernel[1]).map(move |j| [i, j]));
    all.filter_map(|[i, j]| Some([at(0, i)?, at(1, j)?])).collect()
}

pub(super) fn average(op: &AvgPool2d, o: [usize; 2], len: [usize; 2]) -> Window {
    let elements = fixed(o, op.kernel, op.stride, op.padding, len);
    let count = if op.count_include_pad { op.kernel[0] * op.kernel[1] } else { elements.len() };
    (elements, count)
}

pub(super) fn adaptive(op: &AdaptiveAvgPool2d, o: [usize; 2], len: [usize; 2]) -> Window {
    let inside = |axis: usize, p: usize| {
        // p overlaps the real interval [o·len/n, (o+1)·len/n).
        (p + 1) * op.output[axis] > o[axis] * len[axis] && p * op.output[axis] < (o[axis] + 1) * len[axis]
    };
    let all = (0..len[0]).flat_map(|y| (0..len[1]).map(move |x| [y, x]));
    let elements: Vec<_> = all.filter(|&[y, x]| inside(0, y) && inside(1, x)).collect();
    let count = elements.len();
    (elements, count)
}

/// The first maximum and where it is.
pub(super) fn max(op: &MaxPool2d, o: [usize; 2], len: [usize; 2], x: &[f32]) -> (f32, usize) {
    let elements = fixed(o, op.kernel, op.stride, op.padding, len);
    let mut positions = elements.iter().map(|&[y, x]| y * len[1] + x);
    let first = positions.next().expect("no window is empty");
    let at = positions.fold(first, |best, p| if x[p] > x[best] { p } else { best });
    (x[at], at)
}
