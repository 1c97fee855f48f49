//! A run that was stopped or crashed anywhere ends with the same weights.
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_flows::{
    Disk, MemoryHost, asymml, asymml_noised, asymml_with, bf16, dp_input, enclave, everything, normed,
    per_step, plain, quantile_clip, randomised_labels, records, two_views, with_epsilon, withheld_labels,
    without_noise,
};
use model::{Norm, Parameters};
use runtime::{Outcome, Run, RunError};
use wire::RunSpec;
use wire::accelerator::RecordSet;
use wire::spec::Side;

const TRAIN: usize = 48;
const TEST: usize = 16;
const STEPS: usize = 3 * 3;

fn create(host: &mut MemoryHost, spec: RunSpec) -> Result<Run, RunError> {
    let initial = Parameters::init(&spec.graph, spec.train.seed);
    Run::create(host, spec, initial)
}

fn give_records(run: &mut Run) {
    run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).unwrap();
    run.add_records(RecordSet::Test, TEST, &records(TEST, 2)).unwrap();
}

fn resume(disk: Disk, spec: &RunSpec) -> (MemoryHost, Run) {
    let mut host = MemoryHost::on(disk);
    let mut run = Run::open(&mut host, spec.accelerator.clone()).unwrap();
    give_records(&mut run);
    (host, run)
}

/// Bits of every parameter of every part.
fn weights(run: &Run) -> Vec<(&'static str, Vec<u32>)> {
    let bits = |p: Parameters| {
        p.params.iter().chain(&p.buffers).flat_map(|t| t.data()).map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    run.model_parts().unwrap().into_iter().map(|(name, _, parameters)| (name, bits(parameters))).collect()
}

fn uninterrupted(spec: &RunSpec) -> (MemoryHost, Run) {
    let mut host = MemoryHost::default();
    let mut run = create(&mut host, spec.clone()).unwrap();
    give_records(&mut run);
    assert_eq!(run.train(&mut host).unwrap(), Outcome::Finished);
    (host, run)
}

#[test]
fn stopped_at_every_step() {
    let public = [enclave(3), plain(3), with_epsilon(3), without_noise(3)];
    let policies = [per_step(3), two_views(3), randomised_labels(3), withheld_labels(3), quantile_clip(3)];
    let rounded = [bf16(enclave(3)), bf16(with_epsilon(3))];
    let mut fresh = dp_input(3, 8.0);
    fresh.privacy.release = wire::spec::Release::PerStep;
    let noised = [dp_input(3, 8.0), fresh];
    let layered =
        [asymml(3), asymml_with(3, |asymml| asymml.backward = Side::Enclave), asymml_noised(3, 8.0)];
    let norms =
        [normed(enclave(3), Norm::Group), normed(plain(3), Norm::Frozen), normed(asymml(3), Norm::Frozen)];
    let released = noised.into_iter().chain(layered).chain(norms);
    for spec in public.into_iter().chain(policies).chain([everything(3)]).chain(rounded).chain(released) {
        let (whole_host, whole) = uninterrupted(&spec);
        for stop in 0..STEPS {
            let mut host = MemoryHost { stop_after: Some(stop), ..MemoryHost::default() };
            let mut run = create(&mut host, spec.clone()).unwrap();
            give_records(&mut run);
            assert_eq!(run.train(&mut host).unwrap(), Outcome::Stopped { steps_done: stop });
            let (mut host, mut run) = resume(host.disk(), &spec);
            assert_eq!(run.steps_done(), stop);
            assert_eq!(run.train(&mut host).unwrap(), Outcome::Finished);
            let name = format!("{} with {:?}, stopped after {stop}", spec.flow.name(), spec.privacy);
            assert!(weights(&run) == weights(&whole), "{name}");
            assert_eq!(host.disk().ledger, whole_host.disk().ledger, "{name}");
        }
    }
}

#[test]
fn crashed_at_every_write() {
    for mut spec in [with_epsilon(3), everything(3), dp_input(3, 8.0)] {
        spec.train.checkpoint_steps = Some(2);
        crash_at_every_write(&spec);
    }
}

fn crash_at_every_write(spec: &RunSpec) {
    let (whole_host, whole) = uninterrupted(spec);
    for writes in 1.. {
        let mut host = MemoryHost { writes_left: Some(writes), ..MemoryHost::default() };
        let mut run = create(&mut host, spec.clone()).unwrap();
        give_records(&mut run);
        if run.train(&mut host).is_ok() {
            assert!(writes > 5, "a run writes more often than that");
            break;
        }
        let (mut host, mut run) = resume(host.disk(), spec);
        assert_eq!(run.train(&mut host).unwrap(), Outcome::Finished);
        assert!(weights(&run) == weights(&whole), "crashed at write {writes}");
        assert_eq!(
            host.disk().ledger,
            whole_host.disk().ledger,
            "charged twice after a crash at write {writes}"
        );
    }
}

#[test]
fn a_resumed_run_sends_the_same_messages_and_charges_nothing() {
    let spec = with_epsilon(3);
    let sent = |host: &MemoryHost| {
        let links = host.links.borrow();
        let stored = |(job, body): &(wire::accelerator::Job, Vec<u8>)| match job {
            wire::accelerator::Job::Store { set, first, .. } => Some((*set, *first, body.clone())),
            _ => None,
        };
        links.jobs.iter().filter_map(stored).collect::<Vec<_>>()
    };
    let mut host = MemoryHost { stop_after: Some(4), ..MemoryHost::default() };
    let mut run = create(&mut host, spec.clone()).unwrap();
    give_records(&mut run);
    run.train(&mut host).unwrap();
    let first = sent(&host);
    let disk = host.disk();
    let (mut again, mut run) = resume(disk.clone(), &spec);
    run.train(&mut again).unwrap();
    assert!(!first.is_empty() && first == sent(&again));
    assert_eq!(disk.ledger, again.disk().ledger);
}

#[test]
fn altered_messages_and_a_ledger_behind_the_checkpoint_are_refused() {
    let spec = with_epsilon(3);
    let mut host = MemoryHost { stop_after: Some(4), ..MemoryHost::default() };
    let mut run = create(&mut host, spec.clone()).unwrap();
    give_records(&mut run);
    run.train(&mut host).unwrap();
    let disk = host.disk();

    let mut altered = disk.clone();
    let name = altered.files.keys().find(|name| name.starts_with("messages-")).unwrap().clone();
    altered.files.get_mut(&name).unwrap()[0] ^= 1;
    let (mut host, mut run) = resume(altered, &spec);
    assert!(matches!(run.train(&mut host), Err(RunError::Release(mechanism::ReleaseError::Stored { .. }))));

    let mut behind = disk.clone();
    behind.ledger.clear();
    let (mut host, mut run) = resume(behind, &spec);
    assert!(matches!(run.train(&mut host), Err(RunError::Ledger(ledger::LedgerError::RolledBack { .. }))));

    let mut forged = disk;
    forged.ledger[20] ^= 1;
    let (mut host, mut run) = resume(forged, &spec);
    assert!(matches!(run.train(&mut host), Err(RunError::Ledger(_))));
}
