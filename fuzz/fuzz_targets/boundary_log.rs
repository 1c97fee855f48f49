//! Boundary logs, read line by line.

#![no_main]

use ledger::{BoundaryLine, chain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = chain::lines::<BoundaryLine>(bytes).count();
});
