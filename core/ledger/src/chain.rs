//! Lines that cannot be altered, dropped, repeated or exchanged without notice: one JSON object each, chained by hash.
//!
//! The last member of a line is `hash`: SHA-256 of the line's bytes before `,"hash"`. `previous` repeats the hash of the
//! line before, and `sequence` counts from 0.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Digest;

/// What stands before the hash at the end of a line, and after it.
const HASH_OPEN: &[u8] = b",\"hash\":\"";
const HASH_CLOSE: &[u8] = b"\"}";

/// One place in a chain: how many lines there are up to it, and the hash of the last of them.
///
/// A checkpoint stores the ledger's, so that a ledger that was rolled back behind it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of lines.
    pub sequence: u64,
    /// Hash of the last one.
    pub hash: Digest,
}

/// A line of a chain.
pub trait Link: Serialize + DeserializeOwned {
    /// Names the kind of chain in the hash of its empty start.
    const DOMAIN: &'static str;

    /// Position from 0, and hash of the line before.
    fn place(&self) -> (u64, Digest);

    /// Hash of the line.
    fn hash(&self) -> Digest;

    /// Sets the hash of the line.
    fn set_hash(&mut self, hash: Digest);
}

/// A chain that cannot be trusted, and the line (from 1) that shows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The last line is cut short.
    #[error("line {line} is cut short; restore the whole file")]
    Truncated {
        /// The line.
        line: usize,
        /// Bytes before it, all intact.
        intact: usize,
    },
    /// A line that is not what belongs there.
    #[error("line {line} is not an entry: {reason}")]
    Malformed {
        /// The line.
        line: usize,
        /// Why it does not parse.
        reason: String,
    },
    /// A line whose hash is not that of its content.
    #[error("line {line} was altered: its hash does not match its content")]
    Altered {
        /// The line.
        line: usize,
    },
    /// Lines are missing before this one.
    #[error("line {line} is entry {found}, expected entry {expected}: entries before it are missing")]
    Missing {
        /// The line.
        line: usize,
        /// The entry that belongs there.
        expected: u64,
        /// The entry that stands there.
        found: u64,
    },
    /// A line that belongs further up.
    #[error("line {line} is entry {found}, expected entry {expected}: entries are repeated or out of order")]
    OutOfOrder {
        /// The line.
        line: usize,
        /// The entry that belongs there.
        expected: u64,
        /// The entry that stands there.
        found: u64,
    },
    /// A line that follows another one than the one before it.
    #[error("line {line} does not follow the line before it: one of them is from another file")]
    Broken {
        /// The line.
        line: usize,
    },
}

impl Head {
    /// The head of an empty chain.
    pub fn empty<L: Link>() -> Self {
        Head { sequence: 0, hash: Digest::of(L::DOMAIN, &[]) }
    }

    /// The head after this line.
    pub fn after<L: Link>(line: &L) -> Self {
        Head { sequence: line.place().0 + 1, hash: line.hash() }
    }
}

/// Sets the line's hash and returns its bytes, newline included.
pub fn seal<L: Link>(line: &mut L) -> Vec<u8> {
    line.set_hash(Digest([0; 32]));
    let mut bytes = serde_json::to_vec(line).expect("a line has string keys and finite numbers only");
    bytes.truncate(bytes.len() - HASH_CLOSE.len() - 64 - HASH_OPEN.len());
    line.set_hash(sha256(&bytes));
    bytes.extend_from_slice(HASH_OPEN);
    bytes.extend_from_slice(line.hash().to_string().as_bytes());
    bytes.extend_from_slice(HASH_CLOSE);
    bytes.push(b'\n');
    bytes
}

/// Reads a chain line by line, checking every hash and the order; ends after the first error.
pub fn lines<L: Link>(bytes: &[u8]) -> impl Iterator<Item = Result<L, ChainError>> + '_ {
    let (mut rest, mut head, mut line, mut failed) = (bytes, Head::empty::<L>(), 0, false);
    std::iter::from_fn(move || {
        if rest.is_empty() || failed {
            return None;
        }
        line += 1;
        let result = next_line::<L>(&mut rest, &head, line, bytes.len());
        match &result {
            Ok(read) => head = Head::after(read),
            Err(_) => failed = true,
        }
        Some(result)
    })
}

fn next_line<L: Link>(rest: &mut &[u8], head: &Head, line: usize, total: usize) -> Result<L, ChainError> {
    let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
        return Err(ChainError::Truncated { line, intact: total - rest.len() });
    };
    let text = &rest[..end];
    *rest = &rest[end + 1..];
    let (read, intact) =
        parse::<L>(text).map_err(|e| ChainError::Malformed { line, reason: e.to_string() })?;
    if !intact {
        return Err(ChainError::Altered { line });
    }
    let (found, previous) = read.place();
    let expected = head.sequence;
    if found > expected {
        return Err(ChainError::Missing { line, expected, found });
    }
    if found < expected {
        return Err(ChainError::OutOfOrder { line, expected, found });
    }
    if previous != head.hash {
        return Err(ChainError::Broken { line });
    }
    Ok(read)
}

/// The content of a line without its newline, and whether its hash is right.
fn parse<L: Link>(line: &[u8]) -> Result<(L, bool), serde_json::Error> {
    let read: L = serde_json::from_slice(line)?;
    let tail = [HASH_OPEN, read.hash().to_string().as_bytes(), HASH_CLOSE].concat();
    let intact = line.strip_suffix(tail.as_slice()).is_some_and(|body| sha256(body) == read.hash());
    Ok((read, intact))
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}
