//! The move: cut the ledger, alter it, or write a consistent one that claims less, so that records can be released again.
//!
//! What must hold: a ledger that is not the one that was written is refused with an error that says where, before a single
//! byte leaves. Hashes are not keyed, so anyone can write a consistent ledger: what the newest checkpoint saw must be in it,
//! and what is added to it can only cost more.
//!
//! Enforced in `ledger::chain` (hashes, order), `ledger::Ledger::require` (the checkpoint's head), `mechanism::LedgerWriter`
//! (a mechanism keeps its loss).
#![allow(clippy::unwrap_used)] // a test that fails says why

use accounting::Event;
use asymflow_attacks::{STEPS, bytes_sent, resume, stopped_after, train};
use asymflow_flows::{Disk, MemoryHost, per_step, with_epsilon};
use ledger::{ChainError, Entry, Head, Ledger, LedgerError, entries};
use mechanism::ChargeError;
use runtime::{Outcome, RunError};
use wire::RunSpec;

/// What a run says that finds this ledger, having sent nothing.
fn refused(disk: &Disk, ledger: Vec<u8>, spec: &RunSpec) -> RunError {
    let mut host = MemoryHost::on(Disk { ledger, ..disk.clone() });
    let error = resume(&mut host, spec).unwrap_err();
    assert_eq!(bytes_sent(&host), 0, "{error}");
    error
}

fn chain(error: &RunError) -> &ChainError {
    match error {
        RunError::Ledger(LedgerError::Chain(error)) => error,
        other => panic!("{other}"),
    }
}

