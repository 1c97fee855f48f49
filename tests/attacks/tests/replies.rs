//! The move: the accelerator replays, swaps, repeats or forges its replies.
//!
//! What must hold: a reply out of its place is an error with a name. One in its place is believed, however false, and
//! changes nothing that leaves: where labels leave, every body sent is the same as for an honest accelerator. Where they are
//! withheld the gradients do depend on the answers: the same answers get the same bytes at no charge, others get other noise
//! and are charged, until the budget is spent and nothing more leaves.
//!
//! Enforced in `runtime`: `accelerator.rs` (kind, step, shape), `labels.rs` (transcript), and `mechanism::LedgerWriter`.
#![allow(clippy::unwrap_used)] // a test that fails says why

use std::cell::RefCell;
use std::rc::Rc;

use asymflow_attacks::{STEPS, Sent, TRAIN, gradients, resume, train};
use asymflow_flows::{
    Fault, Liar, MemoryHost, everything, per_step, two_views, with_epsilon, withheld_labels,
};
use ledger::{Entry, entries};
use mechanism::{ChargeError, ReleaseError};
use runtime::{AcceleratorError, Outcome, RunError};
use wire::accelerator::{Job, Reply};

/// Replies before the first step of training: ready, loaded, two sets stored.
const SETUP: usize = 4;

fn liar(lie: impl FnMut(&Job, &mut Vec<(Reply, Vec<u8>)>) + 'static) -> Option<Liar> {
    Some(Rc::new(RefCell::new(lie)))
}

fn lied_to(spec: &wire::RunSpec, lie: Option<Liar>) -> (MemoryHost, Result<Outcome, RunError>) {
    let mut host = MemoryHost { liar: lie, ..MemoryHost::default() };
    let result = train(&mut host, spec);
    (host, result)
}

fn refused(lie: Option<Liar>) -> AcceleratorError {
    match lied_to(&with_epsilon(3), lie) {
        (_, Err(RunError::Accelerator(error))) => error,
        (_, other) => panic!("{:?}", other.map(|_| ())),
    }
}

fn of_train(job: &Job) -> bool {
    matches!(job, Job::Train { .. })
}

#[test]
fn replies_out_of_place_are_refused() {
    let swapped = refused(liar(|job, replies| {
        if of_train(job) {
            replies.swap(0, 1);
        }
    }));
    assert_eq!(swapped, AcceleratorError::Step { expected: 0, found: 1 });
    let repeated = refused(liar(|job, replies| {
        if of_train(job) {
            replies.insert(1, replies[0].clone());
        }
    }));
    assert_eq!(repeated, AcceleratorError::Step { expected: 1, found: 0 });
    let early = refused(liar(|job, replies| {
        if of_train(job) {
            replies.rotate_right(1);
        }
    }));
    assert_eq!(early, AcceleratorError::Unexpected { job: "train", found: "done" });
    let without_state = refused(liar(|job, replies| {
        if of_train(job) {
            replies.retain(|(reply, _)| !matches!(reply, Reply::State { .. }));
        }
    }));
    assert_eq!(without_state, AcceleratorError::Unexpected { job: "train", found: "done" });
    let unasked = refused(liar(|job, replies| {
        if matches!(job, Job::Store { .. }) {
            replies.push((Reply::Logits { step: 0, count: 16 }, vec![0; 4 * 16 * 10]));
        }
    }));
    assert_eq!(unasked, AcceleratorError::Unexpected { job: "store", found: "logits" });
}

/// Answers every question with the first answer of that kind it ever gave.
fn replaying() -> Option<Liar> {
    let mut first: Vec<(std::mem::Discriminant<Reply>, usize, Vec<u8>)> = Vec::new();
    liar(move |_, replies| {
        for (reply, body) in replies.iter_mut() {
            let (kind, length) = (std::mem::discriminant(reply), body.len());
            match first.iter().find(|(k, l, _)| (*k, *l) == (kind, length)) {
                Some((.., old)) => body.clone_from(old),
                None => first.push((kind, length, body.clone())),
            }
        }
    })
}

#[test]
fn believed_replies_change_nothing_that_leaves() {
    for spec in [with_epsilon(3), two_views(3), per_step(3)] {
        let (honest, ended) = lied_to(&spec, None);
        assert_eq!(ended.unwrap(), Outcome::Finished);
        let (lied, ended) = lied_to(&spec, replaying());
        assert_eq!(ended.unwrap(), Outcome::Finished);
        assert!(lied.losses() != honest.losses(), "the lie was not told");
        assert!(honest.links.borrow().jobs == lied.links.borrow().jobs, "{:?}", spec.privacy);
        assert_eq!(honest.disk().ledger, lied.disk().ledger);
    }
}

/// Labels withheld: what leaves for a record beside gradients is the same whatever is answered, and every answer is charged.
#[test]
fn replayed_answers_are_charged_like_any_other() {
    for spec in [withheld_labels(3), everything(3)] {
        let mut sent = Sent::default();
        let (honest, _) = lied_to(&spec, None);
        let (lied, ended) = lied_to(&spec, replaying());
        assert_eq!(ended.unwrap(), Outcome::Finished);
        sent.add(&honest);
        sent.add(&lied);
        assert!(sent.ambiguous().is_empty());
        let (honest, lied) = (steps_charged(&honest), steps_charged(&lied));
        assert_eq!((honest.len(), lied.len()), (2 * STEPS, 2 * STEPS));
        let mut transcripts: Vec<_> = lied.iter().map(|entry| entry.transcript).collect();
        transcripts.sort_unstable();
        transcripts.dedup();
        // The same answer at another step is another exchange.
        assert_eq!(transcripts.len(), 2 * STEPS);
    }
}

