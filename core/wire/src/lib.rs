//! Messages between the processes, their codec and limits. No sockets here: anything that reads and writes bytes will do.
//!
//! Two links use it: owner ↔ enclave ([`owner`]) and enclave ↔ accelerator ([`accelerator`]). A frame is a 16-byte
//! prefix, a small typed header and a raw little-endian body; both lengths are checked before anything is allocated.

pub mod accelerator;
pub mod body;
pub mod frame;
pub mod layers;
pub mod owner;
pub mod spec;

pub use frame::{
    Limits, SharedBody, WireError, read_any_frame, read_frame, read_frame_when, write_frame,
    write_shared_frame,
};
pub use spec::RunSpec;

/// Version of both protocols; peers of another version are refused.
pub const VERSION: u32 = 4;
