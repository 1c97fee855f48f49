//! The columns of a convolution: row = output position (over several images), depth = (channel, kernel row, kernel
//! column), made from padded images where they are needed.

use std::ops::Range;

use super::geometry::Geometry;
use crate::Threads;
use crate::gemm::{MAX_WIDTH, Panels, ROWS_STRIP, bf16};
use crate::simd::vectorised;
use crate::threads::ScratchGuard;

/// Padded images of some channels of one group, `[images, channels, padded height, row]`; for the order of a row's
/// elements see [`Geometry::row_len`].
pub(super) struct Images<'a> {
    geometry: &'a Geometry,
    data: Source<'a>,
    image_stride: usize,
}

enum Source<'a> {
    /// No padding, stride 1: the input itself, from the first image's first channel.
    Input(&'a [f32]),
    Padded(ScratchGuard<'a>),
}

impl<'a> Images<'a> {
    /// The channels `channels` (of all, not of a group) of the images `images` of `x`.
    pub(super) fn new(
        threads: &'a Threads,
        geometry: &'a Geometry,
        x: &'a [f32],
        images: Range<usize>,
        channels: Range<usize>,
    ) -> Self {
        let (plane, all) = (geometry.input_plane(), geometry.groups * geometry.inputs);
        let from = |image: usize| &x[((image * all + channels.start) * plane).min(x.len())..];
        if geometry.padding == [0; 4] && geometry.stride[1] == 1 {
            let data = Source::Input(from(images.start));
            return Images { geometry, data, image_stride: all * plane };
        }
        let padded_plane = geometry.padded()[0] * geometry.row_len();
        let image_stride = channels.len() * padded_plane;
        let mut padded = threads.scratch(images.len() * image_stride);
        for (image, padded) in images.zip(padded.chunks_mut(image_stride.max(1))) {
            let planes = from(image).chunks(plane).zip(padded.chunks_mut(padded_plane));
            planes.for_each(|(from, to)| pad(geometry, from, to));
        }
        Images { geometry, data: Source::Padded(padded), image_stride }
    }

    /// Pairs of the `channels` channels of a group, half of them apart, rounded to bf16; `pairs` counts pairs.
    pub(super) fn paired(
        threads: &'a Threads,
        pairs: &'a Geometry,
        channels: usize,
        x: &[f32],
        images: Range<usize>,
        group: usize,
    ) -> Self {
        let (plane, padded_plane) = (pairs.input_plane(), pairs.padded()[0] * pairs.row_len());
        let image_stride = pairs.inputs * padded_plane;
        let [padded, together] = paired_len(pairs, images.len());
        let (mut padded, mut together) = (threads.scratch(padded), threads.scratch(together));
        for (image, padded) in images.zip(padded.chunks_mut(image_stride)) {
            let x = &x[(image * pairs.groups + group) * channels * plane..][..channels * plane];
            let (first, second) = x.split_at(pairs.inputs * plane);
            if together.is_empty() {
                bf16::pair(first, second, padded);
                continue;
            }
            let step = together.len() / plane;
            for (i, padded) in padded.chunks_mut(step * padded_plane).enumerate() {
                let at = i * step * plane;
                let made = &mut together[..padded.len() / padded_plane * plane];
                bf16::pair(&first[at..], &second[at.min(second.len())..], made);
                made.chunks(plane)
                    .zip(padded.chunks_mut(padded_plane))
                    .for_each(|(from, to)| pad(pairs, from, to));
            }
        }
        Images { geometry: pairs, data: Source::Padded(padded), image_stride }
    }

    fn data(&self) -> &[f32] {
        match &self.data {
            Source::Input(data) => data,
            Source::Padded(data) => data,
        }
    }
}

/// Scratch memory of [`Images::paired`]: padded images, and planes on the way there; none where nothing is padded.
pub(super) fn paired_len(pairs: &Geometry, images: usize) -> [usize; 2] {
    /// Elements on the way at a time (16 KiB): they stay in the first-level cache.
    const TOGETHER: usize = 1 << 12;
    let plane = pairs.input_plane();
    let together = (TOGETHER / plane).clamp(1, pairs.inputs) * plane;
    let as_they_are = pairs.padding == [0; 4] && pairs.stride[1] == 1;
    let padded = images * pairs.inputs * pairs.padded()[0] * pairs.row_len();
    [padded, if as_they_are { 0 } else { together }]
}

impl Panels for Images<'_> {
    fn pack(&self, rows: Range<usize>, depth: Range<usize>, width: usize, out: &mut [f32]) {
        let mut runs = Runs::new(self.geometry, rows, self.image_stride);
        let len = runs.equalise();
        pack(&runs, len, depth, self.geometry, self.data(), width, out);
    }

    fn strip(&self) -> usize {
        if self.geometry.taps() == 1 { ROWS_STRIP } else { usize::MAX }
    }
}