fn steps_charged(host: &MemoryHost) -> Vec<Entry> {
    let all: Vec<Entry> = entries(&host.disk().ledger).collect::<Result<_, _>>().unwrap();
    all.into_iter().filter(|entry| entry.transcript.is_some()).collect()
}

/// Changes the last bit of one logit of the first step it is asked for.
fn one_bit_off() -> Option<Liar> {
    let mut lied = false;
    liar(move |job, replies| {
        if matches!(job, Job::Forward { .. }) && !lied {
            replies[0].1[0] ^= 1;
            lied = true;
        }
    })
}

fn floats(body: &[u8]) -> Vec<f64> {
    body.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
}

/// The accelerator dies after two exchanges of an epoch, comes back at its beginning, and is asked again.
#[test]
fn asked_again_the_same_answers_are_free_and_others_are_charged() {
    let spec = withheld_labels(4);
    let (whole, _) = lied_to(&spec, None);
    // Each exchange has three replies: logits, done, and done with the update.
    let mut crashed = MemoryHost { fault: Some((Fault::Die, SETUP + 6)), ..MemoryHost::default() };
    assert!(matches!(train(&mut crashed, &spec), Err(RunError::Accelerator(_))));
    let first = gradients(&crashed);
    assert_eq!((first.len(), steps_charged(&crashed).len()), (2, 2));

    let mut same = MemoryHost::on(crashed.disk());
    assert_eq!(resume(&mut same, &spec).unwrap(), Outcome::Finished);
    assert_eq!(gradients(&same)[..2], first);
    assert_eq!(same.disk().ledger, whole.disk().ledger);

    let mut other = MemoryHost { liar: one_bit_off(), ..MemoryHost::on(crashed.disk()) };
    let ended = resume(&mut other, &spec).unwrap_err();
    // The first answer was another one: charged again, with noise that has nothing to do with the first.
    let again = gradients(&other);
    let (a, b) = (floats(&first[0]), floats(&again[0]));
    let mean = |x: &mut dyn Iterator<Item = f64>| x.sum::<f64>() / a.len() as f64;
    let size = mean(&mut a.iter().map(|x| x * x)).sqrt();
    let apart = mean(&mut a.iter().zip(&b).map(|(a, b)| (a - b).powi(2))).sqrt();
    assert!((1.2..1.6).contains(&(apart / size)), "{apart} apart, of size {size}: √2 if independent");
    // One exchange more than planned does not fit the budget: the records of that step get no last gradient.
    let RunError::Charge(ChargeError::Budget { records, budget, .. }) = &ended else { panic!("{ended}") };
    assert_eq!(*budget, 8.0);
    // After another update the second answer is another one too.
    let charged = steps_charged(&other);
    let twice = charged[0].records.union(&charged[1].records);
    assert!(!records.is_empty() && records.difference(&twice).is_empty(), "{records} of {twice}");
    assert_eq!(again.len(), charged.len() - first.len(), "what leaves is paid for, once");
}

/// NaN and infinite logits reach no gradient, and no charge is made for them.
#[test]
fn answers_that_are_no_numbers_are_refused_before_anything_is_charged() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let lie = liar(move |job, replies| {
            if matches!(job, Job::Forward { step: 1, .. }) {
                replies[0].1[..4].copy_from_slice(&bad.to_le_bytes());
            }
        });
        let (host, ended) = lied_to(&withheld_labels(3), lie);
        let ended = ended.unwrap_err();
        assert!(
            matches!(ended, RunError::Accelerator(AcceleratorError::NotFinite { what: "logits" })),
            "{ended}"
        );
        assert_eq!((steps_charged(&host).len(), gradients(&host).len()), (1, 1));
        assert!(!matches!(ended, RunError::Release(ReleaseError::NotFinite { .. })));
    }
}

/// Numbers that would make sums overflow are refused by name; the largest that are not leave all weights finite.
#[test]
fn huge_answers_do_not_spoil_the_weights() {
    for (spec, size) in
        [with_epsilon(3), withheld_labels(3)].into_iter().flat_map(|s| [(s.clone(), f32::MAX), (s, 1e30)])
    {
        let lie = liar(move |_, replies| {
            for (reply, body) in replies {
                if matches!(reply, Reply::Logits { .. }) {
                    let sign = |i: usize| if i.is_multiple_of(3) { size } else { -size };
                    *body = (0..body.len() / 4).flat_map(|i| sign(i).to_le_bytes()).collect();
                }
            }
        });
        let mut host = MemoryHost { liar: lie, ..MemoryHost::default() };
        let mut run = asymflow_attacks::create(&mut host, &spec).unwrap();
        match run.train(&mut host) {
            Ok(ended) => assert_eq!((ended, size), (Outcome::Finished, 1e30)),
            Err(error) => {
                let expected = AcceleratorError::TooLarge { what: "logits" };
                assert!(matches!(&error, RunError::Accelerator(e) if *e == expected), "{size}: {error}");
                assert_eq!(size, f32::MAX);
            }
        }
        for (name, _, parameters) in run.model_parts().unwrap() {
            let all = parameters.params.iter().chain(&parameters.buffers);
            assert!(all.flat_map(|t| t.data()).all(|x| x.is_finite()), "{name}");
        }
        let mut sent = Sent::default();
        sent.add(&host);
        assert!(sent.ambiguous().is_empty() && sent.count() >= TRAIN);
    }
}
