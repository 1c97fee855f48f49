//! The table of a profile.

use std::collections::HashMap;
use std::fmt::Write;

use engine::trace::Work;

use super::costs::Cost;
use super::{Part, Total, name, pass};
use crate::terminal::{bytes, seconds};

/// Rows of single nodes; the trace has all of them.
const NODES: usize = 20;

/// Rows by operator, then those of the nodes that take longest. Ends in a line break.
pub(super) fn text(
    parts: &[Part],
    in_steps: &HashMap<Work, Total>,
    between: &HashMap<Work, Total>,
) -> String {
    let steps = in_steps.get(&Work::Step).copied().unwrap_or_default();
    let count = steps.count.max(1) as f64;
    let mut text =
        format!("trusted side, {} steps of {} each\n\n", steps.count, seconds(steps.seconds / count));
    let mut kinds: HashMap<(String, &'static str), Total> = HashMap::new();
    let mut nodes: Vec<((String, &'static str), Total)> = Vec::new();
    for (&work, total) in in_steps.iter().filter(|(work, _)| **work != Work::Step) {
        let kind = kinds.entry((kind(parts, work), pass(work))).or_default();
        kind.seconds += total.seconds;
        kind.cost += total.cost;
        if let Work::Forward { .. } | Work::Backward { .. } = work {
            nodes.push(((name(parts, work), pass(work)), *total));
        }
    }
    let accounted: f64 = kinds.values().map(|total| total.seconds).sum();
    let rest = Total { seconds: (steps.seconds - accounted).max(0.0), ..Total::default() };
    kinds.insert(("everything else".to_owned(), ""), rest);
    rows(&mut text, "operator", kinds.into_iter().collect(), usize::MAX, (steps.seconds, count));
    text.push('\n');
    rows(&mut text, "node", nodes, NODES, (steps.seconds, count));
    text.push('\n');
    between_steps(&mut text, between);
    text
}

/// The operator of a node; the kind of any other work.
fn kind(parts: &[Part], work: Work) -> String {
    match work {
        Work::Forward { part, node } | Work::Backward { part, node } => {
            let graph = parts.get(usize::from(part)).map(|(_, graph)| graph);
            let node = graph.and_then(|graph| graph.nodes().get(node as usize));
            node.map_or("unknown", |node| node.op.operator().name()).to_owned()
        }
        other => name(parts, other),
    }
}

/// Rows by falling time, at most `most` of them.
fn rows(
    text: &mut String,
    title: &str,
    mut rows: Vec<((String, &'static str), Total)>,
    most: usize,
    (whole, steps): (f64, f64),
) {
    rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds).then_with(|| a.0.cmp(&b.0)));
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{title:<32}{:<16}{:>12}{:>8}{:>10}{:>14}",
        "pass", "per step", "share", "GFLOP/s", "bytes"
    );
    for ((name, pass), total) in rows.iter().take(most) {
        let Cost { operations, bytes: moved } = total.cost;
        let speed =
            if operations > 0.0 { format!("{:.1}", operations / total.seconds / 1e9) } else { String::new() };
        let moved = if moved > 0.0 { bytes(moved / steps) } else { String::new() };
        let pass = if name == pass { "" } else { pass };
        let _ = writeln!(
            text,
            "{name:<32}{pass:<16}{:>12}{:>7.1}%{speed:>10}{moved:>14}",
            seconds(total.seconds / steps),
            100.0 * total.seconds / whole.max(1e-12),
        );
    }
    if rows.len() > most {
        let _ = writeln!(text, "… and {} more", rows.len() - most);
    }
}

/// What was done between the steps: releases, and the passes over the test records.
fn between_steps(text: &mut String, between: &HashMap<Work, Total>) {
    let mut sums: Vec<(&'static str, f64)> = Vec::new();
    for (&work, total) in between {
        match sums.iter_mut().find(|(name, _)| *name == pass(work)) {
            Some((_, sum)) => *sum += total.seconds,
            None => sums.push((pass(work), total.seconds)),
        }
    }
    sums.sort_by(|a, b| b.1.total_cmp(&a.1));
    if !sums.is_empty() {
        let sums: Vec<String> = sums.iter().map(|(name, sum)| format!("{name} {}", seconds(*sum))).collect();
        let _ = writeln!(text, "between the steps, in all: {}", sums.join(", "));
    }
}