/// Lines with their newlines.
fn lines(ledger: &[u8]) -> Vec<Vec<u8>> {
    ledger.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// The same entries after a change, with all hashes right.
fn rewritten(ledger: &[u8], mut change: impl FnMut(&mut Entry)) -> Vec<u8> {
    let (mut head, mut out) = (Head::empty::<Entry>(), Vec::new());
    for entry in entries(ledger) {
        let mut entry = entry.unwrap();
        change(&mut entry);
        let (entry, line) = Entry::after(&head, &entry.charge());
        head = Head::after(&entry);
        out.extend(line);
    }
    Ledger::verify(&out).unwrap();
    out
}

#[test]
fn cut_at_any_byte() {
    let spec = per_step(3);
    let (_, disk) = stopped_after(&spec, 2 * STEPS + 1);
    let whole = disk.ledger.len();
    for end in (0..whole).step_by(17).chain([whole - 1]) {
        let error = refused(&disk, disk.ledger[..end].to_vec(), &spec);
        assert!(matches!(error, RunError::Ledger(LedgerError::RolledBack { .. })), "cut at {end}: {error}");
    }
}

#[test]
fn any_bit_flipped() {
    let spec = with_epsilon(3);
    let (_, disk) = stopped_after(&spec, STEPS + 1);
    for at in (0..disk.ledger.len()).step_by(5) {
        let mut ledger = disk.ledger.clone();
        ledger[at] ^= 1 << (at % 7);
        let error = refused(&disk, ledger, &spec);
        assert!(matches!(error, RunError::Ledger(_)), "bit of byte {at}: {error}");
    }
}

#[test]
fn lines_dropped_repeated_exchanged_or_from_elsewhere() {
    let spec = per_step(3);
    let (_, disk) = stopped_after(&spec, 2 * STEPS + 1);
    let lines = lines(&disk.ledger);
    assert!(lines.len() >= 3);
    let dropped = lines[1..].concat();
    assert!(matches!(chain(&refused(&disk, dropped, &spec)), ChainError::Missing { line: 1, .. }));
    let repeated = [&lines[..1], &lines[..]].concat().concat();
    assert!(matches!(chain(&refused(&disk, repeated, &spec)), ChainError::OutOfOrder { line: 2, .. }));
    let mut exchanged = lines.clone();
    exchanged.swap(0, 1);
    assert!(matches!(chain(&refused(&disk, exchanged.concat(), &spec)), ChainError::Missing { line: 1, .. }));
    // The same run under another data set's root, at the same place.
    let other = rewritten(&disk.ledger, |entry| entry.dataset.0[0] ^= 1);
    let foreign = [lines[..1].concat(), self::lines(&other)[1..].concat()].concat();
    assert!(matches!(chain(&refused(&disk, foreign, &spec)), ChainError::Broken { line: 2 }));
    // What is no entry.
    let unknown = String::from_utf8(lines.concat()).unwrap().replacen("\"gaussian\"", "\"nothing\"", 1);
    assert!(matches!(chain(&refused(&disk, unknown.into(), &spec)), ChainError::Malformed { line: 1, .. }));
    let more = String::from_utf8(lines.concat()).unwrap().replacen("\"view\"", "\"free\":1,\"view\"", 1);
    assert!(matches!(chain(&refused(&disk, more.into(), &spec)), ChainError::Malformed { line: 1, .. }));
}

/// A consistent ledger that claims ten times the noise, or one record fewer, is another ledger than the checkpoint saw.
#[test]
fn a_consistent_ledger_that_claims_less() {
    let spec = with_epsilon(3);
    let (_, disk) = stopped_after(&spec, STEPS + 1);
    let weaker = |entry: &mut Entry| {
        if let Event::Gaussian { noise_multiplier, .. } = &mut entry.event {
            *noise_multiplier *= 10.0;
        }
    };
    let fewer = |entry: &mut Entry| {
        entry.records = entry.records.difference(&ledger::RecordSet::of(&[3]));
    };
    for ledger in [rewritten(&disk.ledger, weaker), rewritten(&disk.ledger, fewer)] {
        assert_ne!(ledger, disk.ledger);
        let error = refused(&disk, ledger, &spec);
        assert!(matches!(error, RunError::Ledger(LedgerError::Replaced { .. })), "{error}");
    }
}

/// Before any checkpoint has seen a charge, a forged ledger can still not make a release cheaper: a mechanism has one loss.
#[test]
fn a_ledger_written_before_the_first_charge() {
    let spec = with_epsilon(3);
    let mut whole = MemoryHost::default();
    train(&mut whole, &spec).unwrap();
    let (_, disk) = stopped_after(&spec, 1);
    let free = rewritten(&whole.disk().ledger, |entry| entry.event = Event::gaussian(1e6));
    refused_as_renamed(&disk, free, &spec);
    let none = rewritten(&whole.disk().ledger, |entry| {
        let Event::Gaussian { noise_multiplier, .. } = entry.event else { panic!("{:?}", entry.event) };
        entry.event = Event::Gaussian { noise_multiplier, count: 0 };
    });
    refused_as_renamed(&disk, none, &spec);
    // With the right loss it says what is true anyway.
    let mut host = MemoryHost::on(Disk { ledger: whole.disk().ledger, ..disk });
    assert_eq!(resume(&mut host, &spec).unwrap(), Outcome::Finished);
    assert_eq!(host.disk().ledger, whole.disk().ledger);
}

/// Refused before any message, after the accelerator got its (public) model.
fn refused_as_renamed(disk: &Disk, ledger: Vec<u8>, spec: &RunSpec) {
    let mut host = MemoryHost::on(Disk { ledger, ..disk.clone() });
    let error = resume(&mut host, spec).unwrap_err();
    assert!(matches!(error, RunError::Charge(ChargeError::Renamed { .. })), "{error}");
    let links = host.links.borrow();
    let left: Vec<_> = links.journal.iter().filter(|line| line.outward).map(|line| line.kind).collect();
    assert_eq!(left, ["control", "parameters"]);
}

/// Entries appended to a ledger count like any others: they can only use up the budget.
#[test]
fn entries_appended() {
    let spec = per_step(3);
    let (_, disk) = stopped_after(&spec, STEPS + 1);
    let last = entries(&disk.ledger).last().unwrap().unwrap();
    let first = entries(&disk.ledger).next().unwrap().unwrap();
    let foreign = ledger::Charge { mechanism: ledger::MechanismId::new("anything"), ..first.charge() };
    let (_, line) = Entry::after(&Head::after(&last), &foreign);
    let mut host = MemoryHost::on(Disk { ledger: [disk.ledger.clone(), line].concat(), ..disk });
    let error = resume(&mut host, &spec).unwrap_err();
    assert!(matches!(error, RunError::Charge(ChargeError::Budget { .. })), "{error}");
}
