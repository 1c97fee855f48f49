//! IDX files, plain and gzip.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = data::idx::parse_images(bytes);
    let _ = data::idx::parse_labels(bytes);
});
