//! The move: look for a record in the messages of other records.
//!
//! What must hold: a message is a function of its own record (and of the public seed, the key and the backbone): a changed
//! record, other batch-mates or another size of batches leave all other messages as they are. Shown without noise, where
//! every bit of the residual would tell.
//!
//! Enforced in `runtime::trusted_model` (the backbone is frozen and runs in evaluation mode).
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_attacks::TRAIN;
use asymflow_flows::{MemoryHost, records, without_noise};
use model::Parameters;
use runtime::Run;
use wire::accelerator::{Job, RecordSet};
use wire::spec::Flow;

/// Messages of the training records, for a backbone that is public.
fn messages(body: &[u8], batch_size: usize, threads: usize) -> Vec<Vec<u8>> {
    let mut spec = without_noise(1);
    if let Flow::Delta(delta) = &mut spec.flow {
        delta.stage1_epochs = 0;
    }
    (spec.train.batch_size, spec.threads) = (batch_size, threads);
    let mut host = MemoryHost::default();
    let initial = Parameters::init(&spec.graph, spec.train.seed);
    let mut run = Run::create(&mut host, spec, initial).unwrap();
    run.add_records(RecordSet::Train, TRAIN, body).unwrap();
    run.train(&mut host).unwrap();
    let links = host.links.borrow();
    let stored = links.jobs.iter().find(|(job, _)| matches!(job, Job::Store { set: RecordSet::Train, .. }));
    let bits = &stored.unwrap().1[..];
    let len = (bits.len() - 2 * TRAIN) / TRAIN;
    bits[..len * TRAIN].chunks(len).map(<[u8]>::to_vec).collect()
}

#[test]
fn a_changed_record_changes_its_own_message_only() {
    let mut body = records(TRAIN, 1);
    let before = messages(&body, 16, 1);
    let own = &mut body[5 * 768..6 * 768];
    own.iter_mut().for_each(|pixel| *pixel = 255 - *pixel);
    let after = messages(&body, 16, 1);
    for (record, (a, b)) in before.iter().zip(&after).enumerate() {
        assert_eq!(a == b, record != 5, "record {record}");
    }
}

#[test]
fn batches_and_threads_do_not_show() {
    let body = records(TRAIN, 1);
    let base = messages(&body, 16, 1);
    for (batch_size, threads) in [(1, 1), (5, 1), (48, 1), (16, 2), (7, 3)] {
        assert!(messages(&body, batch_size, threads) == base, "batches of {batch_size}, {threads} threads");
    }
}
