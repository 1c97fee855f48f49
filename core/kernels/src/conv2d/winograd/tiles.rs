//! How images are cut into tiles, and tiles into chunks that stay in the second-level cache.

use std::ops::Range;

use super::super::blocks::{LANES, Window};
use super::super::geometry::Geometry;

/// Tiles of a chunk, about: enough to use a transformed weight many times, few enough to stay in the cache.
const CHUNK: usize = 64;

/// The tiles of `M×M` outputs of each image.
#[derive(Clone, Copy)]
pub(super) struct Tiling {
    /// `M`.
    side: usize,
    /// Rows and columns of tiles in an image.
    count: [usize; 2],
    input: [usize; 2],
    output: [usize; 2],
    /// Top and left.
    padding: [usize; 2],
}

/// The same rows of tiles of some images: either all rows, or some rows of one image.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub images: Range<usize>,
    rows: Range<usize>,
    columns: usize,
}

impl Tiling {
    pub(super) fn new(geometry: &Geometry, side: usize) -> Self {
        let [top, left, ..] = geometry.padding;
        let count = geometry.output.map(|len| len.div_ceil(side));
        Tiling { side, count, input: geometry.input, output: geometry.output, padding: [top, left] }
    }

    /// Images of a chunk.
    pub(super) fn images_together(&self) -> usize {
        (CHUNK / (self.count[0] * self.count[1])).max(1)
    }

    /// Rows of tiles of a chunk.
    fn rows_together(&self) -> usize {
        (CHUNK / self.count[1]).clamp(1, self.count[0])
    }

    /// Tiles of the largest chunk of so many images.
    pub(super) fn largest_chunk(&self, images: usize) -> usize {
        self.images_together().min(images) * self.rows_together() * self.count[1]
    }

    /// Chunks of each group of images.
    fn bands(&self) -> usize {
        self.count[0].div_ceil(self.rows_together())
    }

    /// Number of chunks of so many images.
    pub(super) fn chunks(&self, images: usize) -> usize {
        images.div_ceil(self.images_together()) * self.bands()
    }

    /// Chunk `i` of these images, in order.
    pub(super) fn chunk(&self, images: &Range<usize>, i: usize) -> Chunk {
        let (together, step) = (self.images_together(), self.rows_together());
        let (first, row) = (images.start + i / self.bands() * together, i % self.bands() * step);
        Chunk {
            images: first..images.end.min(first + together),
            rows: row..self.count[0].min(row + step),
            columns: self.count[1],
        }
    }

    /// All tiles of so many images.
    pub(super) fn all(&self, images: usize) -> Chunk {
        Chunk { images: 0..images, rows: 0..self.count[0], columns: self.count[1] }
    }

    /// The inputs that a chunk's tiles read: its outputs, and two rows and columns more.
    pub(super) fn input_window(&self, chunk: &Chunk) -> Window {
        Window {
            image: self.input,
            row: chunk.rows.start * self.side,
            margin: self.padding,
            size: [chunk.rows.len() * self.side + 2, self.count[1] * self.side + 2],
        }
    }

    /// The outputs of a chunk's tiles.
    pub(super) fn output_window(&self, chunk: &Chunk) -> Window {
        Window {
            image: self.output,
            row: chunk.rows.start * self.side,
            margin: [0, 0],
            size: [chunk.rows.len() * self.side, self.count[1] * self.side],
        }
    }

    /// Elements of the largest block of channels, input or output.
    pub(super) fn block_len(&self) -> usize {
        self.rows_len(self.rows_together())
    }

    /// Elements of a block of channels of whole images.
    pub(super) fn image_len(&self) -> usize {
        self.rows_len(self.count[0])
    }

    fn rows_len(&self, rows: usize) -> usize {
        (rows * self.side + 2) * (self.count[1] * self.side + 2) * LANES
    }
}

impl Chunk {
    /// The same rows of some of the images.
    pub(super) fn only(&self, images: &Range<usize>) -> Chunk {
        Chunk { images: images.clone(), ..self.clone() }
    }

    /// Rows and columns of tiles in each image.
    pub(super) fn grid(&self) -> [usize; 2] {
        [self.rows.len(), self.columns]
    }

    /// Tiles of each image.
    pub(super) fn tiles_per_image(&self) -> usize {
        self.rows.len() * self.columns
    }

    /// Tiles of all images.
    pub(super) fn tiles(&self) -> usize {
        self.images.len() * self.tiles_per_image()
    }
}
