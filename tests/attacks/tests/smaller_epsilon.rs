//! The move: a configuration that states a smaller ε than it gives.
//!
//! What must hold: the budget is what the configuration states, and it is checked against what the mechanism really costs,
//! before a byte leaves. What the ledger says is what left: recomputed from the messages and the mechanisms' own parameters.
//! (That a `config.toml` edited afterwards is noticed is a test of `asymflow audit`.)
//!
//! Enforced in `runtime::calibration` (noise follows from ε) and `mechanism::LedgerWriter` (budget).
#![allow(clippy::unwrap_used)] // a test that fails says why

use std::collections::BTreeMap;

use accounting::gaussian;
use asymflow_attacks::{MemoryLedger, STEPS, Sent, bytes_sent, resume, stopped_after, train};
use asymflow_flows::{Disk, MemoryHost, per_step, two_views, with_epsilon};
use ledger::{Digest, Entry, RecordSet, entries};
use mechanism::{
    BitRelease, BitReleaseConfig, ChargeError, GradientRelease, LabelRelease, NoiseKey, RecordRelease,
    ReleaseShape,
};
use runtime::RunError;
use wire::RunSpec;
use wire::spec::{Clip, Protection};

const DELTA: f64 = 1e-5;

fn key() -> NoiseKey {
    NoiseKey::new([5; 32])
}

#[test]
fn a_mechanism_over_the_stated_budget_is_not_charged() {
    let sigma = gaussian::sigma(8.0, DELTA, 2.0).unwrap();
    let config = |clip, sigma| BitReleaseConfig {
        clip,
        sigma,
        shape: ReleaseShape::Full,
        residual: [1, 4, 4],
        function: Digest([3; 32]),
    };
    let (dataset, records) = (Digest([9; 32]), RecordSet::range(0..10));
    let bits = |clip, sigma| {
        BitRelease::new(config(clip, sigma), key()).unwrap().charge(dataset, records.clone(), 0, "a test")
    };
    let labels = LabelRelease::new(10, 8.0, key()).unwrap().charge(dataset, records.clone(), "a test");
    let gradients = GradientRelease::calibrated(10, 1.0, gaussian::sigma(8.0, DELTA, 1.0).unwrap(), key())
        .unwrap()
        .charge(dataset, records.clone(), Digest([1; 32]), "a test");
    for stated in [0.1, 1.0, 7.9] {
        // Noise for ε = 8; a clipping norm ten times as large; half the noise: none of them is ε = `stated`.
        for charge in
            [bits(1.0, sigma), bits(10.0, sigma), bits(1.0, sigma / 2.0), labels.clone(), gradients.clone()]
        {
            let ledger = MemoryLedger::default();
            let refused = ledger.writer(stated, DELTA).charge(charge).unwrap_err();
            let ChargeError::Budget { records: over, spent, total, budget, .. } = &refused else {
                panic!("{refused}")
            };
            assert_eq!((over, *spent, *budget), (&records, 0.0, stated));
            assert!(*total > 7.98, "{refused}");
            assert!(ledger.bytes().is_empty());
        }
    }
    assert!(MemoryLedger::default().writer(8.0, DELTA).charge(bits(1.0, sigma)).is_ok());
}

/// A job file that states another ε than the ledger was charged at: the new noise is another mechanism, and both count.
#[test]
fn another_job_file_in_the_same_directory() {
    for (first, second) in [(8.0, 1.0), (1.0, 8.0), (8.0, 8.5)] {
        let with = |epsilon: f64| {
            let mut spec = with_epsilon(3);
            spec.privacy.protection = Protection::Epsilon(epsilon);
            spec
        };
        let (_, disk) = stopped_after(&with(first), STEPS + 1);
        let (_, other) = stopped_after(&with(second), 0);
        let mut files = disk.files.clone();
        files.insert("job".into(), other.files["job"].clone());
        files.retain(|name, _| !name.starts_with("messages-"));
        let mut host = MemoryHost::on(Disk { files, ..disk.clone() });
        let refused = resume(&mut host, &with(second)).unwrap_err();
        let RunError::Charge(ChargeError::Budget { spent, total, budget, .. }) = &refused else {
            panic!("{refused}")
        };
        assert!((spent / first - 1.0).abs() < 1e-3 && *total > *budget && *budget == second, "{refused}");
        assert_eq!((host.disk().ledger, residual_bits(&host)), (disk.ledger, 0));
    }
}

