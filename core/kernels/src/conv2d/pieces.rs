//! How a tensor `[N, groups, channels, plane]` is divided into contiguous pieces of work.

use std::ops::Range;

use super::geometry::Geometry;
use crate::parts::Parts;

/// Several whole images, or some channels of one group of one image.
pub(super) struct Piece<'a> {
    pub images: Range<usize>,
    pub groups: Range<usize>,
    /// Channels within a group.
    pub channels: Range<usize>,
    /// `[images, groups, channels, plane]`.
    pub data: &'a mut [f32],
}

/// Divides `data` for `threads` threads, with at most `together` images to a piece.
///
/// Where there are fewer images than threads, channels are divided too, in multiples of `unit`.
pub(super) fn divide(
    data: &mut [f32],
    [groups, channels, plane]: [usize; 3],
    threads: usize,
    together: usize,
    unit: usize,
) -> Pieces<'_> {
    let image = (groups * channels * plane).max(1);
    let n = data.len() / image;
    let cut = if n >= threads {
        Cut { images: together.clamp(1, n.div_ceil(threads).max(1)), groups, channels }
    } else {
        let parts = threads.div_ceil((n * groups).max(1));
        Cut { images: 1, groups: 1, channels: channels.div_ceil(parts).next_multiple_of(unit).min(channels) }
    };
    let mut pieces = Pieces { data, sizes: [n, groups, channels, plane], cut, first: 0, last: 0 };
    pieces.last = if pieces.data.is_empty() { 0 } else { pieces.steps().iter().product() };
    pieces
}

/// The largest piece.
#[derive(Clone, Copy)]
struct Cut {
    images: usize,
    groups: usize,
    channels: usize,
}

/// Pieces in the order in which they lie in memory.
pub(super) struct Pieces<'a> {
    /// From the first piece on.
    data: &'a mut [f32],
    /// Images, groups, channels of a group, plane.
    sizes: [usize; 4],
    cut: Cut,
    first: usize,
    last: usize,
}

impl Pieces<'_> {
    /// Number of pieces along images, groups and channels.
    fn steps(&self) -> [usize; 3] {
        let ([n, groups, channels, _], cut) = (self.sizes, self.cut);
        [n.div_ceil(cut.images), groups.div_ceil(cut.groups), channels.div_ceil(cut.channels.max(1))]
    }

    /// Images, groups and channels of a piece.
    fn ranges(&self, piece: usize) -> [Range<usize>; 3] {
        let ([n, groups, channels, _], [_, across, along]) = (self.sizes, self.steps());
        let range = |at: usize, step: usize, end: usize| at * step..end.min((at + 1) * step);
        let Cut { images, groups: group, channels: channel } = self.cut;
        [
            range(piece / (across * along), images, n),
            range(piece / along % across, group, groups),
            range(piece % along, channel, channels),
        ]
    }

    /// Elements before a piece.
    fn offset(&self, piece: usize) -> usize {
        let [_, groups, channels, plane] = self.sizes;
        let [images, group, channel] = self.ranges(piece).map(|range| range.start);
        ((images * groups + group) * channels + channel) * plane
    }
}

impl<'a> Parts for Pieces<'a> {
    type Part = Piece<'a>;

    fn count(&self) -> usize {
        self.last - self.first
    }

    fn divide(self, at: usize) -> (Self, Self) {
        let middle = self.first + at;
        let len =
            if middle < self.last { self.offset(middle) - self.offset(self.first) } else { self.data.len() };
        let Pieces { sizes, cut, first, last, .. } = self;
        let (before, after) = self.data.split_at_mut(len);
        let part = |data, first, last| Pieces { data, sizes, cut, first, last };
        (part(before, first, middle), part(after, middle, last))
    }

    fn only(self) -> Piece<'a> {
        let [images, groups, channels] = self.ranges(self.first);
        Piece { images, groups, channels, data: self.data }
    }
}

/// Images whose output positions fill one pass of a product over `rows` rows.
pub(super) fn images_together(geometry: &Geometry, rows: usize) -> usize {
    rows.div_ceil(geometry.output_plane())
}
