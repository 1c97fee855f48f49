//! table.md and table.csv.

use std::fmt::Write;

use cli::terminal::{bytes, grouped, seconds};

use super::experiment::{CLIP, Cell, DELTA, Epsilon, Experiment};
use super::figures::Finished;
use super::verdict::{Group, Mean, YARDSTICKS, sentences};

/// The table for people: how it was made, a row for each ε and shape, what it says.
pub(super) fn markdown(
    experiment: &Experiment,
    version: &str,
    finished: &[Finished],
    groups: &[Group],
) -> String {
    let mut text = format!(
        "# Accuracy by ε and shape of the residual\n\n{} One run for each seed ({}); {version}.\n\n```sh\n{}\n```\n\n",
        experiment.description(),
        experiment.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        experiment.command(),
    );
    text.push_str(
        "| ε | ε spent | σ | shape | bytes out per image | merged, % | trusted part alone, % | residual buys, points \
         | trusted processor time per image | accelerator's |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for group in groups {
        text.push_str(&row(group));
    }
    text.push('\n');
    for sentence in sentences(experiment, groups) {
        line(&mut text, &format!("- {sentence}"));
    }
    if let Some(missing) = missing(experiment, finished) {
        line(&mut text, &format!("\n**Missing, failed or not yet run:** {missing}."));
    }
    line(&mut text, &format!("\n{}", reading(groups)));
    text
}

/// Every finished run with the figures that matter, as comma-separated values.
pub(super) fn csv(finished: &[Finished]) -> String {
    let mut text = "epsilon_asked,epsilon_spent,delta,sigma,shape,seed,accuracy,accuracy_trusted_only,difference,test_records,\
                    bytes_out_per_image,bytes_in_per_image,trusted_cpu_seconds_per_image,untrusted_cpu_seconds_per_image,\
                    peak_trusted_bytes\n"
        .to_owned();
    for Finished { cell, figures: f } in finished {
        let values = [
            cell.epsilon.to_string(),
            f.epsilon.map_or(String::new(), |e| e.to_string()),
            if cell.epsilon == Epsilon::None { String::new() } else { DELTA.to_string() },
            sigma(cell.epsilon).map_or(String::new(), |s| s.to_string()),
            cell.shape.to_string(),
            cell.seed.to_string(),
            f.accuracy.to_string(),
            f.accuracy_trusted_only.to_string(),
            format!("{:.6}", f.bought() / 100.0),
            f.test_records.to_string(),
            f.bytes_out_per_image.to_string(),
            f.bytes_in_per_image.to_string(),
            f.trusted_cpu_seconds_per_image.to_string(),
            f.untrusted_cpu_seconds_per_image.to_string(),
            f.peak_trusted_bytes.to_string(),
        ];
        line(&mut text, &values.join(","));
    }
    text
}

fn row(group: &Group) -> String {
    let spent = group.runs.iter().map(|f| f.epsilon).reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten();
    format!(
        "| {} | {} | {} | `{}` | {} | {} | {} | {} | {} | {} |\n",
        group.epsilon,
        spent.map_or("no guarantee".to_owned(), |e| format!("{e:.4}")),
        sigma(group.epsilon).map_or("0".to_owned(), |s| format!("{s:.4}")),
        group.shape,
        bytes(group.mean(|f| f.bytes_out_per_image).mean),
        mean(group.accuracy(), false),
        mean(group.trusted_only(), false),
        mean(group.bought(), true),
        seconds(group.mean(|f| f.trusted_cpu_seconds_per_image).mean),
        seconds(group.mean(|f| f.untrusted_cpu_seconds_per_image).mean),
    )
}

fn mean(value: Mean, signed: bool) -> String {
    let mean = if signed { format!("{:+.2}", value.mean) } else { format!("{:.2}", value.mean) };
    value.spread.map_or(mean.clone(), |spread| format!("{mean} ± {spread:.2}"))
}

/// Standard deviation of the noise, calibrated as the enclave does: analytic Gaussian mechanism at sensitivity 2C.
fn sigma(epsilon: Epsilon) -> Option<f64> {
    match epsilon {
        Epsilon::Stated(epsilon) => accounting::gaussian::sigma(epsilon, DELTA, 2.0 * CLIP).ok(),
        Epsilon::None => None,
    }
}

