//! 1×1 convolutions as products of images as they lie in memory: `Y[K, P] = W[K, C] · X[C, P]` for each image.
//!
//! The positions of an image are the rows of a panel already, so nothing is packed. Copied are only the positions that a
//! stride keeps, and small images, side by side, so that panels are full.

use super::backward_weight;
use super::forward::{Ends, Start};
use super::geometry::Geometry;
use super::pieces::{Piece, divide};
use crate::gemm::{Kernel, Matrix, Tile};
use crate::simd::vectorised;
use crate::threads::ScratchGuard;
use crate::{GradInput, Scratch, Threads};

/// Positions of small images that are multiplied together, about.
const TOGETHER: usize = 256;

/// Whether a convolution can be computed this way.
pub(super) fn serves(geometry: &Geometry) -> bool {
    geometry.kernel == [1, 1] && geometry.padding == [0; 4]
}

/// See [`super::forward::forward`].
pub(super) fn forward(
    threads: &Threads,
    geometry: &Geometry,
    x: &[f32],
    weight: &[f32],
    ends: Ends<'_>,
    y: &mut [f32],
) {
    let (c, k) = (geometry.inputs, geometry.outputs);
    let weights = |group: usize| Matrix::strided(&weight[group * k * c..][..k * c], [c, k], [1, c]);
    let pass =
        Pass { groups: geometry.groups, read: read(geometry), made: made(geometry), start: ends.start };
    pass.run(threads, x, weights, y, |piece| piece.finish(geometry, &ends.finish));
}

/// See [`super::backward_input::backward_input`].
pub(super) fn backward_input(
    threads: &Threads,
    geometry: &Geometry,
    dy: &[f32],
    weight: &[f32],
    dx: &mut GradInput<'_>,
) {
    let (c, k) = (geometry.inputs, geometry.outputs);
    let weights = |group: usize| Matrix::new(&weight[group * k * c..][..k * c], k, c);
    let start = if dx.accumulate { Start::Keep } else { Start::Zero };
    let pass = Pass { groups: geometry.groups, read: made(geometry), made: read(geometry), start };
    pass.run(threads, dy, weights, dx.data, |_| ());
}

/// See [`backward_weight::backward_weight`].
pub(super) fn backward_weight(threads: &Threads, geometry: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let read = read(geometry);
    if read.all() {
        return backward_weight::backward_weight(threads, &dense(geometry), x, dy, dw);
    }
    let mut kept = threads.scratch(x.len() / read.plane() * read.count());
    threads.for_each_chunk(&mut kept, read.count(), |i, kept| {
        read.keep(&x[i * read.plane()..][..read.plane()], kept);
    });
    backward_weight::backward_weight(threads, &dense(geometry), &kept, dy, dw);
}

/// What the three passes take for so many images or fewer.
pub(super) fn scratch(geometry: &Geometry, images: usize, threads: usize) -> Scratch {
    let (read, made) = (read(geometry), made(geometry));
    let channels = geometry.groups * geometry.inputs;
    let kept = if read.all() { 0 } else { images * channels * read.count() };
    let weight = backward_weight::scratch(&dense(geometry), images, threads).and(Scratch::shared([kept]));
    pass_scratch(read, made, images).or(pass_scratch(made, read, images)).or(weight)
}

/// What a [`Pass`] takes.
fn pass_scratch(read: Planes, made: Planes, images: usize) -> Scratch {
    let images = together(read.count()).min(images);
    let rows = images * read.count();
    let joined = if images == 1 && made.all() { 0 } else { made.channels * rows };
    let gathered = if images == 1 && read.in_place() { 0 } else { read.channels * pitch(rows) };
    Scratch::each([gathered, joined])
}

/// The convolution without its stride, of what the stride keeps.
fn dense(geometry: &Geometry) -> Geometry {
    Geometry { input: geometry.output, stride: [1, 1], ..geometry.clone() }
}

fn read(geometry: &Geometry) -> Planes {
    let Geometry { inputs: channels, input: image, output: kept, stride, .. } = *geometry;
    Planes { channels, image, kept, stride }
}

