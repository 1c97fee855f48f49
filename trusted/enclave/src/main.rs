//! The trusted process

fn main() {}