/// The cells without figures.
fn missing(experiment: &Experiment, finished: &[Finished]) -> Option<String> {
    let is_missing = |cell: &Cell| finished.iter().all(|f| f.cell != *cell);
    let names: Vec<String> =
        experiment.cells().iter().filter(|cell| is_missing(cell)).map(Cell::to_string).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// How to read the table.
fn reading(groups: &[Group]) -> String {
    let images = groups.first().map_or(0, |g| g.runs[0].test_records);
    let spread =
        if groups.iter().any(|g| g.runs.len() > 1) { " Mean ± standard deviation over seeds." } else { "" };
    format!(
        "How to read it.{spread} Both accuracies are of the same {} test images and the same run. The trusted part learns \
         beside the residual model in the second stage, so alone it need not reach what it would without one. The yardstick \
         is the sampling error √(p(1 − p)/n) of the merged accuracy, or the spread over seeds of the difference where that is \
         larger; beyond noise is a difference of more than {YARDSTICKS} yardsticks. As both accuracies are of the same images, \
         part of that error cancels in their difference; how much is not measured. The best of several shapes is chosen after \
         the fact. Without noise (`none`) the signs of the residual leave as they are. ε is per record (replace-one) and does \
         not cover labels; σ is the noise on each number of the clipped residual. Bytes and processor time are those of the \
         whole run, messages of test images included, divided by training records × epochs; a run that was interrupted has \
         sent its messages again, the same bytes. The noise is keyed by each run's own secret, so that a repetition gives \
         slightly other figures.",
        grouped(images as u64),
    )
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::super::verdict::groups;
    use super::*;

    #[test]
    fn the_table_has_every_group_and_says_how_it_was_made() {
        let experiment = samples::experiment("8,none", "full,pooled:4", "0");
        let mut finished = samples::all(&experiment, |_| (0.64, 0.5));
        let table = |finished: &[Finished]| {
            markdown(&experiment, "asymflow 9.9", finished, &groups(&experiment, finished))
        };
        let text = table(&finished);
        for part in [
            "| 8 | 8.0000 | 2.4009 | `pooled:4` | 2.0 KiB | 64.00 | 50.00 | +14.00 | 2.00 ms | 500.0 µs |\n",
            "| none | no guarantee | 0 | `full` |",
            "--epsilons 8,none --shapes full,pooled:4 --seeds 0",
            "--data cifar ",
            "asymflow 9.9",
            "- ε = none: `pooled:4` buys most",
            "2,000 test images",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains("/somewhere") && !text.contains("Missing"));
        finished.remove(1);
        assert!(table(&finished).contains("not yet run:** eps8-pooled4-seed0."));
        assert!(table(&[]).contains("Missing"));
    }

    #[test]
    fn seeds_have_a_spread() {
        let experiment = samples::experiment("8", "full", "0,1");
        let finished = samples::all(&experiment, |cell| (0.6 + 0.1 * cell.seed as f64, 0.5));
        let text = markdown(&experiment, "", &finished, &groups(&experiment, &finished));
        assert!(text.contains("| 65.00 ± 7.07 | 50.00 ± 0.00 | +15.00 ± 7.07 |"), "{text}");
    }

    #[test]
    fn csv_has_a_line_for_each_run() {
        let experiment = samples::experiment("8,none", "full", "3");
        let text = csv(&samples::all(&experiment, |_| (0.64, 0.5)));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
        let value = |line: usize, name: &str| lines[line][lines[0].iter().position(|n| *n == name).unwrap()];
        assert_eq!([value(1, "epsilon_asked"), value(1, "epsilon_spent"), value(1, "seed")], ["8", "8", "3"]);
        assert_eq!([value(1, "difference"), value(1, "test_records")], ["0.140000", "2000"]);
        assert!(value(1, "sigma").starts_with("2.4009"));
        assert_eq!(["epsilon_spent", "delta", "sigma"].map(|name| value(2, name)), [""; 3]);
    }
}
