//! Release policies, labels and clipping norms: what leaves, what is charged, and that no budget is exceeded.
#![allow(clippy::unwrap_used)] // a test that fails says why

use std::cell::RefCell;
use std::rc::Rc;

use asymflow_flows::{
    MemoryHost, everything, per_step, quantile_clip, randomised_labels, records, two_views, with_epsilon,
    withheld_labels,
};
use ledger::{Digest, Entry, Ledger, entries};
use model::Parameters;
use runtime::{Run, RunError};
use wire::RunSpec;
use wire::accelerator::{Job, RecordSet, Reply};
use wire::spec::{Labels, Protection};
use worker::{CpuDevice, Device};

const TRAIN: usize = 48;
const TEST: usize = 16;
/// Epochs, of which the first is stage 1.
const EPOCHS: usize = 4;
const STEPS: usize = TRAIN / 16;

fn start(host: &mut MemoryHost, spec: RunSpec) -> Result<Run, RunError> {
    let initial = Parameters::init(&spec.graph, spec.train.seed);
    let mut run = Run::create(host, spec, initial)?;
    run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).unwrap();
    run.add_records(RecordSet::Test, TEST, &records(TEST, 2)).unwrap();
    Ok(run)
}

fn train(spec: RunSpec) -> MemoryHost {
    let mut host = MemoryHost::default();
    start(&mut host, spec).unwrap().train(&mut host).unwrap();
    host
}

fn ledger(host: &MemoryHost) -> Vec<Entry> {
    entries(&host.disk().ledger).collect::<Result<_, _>>().unwrap()
}

/// ε of the worst training record, and of the worst test record.
fn epsilons(host: &MemoryHost) -> (f64, f64) {
    let test = ledger(host).iter().find(|entry| entry.purpose.starts_with("test")).unwrap().dataset;
    let ledger = Ledger::verify(&host.disk().ledger).unwrap();
    let worst = |of_test: bool| {
        let own = |found: &Digest| (*found == test) == of_test;
        ledger.losses().filter(|(d, ..)| own(d)).map(|(.., loss)| loss.epsilon(1e-5)).fold(0.0, f64::max)
    };
    (worst(false), worst(true))
}

/// Bodies of all messages of training records, with their place.
fn stored(host: &MemoryHost) -> Vec<(usize, Vec<u8>)> {
    let links = host.links.borrow();
    let train = |(job, body): &(Job, Vec<u8>)| match job {
        Job::Store { set: RecordSet::Train, view, .. } => Some((*view, body.clone())),
        _ => None,
    };
    links.jobs.iter().filter_map(train).collect()
}

#[test]
fn two_views_leave_once_each_within_the_budget() {
    let host = train(two_views(EPOCHS));
    let sent = stored(&host);
    assert_eq!(sent.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 1]);
    assert_ne!(sent[0].1, sent[1].1);
    let views: Vec<_> = ledger(&host).iter().map(|entry| (entry.view, entry.records.len())).collect();
    assert_eq!(views, [(0, TRAIN as u64), (1, TRAIN as u64), (0, TEST as u64)]);
    let (train, test) = epsilons(&host);
    assert!((7.999..=8.0).contains(&train) && test < 6.0, "{train} {test}");
}

#[test]
fn per_step_sends_a_fresh_view_for_every_epoch_and_charges_each() {
    let host = train(per_step(EPOCHS));
    let sent = stored(&host);
    assert_eq!(sent.len(), EPOCHS - 1);
    assert!(sent.iter().all(|(place, _)| *place == 0));
    assert!(sent.windows(2).all(|pair| pair[0].1 != pair[1].1));
    let views: Vec<_> = ledger(&host).iter().map(|entry| entry.view).collect();
    assert_eq!(views, [0, 0, 1, 2]);
    let (train, test) = epsilons(&host);
    assert!((7.999..=8.0).contains(&train) && test < 5.0, "{train} {test}");
    // The accelerator does not augment what is augmented already.
    let links = host.links.borrow();
    let load = links.jobs.iter().find_map(|(job, _)| match job {
        Job::Load(load) => Some(load.clone()),
        _ => None,
    });
    assert_eq!(load.unwrap().augment, engine::Augment::default());
}

