//! Work on `[N, C, …]` by blocks of channels small enough that a second pass finds them in the cache.

use std::ops::Range;

use tensor::Shape;

use crate::Threads;
use crate::denormals::Flushed;
use crate::parts::Chunks;

/// Elements of one tensor in a block: three tensors of a backward pass (384 KiB) stay in any L2 cache.
const BLOCK: usize = 1 << 15;

/// Sizes of `[N, C, …]`; the axes after the channels are one plane.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub images: usize,
    pub channels: usize,
    pub plane: usize,
}

impl Layout {
    pub(crate) fn of(shape: Shape) -> Self {
        match *shape.dims() {
            [images, channels, ref plane @ ..] => Layout { images, channels, plane: plane.iter().product() },
            _ => Layout { images: 0, channels: 1, plane: 0 },
        }
    }

    /// Elements of one image.
    #[inline(always)]
    pub(crate) fn image(self) -> usize {
        self.channels * self.plane
    }

    /// Elements per channel.
    pub(crate) fn count(self) -> usize {
        self.images * self.plane
    }

    /// Where these channels of an image lie.
    #[inline(always)]
    pub(crate) fn range(self, image: usize, channels: Range<usize>) -> Range<usize> {
        let start = image * self.image();
        start + channels.start * self.plane..start + channels.end * self.plane
    }

    /// The planes of one channel, image by image.
    #[inline(always)]
    pub(crate) fn planes(self, channel: usize) -> impl Iterator<Item = Range<usize>> {
        (0..self.images).map(move |n| self.range(n, channel..channel + 1))
    }

    /// Channels in a block.
    fn together(self) -> usize {
        (BLOCK / self.count().max(1)).clamp(1, self.channels.max(1))
    }
}

/// Runs two passes over blocks of channels: `read` over all images, then `write` image by image.
///
/// On one thread, a block is written while what was read of it is in the cache. Several threads divide the blocks for
/// the first pass and the images for the second. Nothing is allocated, and every element is made the same way.
///
/// - `read(channels, numbers)` fills the channels' numbers
/// - `write(image, channels, numbers, outputs)` fills these channels of one image of every output
/// - Shapes: `numbers` `[C, any]`; each of `outputs` `[N, C, plane]`, or empty where it is not wanted
pub(crate) fn for_each_block<const W: usize>(
    threads: &Threads,
    layout: Layout,
    numbers: &mut [f32],
    mut outputs: [&mut [f32]; W],
    read: impl Fn(Range<usize>, &mut [f32]) + Send + Sync,
    write: impl Fn(usize, Range<usize>, &[f32], [&mut [f32]; W]) + Send + Sync,
) {
    let together = layout.together();
    let channels = |block: usize| block * together..((block + 1) * together).min(layout.channels);
    let len = (numbers.len() / layout.channels.max(1) * together).max(1);
    if threads.count() == 1 {
        let _flushed = Flushed::new();
        for (block, numbers) in numbers.chunks_mut(len).enumerate() {
            read(channels(block), numbers);
            for n in 0..layout.images {
                let at = layout.range(n, channels(block));
                let outputs = outputs.each_mut().map(|data| data.get_mut(at.clone()).unwrap_or_default());
                write(n, channels(block), numbers, outputs);
            }
        }
        return;
    }
    threads.for_each_chunk(numbers, len, |block, numbers| read(channels(block), numbers));
    if outputs.iter().any(|data| !data.is_empty()) {
        let images = outputs.map(|data| (!data.is_empty()).then_some(Chunks { data, len: layout.image() }));
        threads.for_each_part(images, |n, outputs| {
            write(n, 0..layout.channels, numbers, outputs.map(Option::unwrap_or_default));
        });
    }
}