vectorised! {
    /// Copies what is read of a plane into a padded one and zeroes the padding.
    fn pad<'a>(geometry: &'a Geometry, from: &'a [f32], to: &'a mut [f32]) -> () {
        let ([top, left, ..], width, across) = (geometry.padding, geometry.row_len(), geometry.stride[1]);
        if geometry.padding != [0; 4] {
            to.fill(0.0);
        }
        let rows = to[top * width..].chunks_mut(width).zip(from.chunks(geometry.input[1].max(1)));
        for (row, (to, from)) in rows.take(geometry.input[0]).enumerate() {
            match across {
                1 => to[left..left + from.len()].copy_from_slice(from),
                _ if !geometry.reads(0, row + top) => {}
                _ => {
                    for first in (0..across.min(from.len())).filter(|c| geometry.reads(1, c + left)) {
                        let to = to[geometry.in_row(first + left)..].iter_mut();
                        if across == 2 {
                            // A step known to the compiler.
                            to.zip(from[first..].iter().step_by(2)).for_each(|(to, &x)| *to = x);
                        } else {
                            to.zip(from[first..].iter().step_by(across)).for_each(|(to, &x)| *to = x);
                        }
                    }
                }
            }
        }
    }
}

/// Output positions that follow each other in a row of an output image.
#[derive(Clone, Copy, Default)]
struct Run {
    /// Where the first position's window starts in the padded images.
    start: usize,
    len: usize,
}

/// At most [`MAX_WIDTH`] output positions, as runs.
struct Runs {
    runs: [Run; MAX_WIDTH],
    count: usize,
}

impl Runs {
    fn new(geometry: &Geometry, rows: Range<usize>, image_stride: usize) -> Self {
        let ([_, ow], plane, width) = (geometry.output, geometry.output_plane(), geometry.row_len());
        let down = geometry.stride[0];
        let mut runs = Runs { runs: [Run::default(); MAX_WIDTH], count: 0 };
        let mut row = rows.start;
        while row < rows.end {
            let (image, position) = (row / plane, row % plane);
            let (y, x) = (position / ow, position % ow);
            let len = (ow - x).min(rows.end - row);
            let start = image * image_stride + y * down * width + x;
            runs.push(Run { start, len });
            row += len;
        }
        runs
    }

    /// Appends a run, or lengthens the last one where it goes on (a 1×1 kernel without padding).
    fn push(&mut self, run: Run) {
        match self.runs[..self.count].last_mut() {
            Some(last) if last.start + last.len == run.start => last.len += run.len,
            _ => {
                self.runs[self.count] = run;
                self.count += 1;
            }
        }
    }

    #[inline(always)]
    fn get(&self) -> &[Run] {
        &self.runs[..self.count]
    }

    /// Cuts the runs into equal ones of a length that [`pack_runs`] is compiled for, and returns it; 0 where there is none.
    fn equalise(&mut self) -> usize {
        let all = |len: &usize| self.get().iter().all(|run| run.len.is_multiple_of(*len));
        let Some(len) = [64, 32, 16, 8, 4].into_iter().find(all) else { return 0 };
        let mut equal = Runs { runs: [Run::default(); MAX_WIDTH], count: 0 };
        for run in self.get() {
            for start in (run.start..run.start + run.len).step_by(len) {
                equal.runs[equal.count] = Run { start, len };
                equal.count += 1;
            }
        }
        *self = equal;
        len
    }
}

/// Where each step of depth lies relative to a window's start.
struct Taps<'a> {
    geometry: &'a Geometry,
    /// Channel, kernel row, kernel column.
    at: [usize; 3],
    left: usize,
}

