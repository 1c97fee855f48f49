//! What the worker process received during a `delta` run, byte for byte: released messages, public values and the labels
//! that were allowed; nothing else.

use std::collections::HashSet;
use std::fs;

use asymflow_e2e::{Sandbox, tiny};
use data::{Format, Source, Split};
use model::{Parameters, zoo};
use rustix::process::Signal;
use serde_json::Value;
use wire::accelerator::{Job, RecordSet};
use wire::{Limits, WireError, body, read_frame};

const TRAIN: usize = 192;
const TEST: usize = 64;
const SEED: u64 = 3;
/// Bytes of one record's message: `pooled:4` is 16 bits.
const MESSAGE: usize = 2;
/// Bytes in a row that count as a piece of an image: so many that differ do not agree by chance.
const RUN: usize = 12;

/// A run of `config` against a worker that records; its boundary log, and every job with its body.
fn recorded(sandbox: &Sandbox, config: &str) -> (Vec<Value>, Vec<(Job, Vec<u8>)>) {
    let socket = sandbox.path("worker.sock");
    let address = format!("unix:{}", socket.display());
    let mut worker =
        sandbox.start_program("asymflow-worker", &["--listen", &address, "--once", "--record", "received"]);
    assert!(worker.wait_until(|_| socket.exists()), "{}", worker.stderr());
    sandbox.write("run.toml", &format!("{config}address = \"{address}\"\n"));
    sandbox.run(&["train", "run.toml", "--out", "r"]).good();
    worker.signal(Signal::TERM);
    worker.wait();
    let received = fs::read(sandbox.path("received")).expect("the worker recorded");
    let log = fs::read_to_string(sandbox.path("r/boundary.jsonl")).expect("the log is there");
    let log = log.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    (log, jobs(&received))
}

fn jobs(mut received: &[u8]) -> Vec<(Job, Vec<u8>)> {
    let mut found = Vec::new();
    loop {
        let mut body = Vec::new();
        match read_frame(&mut received, Limits::default(), &mut body) {
            Ok(job) => found.push((job, body)),
            Err(WireError::Closed) => return found,
            Err(error) => panic!("the worker received something that is no job: {error}"),
        }
    }
}

fn source() -> Source {
    Source { records: (TRAIN, TEST), ..Source::new(Format::Synthetic, "") }
}

#[test]
fn the_worker_receives_nothing_but_released_public_and_allowed_values() {
    let sandbox = Sandbox::new();
    let (log, jobs) = recorded(&sandbox, &tiny("delta"));
    let train = data::load(&source(), Split::Train).expect("drawn from a seed");
    let mut stored = [0, 0];
    for (job, body) in &jobs {
        match job {
            Job::Load(load) => assert_public(load, body),
            Job::Store { set, first, count, labels, .. } => {
                let of_labels = if *labels { 2 * count } else { 0 };
                assert_eq!(body.len(), count * MESSAGE + of_labels, "bits and labels, nothing more");
                assert_eq!(*labels, *set == RecordSet::Train, "labels of test records have no use there");
                if *labels {
                    let sent = body::to_u16(&body[count * MESSAGE..]).expect("whole labels");
                    assert_eq!(sent, train.labels[*first..first + count], "the labels that were allowed");
                }
                stored[usize::from(*set == RecordSet::Test)] += count;
            }
            Job::Answer { count } => assert_eq!(body.len(), count * MESSAGE),
            Job::Restore { .. } => panic!("a run that was not interrupted restores nothing"),
            other => assert!(body.is_empty(), "`{}` has a body of {} bytes", other.name(), body.len()),
        }
    }
    assert_eq!(stored, [TRAIN, TEST], "every record once");
    assert_logged(&log, &jobs);
}

/// The residual model starts from public randomness alone.
fn assert_public(load: &wire::accelerator::Load, body: &[u8]) {
    let graph = zoo::build("cnn-small", [3, 32, 32].into(), 10).expect("cnn-small takes these images");
    let mut expected = Parameters::init(&load.graph, SEED);
    expected.copy_matching(&load.graph, &Parameters::init(&graph, SEED), &graph);
    assert!(body == body::from_parameters(&expected), "parameters that do not follow from the seed");
}

/// The boundary log has every body, with a receipt for what was released.
fn assert_logged(log: &[Value], jobs: &[(Job, Vec<u8>)]) {
    let outward: Vec<&Value> = log.iter().filter(|line| line["direction"] == "outward").collect();
    let logged: u64 = outward.iter().map(|line| line["bytes"].as_u64().expect("a number")).sum();
    let received: usize = jobs.iter().map(|(_, body)| body.len()).sum();
    assert_eq!(logged, received as u64, "bytes logged and bytes received");
    for line in &outward {
        let released = line["class"] == "noised+counted";
        assert_eq!(released, line["receipt"].is_object(), "{line}");
        assert!(released || line["class"] == "public" || line["kind"] == "labels", "{line}");
    }
}

/// With labels withheld and a fresh view for every epoch nothing has to be allowed, and every step is an exchange.
#[test]
fn withheld_labels_are_in_no_message() {
    let sandbox = Sandbox::new();
    let withheld = "labels = \"withheld\"\nlabel_epsilon = 4.0\nrelease = \"per-step\"";
    let (log, jobs) = recorded(&sandbox, &tiny("delta").replace("allow = [\"labels\"]", withheld));
    let (mut stored, mut updates) = ([0, 0], 0);
    for (job, body) in &jobs {
        match job {
            Job::Load(load) => assert_public(load, body),
            Job::Store { set, count, labels, .. } => {
                assert_eq!((body.len(), *labels), (count * MESSAGE, false));
                stored[usize::from(*set == RecordSet::Test)] += count;
            }
            Job::Backward => {
                assert_eq!(body.len(), 32 * 10 * 4, "a gradient for each record of the batch");
                updates += 1;
            }
            other => assert!(body.is_empty(), "`{}` has a body of {} bytes", other.name(), body.len()),
        }
    }
    // Three epochs, the first of them without the accelerator.
    assert_eq!((stored, updates), ([2 * TRAIN, TEST], 2 * TRAIN / 32));
    assert_logged(&log, &jobs);
    assert!(log.iter().all(|line| line["class"] != "UNPROTECTED"));
    let summary = fs::read_to_string(sandbox.path("r/summary.json")).expect("the run has ended");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    let epsilon = summary["epsilon"].as_f64().expect("a number");
    assert!((7.99..=8.0).contains(&epsilon), "{epsilon}");
}

#[test]
fn no_pixels_are_in_the_recording() {
    let sandbox = Sandbox::new();
    recorded(&sandbox, &tiny("delta"));
    let received = fs::read(sandbox.path("received")).expect("the worker recorded");
    let images = data::load(&source(), Split::Train).expect("drawn from a seed");
    assert!(!shares_pixels(&images.pixels, &received), "pixels of a record");
    // The search itself finds one that is hidden there.
    let hidden = [&received[..1000], &images.record(7)[500..540], &received[1000..]].concat();
    assert!(shares_pixels(&images.pixels, &hidden));
}

fn shares_pixels(pixels: &[u8], received: &[u8]) -> bool {
    let varied = |run: &&[u8]| run.iter().collect::<HashSet<_>>().len() > RUN / 2;
    let runs: HashSet<&[u8]> = pixels.windows(RUN).filter(varied).collect();
    received.windows(RUN).any(|window| runs.contains(window))
}
