//! An accelerator that dies, hangs or lies: an error with its name, or degraded mode; never a wrong result.
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_flows::{Fault, MemoryHost, asymml, asymml_noised, plain, records, with_epsilon};
use model::Parameters;
use runtime::{AcceleratorError, Outcome, Run, RunError};
use wire::RunSpec;
use wire::accelerator::RecordSet;
use wire::owner::Event;
use wire::spec::OnFailure;

const TRAIN: usize = 48;
const TEST: usize = 16;

fn start(host: &mut MemoryHost, spec: RunSpec) -> Run {
    let initial = Parameters::init(&spec.graph, spec.train.seed);
    let mut run = Run::create(host, spec, initial).unwrap();
    run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).unwrap();
    run.add_records(RecordSet::Test, TEST, &records(TEST, 2)).unwrap();
    run
}

/// Replies before training: ready, loaded, two sets stored.
const SETUP: usize = 4;

fn expected(fault: Fault, error: &AcceleratorError) -> bool {
    use AcceleratorError as E;
    match fault {
        Fault::Die => matches!(error, E::Died { .. }),
        Fault::Hang => matches!(error, E::Hung { .. }),
        Fault::NotANumber | Fault::Infinite => matches!(error, E::NotFinite { .. }),
        Fault::Shape => matches!(error, E::Shape { .. }),
        Fault::WrongStep => matches!(error, E::Step { .. }),
        Fault::WrongKind => matches!(error, E::Unexpected { .. }),
        Fault::Fail => matches!(error, E::Failed { .. }),
    }
}

const FAULTS: [Fault; 8] = [
    Fault::Die,
    Fault::Hang,
    Fault::NotANumber,
    Fault::Infinite,
    Fault::Shape,
    Fault::WrongStep,
    Fault::WrongKind,
    Fault::Fail,
];

#[test]
fn every_fault_has_its_name_and_the_run_can_go_on() {
    let mut host = MemoryHost::default();
    let mut whole = start(&mut host, with_epsilon(2));
    whole.train(&mut host).unwrap();
    for fault in FAULTS {
        let mut host = MemoryHost { fault: Some((fault, SETUP + 1)), ..MemoryHost::default() };
        let spec = with_epsilon(2);
        let mut run = start(&mut host, spec.clone());
        match run.train(&mut host) {
            Err(RunError::Accelerator(error)) => assert!(expected(fault, &error), "{fault:?}: {error:?}"),
            other => panic!("{fault:?}: {:?}", other.map(|_| ())),
        }
        let mut host = MemoryHost::on(host.disk());
        let mut run = Run::open(&mut host, spec.accelerator.clone()).unwrap();
        assert_eq!(run.steps_done(), 4, "{fault:?}: what was done before the fault is kept");
        run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).unwrap();
        run.add_records(RecordSet::Test, TEST, &records(TEST, 2)).unwrap();
        assert_eq!(run.train(&mut host).unwrap(), Outcome::Finished);
        let weights =
            |run: &Run| run.model_parts().unwrap().into_iter().map(|(_, _, p)| p).collect::<Vec<_>>();
        assert!(weights(&run) == weights(&whole), "{fault:?}: other weights after the fault and a resume");
    }
}

#[test]
fn degraded_mode_goes_on_with_the_trusted_part_and_says_so() {
    for fault in FAULTS {
        let mut host = MemoryHost { fault: Some((fault, SETUP + 1)), ..MemoryHost::default() };
        let mut spec = with_epsilon(2);
        spec.accelerator.on_failure = OnFailure::Degrade;
        let mut run = start(&mut host, spec);
        assert_eq!(run.train(&mut host).unwrap(), Outcome::Finished, "{fault:?}");
        let summary = run.training_summary(&host).unwrap();
        assert!(summary.degraded.is_some(), "{fault:?}");
        let scores = summary.scores.unwrap();
        assert_eq!(Some(scores.accuracy), scores.accuracy_trusted_only, "{fault:?}");
        let said = |event: &Event| matches!(event, Event::Note { text } if text.contains("DEGRADED"));
        assert!(host.events.iter().any(said), "{fault:?}");
    }
}

