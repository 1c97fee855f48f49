//! The untrusted accelerator process

fn main() {}