#[test]
fn randomised_labels_need_no_permission_and_are_often_wrong() {
    let host = train(randomised_labels(EPOCHS));
    let sent = stored(&host);
    let truth = records(TRAIN, 1)[TRAIN * 768..].to_vec();
    let told = &sent[0].1[sent[0].1.len() - 2 * TRAIN..];
    let kept = told.chunks(2).zip(truth.chunks(2)).filter(|(a, b)| a == b).count();
    // e²/(e² + 9) = 45 % of 48; the standard deviation is 3.4.
    assert!((8..36).contains(&kept), "{kept} of {TRAIN}");
    let links = host.links.borrow();
    let line = links.journal.iter().find(|line| line.kind == "randomised-labels").unwrap();
    assert_eq!((line.class, line.has_receipt, line.bytes), ("noised+counted", true, 2 * TRAIN));
    assert!(links.journal.iter().all(|line| line.kind != "labels" && line.class != "UNPROTECTED"));
    let (train, test) = epsilons(&host);
    assert!((7.999..=8.0).contains(&train) && test < 6.1, "{train} {test}");
}

#[test]
fn withheld_labels_never_leave_and_every_step_is_charged() {
    let host = train(withheld_labels(EPOCHS));
    let links = host.links.borrow();
    let (mut steps, mut updates) = (0, 0);
    for (job, body) in &links.jobs {
        match job {
            Job::Store { labels, .. } => assert!(!labels),
            Job::Train { .. } => panic!("nothing is trained without gradients"),
            Job::Forward { .. } => steps += 1,
            Job::Backward => {
                updates += 1;
                assert_eq!(body.len(), 16 * 10 * 4);
            }
            _ => {}
        }
    }
    assert_eq!((steps, updates), (STEPS * (EPOCHS - 1), STEPS * (EPOCHS - 1)));
    let gradients: Vec<_> = links.journal.iter().filter(|line| line.kind == "logit-gradients").collect();
    assert_eq!(gradients.len(), steps);
    assert!(gradients.iter().all(|line| line.class == "noised+counted" && line.has_receipt));
    assert!(gradients.windows(2).all(|pair| pair[0].ledger_bytes < pair[1].ledger_bytes));
    assert!(links.journal.iter().all(|line| line.class != "UNPROTECTED"));
    let entries = ledger(&host);
    assert_eq!(entries.iter().filter(|entry| entry.transcript.is_some()).count(), steps);
    let (train, test) = epsilons(&host);
    // The grid's step counts as a part of the sensitivity.
    assert!((7.99..=8.0).contains(&train) && test < 8.0, "{train} {test}");
}

#[test]
fn a_private_clipping_norm_is_found_once_and_charged() {
    let host = train(quantile_clip(EPOCHS));
    let entries = ledger(&host);
    assert!(entries[0].mechanism.as_str().starts_with("norm-quantile v1: 0.5 of full"), "{:?}", entries[0]);
    assert_eq!((entries[0].records.len(), entries[0].bytes), (TRAIN as u64, 0));
    let clip = entries[1].mechanism.as_str().split("clip ").nth(1).unwrap();
    let clip: f64 = clip.split(',').next().unwrap().parse().unwrap();
    assert!(clip > 0.0 && clip != 2.0, "{clip}");
    let (train, _) = epsilons(&host);
    assert!((7.999..=8.0).contains(&train), "{train}");
}

#[test]
fn everything_together_stays_within_the_budget() {
    let (train, _) = epsilons(&train(everything(EPOCHS)));
    assert!((7.99..=8.0).contains(&train), "{train}");
}

/// The labels of one step's records, in their order.
fn step_labels(seed: u64, epoch: usize, step: usize) -> Vec<usize> {
    let labels = &records(TRAIN, 1)[TRAIN * 768..];
    let order = engine::batches::order(seed, epoch, TRAIN);
    let chosen = &order[engine::batches::range(TRAIN, 16, step)];
    chosen.iter().map(|&record| labels[2 * record as usize].into()).collect()
}

/// `softmax(logits) − e_label` of each record.
fn gradients(logits: &[u8], labels: &[usize]) -> Vec<f32> {
    let logits = wire::body::to_f32(logits, 10 * labels.len()).unwrap();
    let one = |(logits, &label): (&[f32], &usize)| {
        let sum: f32 = logits.iter().map(|x| x.exp()).sum();
        let target = move |i: usize| f32::from(u8::from(i == label));
        logits.iter().enumerate().map(|(i, x)| x.exp() / sum - target(i)).collect::<Vec<_>>()
    };
    logits.chunks(10).zip(labels).flat_map(one).collect()
}

