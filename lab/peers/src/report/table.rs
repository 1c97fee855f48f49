//! table.md: ratios, with geometric means.

use std::fmt::Write;

use super::{OWN, geometric_mean, median};
use crate::bench::{Measured, Results, Runs};
use crate::protocol::Pass;

/// The tables of one number of threads: title, passes, and which figure stands for our speed.
const TABLES: [(&str, Pass); 4] = [
    ("Convolutions, forward", Pass::Forward),
    ("Convolutions, forward and backward (dx, dw)", Pass::ForwardBackward),
    ("Whole models, inference", Pass::Inference),
    ("Whole models, training step", Pass::Training),
];

pub(super) fn text(results: &Results) -> String {
    let mut text = head(results);
    let mut threads: Vec<usize> = results.cases.iter().map(|measured| measured.threads).collect();
    threads.dedup();
    for count in threads {
        for (title, pass) in TABLES {
            let rows: Vec<&Measured> =
                results.cases.iter().filter(|m| m.threads == count && m.case.pass == pass).collect();
            if !rows.is_empty() {
                let _ = writeln!(text, "\n## {title}, {}\n", threads_text(count));
                table(&mut text, results, &rows);
            }
        }
    }
    failures(&mut text, results);
    text
}

fn threads_text(count: usize) -> String {
    if count == 1 { "one thread".to_owned() } else { format!("{count} threads") }
}

fn head(results: &Results) -> String {
    let versions: Vec<String> = results.peers.iter().map(|(name, v)| format!("{name} {v}")).collect();
    let mut text = format!(
        "# asymflow beside its peers\n\n\
         A peer's time over asymflow's: above 1, asymflow is faster. Medians of interleaved repetitions by the clock; in \
         brackets the same of processor time. GFLOP/s (by the clock) count every product of the definition. The peak is that of \
         multiply-adds from registers, measured between the repetitions; the share of it is in processor time, and an \
         algorithm that saves products can exceed it.\n\n\
         - processor: {}\n- command: `asymflow-peers {}`\n- peers: {}\n",
        processor(),
        results.command,
        versions.join(", ")
    );
    for (name, why) in &results.missing {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "- without {name}: {why}");
    }
    text
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {count} available", model.map_or("unknown", |(_, name)| name))
}

fn table(text: &mut String, results: &Results, rows: &[&Measured]) {
    let peers: Vec<&str> = results.peers.iter().map(|(name, _)| *name).filter(|name| *name != OWN).collect();
    let mut row = |cells: Vec<String>| {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    let first = ["case", "batch", "asymflow, ms", "GFLOP/s", "of peak"].map(str::to_owned);
    row(first.into_iter().chain(peers.iter().map(|&peer| peer.to_owned())).collect());
    row(vec!["---".to_owned(); 5 + peers.len()]);
    for measured in rows {
        let cells = own_cells(measured).into_iter().chain(peers.iter().map(|peer| cell(measured, peer)));
        row(cells.collect());
    }
    let means = peers.iter().map(|peer| {
        let mean = |of| geometric_mean(&rows.iter().filter_map(|m| m.ratio(peer, of)).collect::<Vec<_>>());
        pair(mean(Runs::wall), mean(Runs::cpu))
    });
    let blank = ["geometric mean", "", "", "", ""].map(str::to_owned);
    row(blank.into_iter().chain(means.map(|mean| format!("**{mean}**"))).collect());
}

fn own_cells(measured: &Measured) -> Vec<String> {
    let text =
        |value: Option<f64>, digits: usize| value.map_or("–".to_owned(), |v| format!("{v:.digits$}"));
    let wall = measured.runs.get(OWN).and_then(Runs::wall);
    vec![
        measured.case.name.clone(),
        measured.case.batch.to_string(),
        text(wall.map(|s| 1e3 * s), 2),
        text(measured.speed(OWN).map(|s| s / 1e9), 0),
        measured.share_of_peak().map_or("–".to_owned(), |share| format!("{:.0} %", 100.0 * share)),
    ]
}

fn cell(measured: &Measured, peer: &str) -> String {
    pair(measured.ratio(peer, Runs::wall), measured.ratio(peer, Runs::cpu))
}

fn pair(wall: Option<f64>, cpu: Option<f64>) -> String {
    match (wall, cpu) {
        (Some(wall), Some(cpu)) => format!("{wall:.2} ({cpu:.2})"),
        _ => "–".to_owned(),
    }
}

/// Why a cell has no figure, and how fast the processor was.
fn failures(text: &mut String, results: &Results) {
    let mut lines: Vec<String> = Vec::new();
    for measured in &results.cases {
        for (peer, runs) in &measured.runs {
            if let Some(why) = &runs.failed {
                lines.push(format!(
                    "- {peer}, {}, {}: {why}\n",
                    measured.case.id(),
                    threads_text(measured.threads)
                ));
            }
        }
    }
    if !lines.is_empty() {
        text.push_str("\n## Not compared\n\n");
        lines.iter().for_each(|line| text.push_str(line));
    }
    let all: Vec<f64> = results.cases.iter().filter_map(|m| median(&m.peak)).collect();
    if let Some(peak) = median(&all) {
        let _ = writeln!(text, "\nPeak of a thread, median over the cases: {:.0} GFLOP/s.", peak / 1e9);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;

    fn measured(name: &str, own: f64, peer: f64) -> Measured {
        let case = cases::chosen(&[format!("{name}/forward")]).unwrap().remove(0);
        let runs = |seconds: f64| Runs { wall: vec![seconds; 3], cpu: vec![seconds; 3], ..Runs::default() };
        let failed = Runs { failed: Some("no such operator".into()), ..Runs::default() };
        let peak = vec![case.operations() / own * 2.0];
        let runs = [(OWN, runs(own)), ("other", runs(peer)), ("broken", failed)].into_iter().collect();
        Measured { case, threads: 1, runs, peak }
    }

    #[test]
    fn ratios_means_and_failures() {
        let names = [OWN, "other", "broken"].map(|name| (name, "1.0".to_owned()));
        let results = Results {
            peers: names.to_vec(),
            missing: vec![("absent", "it is not there".to_owned())],
            cases: vec![measured("conv-64-64-32-3", 0.01, 0.02), measured("conv-64-256-32-1", 0.01, 0.005)],
            ..Results::default()
        };
        let text = text(&results);
        for expected in [
            "## Convolutions, forward, one thread",
            "| conv-64-64-32-3 | 32 | 10.00 | 242 | 50 % | 2.00 (2.00) | – |",
            "| conv-64-256-32-1 | 32 | 10.00 | 107 | 50 % | 0.50 (0.50) | – |",
            "| geometric mean |  |  |  |  | **1.00 (1.00)** | **–** |",
            "- without absent: it is not there",
            "- broken, conv-64-64-32-3/forward, one thread: no such operator",
        ] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
    }
}
