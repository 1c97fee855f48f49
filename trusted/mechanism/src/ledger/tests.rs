//! Every way in which a ledger can be wrong, and every way in which a charge can be refused.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;

const DELTA: f64 = 1e-5;

/// A store in memory that shows its bytes and can be told to fail.
#[derive(Clone, Default)]
struct Memory {
    bytes: Arc<Mutex<Vec<u8>>>,
    broken: bool,
}

impl Memory {
    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

impl LedgerStore for Memory {
    fn append_durably(&mut self, line: &[u8]) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError("disk full".into()));
        }
        self.bytes.lock().unwrap().extend_from_slice(line);
        Ok(())
    }
}

fn writer(epsilon: f64) -> (LedgerWriter, Memory) {
    let store = Memory::default();
    let budget = Budget::new(epsilon, DELTA).unwrap();
    (LedgerWriter::new(Ledger::empty(), budget, Box::new(store.clone())), store)
}

fn charge(records: RecordSet, mechanism: &str) -> Charge {
    Charge {
        dataset: Digest([7; 32]),
        records,
        view: 0,
        mechanism: MechanismId::new(mechanism),
        event: Event::gaussian(1.5),
        purpose: "a test".into(),
    }
}

/// A ledger of three entries.
fn three() -> Vec<u8> {
    let (mut ledger, store) = writer(f64::INFINITY);
    ledger.charge(charge(RecordSet::range(0..100), "a")).unwrap();
    ledger.charge(charge(RecordSet::of(&[1, 3, 200]), "b")).unwrap();
    let event = Event::RandomisedResponse { epsilon: 0.1 };
    ledger.charge(Charge { event, ..charge(RecordSet::range(0..100), "c \"quoted\"\n") }).unwrap();
    store.bytes()
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|&b| b == b'\n').map(<[u8]>::to_vec).collect()
}

fn error(bytes: &[u8]) -> LedgerError {
    Ledger::verify(bytes).map(|ledger| ledger.len()).expect_err("the ledger is wrong")
}

#[test]
fn reads_back_what_was_written() {
    let bytes = three();
    let ledger = Ledger::verify(&bytes).unwrap();
    let read: Vec<Entry> = entries(&bytes).collect::<Result<_, _>>().unwrap();
    assert_eq!((ledger.len(), read.len()), (3, 3));
    assert_eq!(ledger.head(), Head { sequence: 3, hash: read[2].hash });
    assert_eq!(read[1].charge(), charge(RecordSet::of(&[1, 3, 200]), "b"));
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
    let mut previous = Head::empty().hash.to_string();
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
        assert_eq!(error(&bytes[..end]), LedgerError::Truncated { line: 3, intact });
    }
}

#[test]
fn a_ledger_cut_at_a_line_is_noticed_by_its_head() {
    let bytes = three();
    let (whole, lines) = (Ledger::verify(&bytes).unwrap(), lines(&bytes));
    let cut = Ledger::verify(&lines[..2].concat()).unwrap();
    assert_eq!(cut.require(&whole.head()), Err(LedgerError::RolledBack { written: 3, found: 2 }));
    assert_eq!(whole.require(&cut.head()), Ok(()));
    assert_eq!(whole.require(&Head::empty()), Ok(()));
    let other = Head { sequence: 2, hash: Digest([0; 32]) };
    assert_eq!(whole.require(&other), Err(LedgerError::Replaced { line: 2 }));
}

