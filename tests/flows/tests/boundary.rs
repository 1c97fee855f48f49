//! What the accelerator receives: released messages, public values, and what was allowed by name; nothing else.
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_flows::{MemoryHost, delta, enclave, plain, records, spec, with_epsilon, without_noise};
use ledger::Kind;
use mechanism::Refused;
use model::Parameters;
use runtime::{Run, RunError};
use wire::RunSpec;
use wire::accelerator::{Job, RecordSet};
use wire::spec::{Flow, Protection, ReleaseShape};

const TRAIN: usize = 64;
const TEST: usize = 16;

fn create(spec: RunSpec) -> Result<Run, RunError> {
    let initial = Parameters::init(&spec.graph, spec.train.seed);
    Run::create(&mut MemoryHost::default(), spec, initial)
}

fn train(spec: RunSpec) -> MemoryHost {
    let mut host = MemoryHost::default();
    let mut run = create(spec).unwrap();
    run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).unwrap();
    run.add_records(RecordSet::Test, TEST, &records(TEST, 2)).unwrap();
    run.train(&mut host).unwrap();
    host
}

#[test]
fn unprotected_kinds_are_refused_unless_named() {
    let refused = |spec: RunSpec| create(spec).map(|_| ()).unwrap_err();
    let allow = |mut spec: RunSpec, allow: &[&str]| {
        spec.privacy.allow = allow.iter().map(|&a| a.to_owned()).collect();
        spec
    };
    let labels = refused(allow(with_epsilon(2), &[]));
    assert!(matches!(labels, RunError::Refused(Refused::NotAllowed { kind: Kind::Labels })), "{labels}");
    let residuals = refused(allow(without_noise(2), &["labels"]));
    assert!(matches!(residuals, RunError::Refused(Refused::NotAllowed { kind: Kind::PlainResiduals })));
    let both = refused(spec(Flow::Plain, 2)).to_string();
    assert!(both.contains("\"inputs\" and \"labels\""), "{both}");
    assert!(matches!(refused(allow(plain(2), &["inputs", "lables"])), RunError::UnknownKind(_)));
    assert!(create(allow(enclave(2), &[])).is_ok());
}

/// The guarantee in one test: every byte that left is accounted for.
#[test]
fn everything_received_is_released_public_or_allowed() {
    let host = train(with_epsilon(3));
    let links = host.links.borrow();
    let (mut messages, mut labels) = (0, 0);
    for (job, body) in &links.jobs {
        match job {
            Job::Load(load) => {
                // Initial parameters are a function of the public seed alone.
                let initial = Parameters::init(&load.graph, 7);
                assert_eq!(*body, wire::body::from_parameters(&initial));
                assert_eq!(load.input.message_len(), 16 * 16 * 16 / 8 * load.graph.input().dims()[0] / 16);
            }
            Job::Store { set, count, labels: with, .. } => {
                let own = count * 16 * 16 * load_channels(&links.jobs) / 8;
                assert_eq!(body.len(), own + if *with { 2 * count } else { 0 });
                assert_eq!(*with, *set == RecordSet::Train);
                messages += count;
                labels += if *with { *count } else { 0 };
            }
            Job::Restore { .. } | Job::Answer { .. } | Job::Forward { .. } | Job::Backward => {
                panic!("{job:?} does not belong to this run")
            }
            Job::Share { .. } | Job::Outsource(_) => panic!("{job:?} does not belong to this run"),
            job if job.is_of_layers() => panic!("{job:?} does not belong to this run"),
            _ => assert!(body.is_empty(), "{job:?} carries a body"),
        }
    }
    assert_eq!((messages, labels), (TRAIN + TEST, TRAIN));
}

fn load_channels(jobs: &[(Job, Vec<u8>)]) -> usize {
    let load = jobs.iter().find_map(|(job, _)| match job {
        Job::Load(load) => Some(load),
        _ => None,
    });
    load.expect("a model was loaded").graph.input().dims()[0]
}

