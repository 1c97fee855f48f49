//! Memory that two processes of one machine share: bodies of frames that do not go through a socket.
//!
//! One process makes it and hands its descriptor to the other. It holds two rings, one for each direction; whoever sends
//! writes a body into its ring and tells where it is in a frame. What a process reads there the other may change at any
//! time: every byte is read once, by a copy, and nothing in it is trusted to say where anything is.

mod mapping;
mod ring;

pub use mapping::Mapping;
pub use ring::{Ring, Taken};

/// Bytes before the rings: counters.
pub const HEADER: usize = 4096;

/// Where bodies begin: at multiples of this.
pub const ALIGN: usize = 64;
