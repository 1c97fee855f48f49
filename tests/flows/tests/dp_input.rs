//! The flow `dp-input`: every image leaves once, clipped and noised, and the whole model trains on the accelerator.
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_flows::{MemoryHost, bf16, dp_input, records};
use engine::{Augment, Draw, InputForm};
use ledger::{Entry, Kind, Ledger, entries};
use mechanism::Refused;
use model::Parameters;
use runtime::{Outcome, Run, RunError};
use wire::RunSpec;
use wire::accelerator::{Job, RecordSet};
use wire::spec::{Clip, Labels, Protection, Release};

const TRAIN: usize = 320;
const TEST: usize = 40;
/// Numbers of an image.
const NUMBERS: usize = 3 * 16 * 16;

fn create(host: &mut MemoryHost, spec: RunSpec) -> Result<Run, RunError> {
    let initial = Parameters::init(&spec.graph, spec.train.seed);
    let mut run = Run::create(host, spec, initial)?;
    run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).unwrap();
    run.add_records(RecordSet::Test, TEST, &records(TEST, 2)).unwrap();
    Ok(run)
}

fn train(spec: RunSpec) -> (MemoryHost, Run) {
    let mut host = MemoryHost::default();
    let mut run = create(&mut host, spec).unwrap();
    assert_eq!(run.train(&mut host).unwrap(), Outcome::Finished);
    (host, run)
}

fn ledger(host: &MemoryHost) -> Vec<Entry> {
    entries(&host.disk().ledger).collect::<Result<_, _>>().unwrap()
}

/// What left of the records of a set, each as numbers.
fn sent(host: &MemoryHost, set: RecordSet) -> Vec<Vec<f32>> {
    let links = host.links.borrow();
    let bodies = links.jobs.iter().filter_map(|(job, body)| match job {
        Job::Store { set: of, count, .. } if *of == set => Some(&body[..4 * NUMBERS * count]),
        _ => None,
    });
    bodies
        .flat_map(|body| body.chunks(4 * NUMBERS))
        .map(|image| wire::body::to_f32(image, NUMBERS).unwrap())
        .collect()
}

/// At about the weakest guarantee that noise on a grid can give, something is learnt; at a strong one the images drown.
#[test]
fn the_model_learns_what_the_noise_leaves_of_the_images() {
    let accuracy = |epsilon| {
        let mut spec = dp_input(12, epsilon);
        // Nearly black where there is no square, so that the clipped images differ by what tells the classes apart.
        spec.train.mean = vec![0.25; 3];
        spec.train.augment = Augment::default();
        let (host, run) = train(spec);
        let scores = run.training_summary(&host).unwrap().scores.unwrap();
        assert_eq!(scores.accuracy_trusted_only, None);
        scores.accuracy
    };
    let (weak, strong) = (accuracy(40.0), accuracy(0.5));
    println!("ε = 40: {weak}, ε = 0.5: {strong}");
    assert!(weak > 0.3 && strong < 0.25, "{weak} {strong}");
}

#[test]
fn every_byte_that_leaves_is_charged_public_or_allowed() {
    let (host, run) = train(dp_input(2, 8.0));
    let links = host.links.borrow();
    let noised: Vec<_> = links.journal.iter().filter(|line| line.kind == "noised-inputs").collect();
    assert_eq!(noised.iter().map(|line| line.records).sum::<usize>(), TRAIN + TEST);
    assert_eq!(noised.iter().map(|line| line.bytes).sum::<usize>(), 4 * NUMBERS * (TRAIN + TEST));
    assert!(noised.iter().all(|line| line.class == "noised+counted" && line.has_receipt));
    let others = ["noised-inputs", "labels", "parameters", "control"];
    assert!(links.journal.iter().filter(|line| line.outward).all(|line| others.contains(&line.kind)));
    let entries = ledger(&host);
    assert_eq!(entries.len(), 2, "training records and test records, once each");
    assert!(entries.iter().all(|entry| entry.mechanism.as_str().starts_with("noised-inputs v1: 3x16x16")));
    let epsilon = Ledger::verify(&host.disk().ledger).unwrap().epsilon(1e-5);
    assert!(epsilon <= 8.0 && epsilon > 7.9999, "{epsilon}");
    assert_eq!(run.training_summary(&host).unwrap().epsilon, Some(epsilon));
}

