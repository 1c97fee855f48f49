//! What one run came to.

use serde::Deserialize;

use super::experiment::Cell;

/// A cell with its figures.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    pub(super) cell: Cell,
    pub(super) figures: Figures,
}

/// The fields of `asymflow train --json` that this experiment uses.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Figures {
    /// Of the merged model on the test records, in [0, 1].
    pub(super) accuracy: f64,
    pub(super) accuracy_trusted_only: f64,
    pub(super) test_records: usize,
    /// Bytes and processor seconds of the whole run, by training records × epochs.
    pub(super) bytes_out_per_image: f64,
    pub(super) bytes_in_per_image: f64,
    pub(super) trusted_cpu_seconds_per_image: f64,
    pub(super) untrusted_cpu_seconds_per_image: f64,
    pub(super) peak_trusted_bytes: u64,
    /// Spent by every record; nothing where nothing is guaranteed.
    pub(super) epsilon: Option<f64>,
}

impl Figures {
    /// What the residual buys, in percentage points.
    pub(super) fn bought(&self) -> f64 {
        100.0 * (self.accuracy - self.accuracy_trusted_only)
    }
}