/// Without noise, gradients train the accelerator as labels do: the same logits, step by step, to rounding.
#[test]
fn gradients_in_place_of_labels_train_the_same_model() {
    let mut spec = with_epsilon(EPOCHS);
    spec.privacy.protection = Protection::NoNoise;
    spec.privacy.allow = vec!["plain-residuals".into(), "labels".into()];
    let host = train(spec.clone());
    let (mut labelled, mut stepwise) = (CpuDevice::default(), CpuDevice::default());
    let run = |device: &mut CpuDevice, job: &Job, body: &[u8]| {
        let mut logits = Vec::new();
        device
            .run(job, body, &mut |reply, body| {
                if let Reply::Logits { .. } = reply {
                    logits.push(body.to_vec());
                }
                Ok(())
            })
            .unwrap();
        logits
    };
    let mut compared = 0;
    for (job, body) in &host.links.borrow().jobs {
        match job {
            Job::Hello { .. } | Job::Finish => {}
            &Job::Train { epoch, first_step, steps, .. } => {
                let expected = run(&mut labelled, job, body);
                for (step, expected) in (first_step..first_step + steps).zip(expected) {
                    let found = run(&mut stepwise, &Job::Forward { epoch, step }, &[]).remove(0);
                    let labels = step_labels(spec.train.seed, epoch, step);
                    let mut gradient = Vec::new();
                    wire::body::append_f32(&mut gradient, &gradients(&found, &labels));
                    run(&mut stepwise, &Job::Backward, &gradient);
                    let [a, b] = [expected, found].map(|body| wire::body::to_f32(&body, 160).unwrap());
                    assert!(
                        a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3),
                        "epoch {epoch}, step {step}"
                    );
                    compared += 1;
                }
            }
            _ => {
                run(&mut labelled, job, body);
                run(&mut stepwise, job, body);
            }
        }
    }
    assert_eq!(compared, STEPS * (EPOCHS - 1));
}

/// What leaves in place of labels is the loss's gradient and noise: along the true gradients it has their length.
#[test]
fn what_leaves_in_place_of_labels_is_the_gradient_of_the_loss() {
    let mut spec = withheld_labels(EPOCHS);
    spec.privacy.protection = Protection::NoNoise;
    spec.privacy.labels = Labels::Withheld { epsilon: 25.0, clip: 2.0 };
    spec.privacy.allow = vec!["plain-residuals".into()];
    let answers = Rc::new(RefCell::new(Vec::new()));
    let heard = Rc::clone(&answers);
    let hear = move |job: &Job, replies: &mut Vec<(Reply, Vec<u8>)>| {
        if let &Job::Forward { epoch, step } = job {
            heard.borrow_mut().push((epoch, step, replies[0].1.clone()));
        }
    };
    let mut host = MemoryHost { liar: Some(Rc::new(RefCell::new(hear))), ..MemoryHost::default() };
    let seed = spec.train.seed;
    start(&mut host, spec).unwrap().train(&mut host).unwrap();
    let links = host.links.borrow();
    let sent = links.jobs.iter().filter(|(job, _)| *job == Job::Backward).map(|(_, body)| body);
    let (mut along, mut length, mut across) = (0.0, 0.0, 0.0);
    for (sent, (epoch, step, logits)) in sent.zip(answers.borrow().iter()) {
        let labels = step_labels(seed, *epoch, *step);
        let expected = gradients(logits, &labels);
        let others: Vec<usize> = labels.iter().map(|label| (label + 5) % 10).collect();
        let sent = wire::body::to_f32(sent, 160).unwrap();
        for ((sent, x), other) in sent.iter().zip(&expected).zip(gradients(logits, &others)) {
            along += sent * x;
            length += x * x;
            across += sent * other;
        }
    }
    // 144 gradients of length 0.9, and noise of 0.55: the share's standard deviation is 0.05.
    assert!((along / length - 1.0).abs() < 0.2, "{along} of {length}");
    assert!(across / length < 0.5, "labels of others: {across} of {length}");
}

/// What labels take is missing for residuals; what leaves nothing is refused before anything starts.
#[test]
fn a_budget_that_labels_exhaust_is_refused() {
    let mut spec = randomised_labels(EPOCHS);
    spec.privacy.protection = Protection::Epsilon(1.5);
    let mut host = MemoryHost::default();
    let refused = start(&mut host, spec).and_then(|mut run| run.train(&mut host).map(|_| ())).unwrap_err();
    assert!(refused.to_string().contains("leaves nothing for what leaves of records"), "{refused}");
    assert!(host.links.borrow().jobs.iter().all(|(_, body)| body.is_empty()));
    assert!(host.disk().ledger.is_empty());
}

/// Without noise on residuals, labels still are what was asked for.
#[test]
fn labels_are_protected_without_noise_on_residuals() {
    let mut spec = with_epsilon(EPOCHS);
    spec.privacy.protection = Protection::NoNoise;
    spec.privacy.labels = Labels::Randomised { epsilon: 1.0 };
    spec.privacy.allow = vec!["plain-residuals".into()];
    let host = train(spec);
    assert_eq!(Ledger::verify(&host.disk().ledger).unwrap().epsilon(1e-5), 1.0);
}