#[test]
fn the_journal_has_every_body_before_it_leaves_and_the_ledger_before_that() {
    let host = train(with_epsilon(3));
    let links = host.links.borrow();
    let outward = || links.journal.iter().filter(|line| line.outward);
    let logged: usize = outward().map(|line| line.bytes).sum();
    let sent: usize = links.jobs.iter().map(|(_, body)| body.len()).sum();
    assert_eq!(logged, sent);
    let bits: Vec<_> = links.journal.iter().filter(|line| line.kind == "residual-bits").collect();
    assert_eq!(bits.iter().map(|line| line.records).sum::<usize>(), TRAIN + TEST);
    assert!(
        bits.iter().all(|line| line.has_receipt && line.class == "noised+counted" && line.ledger_bytes > 0)
    );
    let others = ["residual-bits", "labels", "parameters", "control"];
    assert!(outward().all(|line| others.contains(&line.kind)), "{:?}", links.journal);
    let inward = links.journal.iter().filter(|line| !line.outward);
    assert!(inward.clone().any(|line| line.kind == "residual-logits"));
    assert!(inward.clone().all(|line| line.class == "post-processing" && !line.has_receipt));
}

/// Messages must not be those of another record, nor a function of the labels or of other records.
#[test]
fn a_changed_record_changes_only_its_own_message() {
    let mut body = records(TRAIN, 1);
    let stored = |body: &[u8]| {
        let mut host = MemoryHost::default();
        // No training before the release: the backbone is public here, so nothing else may couple the records.
        let mut spec = with_epsilon(1);
        if let Flow::Delta(delta) = &mut spec.flow {
            delta.stage1_epochs = 0;
        }
        let mut run = create(spec).unwrap();
        run.add_records(RecordSet::Train, TRAIN, body).unwrap();
        run.train(&mut host).unwrap();
        let links = host.links.borrow();
        let messages = links.jobs.iter().find_map(|(job, body)| match job {
            Job::Store { .. } => Some(body.clone()),
            _ => None,
        });
        let (messages, len) = (messages.unwrap(), 16 * 16 * load_channels(&links.jobs) / 8);
        messages[..len * TRAIN].chunks(len).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let before = stored(&body);
    body[5 * 768..6 * 768].iter_mut().for_each(|p| *p = 255 - *p);
    let after = stored(&body);
    // The data set's root is another one, so every record has other noise: all messages differ, by about half their bits.
    let distance = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(x, y)| (x ^ y).count_ones()).sum::<u32>();
    let bits = 8 * before[0].len() as u32;
    for (a, b) in before.iter().zip(&after) {
        assert!((bits * 4 / 10..bits * 6 / 10).contains(&distance(a, b)));
    }
}

#[test]
fn noise_is_as_strong_as_stated() {
    // At ε = 8 a residual clipped to 2 drowns: signs of the released bits are nearly those of the noise alone, so the
    // same data under two keys give messages that agree in about half their bits. Without noise they are the same.
    let message = |spec: RunSpec, key: u8| {
        let mut host = MemoryHost { key: [key; 32], ..MemoryHost::default() };
        let mut run = create(spec).unwrap();
        run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).unwrap();
        run.train(&mut host).unwrap();
        let links = host.links.borrow();
        links.jobs.iter().find_map(|(j, b)| matches!(j, Job::Store { .. }).then(|| b.clone())).unwrap()
    };
    let agreement = |a: &[u8], b: &[u8]| {
        let bits = a.len() - 2 * TRAIN;
        let same: u32 = a[..bits].iter().zip(b).map(|(x, y)| 8 - (x ^ y).count_ones()).sum();
        f64::from(same) / (8 * bits) as f64
    };
    let noisy = agreement(&message(with_epsilon(2), 1), &message(with_epsilon(2), 2));
    assert!((0.49..0.52).contains(&noisy), "{noisy}");
    assert_eq!(agreement(&message(without_noise(2), 1), &message(without_noise(2), 2)), 1.0);
    let mut weak = with_epsilon(2);
    weak.privacy.protection = Protection::Epsilon(1e6);
    assert!(agreement(&message(weak.clone(), 1), &message(weak, 2)) > 0.6);
}

#[test]
fn smaller_shapes_leave_fewer_bytes() {
    for (shape, bytes) in
        [(ReleaseShape::Mean, 32), (ReleaseShape::Pooled(4), 2), (ReleaseShape::Pooled(8), 8)]
    {
        let mut spec = delta(2, shape);
        spec.privacy.protection = Protection::Epsilon(8.0);
        spec.privacy.allow = vec!["labels".into()];
        let host = train(spec);
        let links = host.links.borrow();
        let line = links.journal.iter().find(|line| line.kind == "residual-bits").unwrap();
        assert_eq!(line.bytes, bytes * line.records, "{shape:?}");
    }
}
