//! Every way in which a ledger can be wrong.

use accounting::Event;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;

const DELTA: f64 = 1e-5;

fn charge(records: RecordSet, mechanism: &str) -> Charge {
    Charge {
        dataset: Digest([7; 32]),
        records,
        view: 0,
        mechanism: MechanismId::new(mechanism),
        transcript: None,
        event: Event::gaussian(1.5),
        bytes: 2,
        purpose: "a test".into(),
    }
}

/// The lines of these charges.
fn written(charges: &[Charge]) -> Vec<u8> {
    let (mut bytes, mut head) = (Vec::new(), Head::empty::<Entry>());
    for charge in charges {
        let (entry, line) = Entry::after(&head, charge);
        head = Head::after(&entry);
        bytes.extend(line);
    }
    bytes
}

/// A ledger of three entries.
fn three() -> Vec<u8> {
    let event = Event::RandomisedResponse { epsilon: 0.1 };
    written(&[
        charge(RecordSet::range(0..100), "a"),
        Charge { transcript: Some(Digest([1; 32])), ..charge(RecordSet::of(&[1, 3, 200]), "b") },
        Charge { event, ..charge(RecordSet::range(0..100), "c \"quoted\"\n") },
    ])
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|&b| b == b'\n').map(<[u8]>::to_vec).collect()
}

