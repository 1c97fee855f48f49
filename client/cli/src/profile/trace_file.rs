//! The trace as Chrome's JSON, which Perfetto opens.

use anyhow::Result;
use engine::trace::{Span, Work};
use serde::Serialize;

use super::pass;

/// Steps that the trace shows; a file of all would be too large to open.
const STEPS: usize = 50;

/// Spans of the first steps, and of what came before and between them.
#[derive(Default)]
pub(super) struct TraceFile {
    events: Vec<TraceEvent>,
    steps: usize,
    /// Where the first span begins.
    origin: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    display_time_unit: &'static str,
    trace_events: &'a [TraceEvent],
}

/// A complete event: times in microseconds.
#[derive(Serialize)]
struct TraceEvent {
    name: String,
    cat: &'static str,
    ph: &'static str,
    ts: f64,
    dur: f64,
    pid: u32,
    tid: u32,
}

impl TraceFile {
    /// Adds named spans, all of one step or of none.
    pub(super) fn add(&mut self, spans: impl Iterator<Item = (Span, String)>, step: bool) {
        if self.steps >= STEPS {
            return;
        }
        self.steps += usize::from(step);
        let spans: Vec<(Span, String)> = spans.collect();
        let first = spans.iter().map(|(span, _)| span.begin).fold(f64::INFINITY, f64::min);
        let origin = *self.origin.get_or_insert(first);
        let number = self.steps;
        self.events.extend(spans.into_iter().map(|(span, name)| TraceEvent {
            name: if span.work == Work::Step { format!("step {number}") } else { name },
            cat: pass(span.work),
            ph: "X",
            ts: 1e6 * (span.begin - origin),
            dur: 1e6 * (span.end - span.begin),
            pid: 1,
            tid: 1,
        }));
    }

    /// Steps it shows.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// # Errors
    /// If a time is not a number.
    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string(&File { display_time_unit: "ms", trace_events: &self.events })?)
    }
}
