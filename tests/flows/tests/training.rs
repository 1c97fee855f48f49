//! Every flow trains; what leaves, and what comes back.
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_flows::{
    MemoryHost, asymml, asymml_with, bf16, enclave, normed, plain, records, with_epsilon, without_noise,
};
use model::{Norm, Parameters};
use runtime::{Outcome, Run, RunError};
use wire::RunSpec;
use wire::accelerator::RecordSet;
use wire::spec::{Finding, Side};

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

/// The first epoch's losses of the split model are those of the whole one, to rounding; later both drift apart as any two
/// orders of sums do.
#[test]
fn asymml_trains_like_enclave() {
    let steps = TRAIN.div_ceil(16);
    let losses = |spec: RunSpec| {
        let mut host = MemoryHost::default();
        run(&mut host, spec);
        host.losses()[..steps].to_vec()
    };
    let expected = losses(enclave(1));
    let all = [
        Some(Finding::Shared),
        Some(Finding::Light { iterations: 2 }),
        Some(Finding::Subspace { iterations: 1 }),
        None,
    ];
    for finding in all {
        for backward in [Side::Accelerator, Side::Enclave] {
            let found =
                losses(asymml_with(1, |asymml| (asymml.finding, asymml.backward) = (finding, backward)));
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs() / b).fold(0.0, f32::max);
            println!("{finding:?} {backward:?}: {worst:e}");
            assert!(worst < 1e-3, "{finding:?} {backward:?}: {worst}");
        }
    }
}

/// With every norm, and the three differ.
#[test]
fn every_norm_trains_alike_on_both_sides() {
    let bits = |host: &MemoryHost| host.losses().iter().map(|l| l.to_bits()).collect::<Vec<_>>();
    let mut last = Vec::new();
    for norm in [Norm::Batch, Norm::Group, Norm::Frozen] {
        let losses = [plain(2), enclave(2)].map(|spec| {
            let mut host = MemoryHost::default();
            run(&mut host, normed(spec, norm));
            bits(&host)
        });
        assert_eq!(losses[0], losses[1], "{norm:?}");
        assert_ne!(losses[0], last, "{norm:?}");
        [last, _] = losses;
    }
}

#[test]
fn group_norm_learns() {
    for spec in [enclave(6), with_epsilon(6)] {
        let mut host = MemoryHost::default();
        let run = run(&mut host, normed(spec, Norm::Group));
        let scores = run.training_summary(&host).unwrap().scores.unwrap();
        assert!(scores.accuracy > 0.5, "{scores:?}");
    }
}

/// Frozen statistics are in training what they were before it.
#[test]
fn frozen_statistics_stay_as_they_were() {
    let mut host = MemoryHost::default();
    let spec = normed(enclave(1), Norm::Frozen);
    let before = Parameters::init(&spec.graph, spec.train.seed);
    let (_, _, after) = run(&mut host, spec).model_parts().unwrap().remove(0);
    assert_eq!(after.buffers, before.buffers);
    assert_ne!(after.params, before.params);
}

#[test]
fn every_flow_learns() {
    for spec in [enclave(6), asymml(6), without_noise(6), with_epsilon(6)] {
        let mut host = MemoryHost::default();
        let name = spec.flow.name();
        let run = run(&mut host, spec);
        let scores = run.training_summary(&host).unwrap().scores.unwrap();
        assert!(scores.accuracy > 0.5, "{name}: {scores:?}");
        assert!(scores.accuracy_trusted_only.unwrap() > 0.5, "{name}: {scores:?}");
    }
}

/// Mean training loss of the first epoch may differ by so much, as a share, where products are rounded to bf16. Later the
/// two runs are as far apart as any two.
const BF16_LOSS: f64 = 0.02;

#[test]
fn bf16_trains_like_f32() {
    for spec in [enclave(6), without_noise(6), with_epsilon(6)] {
        let name = spec.flow.name();
        let trained = |spec: RunSpec| {
            let mut host = MemoryHost::default();
            let run = run(&mut host, spec);
            let epoch = &host.losses()[..TRAIN.div_ceil(16)];
            let loss = epoch.iter().map(|&loss| f64::from(loss)).sum::<f64>() / epoch.len() as f64;
            let scores = run.training_summary(&host).unwrap().scores.unwrap();
            (epoch[0], loss, scores.accuracy_trusted_only.unwrap())
        };
        let (first, loss, _) = trained(spec.clone());
        let (rounded_first, rounded_loss, accuracy) = trained(bf16(spec));
        println!("{name}: first step {first} {rounded_first}, first epoch {loss} {rounded_loss}, {accuracy}");
        assert_ne!(first.to_bits(), rounded_first.to_bits(), "{name} is not rounded");
        assert!((first - rounded_first).abs() < 0.01 * first, "{name}: {rounded_first}, not about {first}");
        assert!((loss - rounded_loss).abs() < BF16_LOSS * loss, "{name}: {rounded_loss}, not about {loss}");
        assert!(accuracy > 0.5, "{name}: {accuracy}");
    }
}

#[test]
fn bf16_without_a_trusted_part_is_refused() {
    let spec = bf16(plain(1));
    let initial = Parameters::init(&spec.graph, 1);
    let refused = Run::create(&mut MemoryHost::default(), spec, initial).err().unwrap();
    assert!(matches!(&refused, RunError::Request(_)), "{refused:?}");
    assert!(refused.to_string().contains("trusted.precision: `plain` has no trusted part"), "{refused}");
}
