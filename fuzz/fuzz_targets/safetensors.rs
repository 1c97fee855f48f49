//! safetensors files, read for a small model.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use model::{Graph, zoo};

fuzz_target!(|bytes: &[u8]| {
    static GRAPH: OnceLock<Graph> = OnceLock::new();
    let build = || zoo::build("cnn-small", [1, 8, 8].into(), 3).expect("cnn-small takes these images");
    let _ = import::weights::read_safetensors(bytes, GRAPH.get_or_init(build));
});
