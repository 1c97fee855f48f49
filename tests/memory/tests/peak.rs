//! What a run holds at most is never more than its plan says, nor far less.
#![allow(clippy::unwrap_used)] // a test that fails says why

use std::alloc::System;

use asymflow_memory::NotingHost;
use cap::Cap;
use runtime::{Outcome, Run};
use tensor::Shape;
use wire::RunSpec;
use wire::accelerator::RecordSet;
use wire::spec::{Flow, Protection, ReleaseShape};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const TRAIN: usize = 300;
const TEST: usize = 50;

/// Peak of live bytes over a run and an evaluation, what was alive before left out, as a share of the plan.
///
/// The allocator's own peak cannot be reset: every run must be larger than the one before.
fn share_of_plan(what: &str, spec: &RunSpec) -> f64 {
    let initial = model::Parameters::init(&spec.graph, 1);
    let plan = runtime::plan(spec, initial.clone(), &[], [TRAIN, TEST]).unwrap();
    let (train, test) = (flows::records(TRAIN, 1), flows::records(TEST, 2));
    let mut host = NotingHost::new(|| 0);
    let (before, peak_before) = (ALLOCATOR.allocated(), ALLOCATOR.max_allocated());
    let mut run = Run::create(&mut host, spec.clone(), initial).unwrap();
    run.add_records(RecordSet::Train, TRAIN, &train).unwrap();
    run.add_records(RecordSet::Test, TEST, &test).unwrap();
    assert_eq!(run.train(&mut host).unwrap(), Outcome::Finished);
    run.evaluate(&mut host).unwrap();
    let peak = ALLOCATOR.max_allocated();
    assert!(peak > peak_before, "{what} is not larger than the run before");
    let share = (peak - before) as f64 / plan.peak_trusted_bytes as f64;
    println!("{what}: {} of {} bytes, {:.1} %", peak - before, plan.peak_trusted_bytes, 100.0 * share);
    assert!(
        share <= 1.0,
        "{what}: {} bytes were held, the plan says {}",
        peak - before,
        plan.peak_trusted_bytes
    );
    share
}

/// One test: the allocator counts for the whole process.
#[test]
fn no_run_holds_more_than_its_plan() {
    let with = |mut spec: RunSpec, name: &str, batch, threads| {
        spec.graph = model::zoo::build(name, Shape::from([3, 16, 16]), 10).unwrap();
        (spec.train.batch_size, spec.threads) = (batch, threads);
        spec
    };
    let mut delta = flows::delta(1, ReleaseShape::Full);
    delta.privacy.protection = Protection::NoNoise;
    delta.privacy.allow = vec!["labels".into(), "plain-residuals".into()];
    if let Flow::Delta(delta) = &mut delta.flow {
        delta.orthogonality = 0.01;
    }
    // No trusted part: what is held are records, and messages on their way.
    let images = with(flows::dp_input(2, 8.0), "resnet20", 16, 1);
    let enclave = || flows::enclave(1);
    let mut budget = with(enclave(), "resnet20", 200, 1);
    let initial = model::Parameters::init(&budget.graph, 1);
    let plan = runtime::plan(&budget, initial, &[], [TRAIN, TEST]).unwrap();
    budget.memory = Some(plan.peak_trusted_bytes - 1);
    for (what, spec, least) in [
        ("dp-input", images, 0.5),
        ("cnn-small", with(enclave(), "cnn-small", 16, 1), 0.5),
        ("delta, stage 1", with(delta, "cnn-small", 64, 2), 0.5),
        ("delta with an accelerator", with(flows::with_epsilon(3), "resnet20", 16, 1), 0.5),
        ("resnet20", with(enclave(), "resnet20", 64, 1), 0.8),
        ("resnet20, group norm", flows::normed(with(enclave(), "resnet20", 72, 1), model::Norm::Group), 0.8),
        ("resnet20, bf16", flows::bf16(with(enclave(), "resnet20", 80, 1)), 0.8),
        ("resnet20, two threads", with(enclave(), "resnet20", 100, 2), 0.8),
        ("resnet20, computed again", budget, 0.8),
    ] {
        let share = share_of_plan(what, &spec);
        assert!(share >= least, "{what}: the plan is far too large: {share}");
    }
}
