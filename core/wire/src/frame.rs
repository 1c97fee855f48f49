//! Length-prefixed frames with bounded sizes.

use std::io::{ErrorKind, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

const MAGIC: [u8; 4] = *b"asyf";
/// Of a frame whose body lies in shared memory; where, follows the header.
const SHARED: [u8; 4] = *b"asys";
const PREFIX: usize = 16;
/// A body is read in pieces of this size, so that memory grows only with bytes that really came.
const PIECE: usize = 1 << 20;

/// Largest frame a reader accepts, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub header: usize,
    pub body: usize,
}

impl Default for Limits {
    /// 16 MiB of header (a model graph), 8 GiB of body (the state of a very large model). A body takes memory as it comes.
    fn default() -> Self {
        Limits { header: 16 << 20, body: 8 << 30 }
    }
}

/// A frame that could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    #[error("the other side closed the connection")]
    Closed,
    #[error("the connection ended in the middle of a frame")]
    Truncated,
    #[error("no answer within the time limit")]
    TimedOut,
    #[error("the other side does not speak this protocol (bad frame prefix)")]
    Magic,
    #[error("a frame with {what} of {found} bytes; the limit is {limit}")]
    TooLong { what: &'static str, found: u64, limit: usize },
    #[error("a frame header that does not decode: {0}")]
    Header(String),
    #[error("a body in shared memory, which was not agreed on, or outside of it")]
    Shared,
    #[error("a body of {found} bytes where {expected} were expected")]
    Body { expected: usize, found: usize },
    #[error("the connection failed: {0:?}")]
    Io(ErrorKind),
}

impl From<std::io::Error> for WireError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => WireError::TimedOut,
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => WireError::Closed,
            kind => WireError::Io(kind),
        }
    }
}

/// Writes one frame: `header`, and a body made of `parts` one after the other.
///
/// # Errors
/// [`WireError`] if the header cannot be encoded or the writer fails.
pub fn write_frame<T: Serialize>(
    writer: &mut impl Write,
    header: &T,
    parts: &[&[u8]],
) -> Result<(), WireError> {
    let header = postcard::to_stdvec(header).map_err(|e| WireError::Header(e.to_string()))?;
    let body: usize = parts.iter().map(|p| p.len()).sum();
    let mut prefix = [0u8; PREFIX];
    prefix[..4].copy_from_slice(&MAGIC);
    prefix[4..8].copy_from_slice(&(header.len() as u32).to_le_bytes());
    prefix[8..].copy_from_slice(&(body as u64).to_le_bytes());
    writer.write_all(&prefix)?;
    writer.write_all(&header)?;
    for part in parts {
        writer.write_all(part)?;
    }
    Ok(writer.flush()?)
}

/// Where the body of a frame is that did not come with it: in memory that both sides share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedBody {
    /// Where it begins, and its length.
    pub at: usize,
    pub len: usize,
    /// By what the sender's ring knows it.
    pub end: u64,
}

/// Writes one frame whose body lies in shared memory.
///
/// # Errors
/// As [`write_frame`].
pub fn write_shared_frame<T: Serialize>(
    writer: &mut impl Write,
    header: &T,
    body: SharedBody,
) -> Result<(), WireError> {
    let header = postcard::to_stdvec(header).map_err(|e| WireError::Header(e.to_string()))?;
    let mut prefix = [0u8; PREFIX];
    prefix[..4].copy_from_slice(&SHARED);
    prefix[4..8].copy_from_slice(&(header.len() as u32).to_le_bytes());
    prefix[8..].copy_from_slice(&(body.len as u64).to_le_bytes());
    writer.write_all(&prefix)?;
    writer.write_all(&header)?;
    writer.write_all(&(body.at as u64).to_le_bytes())?;
    writer.write_all(&body.end.to_le_bytes())?;
    Ok(writer.flush()?)
}

/// Reads one frame: returns its header, and leaves its body in `body`.
///
/// # Errors
/// [`WireError::Closed`] if the connection ended before the first byte; any other [`WireError`] for a frame that is too
/// long, cut short, or does not decode. Nothing beyond the limits is ever allocated.
pub fn read_frame<T: DeserializeOwned>(
    reader: &mut impl Read,
    limits: Limits,
    body: &mut Vec<u8>,
) -> Result<T, WireError> {
    read_frame_when(reader, limits, body, |_| Ok(()))
}

/// [`read_frame`] that calls `wait` with the body's length before it takes memory for it.
///
/// # Errors
/// As [`read_frame`], and what `wait` returns.
pub fn read_frame_when<T: DeserializeOwned>(
    reader: &mut impl Read,
    limits: Limits,
    body: &mut Vec<u8>,
    wait: impl FnOnce(usize) -> Result<(), WireError>,
) -> Result<T, WireError> {
    match read_any_frame(reader, limits, body, wait)? {
        (header, None) => Ok(header),
        (_, Some(_)) => Err(WireError::Shared),
    }
}