#[test]
fn lines_missing_repeated_or_exchanged_are_named() {
    let [a, b, c] = <[_; 3]>::try_from(lines(&three())).unwrap();
    let join = |parts: &[&Vec<u8>]| parts.iter().copied().flatten().copied().collect::<Vec<u8>>();
    assert_eq!(error(&join(&[&b, &c])), LedgerError::Missing { line: 1, expected: 0, found: 1 });
    assert_eq!(error(&join(&[&a, &c])), LedgerError::Missing { line: 2, expected: 1, found: 2 });
    assert_eq!(error(&join(&[&a, &a])), LedgerError::OutOfOrder { line: 2, expected: 1, found: 0 });
    assert_eq!(error(&join(&[&a, &c, &b])), LedgerError::Missing { line: 2, expected: 1, found: 2 });
    let (mut other, store) = writer(f64::INFINITY);
    other.charge(charge(RecordSet::range(0..5), "x")).unwrap();
    assert_eq!(error(&join(&[&store.bytes(), &b])), LedgerError::Broken { line: 2 });
}

#[test]
fn a_line_that_is_not_an_entry_is_named() {
    let first = &lines(&three())[0];
    for bad in ["\n", "{}\n", "not json\n", "{\"sequence\":0}\n"] {
        let bytes = [first.as_slice(), bad.as_bytes()].concat();
        assert!(matches!(error(&bytes), LedgerError::Malformed { line: 2, .. }), "{bad}");
    }
    // An event that is not known, however well hashed, is an error and not free.
    let text = String::from_utf8(first.clone()).unwrap().replace("gaussian", "laplace");
    assert!(matches!(error(text.as_bytes()), LedgerError::Malformed { line: 1, .. }));
}

#[test]
fn an_altered_number_is_named() {
    let text = String::from_utf8(three()).unwrap();
    let altered = text.replace("[1,2],[3,4]", "[1,2],[4,5]");
    assert_ne!(altered, text);
    assert_eq!(error(altered.as_bytes()), LedgerError::Altered { line: 2 });
}

