//! `[trusted] memory`: what is computed again to fit it, and what is refused before anything runs.
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_memory::NotingHost;
use model::Parameters;
use runtime::{Outcome, Run, RunError};
use tensor::Shape;
use wire::RunSpec;
use wire::accelerator::RecordSet;
use wire::owner::Plan;
use wire::spec::{Protection, ReleaseShape};

const TRAIN: usize = 60;

fn resnet(batch: usize) -> RunSpec {
    let mut spec = flows::enclave(1);
    spec.graph = model::zoo::build("resnet20", Shape::from([3, 16, 16]), 10).unwrap();
    spec.train.batch_size = batch;
    spec
}

fn delta(batch: usize) -> RunSpec {
    let mut spec = flows::delta(1, ReleaseShape::Full);
    spec.privacy.protection = Protection::NoNoise;
    spec.privacy.allow = vec!["labels".into(), "plain-residuals".into()];
    RunSpec { graph: resnet(batch).graph, train: resnet(batch).train, ..spec }
}

fn plan(spec: &RunSpec) -> Result<Plan, RunError> {
    runtime::plan(spec, Parameters::init(&spec.graph, 1), &[], [TRAIN, 0])
}

/// What a run ends with, and what it said.
fn trained(spec: &RunSpec) -> (Vec<Parameters>, String) {
    let mut host = NotingHost::new(|| 0);
    let mut run = Run::create(&mut host, spec.clone(), Parameters::init(&spec.graph, 1)).unwrap();
    run.add_records(RecordSet::Train, TRAIN, &flows::records(TRAIN, 1)).unwrap();
    assert_eq!(run.train(&mut host).unwrap(), Outcome::Finished);
    (run.model_parts().unwrap().into_iter().map(|(_, _, parameters)| parameters).collect(), host.said)
}

#[test]
fn a_run_that_computes_again_ends_with_the_same_weights() {
    for mut spec in [resnet(16), delta(16)] {
        let free = plan(&spec).unwrap();
        let (weights, said) = trained(&spec);
        assert!(!free.recompute && said.is_empty(), "{said}");
        spec.memory = Some(free.peak_trusted_bytes);
        assert_eq!(plan(&spec).unwrap(), free, "a budget that is just enough changes nothing");
        spec.memory = Some(free.peak_trusted_bytes - 1);
        let tight = plan(&spec).unwrap();
        assert!(tight.recompute && tight.peak_trusted_bytes < free.peak_trusted_bytes);
        let (again, said) = trained(&spec);
        assert!(said.contains("computed again"), "{said}");
        assert!(weights == again, "{} ends with other weights", spec.flow.name());
    }
}

#[test]
fn a_budget_that_is_too_small_is_refused_with_the_batch_that_fits() {
    let mut spec = resnet(64);
    let limit = {
        let mut least = resnet(20);
        least.memory = Some(0);
        let refused = plan(&least).unwrap_err().to_string();
        assert!(refused.contains("no batch_size would fit: 1 needs"), "{refused}");
        least.memory = None;
        plan(&least).unwrap().peak_trusted_bytes
    };
    spec.memory = Some(limit);
    let refused = plan(&spec).unwrap_err().to_string();
    assert!(
        refused.contains("[trusted] memory grants") && refused.contains("batch_size = 64 needs"),
        "{refused}"
    );
    assert!(refused.contains("`resnet20 ") && refused.contains("ward`"), "no layer: {refused}");
    let batch: usize =
        refused.rsplit_once("batch_size = ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    assert!(batch >= 20, "{refused}");
    let with = |batch| RunSpec { memory: Some(limit), ..resnet(batch) };
    assert!(plan(&with(batch)).is_ok() && plan(&with(batch + 1)).is_err(), "{refused}");
}

#[test]
fn records_count_before_they_are_taken() {
    let mut spec = resnet(16);
    let without = runtime::plan(&spec, Parameters::init(&spec.graph, 1), &[], [0, 0]).unwrap();
    // Room for the model with everything computed again, and for hardly any record.
    spec.memory = Some(without.peak_trusted_bytes);
    let mut host = NotingHost::new(|| 0);
    let mut run = Run::create(&mut host, spec.clone(), Parameters::init(&spec.graph, 1)).unwrap();
    let many = 20_000;
    let refused = run.add_records(RecordSet::Train, many, &flows::records(many, 1)).unwrap_err().to_string();
    assert!(refused.contains("no batch_size would fit"), "{refused}");
}
