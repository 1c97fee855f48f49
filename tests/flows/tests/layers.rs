//! The `asymml` flow: what leaves, what is charged, and what is refused.
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_flows::{MemoryHost, asymml, asymml_noised, asymml_with, records};
use ledger::{Kind, Ledger};
use mechanism::Refused;
use model::Parameters;
use runtime::{Run, RunError};
use wire::RunSpec;
use wire::accelerator::{Job, RecordSet};
use wire::spec::{Flow, Protection, Ranks, Side};

const TRAIN: usize = 48;
const TEST: usize = 16;
const EPOCHS: usize = 2;

fn create(spec: RunSpec) -> Result<Run, RunError> {
    let initial = Parameters::init(&spec.graph, spec.train.seed);
    Run::create(&mut MemoryHost::default(), spec, initial)
}

fn train(spec: RunSpec) -> (MemoryHost, Result<(), RunError>) {
    let mut host = MemoryHost::default();
    let mut run = create(spec).unwrap();
    run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).unwrap();
    run.add_records(RecordSet::Test, TEST, &records(TEST, 2)).unwrap();
    let trained = run.train(&mut host).map(|_| ());
    (host, trained)
}

fn kinds(host: &MemoryHost) -> Vec<&'static str> {
    let mut kinds: Vec<_> =
        host.links.borrow().journal.iter().filter(|line| line.outward).map(|line| line.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

#[test]
fn unprotected_kinds_are_refused_unless_named() {
    let without = |kind: &str| {
        let mut spec = asymml(EPOCHS);
        spec.privacy.allow.retain(|allowed| allowed != kind);
        create(spec).map(|_| ()).unwrap_err()
    };
    for kind in [Kind::PlainResiduals, Kind::OutputGradients, Kind::WeightUpdates] {
        let refused = without(kind.name());
        assert!(
            matches!(refused, RunError::Refused(Refused::NotAllowed { kind: found }) if found == kind),
            "{refused}"
        );
    }
    // Gradients that stay need no permission.
    let mut own = asymml_with(EPOCHS, |asymml| asymml.backward = Side::Enclave);
    own.privacy.allow.retain(|allowed| allowed != "output-gradients");
    let (host, trained) = train(own);
    trained.unwrap();
    assert_eq!(kinds(&host), ["control", "parameters", "plain-residuals", "weight-updates"]);
    // Nor does a model that is not trained need those of training.
    let mut untrained = asymml(0);
    untrained.privacy.allow = vec!["plain-residuals".into()];
    assert!(create(untrained).is_ok());
}

#[test]
fn every_body_is_in_the_journal_before_it_leaves() {
    let (host, trained) = train(asymml(EPOCHS));
    trained.unwrap();
    let links = host.links.borrow();
    let logged: usize = links.journal.iter().filter(|line| line.outward).map(|line| line.bytes).sum();
    let sent: usize = links.jobs.iter().map(|(_, body)| body.len()).sum();
    assert_eq!(logged, sent);
    drop(links);
    let expected = ["control", "output-gradients", "parameters", "plain-residuals", "weight-updates"];
    assert_eq!(kinds(&host), expected);
}

/// Neither images nor the first convolution's weights, biases, norms and linear layers ever leave.
#[test]
fn only_outsourced_convolutions_leave() {
    let (host, trained) = train(asymml(EPOCHS));
    trained.unwrap();
    let links = host.links.borrow();
    let spec = links.jobs.iter().find_map(|(job, _)| match job {
        Job::Outsource(spec) => Some(spec.clone()),
        _ => None,
    });
    let spec = spec.unwrap();
    assert!(spec.layers.iter().all(|layer| layer.input[0] != 3 && layer.convs.iter().all(|conv| !conv.bias)));
    for (job, body) in &links.jobs {
        let expected = match job {
            Job::Hello { .. } | Job::Finish | Job::WeightGradients { .. } => 0,
            Job::Outsource(spec) => {
                4 * spec.layers.iter().map(wire::layers::Layer::weights_len).sum::<usize>()
            }
            Job::Convolve { layer, records, .. } => records * spec.layers[*layer].residual_len(),
            Job::Differentiate { layer, conv, records, .. } => {
                4 * records * spec.layers[*layer].output(*conv).unwrap().iter().product::<usize>()
            }
            Job::Weights { layer } => 4 * spec.layers[*layer].weights_len(),
            other => panic!("{other:?} does not belong to this run"),
        };
        assert_eq!(body.len(), expected, "{job:?}");
    }
}

#[test]
fn noised_residuals_are_charged_for_every_record_layer_and_step() {
    let (host, trained) = train(asymml_noised(EPOCHS, 8.0));
    trained.unwrap();
    let links = host.links.borrow();
    let layers = links.jobs.iter().find_map(|(job, _)| match job {
        Job::Outsource(spec) => Some(spec.layers.len()),
        _ => None,
    });
    let layers = layers.unwrap();
    assert!(layers > 1);
    let noised: Vec<_> = links.journal.iter().filter(|line| line.kind == "noised-residuals").collect();
    assert!(
        noised.iter().all(|line| line.has_receipt && line.class == "noised+counted" && line.ledger_bytes > 0)
    );
    let charged = noised.iter().map(|line| line.records).sum::<usize>();
    assert_eq!(charged, EPOCHS * layers * (TRAIN + TEST));
    drop(links);
    assert_eq!(
        kinds(&host),
        ["control", "noised-residuals", "output-gradients", "parameters", "weight-updates"]
    );
    let ledger = Ledger::verify(&runtime::Host::ledger(&host).unwrap()).unwrap();
    let epsilon = ledger.epsilon(1e-5);
    // One more release of each layer is left of the budget.
    assert!(epsilon < 8.0 && epsilon > 5.0, "{epsilon}");
}

#[test]
fn a_budget_that_is_too_small_refuses_before_anything_leaves() {
    let mut spec = asymml_noised(EPOCHS, 8.0);
    spec.privacy.protection = Protection::Epsilon(1e-6);
    let (host, trained) = train(spec);
    assert!(trained.is_err(), "{trained:?}");
    assert!(!kinds(&host).contains(&"noised-residuals"));
}

/// The same state asked again releases the same bytes, at no charge.
#[test]
fn a_second_evaluation_costs_nothing_more() {
    let spec = asymml_noised(EPOCHS, 8.0);
    let mut host = MemoryHost::default();
    let initial = Parameters::init(&spec.graph, spec.train.seed);
    let mut run = Run::create(&mut host, spec, initial).unwrap();
    run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).unwrap();
    run.add_records(RecordSet::Test, TEST, &records(TEST, 2)).unwrap();
    run.train(&mut host).unwrap();
    let first = run.evaluate(&mut host).unwrap();
    let ledger = runtime::Host::ledger(&host).unwrap();
    let second = run.evaluate(&mut host).unwrap();
    assert_eq!(runtime::Host::ledger(&host).unwrap(), ledger);
    assert_eq!((first.scores, first.epsilon), (second.scores, second.epsilon));
}

#[test]
fn ranks_that_do_not_fit_are_errors_that_name_layers() {
    let failed = |ranks: Vec<usize>| {
        let (_, trained) = train(asymml_with(1, |asymml| asymml.ranks = Ranks::List(ranks)));
        trained.unwrap_err().to_string()
    };
    let wrong = failed(vec![1]);
    assert!(wrong.contains("flow.ranks has 1 numbers, but `cnn-small` has"), "{wrong}");
    let many = failed(vec![1000; 3]);
    assert!(many.contains("flow.ranks has"), "{many}");
    assert!(matches!(asymml(1).flow, Flow::Asymml(_)));
}
