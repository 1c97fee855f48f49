//! The move: batches that overlap what was charged before, in any order and mixture, so that some record is charged too
//! little, or released without a charge.
//!
//! What must hold: of each batch exactly the records that this release was never charged for are charged; a batch in which
//! any of those would exceed its budget is refused as a whole, naming exactly these, and changes nothing.
//!
//! Enforced in `mechanism::LedgerWriter`, `ledger::spending` and `ledger::RecordSet`.
#![allow(clippy::unwrap_used)] // a test that fails says why

use std::collections::{BTreeMap, BTreeSet};

use accounting::{Event, Loss};
use asymflow_attacks::MemoryLedger;
use ledger::{Charge, Digest, Ledger, MechanismId, RecordSet, entries};
use mechanism::ChargeError;

const DELTA: f64 = 1e-5;
const RECORDS: u64 = 24;

/// The same numbers every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Mechanisms with their losses; two of each bring a record near the budget.
fn event(mechanism: u64) -> Event {
    [Event::gaussian(2.0), Event::gaussian(3.0), Event::RandomisedResponse { epsilon: 0.7 }]
        [mechanism as usize]
}

#[test]
fn only_what_is_due_is_charged() {
    let (mut numbers, mut refusals, mut resends) = (Numbers(1), 0, 0);
    for round in 0..40 {
        let ledger = MemoryLedger::default();
        let budget = 3.0 + numbers.below(5) as f64 / 2.0;
        let mut writer = ledger.writer(budget, DELTA);
        // One record at a time: what it was charged for, and its loss.
        let (mut paid, mut losses) = (BTreeSet::new(), BTreeMap::<u64, Loss>::new());
        for _ in 0..60 {
            let (name, view) = (numbers.below(3), numbers.below(2) as u32);
            let ids: Vec<u64> = (0..numbers.below(12) + 1).map(|_| numbers.below(RECORDS)).collect();
            let charge = Charge {
                dataset: Digest([7; 32]),
                records: RecordSet::of(&ids),
                view,
                mechanism: MechanismId::new(name.to_string()),
                transcript: None,
                event: event(name),
                bytes: 2,
                purpose: "a test".into(),
            };
            let due: Vec<u64> = charge
                .records
                .ranges()
                .iter()
                .cloned()
                .flatten()
                .filter(|id| !paid.contains(&(name, view, *id)))
                .collect();
            let after: Vec<(u64, Loss)> = due
                .iter()
                .map(|id| (*id, losses.get(id).copied().unwrap_or_default().and(&event(name)).unwrap()))
                .collect();
            let over: Vec<u64> =
                after.iter().filter(|(_, loss)| !loss.within(budget, DELTA)).map(|(id, _)| *id).collect();
            let before = ledger.bytes();
            match writer.charge(charge.clone()) {
                Ok(receipt) => {
                    assert!(over.is_empty(), "round {round}: {over:?} are over budget");
                    assert_eq!(receipt.is_resend(), due.is_empty());
                    let covered: Vec<u64> =
                        (0..RECORDS).filter(|&id| receipt.covers(id, &charge.mechanism)).collect();
                    assert_eq!(RecordSet::of(&covered), charge.records);
                    losses.extend(after);
                    paid.extend(due.iter().map(|id| (name, view, *id)));
                    let new = ledger.bytes()[before.len()..].to_vec();
                    resends += usize::from(new.is_empty());
                    if !due.is_empty() {
                        let entry = entries(&ledger.bytes()).last().unwrap().unwrap();
                        assert_eq!(entry.records, RecordSet::of(&due));
                    }
                    assert_eq!(due.is_empty(), new.is_empty());
                }
                Err(ChargeError::Budget { records, .. }) => {
                    refusals += 1;
                    assert_eq!(records, RecordSet::of(&over), "round {round}");
                    assert!(!over.is_empty());
                    assert_eq!(ledger.bytes(), before);
                }
                Err(other) => panic!("{other}"),
            }
        }
        let read = Ledger::verify(&ledger.bytes()).unwrap();
        assert_eq!(read.epsilon(DELTA), losses.values().map(|loss| loss.epsilon(DELTA)).fold(0.0, f64::max));
        for (_, range, loss) in read.losses() {
            range.for_each(|id| assert_eq!(losses[&id], loss, "record {id}"));
        }
    }
    assert!(refusals > 400 && resends > 400, "{refusals} refusals, {resends} resends: the test shows little");
}

/// The last number that can name a record, and one too many.
#[test]
fn records_at_the_end_of_all_numbers() {
    let ledger = MemoryLedger::default();
    let mut writer = ledger.writer(1e3, DELTA);
    let charge = |records| Charge {
        dataset: Digest([7; 32]),
        records,
        view: 0,
        mechanism: MechanismId::new("a"),
        transcript: None,
        event: Event::gaussian(2.0),
        bytes: 2,
        purpose: "a test".into(),
    };
    writer.charge(charge(RecordSet::of(&[u64::MAX - 1]))).unwrap();
    assert!(matches!(writer.charge(charge(RecordSet::of(&[u64::MAX]))), Err(ChargeError::NoRecords { .. })));
    let all = writer.charge(charge(RecordSet::range(0..u64::MAX))).unwrap();
    assert!(all.covers(0, &MechanismId::new("a")) && !all.covers(u64::MAX, &MechanismId::new("a")));
    assert_eq!(Ledger::verify(&ledger.bytes()).unwrap().losses().count(), 1);
}
