//! Frames, with every header either side reads.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::de::DeserializeOwned;
use wire::{Limits, read_frame};

const LIMITS: Limits = Limits { header: 1 << 16, body: 1 << 20 };

fn read<T: DeserializeOwned>(bytes: &[u8]) {
    let (mut reader, mut body) = (bytes, Vec::new());
    while read_frame::<T>(&mut reader, LIMITS, &mut body).is_ok() {}
}

fuzz_target!(|bytes: &[u8]| {
    read::<wire::accelerator::Job>(bytes);
    read::<wire::accelerator::Reply>(bytes);
    read::<wire::owner::Request>(bytes);
    read::<wire::owner::Event>(bytes);
});
