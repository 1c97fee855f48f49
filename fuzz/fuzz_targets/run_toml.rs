//! RUN.toml.

#![no_main]

use std::path::Path;

use cli::config::Loaded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = Loaded::parse(text, Path::new("RUN.toml")) {
        let _ = error.to_string();
    }
});
