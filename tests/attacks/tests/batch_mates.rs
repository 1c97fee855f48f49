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
use engine::{Learner, OptimiserConfig};
use kernels::Threads;
use model::{Parameters, derive, zoo};
use runtime::Run;
use tensor::Shape;
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

/// Of every architecture: what residuals are made from has the same bits in a batch of any size.
#[test]
fn no_backbone_shows_its_batch() {
    const IMAGES: usize = 33;
    for name in zoo::ARCHITECTURES {
        let input = Shape::from([3, 32, 32]);
        let graph = zoo::build(name, input, 10).unwrap();
        let backbone = derive::backbone(&graph, derive::split_point(&graph).unwrap()).unwrap();
        let optimiser = OptimiserConfig::Sgd { momentum: 0.0, weight_decay: 0.0, nesterov: false };
        let parameters = Parameters::init(&backbone, 1);
        let mut learner = Learner::new(backbone, parameters, optimiser, IMAGES).unwrap();
        let mut outputs = |batch: usize| -> Vec<f32> {
            let images: Vec<usize> = (0..IMAGES * input.len()).collect();
            let mut found = Vec::new();
            for pixels in images.chunks(batch * input.len()) {
                let count = pixels.len() / input.len();
                let place = learner.input_mut(count);
                place.iter_mut().zip(pixels).for_each(|(x, i)| *x = (i * 7919 % 1013) as f32 / 500.0 - 1.0);
                found.extend_from_slice(learner.predict(count, &Threads::new(1)));
            }
            found
        };
        let single = outputs(1);
        for batch in [2, 5, IMAGES] {
            assert!(outputs(batch) == single, "{name}, batches of {batch}");
        }
    }
}