fn error(bytes: &[u8]) -> ChainError {
    match Ledger::verify(bytes) {
        Err(LedgerError::Chain(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_back_what_was_written() {
    let bytes = three();
    let ledger = Ledger::verify(&bytes).unwrap();
    let read: Vec<Entry> = entries(&bytes).collect::<Result<_, _>>().unwrap();
    assert_eq!((ledger.len(), read.len()), (3, 3));
    assert_eq!(ledger.head(), Head { sequence: 3, hash: read[2].hash });
    let second = charge(RecordSet::of(&[1, 3, 200]), "b");
    assert_eq!(read[1].charge(), Charge { transcript: Some(Digest([1; 32])), ..second });
    let worst = [Event::gaussian(1.5), Event::gaussian(1.5), Event::RandomisedResponse { epsilon: 0.1 }];
    assert_eq!(ledger.epsilon(DELTA), accounting::epsilon_of(&worst, DELTA).unwrap());
    let zero = accounting::epsilon_zero_record_of(&worst, DELTA).unwrap();
    assert_eq!(ledger.epsilon_zero_record(DELTA), zero);
    assert!(Ledger::verify(b"").unwrap().is_empty());
    assert_eq!(Ledger::empty().epsilon(DELTA), 0.0);
}

/// Anyone can check a line: SHA-256 of what stands before `,"hash"`.
#[test]
fn a_line_carries_the_hash_of_its_beginning_and_of_the_line_before() {
    let mut previous = Head::empty::<Entry>().hash.to_string();
    for line in lines(&three()) {
        let text = String::from_utf8(line).unwrap();
        let (body, hash) = text.split_once(",\"hash\":\"").unwrap();
        assert!(body.contains(&format!("\"previous\":\"{previous}\"")), "{body}");
        previous = hash.trim_end_matches("\"}\n").to_owned();
        assert_eq!(Digest(Sha256::digest(body).into()).to_string(), previous);
    }
}

#[test]
fn a_ledger_cut_short_is_refused() {
    let (bytes, lines) = (three(), lines(&three()));
    let intact = lines[0].len() + lines[1].len();
    for end in intact + 1..bytes.len() {
        assert_eq!(error(&bytes[..end]), ChainError::Truncated { line: 3, intact });
    }
}

#[test]
fn a_ledger_cut_at_a_line_is_noticed_by_its_head() {
    let bytes = three();
    let (whole, lines) = (Ledger::verify(&bytes).unwrap(), lines(&bytes));
    let cut = Ledger::verify(&lines[..2].concat()).unwrap();
    assert_eq!(cut.require(&whole.head()), Err(LedgerError::RolledBack { written: 3, found: 2 }));
    assert_eq!(whole.require(&cut.head()), Ok(()));
    assert_eq!(whole.require(&Head::empty::<Entry>()), Ok(()));
    let other = Head { sequence: 2, hash: Digest([0; 32]) };
    assert_eq!(whole.require(&other), Err(LedgerError::Replaced { line: 2 }));
}

#[test]
fn lines_missing_repeated_or_exchanged_are_named() {
    let [a, b, c] = <[_; 3]>::try_from(lines(&three())).unwrap();
    let join = |parts: &[&Vec<u8>]| parts.iter().copied().flatten().copied().collect::<Vec<u8>>();
    assert_eq!(error(&join(&[&b, &c])), ChainError::Missing { line: 1, expected: 0, found: 1 });
    assert_eq!(error(&join(&[&a, &c])), ChainError::Missing { line: 2, expected: 1, found: 2 });
    assert_eq!(error(&join(&[&a, &a])), ChainError::OutOfOrder { line: 2, expected: 1, found: 0 });
    assert_eq!(error(&join(&[&a, &c, &b])), ChainError::Missing { line: 2, expected: 1, found: 2 });
    let other = written(&[charge(RecordSet::range(0..5), "x")]);
    assert_eq!(error(&join(&[&other, &b])), ChainError::Broken { line: 2 });
}

#[test]
fn a_line_that_is_not_an_entry_is_named() {
    let first = &lines(&three())[0];
    for bad in ["\n", "{}\n", "not json\n", "{\"sequence\":0}\n"] {
        let bytes = [first.as_slice(), bad.as_bytes()].concat();
        assert!(matches!(error(&bytes), ChainError::Malformed { line: 2, .. }), "{bad}");
    }
    // An event that is not known, however well hashed, is an error and not free.
    let text = String::from_utf8(first.clone()).unwrap().replace("gaussian", "laplace");
    assert!(matches!(error(text.as_bytes()), ChainError::Malformed { line: 1, .. }));
}

#[test]
fn an_altered_number_is_named() {
    let text = String::from_utf8(three()).unwrap();
    let altered = text.replace("\"view\":0,\"mechanism\":\"b", "\"view\":1,\"mechanism\":\"b");
    assert_ne!(altered, text);
    assert_eq!(error(altered.as_bytes()), ChainError::Altered { line: 2 });
}

/// A well-hashed entry whose loss cannot be stated is refused as well.
#[test]
fn an_entry_without_a_loss_is_refused() {
    let event = Event::Gaussian { noise_multiplier: -1.0, count: 1 };
    let (_, line) =
        Entry::after(&Head::empty::<Entry>(), &Charge { event, ..charge(RecordSet::range(0..1), "a") });
    assert!(matches!(Ledger::verify(&line), Err(LedgerError::Loss { line: 1, .. })));
}

proptest! {
    /// No single changed byte goes unnoticed.
    #[test]
    fn any_changed_byte_is_noticed(at in 0usize..10_000, bit in 0u8..8) {
        let mut bytes = three();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(Ledger::verify(&bytes).is_err());
    }

    /// Bytes from anywhere give an error or a ledger, never a panic.
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(bytes.is_empty() || Ledger::verify(&bytes).is_err());
    }
}

/// The boundary log is chained as the ledger is.
#[test]
fn a_boundary_log_reads_back_and_shows_what_is_missing() {
    let mut line = BoundaryLine {
        sequence: 0,
        time_ms: 1,
        direction: Direction::Outward,
        job: "store".into(),
        kind: Kind::ResidualBits,
        class: Class::NoisedCounted,
        bytes: 20,
        records: 10,
        receipt: Some(Paid { entry: 0, hash: Digest([3; 32]) }),
        reason: None,
        previous: Digest([0; 32]),
        hash: Digest([0; 32]),
    };
    let first = line.append_after(&Head::empty::<BoundaryLine>());
    let before = line.clone();
    let second = line.append_after(&Head::after(&before));
    let both = [first.as_slice(), &second].concat();
    let read: Vec<BoundaryLine> = chain::lines(&both).collect::<Result<_, _>>().unwrap();
    assert_eq!(read, [before, line]);
    let cut: Result<Vec<BoundaryLine>, _> = chain::lines(&second).collect();
    assert_eq!(cut, Err(ChainError::Missing { line: 1, expected: 0, found: 1 }));
    let altered = String::from_utf8(first).unwrap().replace("\"bytes\":20", "\"bytes\":21");
    let altered: Result<Vec<BoundaryLine>, _> = chain::lines(altered.as_bytes()).collect();
    assert_eq!(altered, Err(ChainError::Altered { line: 1 }));
    // A ledger is no boundary log, however well chained.
    assert!(chain::lines::<BoundaryLine>(&three()).any(|line| line.is_err()));
}
