//! The untrusted accelerator: holds a model and messages of records, trains on them, and answers with logits.
//!
//! Nothing here can weaken the guarantee: whatever this process does, all it ever sees is what the enclave sent.

pub mod device;
pub mod listen;
pub mod session;

pub use device::{CpuDevice, Device, DeviceError};
pub use session::serve;
