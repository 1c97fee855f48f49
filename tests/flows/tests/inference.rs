//! Evaluation and inference: one pass of the trusted part makes the message and the logits of a record, and the message
//! depends neither on when nor beside which others it is made.
#![allow(clippy::unwrap_used)] // a test that fails says why

use std::collections::BTreeMap;

use asymflow_flows::{Disk, MemoryHost, records, with_epsilon, without_noise};
use engine::trace::Work;
use model::Parameters;
use runtime::Run;
use wire::RunSpec;
use wire::accelerator::RecordSet;
use wire::owner::{Event, Profile, Summary};
use wire::spec::OnFailure;

const TRAIN: usize = 48;
/// Two whole batches and a part of one.
const TEST: usize = 40;
const BATCHES: usize = 3;
/// Relative error of logits from the order of their sums.
const ROUNDING: f32 = 1e-5;
/// Graphs in inference follow those in training.
const BACKBONE: u8 = 2;
const MAIN: u8 = 3;

/// What a run leaves on disk; with `tests`, it has sent them.
fn trained(spec: &RunSpec, tests: usize) -> Disk {
    let mut host = MemoryHost::default();
    let initial = Parameters::init(&spec.graph, spec.train.seed);
    let mut run = Run::create(&mut host, spec.clone(), initial).unwrap();
    run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).unwrap();
    run.add_records(RecordSet::Test, tests, &records(tests, 2)).unwrap();
    run.train(&mut host).unwrap();
    host.disk()
}

fn open(host: &mut MemoryHost, spec: &RunSpec) -> Run {
    let mut run = Run::open(host, spec.accelerator.clone()).unwrap();
    run.profile(|| 0.0);
    run
}

fn evaluated(host: &mut MemoryHost, spec: &RunSpec) -> Summary {
    let mut run = open(host, spec);
    run.add_records(RecordSet::Test, TEST, &records(TEST, 2)).unwrap();
    run.evaluate(host).unwrap()
}

/// Passes of the backbone, the split, the main model and the mechanism.
fn passes(host: &MemoryHost) -> [usize; 4] {
    let spans = host.events.iter().filter_map(|event| match event {
        Event::Profile(Profile::Spans { spans, .. }) => Some(spans),
        _ => None,
    });
    let works: Vec<Work> = spans.flatten().map(|span| span.work).collect();
    let parts = [BACKBONE, MAIN].map(|part| Work::Forward { part, node: 0 });
    let in_training = |work: &Work| matches!(work, Work::Forward { part, .. } if *part < BACKBONE);
    assert!(!works.iter().any(in_training), "nothing runs as in training");
    let count = |work: Work| works.iter().filter(|found| **found == work).count();
    [count(parts[0]), count(Work::Split), count(parts[1]), count(Work::Release)]
}

/// Files of messages on disk.
fn messages(host: &MemoryHost) -> BTreeMap<String, Vec<u8>> {
    host.disk().files.into_iter().filter(|(name, _)| name.starts_with("message")).collect()
}

#[test]
fn the_trusted_part_runs_once_for_message_and_logits() {
    for spec in [with_epsilon(2), without_noise(2)] {
        let mut host = MemoryHost::on(trained(&spec, 0));
        let first = evaluated(&mut host, &spec);
        assert_eq!(passes(&host), [BATCHES; 4]);
        // Stored messages are not made again; without noise nothing is stored.
        let mut host = MemoryHost::on(host.disk());
        let second = evaluated(&mut host, &spec);
        let released = if messages(&host).is_empty() { BATCHES } else { 0 };
        assert_eq!(passes(&host), [BATCHES, BATCHES, BATCHES, released]);
        assert_eq!(first.scores, second.scores);
        assert!(first.degraded.is_none() && second.degraded.is_none());
    }
}

#[test]
fn without_an_accelerator_the_trusted_part_runs_once_too() {
    let mut spec = with_epsilon(2);
    spec.accelerator.on_failure = OnFailure::Degrade;
    let disk = trained(&spec, 0);
    let mut host = MemoryHost::on(disk.clone());
    let whole = evaluated(&mut host, &spec).scores.unwrap();
    // The link fails at once, or when the answer is due: then the trusted part has answered already.
    for (unreachable, fault, released) in
        [(true, None, 0), (false, Some((asymflow_flows::Fault::Die, 3)), BATCHES)]
    {
        let mut host = MemoryHost { unreachable, fault, ..MemoryHost::on(disk.clone()) };
        let summary = evaluated(&mut host, &spec);
        assert_eq!(passes(&host), [BATCHES, BATCHES, BATCHES, released]);
        let scores = summary.scores.unwrap();
        assert!(summary.degraded.is_some());
        assert_eq!(scores.accuracy_trusted_only, whole.accuracy_trusted_only);
        assert_eq!(Some(scores.accuracy), scores.accuracy_trusted_only);
    }
}

#[test]
fn messages_made_in_evaluation_are_those_of_training() {
    let spec = with_epsilon(2);
    let disk = trained(&spec, TEST);
    let before = messages(&MemoryHost::on(disk.clone()));
    let mut host = MemoryHost::on(disk);
    host.disk.borrow_mut().files.retain(|name, _| !name.starts_with("messages-test"));
    assert!(messages(&host).len() < before.len());
    evaluated(&mut host, &spec);
    assert_eq!(passes(&host)[3], BATCHES, "they were made again");
    assert!(messages(&host) == before, "other bytes");
}

#[test]
fn images_answered_together_or_one_by_one_leave_the_same_and_get_the_same() {
    const IMAGES: usize = 20;
    let spec = with_epsilon(2);
    let disk = trained(&spec, 0);
    let len = spec.graph.input().len();
    let mut pixels = records(IMAGES, 3);
    pixels.truncate(IMAGES * len);
    // One of them twice, in the same batch.
    pixels.copy_within(..len, 5 * len);
    let mut host = MemoryHost::on(disk.clone());
    let together = open(&mut host, &spec).infer(&mut host, IMAGES, &pixels).unwrap().logits;
    assert_eq!(passes(&host), [2; 4]);
    let mut single = MemoryHost::on(disk);
    let mut run = open(&mut single, &spec);
    let logits = pixels.chunks(len).flat_map(|image| run.infer(&mut single, 1, image).unwrap().logits);
    // Sums are rounded in another order for another number of images; messages are the same bytes.
    assert!(together.iter().zip(logits).all(|(a, b)| (a - b).abs() < ROUNDING * (1.0 + b.abs())));
    assert_eq!(together[..10], together[50..60]);
    let made = messages(&host).into_iter().filter(|(name, _)| name.starts_with("message-")).count();
    assert_eq!(made, IMAGES - 1);
    assert!(messages(&host) == messages(&single));
}
