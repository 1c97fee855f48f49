//! What the turns of a flow amount to, and the table of all flows.

use std::fmt::Write;

use serde::Serialize;

use crate::summary::Report;
use crate::terminal::{bytes, seconds};

/// Measured steps, or measured inferences, per record.
#[derive(Default)]
pub(super) struct Samples {
    cpu: Vec<f64>,
    wall: Vec<f64>,
    records: usize,
    /// Trusted processor seconds from the beginning of the stage to the end of its first step, but for `sessions`.
    pub(super) first: f64,
    /// Trusted processor seconds in which the accelerator got its model, of each session; in no other figure.
    pub(super) sessions: Vec<f64>,
}

impl Samples {
    /// Adds something that took so long for so many records.
    pub(super) fn push(&mut self, cpu: f64, wall: f64, records: usize) {
        let count = records.max(1) as f64;
        self.cpu.push(cpu / count);
        self.wall.push(wall / count);
        self.records = records;
    }

    fn cpu(&self) -> f64 {
        median(&self.cpu)
    }

    fn wall(&self) -> f64 {
        median(&self.wall)
    }

    /// Trusted processor seconds before a session's first record; 0 without an accelerator.
    fn session(&self) -> f64 {
        if self.sessions.is_empty() { 0.0 } else { median(&self.sessions) }
    }

    /// Trusted processor seconds between the beginning of the stage and its first step.
    fn before_first(&self) -> f64 {
        (self.first - self.cpu() * self.records as f64).max(0.0)
    }
}

/// What a flow's records go through.
pub(super) struct Course {
    /// Epochs of each stage in a whole run.
    pub(super) epochs: Vec<usize>,
    /// Training records of the measured run.
    pub(super) records: usize,
    /// How often each leaves in a whole run.
    pub(super) releases: usize,
}

/// One flow of `bench --json`: the fields of `train`, and more.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    /// Of the short run, but for `trusted_cpu_seconds_per_image` and `images_per_second`: those of a run with RUN.toml's epochs,
    /// from the medians of its stages and what it released.
    #[serde(flatten)]
    report: Report,
    inference_trusted_cpu_seconds_per_image: f64,
    inference_images_per_second: f64,
    /// Before the first record, once: the accelerator gets its model. In no other figure.
    session_trusted_cpu_seconds: f64,
    inference_session_trusted_cpu_seconds: f64,
    /// For one record, before the first step in which the accelerator takes part: split, clipping, noise, sealing, sending.
    release_trusted_cpu_seconds_per_record: f64,
    stages: Vec<Stage>,
}

/// One stage of a flow.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Stage {
    /// As RUN.toml has it.
    epochs: usize,
    trusted_cpu_seconds_per_image: f64,
    images_per_second: f64,
}

impl Measured {
    /// The figures of a flow from the medians of its `stages` and of `inference`.
    pub(super) fn new(mut report: Report, course: &Course, stages: &[Samples], inference: &Samples) -> Self {
        let all = course.epochs.iter().sum::<usize>().max(1) as f64;
        let weighted = || course.epochs.iter().map(|&epochs| epochs as f64 / all).zip(stages);
        // The accelerator takes part from the last stage on.
        let released =
            if course.releases > 0 { stages.last().map_or(0.0, Samples::before_first) } else { 0.0 };
        let release = released / course.records.max(1) as f64;
        let steps: f64 = weighted().map(|(share, stage)| share * stage.cpu()).sum();
        let seconds: f64 = weighted().map(|(share, stage)| share * stage.wall()).sum();
        report.trusted_cpu_seconds_per_image = steps + release * course.releases as f64 / all;
        report.images_per_second = 1.0 / seconds;
        report.epochs = all as usize;
        let stage = |(&epochs, stage): (&usize, &Samples)| Stage {
            epochs,
            trusted_cpu_seconds_per_image: stage.cpu(),
            images_per_second: 1.0 / stage.wall(),
        };
        Measured {
            inference_trusted_cpu_seconds_per_image: inference.cpu(),
            inference_images_per_second: 1.0 / inference.wall(),
            session_trusted_cpu_seconds: stages.iter().map(Samples::session).fold(0.0, f64::max),
            inference_session_trusted_cpu_seconds: inference.session(),
            release_trusted_cpu_seconds_per_record: release,
            stages: course.epochs.iter().zip(stages).map(stage).collect(),
            report,
        }
    }
}

