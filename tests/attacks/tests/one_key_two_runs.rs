//! The move: two runs with one job key over the same records (`[trusted] key`), so that one noise covers two different
//! functions of a record, whose difference then shows.
//!
//! What must hold: whatever changes what is computed from a record changes the mechanism's name, and so the noise and the
//! charge. The same function in both runs gives the same bytes.
//!
//! Enforced in `runtime::trusted_model` (digest of the residual function) and `mechanism::noise`.
#![allow(clippy::unwrap_used)] // a test that fails says why

use std::collections::BTreeSet;

use asymflow_attacks::{Sent, train};
use asymflow_flows::{MemoryHost, asymml_noised, two_views, with_epsilon};
use kernels::Op;
use kernels::activation::{LeakyRelu, Relu};
use kernels::batch_norm::BatchNorm2d;
use kernels::conv2d::Conv2d;
use kernels::linear::Linear;
use kernels::pool::AdaptiveAvgPool2d;
use ledger::{MechanismId, entries};
use model::{Graph, GraphBuilder, ValueId};
use tensor::Shape;
use wire::RunSpec;
use wire::spec::{Clip, Decomposition, Flow};

/// A backbone that no training has changed, so that it is the same in every run with the same seed.
fn public_backbone(mut spec: RunSpec) -> RunSpec {
    if let Flow::Delta(delta) = &mut spec.flow {
        delta.stage1_epochs = 0;
    }
    spec
}

/// Mechanisms that training records left by, and what left.
fn released(spec: &RunSpec) -> (BTreeSet<MechanismId>, Sent) {
    let mut host = MemoryHost::default();
    train(&mut host, spec).unwrap();
    let mut sent = Sent::default();
    sent.add(&host);
    let mechanisms = entries(&host.disk().ledger).map(|entry| entry.unwrap().mechanism).collect();
    (mechanisms, sent)
}

fn assert_apart(a: &RunSpec, b: &RunSpec, what: &str) {
    let ((one, _), (other, _)) = (released(a), released(b));
    assert!(one.is_disjoint(&other), "another {what} has the same noise: {one:?}");
}

#[test]
fn the_same_function_gives_the_same_bytes() {
    let base = public_backbone(with_epsilon(1));
    let (mechanisms, sent) = released(&base);
    // What does not touch the residual: rates, the number of epochs, what the main model is.
    let mut other = base.clone();
    other.train.schedule.base = 0.01;
    other.train.epochs = 2;
    let (again, sent_again) = released(&other);
    assert_eq!(mechanisms, again);
    assert!(sent.0.iter().all(|(place, messages)| sent_again.0[place][0] == messages[0]));
}

#[test]
fn another_split_preprocessing_seed_or_noise_is_another_function() {
    let base = public_backbone(with_epsilon(1));
    let delta: [fn(&mut wire::spec::Delta); 4] = [
        |delta| delta.rank = 3,
        |delta| delta.keep = 3,
        |delta| delta.decomposition = Decomposition::Light { iterations: 3 },
        |delta| delta.decomposition = Decomposition::Exact,
    ];
    for (i, change) in delta.into_iter().enumerate() {
        let mut other = base.clone();
        let Flow::Delta(settings) = &mut other.flow else { panic!("not delta") };
        change(settings);
        assert_apart(&base, &other, &format!("split ({i})"));
    }
    let spec: [fn(&mut RunSpec); 4] = [
        |spec| spec.precision = kernels::Precision::Bf16,
        |spec| spec.train.seed += 1,
        |spec| spec.train.mean[0] = 0.25,
        |spec| spec.privacy.clip = Clip::Norm(1.0),
    ];
    for (i, change) in spec.into_iter().enumerate() {
        let mut other = base.clone();
        change(&mut other);
        assert_apart(&base, &other, &format!("setting ({i})"));
    }
    // Views of a record depend on the augmentation.
    let views = public_backbone(two_views(2));
    let mut other = views.clone();
    other.train.augment.crop = 1;
    assert_apart(&views, &other, "augmentation");
}