#[test]
fn plain_cannot_go_on_alone() {
    let mut host = MemoryHost { fault: Some((Fault::Die, SETUP + 1)), ..MemoryHost::default() };
    let mut spec = plain(2);
    spec.accelerator.on_failure = OnFailure::Degrade;
    let mut run = start(&mut host, spec);
    assert!(matches!(run.train(&mut host), Err(RunError::Accelerator(_))));
}

#[test]
fn inference_without_an_accelerator_is_degraded_and_says_so() {
    let mut host = MemoryHost::default();
    let mut spec = with_epsilon(2);
    spec.accelerator.on_failure = OnFailure::Degrade;
    start(&mut host, spec.clone()).train(&mut host).unwrap();
    let disk = host.disk();
    let image = &records(1, 9)[..768];
    let ask = |host: &mut MemoryHost| {
        let mut run = Run::open(host, spec.accelerator.clone()).unwrap();
        run.infer(host, 1, image).unwrap()
    };
    let mut host = MemoryHost::on(disk.clone());
    let whole = ask(&mut host);
    assert_eq!(whole.degraded, None);
    assert!(whole.epsilon.is_some_and(|e| (7.99..=8.01).contains(&e)), "{:?}", whole.epsilon);
    // The same image again: the same bytes leave, and the ledger is not charged.
    let charged = host.disk().ledger;
    let mut again = MemoryHost::on(host.disk());
    assert_eq!(ask(&mut again).logits, whole.logits);
    assert_eq!(again.disk().ledger, charged);
    // Nobody there.
    let mut alone = MemoryHost { unreachable: true, ..MemoryHost::on(disk) };
    let degraded = ask(&mut alone);
    assert!(degraded.degraded.is_some());
    // Training spent that much; this image did not leave.
    assert!(degraded.epsilon.is_some_and(|e| (7.99..=8.01).contains(&e)));
    assert_ne!(degraded.logits, whole.logits);
}

/// Wherever in a step an accelerator that computes layers fails, the run ends with the fault's name, and goes on from its
/// last checkpoint to the same weights.
#[test]
fn every_fault_of_a_layer_has_its_name_and_the_run_can_go_on() {
    for spec in [asymml(2), asymml_noised(2, 8.0)] {
        let mut host = MemoryHost::default();
        let mut whole = start(&mut host, spec.clone());
        whole.train(&mut host).unwrap();
        let weights =
            |run: &Run| run.model_parts().unwrap().into_iter().map(|(_, _, p)| p).collect::<Vec<_>>();
        for fault in FAULTS {
            // Ready and outsourced come first; then products, gradients and weights of the second epoch.
            for after in [2, 3, 40, 150] {
                let mut host = MemoryHost { fault: Some((fault, after)), ..MemoryHost::default() };
                let mut run = start(&mut host, spec.clone());
                match run.train(&mut host) {
                    Err(RunError::Accelerator(error)) => {
                        let slot =
                            fault == Fault::WrongStep && matches!(error, AcceleratorError::Unexpected { .. });
                        assert!(slot || expected(fault, &error), "{fault:?} after {after}: {error:?}");
                    }
                    other => panic!("{fault:?} after {after}: {:?}", other.map(|_| ())),
                }
                let mut host = MemoryHost::on(host.disk());
                let mut run = Run::open(&mut host, spec.accelerator.clone()).unwrap();
                run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).unwrap();
                run.add_records(RecordSet::Test, TEST, &records(TEST, 2)).unwrap();
                assert_eq!(run.train(&mut host).unwrap(), Outcome::Finished);
                assert!(weights(&run) == weights(&whole), "{fault:?} after {after}: other weights");
            }
        }
    }
}
