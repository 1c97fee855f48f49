//! Project tasks

fn main() {}
