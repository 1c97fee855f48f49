//! The `asymflow` command.

pub mod config;
