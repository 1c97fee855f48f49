//! `train --profile`: where the trusted side's time goes, by node and pass, as a table and as a trace.

mod costs;
mod table;
mod trace_file;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use engine::trace::{Span, Work};
use model::Graph;
use wire::owner::Profile;

use self::costs::Cost;
use self::trace_file::TraceFile;

/// Collects what the trusted process reports.
pub struct Profiler {
    file: PathBuf,
    /// As they run in training, then all of them as they run in inference.
    parts: Vec<Part>,
    in_steps: HashMap<Work, Total>,
    between: HashMap<Work, Total>,
    trace: TraceFile,
}

/// A name, if there are several, and a graph as it runs.
type Part = (Option<String>, Graph);

/// All spans of one kind of work.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    seconds: f64,
    count: usize,
    cost: Cost,
}

impl Profiler {
    /// A profiler whose trace goes to `file`.
    pub fn new(file: &Path) -> Self {
        Profiler {
            file: file.to_path_buf(),
            parts: Vec::new(),
            in_steps: HashMap::new(),
            between: HashMap::new(),
            trace: TraceFile::default(),
        }
    }

    /// Takes in one report.
    pub fn add(&mut self, profile: Profile) {
        match profile {
            Profile::Graphs(parts) => {
                let several = parts.len() > 1;
                let as_run = |rewrite: fn(&Graph) -> Graph| {
                    parts.iter().map(move |(name, graph)| (several.then(|| name.clone()), rewrite(graph)))
                };
                let training = as_run(engine::fused_for_training);
                self.parts = training.chain(as_run(engine::fused_for_inference)).collect();
            }
            Profile::Spans { step, spans } => {
                let totals = if step.is_some() { &mut self.in_steps } else { &mut self.between };
                for span in &spans {
                    let total = totals.entry(span.work).or_default();
                    total.seconds += span.end - span.begin;
                    total.count += 1;
                    total.cost += Cost::of(&self.parts, span.work, step.unwrap_or(0));
                }
                let named = |span: &Span| (*span, name(&self.parts, span.work));
                self.trace.add(spans.iter().map(named), step.is_some());
            }
        }
    }

    /// Writes the trace and returns the table, which ends in a line break.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(&self) -> Result<String> {
        std::fs::write(&self.file, self.trace.json()?).with_context(|| self.file.display().to_string())?;
        let mut text = table::text(&self.parts, &self.in_steps, &self.between);
        text += &format!(
            "trace of the first {} steps: {}; open it at https://ui.perfetto.dev or chrome://tracing\n",
            self.trace.steps(),
            self.file.display()
        );
        Ok(text)
    }
}

/// What a span is called: its node's name in the graph, with its part where there are several; or its kind of work.
fn name(parts: &[Part], work: Work) -> String {
    let node = |part: u8, node: u32| {
        let found = parts
            .get(usize::from(part))
            .and_then(|(name, graph)| Some((name, graph.nodes().get(node as usize)?)));
        match found {
            Some((Some(part), node)) => format!("{part}.{}", node.name),
            Some((None, node)) => node.name.clone(),
            None => format!("node {node} of part {part}"),
        }
    };
    match work {
        Work::Forward { part, node: n } | Work::Backward { part, node: n } => node(part, n),
        Work::Update { part } => match parts.get(usize::from(part)) {
            Some((Some(name), _)) => format!("{name}.parameters"),
            _ => "parameters".to_owned(),
        },
        other => pass(other).to_owned(),
    }
}

/// Which pass a span belongs to, or its kind of work.
fn pass(work: Work) -> &'static str {
    match work {
        Work::Step => "step",
        Work::Wait => "wait for logits",
        Work::Assemble => "batch assembly",
        Work::Forward { .. } => "forward",
        Work::Backward { .. } => "backward",
        Work::Update { .. } => "update",
        Work::Split => "split",
        Work::SplitBackward => "split, backward",
        Work::MergeAndLoss => "merge and loss",
        Work::Release => "release",
    }
}

#[cfg(test)]
mod tests;
