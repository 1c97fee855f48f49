//! Every flow trains; what leaves, and what comes back.
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_flows::{MemoryHost, enclave, plain, records, with_epsilon, without_noise};
use model::Parameters;
use runtime::{Outcome, Run};
use wire::RunSpec;
use wire::accelerator::RecordSet;

const TRAIN: usize = 320;
const TEST: usize = 40;

fn run(host: &mut MemoryHost, spec: RunSpec) -> Run {
    let initial = Parameters::init(&spec.graph, spec.train.seed);
    let mut run = Run::create(host, spec, initial).unwrap();
    run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).unwrap();
    run.add_records(RecordSet::Test, TEST, &records(TEST, 2)).unwrap();
    assert_eq!(run.train(host).unwrap(), Outcome::Finished);
    run
}

#[test]
fn plain_and_enclave_agree_bit_for_bit() {
    let (mut a, mut b) = (MemoryHost::default(), MemoryHost::default());
    run(&mut a, plain(2));
    run(&mut b, enclave(2));
    assert_eq!(a.losses().len(), 2 * TRAIN.div_ceil(16));
    let bits = |host: &MemoryHost| host.losses().iter().map(|l| l.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&a), bits(&b));
}

#[test]
fn every_flow_learns() {
    for spec in [enclave(6), without_noise(6), with_epsilon(6)] {
        let mut host = MemoryHost::default();
        let name = spec.flow.name();
        let run = run(&mut host, spec);
        let scores = run.training_summary(&host).unwrap().scores.unwrap();
        assert!(scores.accuracy > 0.5, "{name}: {scores:?}");
        assert!(scores.accuracy_trusted_only.unwrap() > 0.5, "{name}: {scores:?}");
    }
}
