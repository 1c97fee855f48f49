//! The move: two processes on one run directory, each of which spends the same budget.
//!
//! What must hold: the second process is refused with a message while the first one runs, and changes nothing. Should two
//! writers reach one ledger all the same, the ledger they leave is no chain any more and nothing is released after it.
//!
//! Enforced in `enclave::storage` (the lock), `ledger::chain` (sequence numbers).
#![allow(clippy::unwrap_used)] // a test that fails says why

use std::fs;

use accounting::Event;
use asymflow_attacks::MemoryLedger;
use asymflow_e2e::{Sandbox, tiny};
use ledger::{ChainError, Charge, Digest, Ledger, LedgerError, MechanismId, RecordSet};
use rustix::process::Signal;

#[test]
fn a_second_process_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "run.toml",
        &tiny("delta")
            .replace("epochs = 3", "epochs = 200")
            .replace("rank = 4", "rank = 4\nstage1_epochs = 0"),
    );
    let mut first = sandbox.start(&["train", "run.toml", "--out", "r"]);
    let ledger = sandbox.path("r/ledger");
    let charged = |path: &std::path::Path| fs::metadata(path).is_ok_and(|file| file.len() > 0);
    // A long run, or its end, whichever comes first.
    assert!(first.wait_until(|_| charged(&ledger)), "{}", first.stderr());
    let before = fs::read(&ledger).unwrap();
    let second = sandbox.run(&["train", "run.toml", "--out", "r", "--resume"]);
    assert_eq!(second.code(), 1, "{}", second.stderr);
    assert!(second.stderr.contains("another process has this run open"), "{}", second.stderr);
    assert!(fs::read(&ledger).unwrap().starts_with(&before));
    first.signal(Signal::INT);
    let first = first.wait();
    assert!(first.stderr.contains("--resume"), "{}", first.stderr);
    // The first one was not disturbed.
    let after = fs::read(&ledger).unwrap();
    assert!(Ledger::verify(&after).is_ok_and(|ledger| !ledger.is_empty()));
    sandbox.assert_no_process_left();
}

fn charge(mechanism: &str) -> Charge {
    Charge {
        dataset: Digest([7; 32]),
        records: RecordSet::range(0..10),
        view: 0,
        mechanism: MechanismId::new(mechanism),
        transcript: None,
        event: Event::gaussian(1.5),
        bytes: 2,
        purpose: "a test".into(),
    }
}

#[test]
fn two_writers_leave_no_ledger() {
    let shared = MemoryLedger::default();
    let (mut first, mut second) = (shared.writer(8.0, 1e-5), shared.writer(8.0, 1e-5));
    first.charge(charge("a")).unwrap();
    second.charge(charge("b")).unwrap();
    let refused = Ledger::verify(&shared.bytes()).unwrap_err();
    let expected = ChainError::OutOfOrder { line: 2, expected: 1, found: 0 };
    assert_eq!(refused, LedgerError::Chain(expected));
    // The same after they have taken turns.
    first.charge(charge("c")).unwrap();
    assert!(Ledger::verify(&shared.bytes()).is_err());
}
