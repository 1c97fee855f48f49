//! What a run came to: one JSON object for programs, a table for people.

use std::fmt::Write;

use serde::Serialize;
use wire::owner::Summary;

use crate::terminal::{bytes, grouped, percent, seconds};

/// The fields of `--json` and of `summary.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub flow: String,
    pub model: String,
    pub epochs: usize,
    /// Of the merged model on the test records, in [0, 1]; nothing where there are none.
    pub accuracy: Option<f64>,
    /// Of the trusted part alone.
    pub accuracy_trusted_only: Option<f64>,
    /// Mean cross-entropy on the test records, in nats.
    pub loss: Option<f64>,
    pub test_records: usize,
    pub images_per_second: f64,
    /// Processor time, as the operating system counts it.
    pub trusted_cpu_seconds_per_image: f64,
    pub untrusted_cpu_seconds_per_image: f64,
    /// Share of this command's time in which the accelerator had a job, where it computes layer by layer; nothing elsewhere.
    pub untrusted_busy: Option<f64>,
    pub bytes_out_per_image: f64,
    pub bytes_in_per_image: f64,
    /// Bytes of bodies that crossed to and from the accelerator; the boundary log has at least these.
    pub bytes_out: u64,
    pub bytes_in: u64,
    /// Of the trusted side's products, and the instructions that made them.
    pub precision: String,
    pub instructions: String,
    pub peak_trusted_bytes: u64,
    pub resident_trusted_bytes: u64,
    /// Per record, replace-one neighbours; nothing where nothing is guaranteed.
    pub epsilon: Option<f64>,
    pub delta: Option<f64>,
    pub not_covered: Vec<String>,
    pub conditions: Vec<String>,
    /// Why the trusted part answered alone, if it did.
    pub degraded: Option<String>,
    /// Wall-clock time of this command's work.
    pub seconds: f64,
    /// Nothing where the run was one of `bench`, and is gone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub run_directory: String,
}

impl Report {
    /// A report of the enclave's `summary`; this command processed `images` in `seconds`.
    pub fn new(summary: Summary, images: u64, seconds: f64, run_directory: String) -> Self {
        let per_image = |total: f64| if summary.images == 0 { 0.0 } else { total / summary.images as f64 };
        let scores = summary.scores;
        Report {
            accuracy: scores.map(|s| s.accuracy),
            accuracy_trusted_only: scores.and_then(|s| s.accuracy_trusted_only),
            loss: scores.map(|s| s.loss),
            test_records: scores.map_or(0, |s| s.records),
            images_per_second: images as f64 / seconds.max(1e-9),
            trusted_cpu_seconds_per_image: per_image(summary.trusted_cpu_seconds),
            untrusted_cpu_seconds_per_image: per_image(summary.untrusted_cpu_seconds),
            untrusted_busy: Some(summary.untrusted_busy_seconds / seconds.max(1e-9))
                .filter(|busy| *busy > 0.0),
            bytes_out_per_image: per_image(summary.bytes_out as f64),
            bytes_in_per_image: per_image(summary.bytes_in as f64),
            bytes_out: summary.bytes_out,
            bytes_in: summary.bytes_in,
            precision: summary.precision.name().to_owned(),
            instructions: summary.instructions,
            peak_trusted_bytes: summary.peak_trusted_bytes,
            resident_trusted_bytes: summary.resident_trusted_bytes,
            flow: summary.flow,
            model: summary.model,
            epochs: summary.epochs,
            epsilon: summary.epsilon,
            delta: summary.delta,
            not_covered: summary.not_covered,
            conditions: summary.conditions,
            degraded: summary.degraded,
            seconds,
            run_directory,
        }
    }

