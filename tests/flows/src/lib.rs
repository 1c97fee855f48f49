//! Flows end to end in one process: a host in memory, the CPU device behind a transport, and faults to inject.

mod host;
mod specs;

pub use host::{Disk, Fault, Links, MemoryHost};
pub use specs::{delta, enclave, plain, records, small_graph, spec, with_epsilon, without_noise};
