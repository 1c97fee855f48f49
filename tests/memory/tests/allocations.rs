//! After the first step, the trusted side allocates nothing.
#![allow(clippy::unwrap_used)] // a test that fails says why

use std::alloc::System;

use asymflow_memory::NotingHost;
use cap::Cap;
use runtime::{Outcome, Run};
use tensor::Shape;
use wire::RunSpec;
use wire::accelerator::RecordSet;
use wire::spec::{Flow, ReleaseShape};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// A pool hands its work over in blocks of this size, 63 pieces to a block (`crossbeam-deque`, `Injector`): not ours to
/// avoid, and the only thing that may be allocated, with more than one thread.
const POOL_BLOCK: usize = 1520;

/// Blocks that one step may take: far fewer than it has operators.
const BLOCKS: usize = 8;

fn check(what: &str, spec: &RunSpec, threads: usize) {
    let mut host = NotingHost::new(|| ALLOCATOR.total_allocated());
    let mut spec = spec.clone();
    spec.threads = threads;
    let initial = model::Parameters::init(&spec.graph, 1);
    let mut run = Run::create(&mut host, spec, initial).unwrap();
    // Six whole batches and a part of one.
    run.add_records(RecordSet::Train, 100, &flows::records(100, 1)).unwrap();
    run.add_records(RecordSet::Test, 20, &flows::records(20, 2)).unwrap();
    assert_eq!(run.train(&mut host).unwrap(), Outcome::Finished);
    let epochs = host.notes.iter().filter(|steps| !steps.is_empty());
    assert_eq!(epochs.clone().count(), 2, "{what}");
    for steps in epochs {
        assert_eq!(steps.len(), 7, "{what}");
        for (step, note) in steps.windows(2).enumerate() {
            let bytes = note[1] - note[0];
            if threads == 1 {
                assert_eq!(bytes, 0, "{what}, step {}", step + 2);
            } else {
                let blocks = bytes / POOL_BLOCK;
                assert!(
                    bytes % POOL_BLOCK == 0 && blocks <= BLOCKS,
                    "{what}, {threads} threads: {bytes} bytes"
                );
            }
        }
    }
}

/// One test: the allocator counts for the whole process.
#[test]
fn steps_after_the_first_allocate_nothing() {
    // One epoch of stage 1, one of stage 2.
    let mut delta = flows::delta(2, ReleaseShape::Full);
    delta.privacy.allow = vec!["labels".into(), "plain-residuals".into()];
    delta.privacy.protection = wire::spec::Protection::NoNoise;
    if let Flow::Delta(delta) = &mut delta.flow {
        delta.orthogonality = 0.01;
    }
    let mut residual = flows::enclave(2);
    residual.graph = model::zoo::build("resnet20", Shape::from([3, 16, 16]), 10).unwrap();
    for threads in [1, 2] {
        check("enclave", &flows::enclave(2), threads);
        check("enclave, resnet20", &residual, threads);
        check("delta", &delta, threads);
        check("enclave, resnet20, bf16", &flows::bf16(residual.clone()), threads);
        check("delta, bf16", &flows::bf16(delta.clone()), threads);
        check("delta at an epsilon", &flows::with_epsilon(2), threads);
    }
}