    /// The table for people, ending in a line break.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<16}{value}");
        };
        row(
            "flow",
            &format!("{} · {} · {} · {}", self.flow, self.model, epochs(self.epochs), seconds(self.seconds)),
        );
        row("accuracy", &self.accuracy_text());
        if let Some(why) = &self.degraded {
            row("DEGRADED", &format!("the trusted part answered alone: {why}"));
        }
        row("privacy", &self.privacy_text());
        row("accelerator", &self.traffic_text());
        row("processor time", &self.processor_text());
        row("speed", &self.speed_text());
        row("precision", &format!("{}, by {}", self.precision, self.instructions));
        row("trusted memory", &format!("{} at most", bytes(self.peak_trusted_bytes as f64)));
        list(&mut text, "not covered", &self.not_covered);
        list(&mut text, "on condition", &self.conditions);
        let _ = writeln!(text, "{:<16}{}", "run directory", self.run_directory);
        text
    }

    fn accuracy_text(&self) -> String {
        let Some(accuracy) = self.accuracy else { return "not measured: there are no test records".into() };
        let alone = match self.accuracy_trusted_only {
            Some(alone) => format!("trusted part alone {}", percent(alone)),
            None => "there is no trusted part".into(),
        };
        let records = grouped(self.test_records as u64);
        format!(
            "merged {} · {alone} ({records} test images, loss {:.4})",
            percent(accuracy),
            self.loss.unwrap_or(f64::NAN)
        )
    }

    fn privacy_text(&self) -> String {
        match (self.epsilon, self.delta) {
            (Some(0.0), _) => "nothing that depends on a record left the trusted side".into(),
            (Some(epsilon), delta) => {
                let delta = delta.unwrap_or(0.0);
                let factor = epsilon.exp();
                let factor = if factor < 1e6 { format!("{factor:.1}") } else { format!("{factor:.1e}") };
                format!(
                    "ε = {epsilon:.4}, δ = {delta:e} per record: replacing one record by any other changes the probability of \
                     all the accelerator saw, but what is not covered, by a factor of at most {factor}, but for δ"
                )
            }
            (None, _) => "NO GUARANTEE: what left is listed under `not covered`".into(),
        }
    }

    fn traffic_text(&self) -> String {
        let [out, back] = [self.bytes_out_per_image, self.bytes_in_per_image].map(bytes);
        format!("{out} out and {back} back per image")
    }

    fn speed_text(&self) -> String {
        let busy = self.untrusted_busy.map(|busy| format!(" · accelerator busy {}", percent(busy.min(1.0))));
        format!("{:.1} images/s{}", self.images_per_second, busy.unwrap_or_default())
    }

    fn processor_text(&self) -> String {
        let [trusted, untrusted] =
            [self.trusted_cpu_seconds_per_image, self.untrusted_cpu_seconds_per_image].map(seconds);
        format!("trusted {trusted} per image · accelerator {untrusted} per image")
    }
}

fn epochs(count: usize) -> String {
    if count == 1 { "1 epoch".into() } else { format!("{count} epochs") }
}

/// Sentences under one name, a line each.
pub(crate) fn list(text: &mut String, name: &str, sentences: &[String]) {
    for (i, sentence) in sentences.iter().enumerate() {
        let _ = writeln!(text, "{:<16}- {sentence}", if i == 0 { name } else { "" });
    }
}

#[cfg(test)]
mod tests {
    use wire::owner::Scores;

    use super::*;

    fn summary() -> Summary {
        let scores =
            Scores { records: 2000, loss: 1.25, accuracy: 0.621, accuracy_trusted_only: Some(0.609) };
        Summary {
            flow: "delta".into(),
            model: "resnet20".into(),
            epochs: 15,
            scores: Some(scores),
            trusted_cpu_seconds: 3.0,
            images: 1000,
            bytes_out: 128_000,
            epsilon: Some(8.0),
            delta: Some(1e-5),
            not_covered: vec!["That a record took part.".into(), "Labels.".into()],
            ..Summary::default()
        }
    }

    #[test]
    fn json_has_the_agreed_fields() {
        let report = serde_json::to_value(Report::new(summary(), 500, 2.0, "runs/a-1".into())).unwrap();
        for field in [
            "flow",
            "model",
            "epochs",
            "accuracy",
            "accuracy_trusted_only",
            "loss",
            "images_per_second",
            "trusted_cpu_seconds_per_image",
            "untrusted_cpu_seconds_per_image",
            "bytes_out_per_image",
            "bytes_in_per_image",
            "peak_trusted_bytes",
            "resident_trusted_bytes",
            "epsilon",
            "delta",
            "not_covered",
            "seconds",
        ] {
            assert!(!report[field].is_null(), "{field}");
        }
        assert_eq!(report["trusted_cpu_seconds_per_image"], 0.003);
        assert_eq!(report["images_per_second"], 250.0);
        let nothing = Report::new(Summary::default(), 0, 0.0, String::new());
        assert!(serde_json::to_value(nothing).unwrap()["epsilon"].is_null());
    }

    #[test]
    fn the_table_shows_what_must_be_seen() {
        let table = Report::new(summary(), 500, 2.0, "runs/a-1".into()).table();
        for text in [
            "merged 62.10 %",
            "trusted part alone 60.90 %",
            "ε = 8",
            "factor of at most 2981.0",
            "128 bytes out",
            "- That a record",
            "- Labels.",
        ] {
            assert!(table.contains(text), "{text} is missing in\n{table}");
        }
        let none = Report::new(Summary { epsilon: None, ..summary() }, 1, 1.0, String::new()).table();
        assert!(none.contains("NO GUARANTEE"));
    }
}