/// The table for people: a column for each flow, in brackets its ratio to the first. Ends in a line break.
pub(super) fn table(model: &str, threads: usize, flows: &[Measured]) -> String {
    let plural = if threads == 1 { "" } else { "s" };
    let mut text = format!(
        "{model}, {threads} trusted thread{plural}; in brackets the first flow's figure over this one's\n"
    );
    let mut row = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("  {cell:>24}")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<34}{cells}");
    };
    let times = |of: &dyn Fn(&Measured) -> f64| {
        let first = flows.first().map_or(f64::NAN, of);
        flows.iter().map(|flow| timed(of(flow), first)).collect::<Vec<_>>()
    };
    row("", flows.iter().map(|flow| flow.report.flow.clone()).collect());
    row("training, trusted time per image", times(&|flow| flow.report.trusted_cpu_seconds_per_image));
    for stage in 0..flows.iter().map(|flow| flow.stages.len()).max().unwrap_or(0) {
        let of = |flow: &Measured| {
            flow.stages.get(stage).or(flow.stages.last()).map(|s| s.trusted_cpu_seconds_per_image)
        };
        row(&format!("  stage {}", stage + 1), times(&|flow| of(flow).unwrap_or(f64::NAN)));
    }
    let plain = |of: fn(&Measured) -> f64| flows.iter().map(|flow| seconds(of(flow))).collect();
    row("  a release, per record", plain(|flow| flow.release_trusted_cpu_seconds_per_record));
    row("  a session, once", plain(|flow| flow.session_trusted_cpu_seconds));
    row("inference, trusted time per image", times(&|flow| flow.inference_trusted_cpu_seconds_per_image));
    row("  a session, once", plain(|flow| flow.inference_session_trusted_cpu_seconds));
    let speed = |of: fn(&Measured) -> f64| flows.iter().map(|flow| format!("{:.1}", of(flow))).collect();
    row("training, images/s", speed(|flow| flow.report.images_per_second));
    row("inference, images/s", speed(|flow| flow.inference_images_per_second));
    let size = |of: fn(&Report) -> f64| flows.iter().map(|flow| bytes(of(&flow.report))).collect();
    row("out per image, short run", size(|report| report.bytes_out_per_image));
    row("back per image, short run", size(|report| report.bytes_in_per_image));
    row("peak trusted memory", size(|report| report.peak_trusted_bytes as f64));
    text
}

fn timed(value: f64, first: f64) -> String {
    format!("{} ({:.2})", seconds(value), first / value)
}

/// The middle value, or the mean of the two; NaN of nothing.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len(), sorted.len() % 2) {
        (0, _) => f64::NAN,
        (_, 1) => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use wire::owner::Summary;

    use super::*;

    /// Steps of 4 records that take so long each.
    fn samples(cpu: f64, first: f64) -> Samples {
        let mut samples = Samples { first, sessions: vec![0.5], ..Samples::default() };
        [cpu, 100.0 * cpu, cpu].into_iter().for_each(|cpu| samples.push(cpu, 2.0 * cpu, 4));
        samples
    }

    fn measured(flow: &str, epochs: Vec<usize>, releases: usize, stages: &[Samples]) -> Measured {
        let report = Report::new(Summary { flow: flow.into(), ..Summary::default() }, 0, 1.0, String::new());
        Measured::new(report, &Course { epochs, records: 100, releases }, stages, &samples(0.4, 0.0))
    }

    #[test]
    fn stages_and_releases_make_a_whole_run() {
        // 1 s and 2 s per image, 1 epoch and 3; 3 s for the release of 100 records.
        let delta = measured("delta", vec![1, 3], 1, &[samples(4.0, 0.0), samples(8.0, 11.0)]);
        assert_eq!(delta.release_trusted_cpu_seconds_per_record, 0.03);
        let expected = (1.0 + 3.0 * 2.0 + 0.03) / 4.0;
        assert!((delta.report.trusted_cpu_seconds_per_image - expected).abs() < 1e-12);
        assert!((delta.report.images_per_second - 4.0 / (2.0 + 3.0 * 4.0)).abs() < 1e-12);
        assert_eq!((delta.report.epochs, delta.inference_trusted_cpu_seconds_per_image), (4, 0.1));
        // A flow that releases nothing pays for nothing but its steps, however slow the first was.
        let enclave = measured("enclave", vec![4], 0, &[samples(4.0, 11.0)]);
        assert_eq!(enclave.report.trusted_cpu_seconds_per_image, 1.0);
    }

    #[test]
    fn ratios_are_to_the_first_flow() {
        let flows = [
            measured("enclave", vec![4], 0, &[samples(4.0, 0.0)]),
            measured("delta", vec![1, 3], 1, &[samples(1.0, 0.0), samples(2.0, 2.0)]),
        ];
        let table = table("net", 1, &flows);
        for text in [
            "net, 1 trusted thread;",
            "enclave",
            "1.0 s (1.00)",
            "250.00 ms (4.00)",
            "500.00 ms (2.00)",
            "500.00 ms\n",
        ] {
            assert!(table.contains(text), "{text} is missing in\n{table}");
        }
    }
}