/// What leaves is the clipped image and noise of the size that was charged for, on the grid.
#[test]
fn what_leaves_is_the_image_and_noise() {
    let (host, _) = train(dp_input(1, 8.0));
    let name = ledger(&host)[0].mechanism.to_string();
    let sigma: f64 = name.split("sigma ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    let form = InputForm::Pixels { shape: [3, 16, 16], mean: vec![0.5; 3], std: vec![0.25; 3] };
    let body = records(TRAIN, 1);
    let (mut square, mut along, mut count) = (0.0, 0.0, 0.0);
    for (sent, pixels) in sent(&host, RecordSet::Train).iter().zip(body.chunks(NUMBERS)) {
        let mut image = vec![0.0; NUMBERS];
        form.fill(pixels, Draw::default(), &mut image);
        let norm = image.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        for (sent, x) in sent.iter().zip(&image) {
            let noise = f64::from(*sent) - f64::from(*x) * (2.0 / norm).min(1.0);
            square += noise * noise;
            along += f64::from(*sent) * f64::from(*x) / norm;
            count += 1.0;
        }
    }
    let ratio = square / count / (sigma * sigma);
    // Standard deviations: √(2/245,760) = 0.003, and σ/√320 = 0.13.
    assert!((ratio - 1.0).abs() < 0.013, "{ratio}");
    let along = along / TRAIN as f64;
    assert!((along - 2.0).abs() < 5.0 * sigma / (TRAIN as f64).sqrt(), "{along}");
}

/// Evaluation, a second session and single images: nothing is made twice, and only new images are charged.
#[test]
fn a_record_leaves_once_whatever_is_asked_of_it() {
    let (mut host, mut run) = train(dp_input(2, 8.0));
    let (before, images) = (ledger(&host).len(), sent(&host, RecordSet::Test));
    let first = run.evaluate(&mut host).unwrap().scores.unwrap();
    let again = run.evaluate(&mut host).unwrap().scores.unwrap();
    assert_eq!(first, again);
    assert_eq!(ledger(&host).len(), before);
    let answered = host.links.borrow().jobs.iter().rev().find_map(|(job, body)| match job {
        Job::Answer { .. } => Some(body.clone()),
        _ => None,
    });
    assert_eq!(answered.unwrap(), wire::body::from_f32(&images.concat()));
    let image = &records(1, 9)[..NUMBERS];
    let logits = run.infer(&mut host, 1, image).unwrap().logits;
    assert_eq!((logits.len(), ledger(&host).len()), (10, before + 1));
    assert_eq!(run.infer(&mut host, 1, image).unwrap().logits, logits);
    assert_eq!(ledger(&host).len(), before + 1, "the same image again");
}

/// Labels, views and clipping norms as the other flows have them, all within one budget.
#[test]
fn every_policy_stays_within_the_budget() {
    let with = |change: fn(&mut RunSpec)| {
        let mut spec = dp_input(3, 8.0);
        change(&mut spec);
        spec
    };
    let policies = [
        with(|spec| spec.privacy.labels = Labels::Randomised { epsilon: 2.0 }),
        with(|spec| spec.privacy.labels = Labels::Withheld { epsilon: 3.0, clip: 1.0 }),
        with(|spec| spec.privacy.release = Release::PerStep),
        with(|spec| spec.privacy.release = Release::Views(2)),
        with(|spec| spec.privacy.clip = Clip::Quantile { quantile: 0.5, epsilon: 0.5 }),
    ];
    for spec in policies {
        let what = format!("{:?}", spec.privacy);
        let (host, run) = train(spec);
        let epsilon = run.training_summary(&host).unwrap().epsilon.unwrap();
        assert!(epsilon <= 8.0 && epsilon > 7.9, "{what}: {epsilon}");
    }
}

/// A private median of the images' norms: they are about 1.4 deviations long per number.
#[test]
fn a_clipping_norm_is_found_from_the_images() {
    let mut spec = dp_input(1, 8.0);
    spec.privacy.clip = Clip::Quantile { quantile: 0.5, epsilon: 0.5 };
    let (host, _) = train(spec);
    let name = ledger(&host)[1].mechanism.to_string();
    let clip: f64 = name.split("clip ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    assert!((20.0..60.0).contains(&clip), "{clip}");
}

#[test]
fn what_it_cannot_do_is_refused() {
    let refused = |spec: RunSpec| create(&mut MemoryHost::default(), spec).map(|_| ()).unwrap_err();
    for protection in [Protection::NoNoise, Protection::NothingReleased] {
        let mut spec = dp_input(1, 8.0);
        spec.privacy.protection = protection;
        assert!(refused(spec).to_string().contains("without noise it is `plain`"));
    }
    assert!(refused(bf16(dp_input(1, 8.0))).to_string().contains("`dp-input` has no trusted part"));
    let mut spec = dp_input(1, 8.0);
    spec.privacy.allow.clear();
    assert!(matches!(refused(spec), RunError::Refused(Refused::NotAllowed { kind: Kind::Labels })));
}
