//! table.csv: a line for each peer, case and number of threads.

use std::fmt::Write;

use super::median;
use crate::bench::Results;

pub(super) fn text(results: &Results) -> String {
    let mut text = String::from(
        "threads,case,pass,batch,peer,repetitions,median_seconds,fastest_seconds,median_cpu_seconds,gflops,peak_gflops,figure,failed\n",
    );
    for measured in &results.cases {
        let case = &measured.case;
        for (peer, runs) in &measured.runs {
            let number = |value: Option<f64>| value.map(|v| format!("{v:.6e}")).unwrap_or_default();
            let fastest = runs.wall.iter().copied().reduce(f64::min);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{},{},{},{},{peer},{},{},{},{},{},{},{},\"{}\"",
                measured.threads,
                case.name,
                case.pass.name(),
                case.batch,
                runs.wall.len(),
                number(runs.wall()),
                number(fastest),
                number(runs.cpu()),
                number(measured.speed(peer).map(|s| s / 1e9)),
                number(median(&measured.peak).map(|s| s / 1e9)),
                number(runs.figure),
                runs.failed.as_deref().unwrap_or_default().replace('"', "'"),
            );
        }
    }
    text
}