/// [`read_frame_when`] whose body may also lie in shared memory: where it says it is, which nobody has checked.
///
/// # Errors
/// As [`read_frame_when`].
pub fn read_any_frame<T: DeserializeOwned>(
    reader: &mut impl Read,
    limits: Limits,
    body: &mut Vec<u8>,
    wait: impl FnOnce(usize) -> Result<(), WireError>,
) -> Result<(T, Option<SharedBody>), WireError> {
    let mut prefix = [0u8; PREFIX];
    read_prefix(reader, &mut prefix)?;
    let (magic, lengths) = prefix.split_at(4);
    if magic != MAGIC && magic != SHARED {
        return Err(WireError::Magic);
    }
    let header_len = u32::from_le_bytes(lengths[..4].try_into().expect("4 bytes"));
    let body_len = u64::from_le_bytes(lengths[4..].try_into().expect("8 bytes"));
    let header_len = bounded("a header", u64::from(header_len), limits.header)?;
    let body_len = bounded("a body", body_len, limits.body)?;
    let mut header = Vec::new();
    read_pieces(reader, header_len, &mut header)?;
    let (header, rest) = postcard::take_from_bytes(&header).map_err(|e| WireError::Header(e.to_string()))?;
    if !rest.is_empty() {
        return Err(WireError::Header(format!("{} bytes too many", rest.len())));
    }
    if magic == SHARED {
        body.clear();
        return Ok((header, Some(read_shared(reader, body_len)?)));
    }
    wait(body_len)?;
    read_pieces(reader, body_len, body)?;
    Ok((header, None))
}

fn read_shared(reader: &mut impl Read, len: usize) -> Result<SharedBody, WireError> {
    let mut place = Vec::new();
    read_pieces(reader, 16, &mut place)?;
    let number = |at: usize| u64::from_le_bytes(place[at..at + 8].try_into().expect("8 bytes"));
    let at = usize::try_from(number(0)).map_err(|_| WireError::Shared)?;
    Ok(SharedBody { at, len, end: number(8) })
}

fn bounded(what: &'static str, found: u64, limit: usize) -> Result<usize, WireError> {
    usize::try_from(found).ok().filter(|&n| n <= limit).ok_or(WireError::TooLong { what, found, limit })
}

fn read_prefix(reader: &mut impl Read, prefix: &mut [u8; PREFIX]) -> Result<(), WireError> {
    let mut have = 0;
    while have < PREFIX {
        match reader.read(&mut prefix[have..]) {
            Ok(0) if have == 0 => return Err(WireError::Closed),
            Ok(0) => return Err(WireError::Truncated),
            Ok(n) => have += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn read_pieces(reader: &mut impl Read, len: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
    out.clear();
    while out.len() < len {
        let have = out.len();
        let more = (len - have).min(PIECE);
        // Not twice as much as came: a body may be as large as a model.
        out.reserve_exact(more);
        out.resize(have + more, 0);
        reader.read_exact(&mut out[have..]).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => WireError::Truncated,
            _ => e.into(),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { header: 64, body: 1000 };

    fn frame(header: &(u32, String), parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, header, parts).expect("a Vec takes everything");
        bytes
    }

    fn read(bytes: &[u8]) -> Result<((u32, String), Vec<u8>), WireError> {
        let mut body = Vec::new();
        read_frame(&mut &bytes[..], LIMITS, &mut body).map(|header| (header, body))
    }

    #[test]
    fn round_trip_joins_the_parts() {
        let bytes = frame(&(7, "x".into()), &[b"ab", b"", b"cde"]);
        assert_eq!(read(&bytes), Ok(((7, "x".into()), b"abcde".to_vec())));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = frame(&(7, "x".into()), &[b"abcde"]);
        assert_eq!(read(&[]), Err(WireError::Closed));
        for cut in 1..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Err(WireError::Truncated), "cut at {cut}");
        }
    }

    #[test]
    fn limits_hold_before_allocation() {
        let mut bytes = frame(&(7, "x".into()), &[]);
        bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(read(&bytes), Err(WireError::TooLong { what: "a body", .. })));
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read(&bytes), Err(WireError::TooLong { what: "a header", .. })));
        bytes[0] ^= 1;
        assert_eq!(read(&bytes), Err(WireError::Magic));
    }

    #[test]
    fn bodies_elsewhere_are_told_apart() {
        let place = SharedBody { at: 4096, len: 99, end: 7 };
        let mut bytes = Vec::new();
        write_shared_frame(&mut bytes, &(7u32, String::from("x")), place).expect("a Vec takes everything");
        let read = |bytes: &[u8]| {
            let mut body = vec![1];
            read_any_frame::<(u32, String)>(&mut &bytes[..], LIMITS, &mut body, |_| Ok(())).map(|(_, at)| at)
        };
        assert_eq!(read(&bytes), Ok(Some(place)));
        assert_eq!(super::tests::read(&bytes), Err(WireError::Shared), "unless they were agreed on");
        for cut in 1..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Err(WireError::Truncated), "cut at {cut}");
        }
        bytes[8..16].copy_from_slice(&1001u64.to_le_bytes());
        assert!(matches!(read(&bytes), Err(WireError::TooLong { what: "a body", .. })));
    }

    #[test]
    fn bytes_after_the_header_are_refused() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &(7u32, String::from("x"), 9u8), &[]).expect("a Vec takes everything");
        assert!(matches!(read(&bytes), Err(WireError::Header(_))));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), good: bool) {
            let mut bytes = bytes;
            if good && bytes.len() >= 16 {
                let magic = if bytes[15] % 2 == 0 { MAGIC } else { SHARED };
                bytes[..4].copy_from_slice(&magic);
                bytes[5..8].fill(0);
                bytes[9..16].fill(0);
            }
            let _ = read(&bytes);
        }
    }
}