/// conv, norm, activation; conv, activation; mean; linear.
fn graph(norm: BatchNorm2d, activation: impl Into<Op>) -> Graph {
    let mut builder = GraphBuilder::new("small", Shape::from([3, 16, 16]));
    let mut at = ValueId::INPUT;
    let layers: [(&str, Op); 7] = [
        ("conv1", Conv2d::new(3, 8, 3).padding(1).into()),
        ("bn1", norm.into()),
        ("act1", activation.into()),
        ("conv2", Conv2d::new(8, 8, 3).padding(1).into()),
        ("bn2", BatchNorm2d::new(8).into()),
        ("act2", Relu.into()),
        ("pool", AdaptiveAvgPool2d { output: [1; 2] }.into()),
    ];
    for (name, op) in layers {
        at = builder.add(name, op, &[at]).unwrap();
    }
    at = builder.add("flat", kernels::flatten::Flatten, &[at]).unwrap();
    builder.add("fc", Linear::new(8, 10).bias(true), &[at]).unwrap();
    builder.finish()
}

/// The same weights in a backbone whose operators have other attributes: another function of every record.
#[test]
fn another_backbone_with_the_same_weights_is_another_function() {
    let with = |graph: Graph| {
        let mut spec = public_backbone(with_epsilon(1));
        spec.graph = graph;
        spec
    };
    let norm = || BatchNorm2d::new(8);
    let base = with(graph(norm(), Relu));
    let (mechanisms, _) = released(&base);
    assert_eq!(released(&with(graph(norm(), Relu))).0, mechanisms);
    assert_apart(&base, &with(graph(norm(), LeakyRelu { slope: 0.5 })), "activation");
    assert_apart(&base, &with(graph(BatchNorm2d { eps: 0.1, ..norm() }, Relu)), "constant of a norm");
}

/// In the `asymml` flow the transcript stands for the function: it begins with all that residuals depend on beside the record.
#[test]
fn another_run_of_layers_has_other_noise() {
    let paid = |spec: &RunSpec| -> BTreeSet<(MechanismId, Option<ledger::Digest>)> {
        let mut host = MemoryHost::default();
        train(&mut host, spec).unwrap();
        let ledger = host.disk().ledger;
        let entries = entries(&ledger).map(Result::unwrap);
        entries.map(|entry| (entry.mechanism, entry.transcript)).collect()
    };
    let base = asymml_noised(1, 8.0);
    let releases = paid(&base);
    assert!(releases.len() > 4 && releases.iter().all(|(_, transcript)| transcript.is_some()));
    assert_eq!(paid(&base), releases, "the same run is the same");
    let changes: [fn(&mut RunSpec); 5] = [
        |spec| spec.train.seed += 1,
        |spec| spec.train.augment.crop = 1,
        |spec| spec.train.mean[0] = 0.25,
        |spec| spec.threads = 2,
        |spec| {
            if let Flow::Asymml(asymml) = &mut spec.flow {
                asymml.calibration -= 1;
            }
        },
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut other = base.clone();
        change(&mut other);
        assert!(releases.is_disjoint(&paid(&other)), "another setting ({i}) has the same noise");
    }
}

/// Evaluation begins otherwise than training, though the weights are the same.
#[test]
fn evaluation_and_training_do_not_share_noise() {
    let spec = asymml_noised(1, 8.0);
    let mut host = MemoryHost::default();
    let initial = model::Parameters::init(&spec.graph, spec.train.seed);
    let mut run = runtime::Run::create(&mut host, spec.clone(), initial).unwrap();
    let body = asymflow_flows::records(16, 1);
    run.add_records(wire::accelerator::RecordSet::Test, 16, &body).unwrap();
    run.evaluate(&mut host).unwrap();
    let of_evaluation: BTreeSet<_> =
        entries(&host.disk().ledger).map(|entry| entry.unwrap().transcript).collect();
    let mut host = MemoryHost::default();
    train(&mut host, &spec).unwrap();
    let ledger = host.disk().ledger;
    let mut of_training = entries(&ledger).map(|entry| entry.unwrap().transcript);
    assert!(of_training.all(|transcript| !of_evaluation.contains(&transcript)));
}
