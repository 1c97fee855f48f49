//! How a tensor `[N, groups, channels, plane]` is divided into contiguous pieces of work.

use std::ops::Range;

use super::geometry::Geometry;

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
pub(super) fn divide<'a>(
    data: &'a mut [f32],
    [groups, channels, plane]: [usize; 3],
    threads: usize,
    together: usize,
    unit: usize,
) -> Vec<Piece<'a>> {
    let image = groups * channels * plane;
    if data.is_empty() {
        return Vec::new();
    }
    let n = data.len() / image;
    if n >= threads {
        let count = together.clamp(1, n.div_ceil(threads));
        return data
            .chunks_mut(count * image)
            .enumerate()
            .map(|(i, data)| Piece {
                images: i * count..n.min((i + 1) * count),
                groups: 0..groups,
                channels: 0..channels,
                data,
            })
            .collect();
    }
    let parts = threads.div_ceil(n * groups);
    let step = channels.div_ceil(parts).next_multiple_of(unit);
    let group_pieces = data.chunks_mut(channels * plane).enumerate();
    let pieces = group_pieces.flat_map(|(g, data)| {
        data.chunks_mut(step * plane).enumerate().map(move |(i, data)| Piece {
            images: g / groups..g / groups + 1,
            groups: g % groups..g % groups + 1,
            channels: i * step..channels.min((i + 1) * step),
            data,
        })
    });
    pieces.collect()
}

/// Images whose output positions fill one pass of a product over `rows` rows.
pub(super) fn images_together(geometry: &Geometry, rows: usize) -> usize {
    rows.div_ceil(geometry.output_plane())
}