/// A well-hashed entry whose loss cannot be stated is refused as well.
#[test]
fn an_entry_without_a_loss_is_refused() {
    let event = Event::Gaussian { noise_multiplier: -1.0, count: 1 };
    let (_, line) = Entry::after(&Head::empty(), &Charge { event, ..charge(RecordSet::range(0..1), "a") });
    assert!(matches!(error(&line), LedgerError::Loss { line: 1, .. }));
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

#[test]
fn a_charge_over_budget_is_refused_before_anything_is_written() {
    let one = accounting::epsilon_of(&[Event::gaussian(1.5)], DELTA).unwrap();
    let two = accounting::epsilon_of(&[Event::Gaussian { noise_multiplier: 1.5, count: 2 }], DELTA).unwrap();
    let (mut ledger, store) = writer(one);
    ledger.charge(charge(RecordSet::range(10..20), "a")).unwrap();
    let (before, head) = (store.bytes(), ledger.ledger().head());
    let refused = ledger.charge(charge(RecordSet::range(0..15), "b")).unwrap_err();
    let ChargeError::Budget { records, spent, total, budget, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*records, RecordSet::range(10..15));
    assert_eq!((*spent, *total, *budget), (one, two, one));
    assert!(refused.to_string().contains("records 10 to 14 have spent"), "{refused}");
    assert_eq!((store.bytes(), ledger.ledger().head()), (before, head));
    // Other records still have theirs, and so do those of another data set.
    ledger.charge(charge(RecordSet::range(0..10), "b")).unwrap();
    ledger.charge(Charge { dataset: Digest([8; 32]), ..charge(RecordSet::range(0..20), "b") }).unwrap();
    assert_eq!(Ledger::verify(&store.bytes()).unwrap().head(), ledger.ledger().head());
}

#[test]
fn what_is_paid_for_is_not_charged_again() {
    let (mut ledger, store) = writer(f64::INFINITY);
    let first = ledger.charge(charge(RecordSet::range(0..100), "a")).unwrap();
    assert!(!first.is_resend());
    let before = store.bytes();
    let again = ledger.charge(charge(RecordSet::of(&[5, 6, 99]), "a")).unwrap();
    assert!(again.is_resend() && again.covers(99, &MechanismId::new("a")));
    assert!(!again.covers(7, &MechanismId::new("a")) && !again.covers(5, &MechanismId::new("b")));
    assert_eq!((again.sequence(), again.entry_hash()), (first.sequence(), first.entry_hash()));
    assert_eq!(store.bytes(), before);
    // Only what is new is charged; the receipt covers all that was asked for.
    let more = ledger.charge(charge(RecordSet::range(90..110), "a")).unwrap();
    assert!(!more.is_resend() && more.covers(90, &MechanismId::new("a")));
    let last = entries(&store.bytes()).last().unwrap().unwrap();
    assert_eq!(last.records, RecordSet::range(100..110));
    // Another view is another release.
    assert!(!ledger.charge(Charge { view: 1, ..charge(RecordSet::range(0..1), "a") }).unwrap().is_resend());
    // The same after reading the ledger back.
    let read = Ledger::verify(&store.bytes()).unwrap();
    let mut later = LedgerWriter::new(read, ledger.budget(), Box::new(store.clone()));
    assert!(later.charge(charge(RecordSet::range(0..110), "a")).unwrap().is_resend());
}

#[test]
fn a_mechanism_keeps_its_loss() {
    let (mut ledger, _) = writer(f64::INFINITY);
    ledger.charge(charge(RecordSet::range(0..2), "a")).unwrap();
    let other = Charge { event: Event::gaussian(9.0), ..charge(RecordSet::range(2..3), "a") };
    assert!(matches!(ledger.charge(other), Err(ChargeError::Renamed { .. })));
    let empty = charge(RecordSet::default(), "a");
    assert!(matches!(ledger.charge(empty), Err(ChargeError::NoRecords { .. })));
    let nonsense = Charge { event: Event::gaussian(f64::NAN), ..charge(RecordSet::range(0..2), "b") };
    assert!(matches!(ledger.charge(nonsense), Err(ChargeError::Event(_))));
}

#[test]
fn nothing_is_released_after_a_line_was_not_stored() {
    let store = Memory { broken: true, ..Memory::default() };
    let budget = Budget::new(1e3, DELTA).unwrap();
    let mut ledger = LedgerWriter::new(Ledger::empty(), budget, Box::new(store));
    let asked = charge(RecordSet::range(0..2), "a");
    assert_eq!(ledger.charge(asked.clone()).unwrap_err(), ChargeError::Store(StoreError("disk full".into())));
    assert_eq!(ledger.charge(asked).unwrap_err(), ChargeError::Unwritten);
    assert!(ledger.ledger().is_empty());
}

/// σ calibrated for a budget fits it exactly once.
#[test]
fn a_calibrated_release_fits_once() {
    for epsilon in [0.5, 3.0, 8.0] {
        let (mut ledger, _) = writer(epsilon);
        let event = Event::gaussian(accounting::gaussian::sigma(epsilon, DELTA, 1.0).unwrap());
        ledger.charge(Charge { event, ..charge(RecordSet::range(0..50_000), "a") }).unwrap();
        assert!((ledger.ledger().epsilon(DELTA) / epsilon - 1.0).abs() < 1e-6);
        let second = Charge { event, ..charge(RecordSet::of(&[17]), "b") };
        assert!(matches!(ledger.charge(second), Err(ChargeError::Budget { .. })));
    }
    assert!(Budget::new(0.0, 0.1).is_err() && Budget::new(1.0, 0.0).is_err());
    assert!(Budget::new(f64::NAN, 0.1).is_err() && Budget::new(1.0, 1.0).is_err());
}

/// Batches in any order add up to one interval per epoch.
#[test]
fn shuffled_batches_are_counted_per_record() {
    let (mut ledger, _) = writer(f64::INFINITY);
    let ids: Vec<u64> = (0..2000).map(|i| i * 7919 % 2000).collect();
    for batch in ids.chunks(64) {
        ledger.charge(charge(RecordSet::of(batch), "a")).unwrap();
    }
    let losses: Vec<_> = ledger.ledger().losses().map(|(_, range, _)| (range.start, range.end)).collect();
    assert_eq!(losses, [(0, 2000)]);
}
