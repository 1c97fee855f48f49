//! The move: make the enclave send a record twice, as two different byte strings, which together tell more than one.
//!
//! There is no reply by which the accelerator asks for a record, but it can die, hang, answer nonsense and come back, as
//! often as it likes.
//!
//! What must hold: over everything that leaves in a run and all its resumptions, each (record, view) leaves as one byte
//! string; what is sent again is not charged again; nobody's budget is exceeded.
//!
//! Enforced in `runtime::messages` (made once, stored before sent), `mechanism::noise` (noise is a function of record, view
//! and mechanism) and `mechanism::LedgerWriter` (resends).
#![allow(clippy::unwrap_used)] // a test that fails says why

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use asymflow_attacks::{STEPS, Sent, TEST, TRAIN, open, resume, train};
use asymflow_flows::{
    Disk, Fault, Liar, MemoryHost, everything, per_step, quantile_clip, randomised_labels, two_views,
    with_epsilon, withheld_labels,
};
use ledger::{Ledger, entries};
use runtime::Outcome;
use wire::RunSpec;
use wire::accelerator::{Job, Reply};
use wire::spec::OnFailure;

/// Every release policy, with the number of views of a training record that leave in 3 epochs.
fn policies() -> Vec<(RunSpec, usize)> {
    vec![
        (with_epsilon(3), 1),
        (two_views(3), 2),
        (per_step(3), 2),
        (randomised_labels(3), 1),
        (withheld_labels(3), 1),
        (quantile_clip(3), 1),
        (everything(3), 2),
    ]
}

/// What left over several hosts: messages, and labels after randomised response.
#[derive(Default)]
struct Seen {
    sent: Sent,
    labels: BTreeMap<usize, Vec<u8>>,
}

impl Seen {
    fn add(&mut self, host: &MemoryHost) {
        self.sent.add(host);
        for (job, body) in &host.links.borrow().jobs {
            let Job::Store { first, count, labels: true, .. } = job else { continue };
            let labels = body[body.len() - 2 * count..].to_vec();
            assert_eq!(*self.labels.entry(*first).or_insert_with(|| labels.clone()), labels);
        }
    }

    /// Nothing left in two ways, and nothing beyond the budget or twice on one bill.
    fn check(&self, disk: &Disk, spec: &RunSpec) {
        assert_eq!(self.sent.ambiguous(), [], "{:?}", spec.privacy);
        assert!(Ledger::verify(&disk.ledger).unwrap().epsilon(spec.privacy.delta) <= 8.0);
        let mut bills = BTreeMap::new();
        for entry in entries(&disk.ledger).map(Result::unwrap) {
            for record in entry.records.ranges().iter().cloned().flatten() {
                let release = (entry.dataset, entry.view, entry.mechanism.clone(), entry.transcript, record);
                assert_eq!(bills.insert(release, ()), None, "charged twice for one release");
            }
        }
    }
}

/// It fails in every way, again and again, at another reply each time, before it lets the run end.
#[test]
fn failing_again_and_again() {
    let faults = [Fault::Die, Fault::Hang, Fault::NotANumber, Fault::Shape, Fault::WrongKind, Fault::Fail];
    for (spec, views) in policies() {
        let (mut disk, mut seen) = (Disk::default(), Seen::default());
        for (i, fault) in faults.into_iter().enumerate() {
            let fault = Some((fault, i % 4 + 3));
            let mut host = MemoryHost { fault, ..MemoryHost::on(disk) };
            let ended = if i == 0 { train(&mut host, &spec) } else { resume(&mut host, &spec) };
            seen.add(&host);
            disk = host.disk();
            seen.check(&disk, &spec);
            assert!(ended.is_err() || i > 0);
        }
        let mut host = MemoryHost::on(disk);
        assert_eq!(resume(&mut host, &spec).unwrap(), Outcome::Finished, "{:?}", spec.privacy);
        seen.add(&host);
        seen.check(&host.disk(), &spec);
        assert_eq!(seen.sent.0.len(), views * TRAIN + TEST, "{:?}", spec.privacy);
        assert!(seen.sent.count() > seen.sent.0.len(), "nothing was sent again: the test shows nothing");
    }
}

/// It answers with what comes to its mind, in any number and order; the run ends or fails, and goes on.
#[test]
fn answering_nonsense() {
    for (spec, _) in policies() {
        let (mut disk, mut seen) = (Disk::default(), Seen::default());
        for attempt in 0..5u64 {
            let mut host = MemoryHost { liar: Some(nonsense(attempt)), ..MemoryHost::on(disk) };
            let _ = if attempt == 0 { train(&mut host, &spec) } else { resume(&mut host, &spec) };
            seen.add(&host);
            disk = host.disk();
            seen.check(&disk, &spec);
        }
        assert!(seen.sent.count() > 0);
    }
}

/// Finite numbers at random in place of every answer; from the tenth job on, replies are dropped and shuffled too.
fn nonsense(seed: u64) -> Liar {
    let (mut state, mut jobs) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, 0);
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    Rc::new(RefCell::new(move |_: &Job, replies: &mut Vec<(Reply, Vec<u8>)>| {
        jobs += 1;
        for (_, body) in replies.iter_mut() {
            let number = |_: usize| ((next() % 2000) as f32 / 100.0 - 10.0).to_le_bytes();
            *body = (0..body.len() / 4).flat_map(number).collect();
        }
        if jobs > 10 + seed {
            match next() % 4 {
                0 => replies.clear(),
                1 => replies.reverse(),
                2 => replies.extend(replies.clone()),
                _ => {}
            }
        }
    }))
}

/// Sessions on a run that has ended: the test records leave again, as the same bytes, and the ledger does not grow.
#[test]
fn reconnecting_many_times() {
    for (spec, _) in policies() {
        let mut host = MemoryHost::default();
        train(&mut host, &spec).unwrap();
        let mut disk = host.disk();
        let charged = disk.ledger.clone();
        let mut answered: Vec<Vec<u8>> = Vec::new();
        for _ in 0..4 {
            let mut host = MemoryHost::on(disk);
            open(&mut host, &spec).unwrap().evaluate(&mut host).unwrap();
            let links = host.links.borrow();
            let sent = links.jobs.iter().find(|(job, _)| matches!(job, Job::Answer { .. }));
            answered.push(sent.unwrap().1.clone());
            disk = host.disk();
            assert_eq!(disk.ledger, charged);
        }
        let mut seen = Sent::default();
        seen.add(&host);
        let len = answered[0].len() / TEST;
        let at_training = |record: usize| {
            let same = seen
                .0
                .values()
                .any(|messages| messages.contains(&answered[0][len * record..len * (record + 1)].to_vec()));
            assert!(same, "record {record} left as other bytes than in training");
        };
        (0..TEST).for_each(at_training);
        assert!(answered.iter().all(|bytes| *bytes == answered[0]));
    }
}

/// Degraded runs send nothing more, also after a resumption.
#[test]
fn degraded_and_resumed() {
    for (mut spec, _) in policies() {
        spec.accelerator.on_failure = OnFailure::Degrade;
        let (fault, stop_after) = (Some((Fault::Die, 4)), Some(2 * STEPS + 1));
        let mut host = MemoryHost { fault, stop_after, ..MemoryHost::default() };
        train(&mut host, &spec).unwrap();
        let mut seen = Seen::default();
        seen.add(&host);
        let mut host = MemoryHost::on(host.disk());
        assert_eq!(resume(&mut host, &spec).unwrap(), Outcome::Finished);
        assert!(host.links.borrow().jobs.is_empty());
        seen.check(&host.disk(), &spec);
    }
}
