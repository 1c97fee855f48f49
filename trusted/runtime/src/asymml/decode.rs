//! Numbers out of the body of a reply, piece by piece: each byte is copied once, out of reach of who sent it, and then used.

use kernels::compact::Format;

use crate::host::ReplyBody;

/// Bytes that are copied at once: they stay in the first-level cache.
const PIECE: usize = 16 << 10;

/// Decodes records `[C, P]` from `at` on in place of `values`, or added to them; whether every number is one that may be
/// used.
#[must_use]
pub(crate) fn decode(
    format: Format,
    body: &dyn ReplyBody,
    at: usize,
    [channels, plane]: [usize; 2],
    add: bool,
    values: &mut [f32],
) -> bool {
    let decode = if add { Format::decode_add } else { Format::decode };
    let mut bytes = [0u8; PIECE];
    let len = channels * plane;
    match format {
        Format::F32 | Format::Bf16 => {
            let each = format.encoded_len(1, 1);
            let chunks = values.chunks_mut(PIECE / each).enumerate();
            chunks.fold(true, |good, (i, values)| {
                let bytes = &mut bytes[..each * values.len()];
                body.read(at + i * PIECE, bytes);
                decode(format, bytes, 1, values) && good
            })
        }
        // A plane needs its scale: what a record has is copied as a whole.
        Format::Int8 => {
            let each = format.encoded_len(channels, plane);
            let mut record = vec![0u8; each];
            values.chunks_exact_mut(len).enumerate().fold(true, |good, (i, values)| {
                body.read(at + i * each, &mut record);
                decode(format, &record, channels, values) && good
            })
        }
    }
}