fn residual_bits(host: &MemoryHost) -> usize {
    host.links.borrow().journal.iter().filter(|line| line.kind == "residual-bits").count()
}

/// σ/2C as the mechanism's own name states it.
fn multiplier(entry: &Entry) -> f64 {
    let after = |word: &str| {
        let rest = entry.mechanism.as_str().split(word).nth(1).unwrap();
        rest.split(',').next().unwrap().parse::<f64>().unwrap()
    };
    after("sigma ") / (2.0 * after("clip "))
}

/// ε from the messages that really left and the noise in the mechanisms' names is what the ledger says and is not more than
/// stated.
#[test]
fn what_left_costs_what_was_stated() {
    for (spec, epsilon, clip) in [
        (with_epsilon(3), 0.5, 2.0),
        (with_epsilon(3), 8.0, 0.01),
        (two_views(3), 2.0, 1e6),
        (per_step(4), 3.0, 1.0),
    ] {
        let mut spec: RunSpec = spec;
        spec.privacy.protection = Protection::Epsilon(epsilon);
        spec.privacy.clip = Clip::Norm(clip);
        let mut host = MemoryHost::default();
        train(&mut host, &spec).unwrap();
        let mut sent = Sent::default();
        sent.add(&host);
        let all: Vec<Entry> = entries(&host.disk().ledger).collect::<Result<_, _>>().unwrap();
        let mut releases: BTreeMap<(Digest, usize), Vec<(f64, f64)>> = BTreeMap::new();
        for (dataset, view, record) in sent.0.keys() {
            let entry = all.iter().find(|entry| entry.dataset == *dataset && entry.view == *view).unwrap();
            releases.entry((*dataset, *record)).or_default().push((1.0, multiplier(entry)));
        }
        let counted = releases
            .into_values()
            .map(|of_record| gaussian::epsilon(gaussian::compose(of_record), DELTA))
            .fold(0.0, f64::max);
        let charged = ledger::Ledger::verify(&host.disk().ledger).unwrap().epsilon(DELTA);
        assert!((counted / charged - 1.0).abs() < 1e-6, "{counted} left, {charged} charged");
        assert!(charged <= epsilon && counted <= epsilon * (1.0 + 1e-9), "{charged} of {epsilon}");
        assert!(charged > 0.999 * epsilon);
    }
}

/// Numbers that are no budget, no clipping norm or no δ start nothing.
#[test]
fn nonsense_is_refused() {
    let change: [fn(&mut RunSpec); 7] = [
        |spec| spec.privacy.protection = Protection::Epsilon(0.0),
        |spec| spec.privacy.protection = Protection::Epsilon(-8.0),
        |spec| spec.privacy.protection = Protection::Epsilon(f64::NAN),
        |spec| spec.privacy.protection = Protection::Epsilon(f64::INFINITY),
        |spec| spec.privacy.delta = 1.0,
        |spec| spec.privacy.clip = Clip::Norm(f64::NAN),
        |spec| spec.privacy.clip = Clip::Norm(f64::INFINITY),
    ];
    for (i, change) in change.into_iter().enumerate() {
        let mut spec = with_epsilon(3);
        change(&mut spec);
        let mut host = MemoryHost::default();
        let refused = train(&mut host, &spec).unwrap_err();
        assert!(host.disk().ledger.is_empty() && bytes_sent(&host) == 0, "case {i}: {refused}");
    }
}