fn made(geometry: &Geometry) -> Planes {
    let Geometry { outputs: channels, output: image, .. } = *geometry;
    Planes { channels, image, kept: image, stride: [1, 1] }
}

/// Images that are multiplied together.
fn together(positions: usize) -> usize {
    if positions >= Kernel::detected().width() { 1 } else { TOGETHER / positions }
}

/// Elements from one channel to the next of gathered positions: an odd number of vectors, so that channels do not fall on
/// the same lines of the cache.
fn pitch(rows: usize) -> usize {
    let vector = Kernel::detected().vector();
    (rows.div_ceil(vector) | 1) * vector
}

/// The planes of a group's channels, of which every `stride`th row and column is kept.
#[derive(Clone, Copy)]
struct Planes {
    channels: usize,
    image: [usize; 2],
    kept: [usize; 2],
    stride: [usize; 2],
}

impl Planes {
    /// Elements of a plane.
    fn plane(&self) -> usize {
        self.image[0] * self.image[1]
    }

    /// Elements that are kept of it.
    fn count(&self) -> usize {
        self.kept[0] * self.kept[1]
    }

    /// Whether that is all of them.
    fn all(&self) -> bool {
        self.image == self.kept
    }

    /// Whether an image is a panel as it is: a kernel reads whole vectors.
    fn in_place(&self) -> bool {
        self.all() && self.plane().is_multiple_of(Kernel::detected().vector())
    }

    /// Copies what is kept.
    fn keep(&self, plane: &[f32], to: &mut [f32]) {
        if self.all() { to.copy_from_slice(plane) } else { keep(self, plane, to) }
    }

    /// Puts what is kept into its place of a plane of one channel; the rest begins as 0.
    fn put(&self, start: Start<'_>, channel: usize, values: &[f32], plane: &mut [f32]) {
        if self.all() {
            return start.put(channel, values, plane);
        }
        if !matches!(start, Start::Keep) {
            plane.fill(0.0);
        }
        spread(self, values, plane);
    }
}

vectorised! {
    fn keep<'a>(planes: &'a Planes, plane: &'a [f32], to: &'a mut [f32]) -> () {
        let ([down, across], [_, width]) = (planes.stride, planes.image);
        let rows = to.chunks_mut(planes.kept[1]).zip(plane.chunks(down * width));
        for (to, from) in rows {
            if across == 2 {
                // A step known to the compiler.
                to.iter_mut().zip(from.iter().step_by(2)).for_each(|(to, &x)| *to = x);
            } else {
                to.iter_mut().zip(from.iter().step_by(across)).for_each(|(to, &x)| *to = x);
            }
        }
    }
}

vectorised! {
    fn spread<'a>(planes: &'a Planes, values: &'a [f32], plane: &'a mut [f32]) -> () {
        let ([down, across], [_, width]) = (planes.stride, planes.image);
        let rows = values.chunks(planes.kept[1]).zip(plane.chunks_mut(down * width));
        for (from, to) in rows {
            if across == 2 {
                to.iter_mut().step_by(2).zip(from).for_each(|(to, &x)| *to += x);
            } else {
                to.iter_mut().step_by(across).zip(from).for_each(|(to, &x)| *to += x);
            }
        }
    }
}

/// A pass that makes images from images.
struct Pass<'a> {
    groups: usize,
    read: Planes,
    made: Planes,
    start: Start<'a>,
}

