//! The only way out: clip, noise, release, ledger, boundary types
