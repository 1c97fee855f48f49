//! Every way in which a charge can be refused.

use std::sync::{Arc, Mutex};

use accounting::Event;
use ledger::{Digest, MechanismId, RecordSet, entries};

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
        transcript: None,
        event: Event::gaussian(1.5),
        bytes: 2,
        purpose: "a test".into(),
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
    assert_eq!(again.paid(), first.paid());
    assert_eq!(store.bytes(), before);
    // Only what is new is charged; the receipt covers all that was asked for.
    let more = ledger.charge(charge(RecordSet::range(90..110), "a")).unwrap();
    assert!(!more.is_resend() && more.covers(90, &MechanismId::new("a")));
    let last = entries(&store.bytes()).last().unwrap().unwrap();
    assert_eq!(last.records, RecordSet::range(100..110));
    // Another view is another release.
    assert!(!ledger.charge(Charge { view: 1, ..charge(RecordSet::range(0..1), "a") }).unwrap().is_resend());
    // So is the same release after another exchange with the accelerator.
    let after = |exchange: u8| Charge {
        transcript: Some(Digest([exchange; 32])),
        ..charge(RecordSet::range(0..1), "a")
    };
    assert!(!ledger.charge(after(1)).unwrap().is_resend());
    assert!(ledger.charge(after(1)).unwrap().is_resend());
    assert!(!ledger.charge(after(2)).unwrap().is_resend());
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