impl Pass<'_> {
    /// - Shapes: `from` `[N, groups, read.channels, plane]`, `weights(group)` `[read.channels, made.channels]`, `to`
    ///   `[N, groups, made.channels, plane]`
    fn run<'w>(
        &self,
        threads: &Threads,
        from: &[f32],
        weights: impl Fn(usize) -> Matrix<'w> + Send + Sync,
        to: &mut [f32],
        finish: impl Fn(&mut Piece<'_>) + Send + Sync,
    ) {
        let (kernel, sizes) = (Kernel::detected(), [self.groups, self.made.channels, self.made.plane()]);
        let pieces = divide(to, sizes, threads.count(), together(self.read.count()), kernel.cols());
        threads.for_each_part(pieces, |_, mut piece| {
            for group in piece.groups.clone() {
                let weights = weights(group).columns(piece.channels.clone());
                let left = self.left(threads, from, &piece, group);
                self.multiply(threads, kernel, &left, weights, &mut piece, group);
            }
            finish(&mut piece);
        });
    }

    /// The positions of a piece's images.
    fn left<'a>(&self, threads: &'a Threads, from: &'a [f32], piece: &Piece<'_>, group: usize) -> Left<'a> {
        let Planes { channels, .. } = self.read;
        let (plane, count) = (self.read.plane(), self.read.count());
        let of = |image: usize| &from[(image * self.groups + group) * channels * plane..][..channels * plane];
        if piece.images.len() == 1 && self.read.in_place() {
            return Left::InPlace { data: of(piece.images.start), stride: plane };
        }
        let stride = pitch(piece.images.len() * count);
        let mut data = threads.scratch(channels * stride);
        for (i, image) in piece.images.clone().enumerate() {
            for (from, to) in of(image).chunks(plane).zip(data.chunks_mut(stride)) {
                self.read.keep(from, &mut to[i * count..][..count]);
            }
        }
        Left::Gathered { data, stride }
    }

    fn multiply(
        &self,
        threads: &Threads,
        kernel: &Kernel,
        left: &Left<'_>,
        weights: Matrix<'_>,
        piece: &mut Piece<'_>,
        group: usize,
    ) {
        let (count, plane, channels) = (self.read.count(), self.made.plane(), piece.channels.len());
        let (images, first) = (piece.images.len(), group * self.made.channels + piece.channels.start);
        let own = (group - piece.groups.start) * channels * plane;
        if images == 1 && self.made.all() {
            let to = &mut piece.data[own..][..channels * plane];
            if let Start::Bias(bias) = self.start {
                to.chunks_mut(plane).zip(&bias[first..]).for_each(|(plane, &bias)| plane.fill(bias));
            }
            let keep = if matches!(self.start, Start::Zero) { 0.0 } else { 1.0 };
            return left.multiply(kernel, count, weights, keep, to);
        }
        let rows = images * count;
        let mut joined = threads.scratch(channels * rows);
        left.multiply(kernel, rows, weights, 0.0, &mut joined);
        for (n, image) in piece.data.chunks_mut(piece.groups.len() * channels * plane).enumerate() {
            let planes = image[own..].chunks_mut(plane);
            for ((channel, joined), to) in joined.chunks(rows).enumerate().zip(planes) {
                self.made.put(self.start, first + channel, &joined[n * count..][..count], to);
            }
        }
    }
}

/// Positions as rows of panels: `[channels, stride]`.
enum Left<'a> {
    InPlace { data: &'a [f32], stride: usize },
    Gathered { data: ScratchGuard<'a>, stride: usize },
}

impl Left<'_> {
    /// `to[k, row] = keep · to[k, row] + Σ_c left[c, row] · weights[c, k]`.
    fn multiply(&self, kernel: &Kernel, rows: usize, weights: Matrix<'_>, keep: f32, to: &mut [f32]) {
        let (data, stride): (&[f32], _) = match self {
            Left::InPlace { data, stride } => (data, *stride),
            Left::Gathered { data, stride } => (data, *stride),
        };
        for col in (0..weights.cols()).step_by(kernel.cols()) {
            let cols = kernel.cols().min(weights.cols() - col);
            let ready = kernel.begin(cols);
            for row in (0..rows).step_by(kernel.width()) {
                ready.run(Tile {
                    rows: kernel.width().min(rows - row),
                    cols,
                    depth: weights.rows(),
                    left: &data[row..],
                    left_stride: stride,
                    right: weights.columns(col..col + cols).data(),
                    right_strides: weights.strides(),
                    dst: &mut to[col * rows + row..],
                    dst_strides: [1, rows],
                    dst_scale: keep,
                    scale: 1.0,
                });
            }
        }
    }
}
