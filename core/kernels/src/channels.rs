//! Work on `[N, C, …]` by blocks of channels small enough that a second pass finds them in the cache.

use std::ops::Range;

use tensor::Shape;

use crate::Threads;
use crate::denormals::Flushed;

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

/// Some channels of every image.
pub(crate) struct Block<'a, const W: usize> {
    pub channels: Range<usize>,
    /// This block's part of `numbers`: as many per channel as there are.
    pub numbers: &'a mut [f32],
    pub outputs: [Planes<'a>; W],
}

/// These channels of a tensor that is written; of an empty tensor, nothing.
pub(crate) enum Planes<'a> {
    /// The whole tensor, and the channels' elements in it.
    Within { data: &'a mut [f32], layout: Layout, channels: Range<usize> },
    /// One piece per image.
    Pieces(Vec<&'a mut [f32]>),
}

impl Planes<'_> {
    /// The channels of one image, one plane after the other.
    pub(crate) fn image(&mut self, image: usize) -> &mut [f32] {
        match self {
            Planes::Within { data, layout, channels } => {
                data.get_mut(layout.range(image, channels.clone())).unwrap_or_default()
            }
            Planes::Pieces(pieces) => pieces.get_mut(image).map(|p| &mut **p).unwrap_or_default(),
        }
    }
}

/// Runs `job` on every block, in any order, on the pool.
///
/// - Shapes: `numbers` `[C, any]`; each of `outputs` `[N, C, plane]`, or empty where it is not wanted
pub(crate) fn for_each_block<const W: usize>(
    threads: &Threads,
    layout: Layout,
    numbers: &mut [f32],
    mut outputs: [&mut [f32]; W],
    job: impl Fn(Block<'_, W>) + Send + Sync,
) {
    let together = layout.together();
    let blocks = layout.channels.div_ceil(together);
    let channels = |b: usize| b * together..((b + 1) * together).min(layout.channels);
    let numbers = numbers.chunks_mut((numbers.len() / layout.channels.max(1) * together).max(1));
    if threads.count() == 1 {
        // Nothing is allocated.
        let _flushed = Flushed::new();
        for (b, numbers) in numbers.enumerate().take(blocks) {
            let within = |data| Planes::Within { data, layout, channels: channels(b) };
            let outputs = outputs.each_mut().map(|data| within(&mut **data));
            job(Block { channels: channels(b), numbers, outputs });
        }
        return;
    }
    let mut outputs = outputs.map(|data| pieces(data, layout, together, blocks));
    let items = numbers.enumerate().take(blocks).map(|(b, numbers)| Block {
        channels: channels(b),
        numbers,
        outputs: outputs.each_mut().map(|pieces| Planes::Pieces(std::mem::take(&mut pieces[b]))),
    });
    threads.for_each_item(items.collect(), job);
}

/// For each block, its piece of every image.
fn pieces(data: &mut [f32], layout: Layout, together: usize, blocks: usize) -> Vec<Vec<&mut [f32]>> {
    let mut pieces: Vec<_> = (0..blocks).map(|_| Vec::with_capacity(layout.images)).collect();
    for image in data.chunks_mut(layout.image().max(1)) {
        let blocks = image.chunks_mut((together * layout.plane).max(1));
        blocks.zip(&mut pieces).for_each(|(block, pieces)| pieces.push(block));
    }
    pieces
}
