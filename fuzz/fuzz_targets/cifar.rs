//! CIFAR files.

#![no_main]

use data::cifar::{Variant, parse, parse_names};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse(bytes, Variant::Cifar10, usize::MAX);
    let _ = parse(bytes, Variant::Cifar100, usize::MAX);
    let _ = parse_names(bytes, 10);
});
