//! Flows end to end in one process: a host in memory, the CPU device behind a transport, and faults to inject.

mod host;
mod specs;

pub use host::{Disk, Fault, Liar, Line, Links, MemoryHost};
pub use specs::{
    asymml, asymml_noised, asymml_with, bf16, delta, dp_input, enclave, everything, normed, per_step, plain,
    quantile_clip, randomised_labels, records, small_graph, spec, two_views, with_epsilon, withheld_labels,
    without_noise,
};
