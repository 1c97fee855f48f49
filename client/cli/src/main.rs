//! The `asymflow` command.

fn main() {}