impl<'a> Taps<'a> {
    #[inline(always)]
    fn new(geometry: &'a Geometry, depth: Range<usize>) -> Self {
        let (taps, across) = (geometry.taps(), geometry.kernel[1]);
        let (channel, tap) = (depth.start / taps, depth.start % taps);
        Taps { geometry, at: [channel, tap / across, tap % across], left: depth.len() }
    }
}

impl Iterator for Taps<'_> {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let g = self.geometry;
        let [channel, y, x] = self.at;
        self.at[2] += 1;
        if self.at[2] == g.kernel[1] {
            self.at = [channel, y + 1, 0];
            if self.at[1] == g.kernel[0] {
                self.at = [channel + 1, 0, 0];
            }
        }
        let row = channel * g.padded()[0] + y * g.dilation[0];
        Some(row * g.row_len() + g.in_row(x * g.dilation[1]))
    }
}

vectorised! {
    fn pack<'a>(
        runs: &'a Runs,
        len: usize,
        depth: Range<usize>,
        geometry: &'a Geometry,
        data: &'a [f32],
        width: usize,
        out: &'a mut [f32],
    ) -> () {
        let taps = Taps::new(geometry, depth).zip(out.chunks_mut(width));
        match len {
            64 => pack_runs::<64>(runs, taps, data),
            32 => pack_runs::<32>(runs, taps, data),
            16 => pack_runs::<16>(runs, taps, data),
            8 => pack_runs::<8>(runs, taps, data),
            4 => pack_runs::<4>(runs, taps, data),
            _ => pack_any(runs, taps, data),
        }
    }
}

/// Runs of any lengths, in whole vectors: what one writes beyond its end, the next overwrites. Nothing is written beyond
/// the last.
#[inline(always)]
fn pack_any<'o>(runs: &Runs, taps: impl Iterator<Item = (usize, &'o mut [f32])>, data: &[f32]) {
    const LANES: usize = 16;
    let total: usize = runs.get().iter().map(|run| run.len).sum();
    for (tap, line) in taps {
        let mut rest = &mut line[..total];
        for run in runs.get() {
            let from = &data[run.start + tap..];
            for done in (0..run.len).step_by(LANES) {
                match (from[done..].first_chunk::<LANES>(), rest[done..].first_chunk_mut::<LANES>()) {
                    (Some(from), Some(to)) => *to = *from,
                    _ => rest[done..run.len].copy_from_slice(&from[done..run.len]),
                }
            }
            rest = rest.split_at_mut(run.len).1;
        }
    }
}

/// Runs of a length known to the compiler: each is a few vector moves.
#[inline(always)]
fn pack_runs<'o, const L: usize>(
    runs: &Runs,
    taps: impl Iterator<Item = (usize, &'o mut [f32])>,
    data: &[f32],
) {
    for (tap, line) in taps {
        for (run, to) in runs.get().iter().zip(line.as_chunks_mut::<L>().0) {
            let from = &data[run.start + tap..][..L];
            to.copy_from_slice(from);
        }
    }
}

/// Adds columns back to padded images: the transpose of packing. `columns` is `[depth, pitch]`, its first `rows.len()`
/// positions at each depth; `images` is padded as in [`Images`].
pub(super) fn add_back(
    geometry: &Geometry,
    rows: Range<usize>,
    image_stride: usize,
    columns: &[f32],
    pitch: usize,
    images: &mut [f32],
) {
    for (i, row) in rows.clone().step_by(MAX_WIDTH).enumerate() {
        let runs = Runs::new(geometry, row..rows.end.min(row + MAX_WIDTH), image_stride);
        add_runs(&runs, geometry, &columns[i * MAX_WIDTH..], pitch, images);
    }
}

vectorised! {
    fn add_runs<'a>(
        runs: &'a Runs,
        geometry: &'a Geometry,
        columns: &'a [f32],
        pitch: usize,
        images: &'a mut [f32],
    ) -> () {
        for (tap, mut line) in Taps::new(geometry, 0..columns.len().div_ceil(pitch)).zip(columns.chunks(pitch)) {
            for run in runs.get() {
                let (from, rest) = line.split_at(run.len);
                images[run.start + tap..].iter_mut().zip(from).for_each(|(to, &x)| *to += x);
                line = rest;
            }
        }
    }
}
