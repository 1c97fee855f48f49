//! Each way in which files can disagree, forged with hashes that fit, is found and named.

use accounting::Event;

use super::*;
use crate::{BoundaryLine, ChainError, Charge, Entry, Ledger, LedgerError, MechanismId, Paid, RecordSet};

const DELTA: f64 = 1e-5;
const CLIP: f64 = 2.0;
/// More than enough for ε = 8.
const SIGMA: f64 = 2.5;
const TRAIN: u64 = 100;
const TEST: u64 = 20;

/// The files of a run, before they are written.
struct Files {
    charges: Vec<Charge>,
    lines: Vec<BoundaryLine>,
    claims: Claims,
}

fn bits(dataset: u8, records: u64, purpose: &str) -> Charge {
    Charge {
        dataset: Digest([dataset; 32]),
        records: RecordSet::range(0..records),
        view: 0,
        mechanism: MechanismId::new(format!(
            "residual-bits v1: pooled:4 of 32x16x16, clip {CLIP}, sigma {SIGMA}, function 00"
        )),
        transcript: None,
        event: Event::gaussian(SIGMA / (2.0 * CLIP)),
        bytes: 2,
        purpose: purpose.into(),
    }
}

fn line(job: &str, kind: Kind, bytes: u64, records: u64) -> BoundaryLine {
    let declared = kind.class() == Class::Public && bytes > 0;
    BoundaryLine {
        sequence: 0,
        time_ms: 7,
        direction: kind.direction(),
        job: job.into(),
        kind,
        class: kind.class(),
        bytes,
        records,
        receipt: None,
        reason: declared.then(|| "drawn from the public seed".into()),
        previous: Digest([0; 32]),
        hash: Digest([0; 32]),
    }
}

/// Bits that left on the receipt of an entry, whose hash is filled in later.
fn released(entry: u64, records: u64) -> BoundaryLine {
    BoundaryLine {
        receipt: Some(Paid { entry, hash: Digest([0; 32]) }),
        ..line("store", Kind::ResidualBits, 2 * records, records)
    }
}

/// What was released to these records, as its summary states it.
fn epsilon(charges: &[Charge]) -> f64 {
    Ledger::verify(&ledger(charges)).unwrap().epsilon(DELTA)
}

fn ledger(charges: &[Charge]) -> Vec<u8> {
    let (mut bytes, mut head) = (Vec::new(), Head::empty::<Entry>());
    for charge in charges {
        let (entry, line) = Entry::after(&head, charge);
        head = Head::after(&entry);
        bytes.extend(line);
    }
    bytes
}

/// The lines, chained, with the hashes of the entries their receipts name, where there are such.
fn log(lines: &[BoundaryLine], charges: &[Charge]) -> Vec<u8> {
    let ledger = Ledger::verify(&ledger(charges)).unwrap();
    let (mut bytes, mut head) = (Vec::new(), Head::empty::<BoundaryLine>());
    for line in lines {
        let mut line = line.clone();
        if let Some(paid) = line.receipt.as_mut().filter(|paid| paid.hash == Digest([0; 32])) {
            paid.hash = ledger.hash_of(paid.entry).unwrap_or(Digest([9; 32]));
        }
        bytes.extend(line.append_after(&head));
        head = Head::after(&line);
    }
    bytes
}

impl Files {
    /// A finished delta run, as the programs write it.
    fn delta() -> Self {
        let charges = vec![bits(1, TRAIN, "training records"), bits(2, TEST, "test records")];
        let lines = vec![
            line("hello", Kind::Control, 0, 0),
            line("load", Kind::Parameters, 400, 0),
            released(0, TRAIN),
            line("store", Kind::Labels, 2 * TRAIN, TRAIN),
            released(1, TEST),
            line("train", Kind::ResidualLogits, 40 * TRAIN, TRAIN),
        ];
        let summary = Summary {
            flow: "delta".into(),
            epsilon: Some(epsilon(&charges)),
            delta: Some(DELTA),
            not_covered: vec!["UNPROTECTED labels: True labels.".into()],
            bytes_out: Some(400 + 4 * TRAIN + 2 * TEST),
            bytes_in: Some(40 * TRAIN),
        };
        let claims = Claims {
            flow: "delta".into(),
            delta: DELTA,
            budget: Some(8.0),
            clip: Some(CLIP),
            allow: vec![Kind::Labels],
            summary: Some(summary),
        };
        Files { charges, lines, claims }
    }

    fn check(&self) -> Audit {
        check(&ledger(&self.charges), &log(&self.lines, &self.charges), &self.claims)
    }

    fn summary(&mut self) -> &mut Summary {
        self.claims.summary.as_mut().unwrap()
    }
}

/// What is found in a run after `forge`.
fn found(forge: impl FnOnce(&mut Files)) -> Vec<Disagreement> {
    let mut files = Files::delta();
    forge(&mut files);
    files.check().disagreements
}

#[test]
fn a_run_that_kept_its_word_is_consistent_and_adds_up() {
    let audit = Files::delta().check();
    assert_eq!(audit.disagreements, []);
    assert_eq!(audit.notes, Vec::<String>::new());
    let one = [Event::gaussian(SIGMA / (2.0 * CLIP))];
    let epsilon = accounting::epsilon_of(&one, DELTA).unwrap();
    assert_eq!((audit.epsilon, audit.delta), (Some(epsilon), DELTA));
    assert_eq!(audit.epsilon_zero_record, Some(accounting::epsilon_zero_record_of(&one, DELTA).unwrap()));
    let kinds: Vec<_> =
        audit.kinds.iter().map(|k| (k.kind.name(), k.messages, k.records, k.bytes, k.epsilon)).collect();
    let expected = [
        ("residual-bits", 2, 120, 240, Some(epsilon)),
        ("parameters", 1, 0, 400, Some(0.0)),
        ("control", 1, 0, 0, Some(0.0)),
        ("labels", 1, 100, 200, None),
        ("residual-logits", 1, 100, 4000, Some(0.0)),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(audit.unprotected().collect::<Vec<_>>(), [Kind::Labels]);
    let datasets: Vec<_> = audit.datasets.iter().map(|d| (d.records, d.epsilon, d.worst.as_str())).collect();
    assert_eq!(datasets, [(100, epsilon, "records 0 to 99"), (20, epsilon, "records 0 to 19")]);
    let [mechanism] = <[_; 1]>::try_from(audit.mechanisms).unwrap();
    let bound = accounting::information::information_bound_bits(16, CLIP, SIGMA);
    assert_eq!((mechanism.numbers, mechanism.information_bits), (Some(16), Some(bound)));
    assert_eq!((mechanism.entries, mechanism.records, mechanism.epsilon), (2, 120, epsilon));
    let paper = accounting::paper::epsilon_not_a_guarantee(CLIP, SIGMA, 0.1, DELTA);
    assert_eq!(mechanism.epsilon_of_the_papers(0.1, DELTA), Some(paper));
}

#[test]
fn the_worst_record_counts_and_is_named() {
    let mut files = Files::delta();
    let again = Charge { view: 1, records: RecordSet::of(&[7]), ..bits(1, 0, "another view") };
    files.charges.push(again);
    files.lines.push(released(2, 1));
    let twice = epsilon(&files.charges);
    files.claims.budget = Some(20.0);
    files.summary().epsilon = Some(twice);
    let audit = files.check();
    assert_eq!((audit.epsilon, audit.disagreements), (Some(twice), vec![]));
    assert_eq!(audit.datasets[0].worst, "record 7");
    assert_eq!(audit.datasets[0].purposes, ["another view", "training records"]);
    assert!(audit.datasets[1].epsilon < twice);
}

#[test]
fn what_was_sent_again_or_charged_in_parts_is_consistent() {
    assert_eq!(found(|files| files.lines.push(released(0, TRAIN))), []);
    // Charged for ten, then for the rest: one message about all of them, on the later receipt.
    let in_parts = found(|files| {
        files.charges[0].records = RecordSet::range(0..10);
        files.charges.push(Charge { records: RecordSet::range(10..TRAIN), ..bits(1, 0, "the rest") });
        files.lines[2] = released(2, TRAIN);
    });
    assert_eq!(in_parts, []);
    // One request may ask about the same picture twice: the same bytes leave twice.
    let asked = found(|files| {
        files.charges.push(Charge { records: RecordSet::of(&[77]), ..bits(3, 0, "inference") });
        files.lines.push(BoundaryLine { job: "answer".into(), ..released(2, 2) });
    });
    assert_eq!(asked, []);
    // A function of released values goes by their receipt.
    let derived = found(|files| {
        let receipt = released(0, 1).receipt;
        files.lines.push(BoundaryLine { receipt, ..line("store", Kind::Derived, 999, 5) });
    });
    assert_eq!(derived, []);
}

#[test]
fn a_crash_leaves_notes_and_no_disagreement() {
    let mut files = Files::delta();
    let claims = Claims { summary: None, ..files.claims.clone() };
    let (mut ledger, mut log) = (ledger(&files.charges), log(&files.lines, &files.charges));
    ledger.extend_from_slice(b"{\"sequence\":2,");
    log.extend_from_slice(b"{\"seq");
    let audit = check(&ledger, &log, &claims);
    assert_eq!(audit.disagreements, []);
    for text in ["ledger line 3 is cut short", "boundary.jsonl line 7 is cut short", "no summary.json"] {
        assert!(audit.notes.iter().any(|note| note.contains(text)), "{text}: {:?}", audit.notes);
    }
    files.lines.remove(4);
    files.summary().bytes_out = None;
    let audit = files.check();
    assert_eq!(audit.disagreements, []);
    assert!(audit.notes[0].contains("never sent: entry 1 (test records)"), "{:?}", audit.notes);
}

#[test]
fn flows_without_a_ledger() {
    let mut files = Files { charges: vec![], lines: vec![], ..Files::delta() };
    (files.claims.flow, files.claims.allow) = ("enclave".into(), vec![]);
    *files.summary() = Summary { flow: "enclave".into(), epsilon: Some(0.0), ..Summary::default() };
    let audit = files.check();
    assert_eq!((audit.epsilon, audit.disagreements.as_slice()), (Some(0.0), &[][..]));
    assert!(!audit.anything_left());

    files.lines = vec![line("store", Kind::Inputs, 768, 1), line("store", Kind::Labels, 2, 1)];
    (files.claims.flow, files.claims.allow) = ("plain".into(), vec![Kind::Inputs, Kind::Labels]);
    let not_covered = vec!["UNPROTECTED inputs".into(), "UNPROTECTED labels".into()];
    *files.summary() = Summary { flow: "plain".into(), not_covered, ..Summary::default() };
    let audit = files.check();
    assert_eq!((audit.epsilon, audit.disagreements.as_slice()), (None, &[][..]));
    // The same messages, from a run that says it sends none.
    files.claims.flow = "enclave".into();
    files.summary().flow = "enclave".into();
    let expected = Disagreement::NothingShouldLeave { line: 1, flow: "enclave".into() };
    assert_eq!(files.check().disagreements, [expected]);
}

#[test]
fn a_damaged_ledger_proves_nothing() {
    let files = Files::delta();
    let (good, log) = (ledger(&files.charges), log(&files.lines, &files.charges));
    let text = String::from_utf8(good.clone()).unwrap();
    let first = text.find('\n').unwrap() + 1;
    let altered = text.replacen("\"view\":0", "\"view\":1", 1).into_bytes();
    let reordered = [&text.as_bytes()[first..], &text.as_bytes()[..first]].concat();
    let chain = |error: ChainError| vec![Disagreement::Ledger(LedgerError::Chain(error))];
    let damaged = [
        (altered, ChainError::Altered { line: 1 }),
        (reordered, ChainError::Missing { line: 1, expected: 0, found: 1 }),
        (text.as_bytes()[first..].to_vec(), ChainError::Missing { line: 1, expected: 0, found: 1 }),
    ];
    for (bytes, error) in damaged {
        let audit = check(&bytes, &log, &files.claims);
        assert_eq!(audit.disagreements, chain(error));
        assert_eq!((audit.epsilon, audit.epsilon_zero_record), (None, None));
    }
    // A charge whose loss cannot be stated is not free.
    let event = Event::Gaussian { noise_multiplier: 0.0, count: 1 };
    let (_, line) = Entry::after(&Head::empty::<Entry>(), &Charge { event, ..bits(1, 1, "x") });
    let audit = check(&line, b"", &files.claims);
    assert!(matches!(audit.disagreements[0], Disagreement::Ledger(LedgerError::Loss { line: 1, .. })));
}

#[test]
fn a_ledger_that_lost_its_end_is_noticed_by_its_receipts_and_by_the_summary() {
    let files = Files::delta();
    let log = log(&files.lines, &files.charges);
    let cut = check(&ledger(&files.charges[..1]), &log, &files.claims);
    assert_eq!(cut.disagreements, [Disagreement::NoEntry { line: 5, entry: 1 }]);
    let stated = files.claims.summary.clone().unwrap().epsilon.unwrap();
    let missing = check(b"", &log, &files.claims);
    let expected = [
        Disagreement::NoEntry { line: 3, entry: 0 },
        Disagreement::NoEntry { line: 5, entry: 1 },
        Disagreement::Overstated { stated, found: 0.0 },
    ];
    assert_eq!(missing.disagreements, expected);
    // Cut in the middle of a line that something left on: no crash does that.
    let whole = ledger(&files.charges);
    let torn = check(&whole[..whole.len() - 9], &log, &files.claims);
    assert_eq!(torn.disagreements, [Disagreement::NoEntry { line: 5, entry: 1 }]);
}

#[test]
fn a_damaged_boundary_log_proves_nothing() {
    let files = Files::delta();
    let (ledger, good) = (ledger(&files.charges), log(&files.lines, &files.charges));
    let text = String::from_utf8(good).unwrap();
    let first = text.find('\n').unwrap() + 1;
    let altered = text.replacen("\"bytes\":400", "\"bytes\":401", 1);
    for (bytes, error) in [
        (altered.as_bytes(), ChainError::Altered { line: 2 }),
        (&text.as_bytes()[first..], ChainError::Missing { line: 1, expected: 0, found: 1 }),
    ] {
        let audit = check(&ledger, bytes, &files.claims);
        assert_eq!(audit.disagreements, [Disagreement::Log(error)]);
        assert_eq!(audit.epsilon, None);
    }
    let summary = files.claims.summary.clone().unwrap();
    let (stated, key) = (summary.bytes_in.unwrap(), "bytes_in");
    // The last line is gone, with nothing left to show for it.
    let cut = &text[..text.trim_end().rfind('\n').unwrap() + 1];
    let audit = check(&ledger, cut.as_bytes(), &files.claims);
    assert_eq!(audit.disagreements, [Disagreement::Traffic { key, stated, found: 0 }]);
    let cut = text.lines().take(4).map(|line| format!("{line}\n")).collect::<String>();
    let audit = check(&ledger, cut.as_bytes(), &files.claims);
    let (stated, found) = (summary.bytes_out.unwrap(), summary.bytes_out.unwrap() - 2 * TEST);
    assert_eq!(audit.disagreements[0], Disagreement::Traffic { key: "bytes_out", stated, found });
    assert_eq!(audit.epsilon, None);
    let audit = check(&ledger, b"", &files.claims);
    assert_eq!((audit.disagreements, audit.epsilon), (vec![Disagreement::NoLog { entries: 2 }], None));
}

#[test]
fn entries_must_charge_what_their_mechanism_releases() {
    let cheap = found(|files| files.charges[0].event = Event::gaussian(5.0));
    let expected = SIGMA / (2.0 * CLIP);
    assert_eq!(cheap[0], Disagreement::Loss { line: 1, found: 5.0, expected });
    let none = found(|files| {
        files.charges[0].event = Event::Gaussian { noise_multiplier: expected, count: 0 };
    });
    assert!(matches!(none[0], Disagreement::Loss { line: 1, .. }), "{none:?}");
    let wide = found(|files| {
        files.charges[1].bytes = 3;
        files.lines[4].bytes = 3 * TEST;
    });
    assert_eq!(wide, [Disagreement::MessageSize { line: 2, found: 3, expected: 2 }]);
    // One name, two losses; the second entry is caught by its own loss as well.
    let cheaper = found(|files| files.charges[1].event = Event::gaussian(0.9));
    let mechanism = bits(1, 1, "").mechanism.to_string();
    assert!(cheaper.contains(&Disagreement::Renamed { line: 2, mechanism }), "{cheaper:?}");
    for name in ["laplace v1: clip 2", "labels v1: in the clear", "residual-bits v1: clip 2, sigma 2.5"] {
        let unknown = found(|files| files.charges[1].mechanism = MechanismId::new(name));
        assert_eq!(unknown, [Disagreement::Mechanism { line: 2, mechanism: name.into() }]);
    }
}

/// Gradients in place of labels: one release per step, each with its own transcript.
#[test]
fn gradients_are_charged_as_their_sensitivity_says() {
    let gradients = |forge: fn(&mut Charge)| {
        move |files: &mut Files| {
            let mut charge = Charge {
                records: RecordSet::of(&[3, 50]),
                mechanism: MechanismId::new("logit-gradients v1: 10 labels, clip 1, sigma 9"),
                transcript: Some(Digest([5; 32])),
                event: Event::LatticeGaussian {
                    noise_multiplier: 6.3,
                    numbers: 10,
                    count: 1,
                    clipped: false,
                },
                bytes: 40,
                ..bits(1, 1, "gradients of one training step")
            };
            forge(&mut charge);
            let bytes = 2 * charge.bytes;
            files.charges.push(charge);
            let receipt = released(2, 1).receipt;
            files.lines.push(BoundaryLine { receipt, ..line("backward", Kind::LogitGradients, bytes, 2) });
            files.claims.budget = Some(20.0);
            files.summary().epsilon = Some(epsilon(&files.charges));
        }
    };
    assert_eq!(found(gradients(|_| {})), []);
    // σ = 9: the grid's step is 2⁻⁹.
    let expected = 9.0 / (std::f64::consts::SQRT_2 + 10f64.sqrt() / 512.0);
    let cheap = |charge: &mut Charge| {
        charge.event =
            Event::LatticeGaussian { noise_multiplier: 7.0, numbers: 10, count: 1, clipped: false };
    };
    assert_eq!(found(gradients(cheap)), [Disagreement::Loss { line: 3, found: 7.0, expected }]);
    let fewer = |charge: &mut Charge| {
        charge.event = Event::LatticeGaussian { noise_multiplier: 6.3, numbers: 9, count: 1, clipped: false };
    };
    assert!(matches!(found(gradients(fewer))[..], [Disagreement::Loss { line: 3, .. }]));
    let ideal = |charge: &mut Charge| charge.event = Event::gaussian(6.3);
    assert!(matches!(found(gradients(ideal))[..], [Disagreement::Loss { line: 3, .. }]));
    let shorter = found(gradients(|charge| charge.bytes = 36));
    assert_eq!(shorter, [Disagreement::MessageSize { line: 3, found: 36, expected: 40 }]);
}

/// Vectors on a grid: σ over the sensitivity `2C`, and the length of their format.
#[test]
fn noised_vectors_are_charged_as_their_sensitivity_says() {
    let event = |noise_multiplier, numbers| Event::LatticeGaussian {
        noise_multiplier,
        numbers,
        count: 1,
        clipped: true,
    };
    let vectors = |kind: Kind, format: &'static str, bytes: u64, event: Event| {
        move |files: &mut Files| {
            files.charges.push(Charge {
                mechanism: MechanismId::new(format!(
                    "{kind} v1: 3x2x4 in {format}, clip 2, sigma 9, layer 3, function 00"
                )),
                event,
                bytes,
                ..bits(1, 1, "vectors")
            });
            let receipt = released(2, 1).receipt;
            let records = files.charges[2].records.len();
            files.lines.push(BoundaryLine { receipt, ..line("store", kind, records * bytes, records) });
            files.claims.budget = Some(20.0);
            files.summary().epsilon = Some(epsilon(&files.charges));
        }
    };
    for (format, bytes) in [("f32", 96), ("bf16", 48), ("int8", 36)] {
        assert_eq!(found(vectors(Kind::NoisedResiduals, format, bytes, event(2.25, 24))), [], "{format}");
        let longer = found(vectors(Kind::NoisedInputs, format, bytes + 1, event(2.25, 24)));
        assert_eq!(longer, [Disagreement::MessageSize { line: 3, found: bytes + 1, expected: bytes }]);
    }
    let cheap = found(vectors(Kind::NoisedInputs, "f32", 96, event(2.5, 24)));
    assert_eq!(cheap, [Disagreement::Loss { line: 3, found: 2.5, expected: 2.25 }]);
    for other in [event(2.25, 23), Event::gaussian(2.25)] {
        let fewer = found(vectors(Kind::NoisedInputs, "f32", 96, other));
        assert!(matches!(fewer[..], [Disagreement::Loss { line: 3, .. }]), "{fewer:?}");
    }
    let other = found(|files| {
        vectors(Kind::NoisedInputs, "f32", 96, event(2.25, 24))(files);
        files.claims.clip = Some(1.0);
    });
    assert!(other.contains(&Disagreement::Clip { line: 3, found: 2.0, stated: 1.0 }), "{other:?}");
}

/// A clipping norm found from the data is a number in the ledger: charged, and never a message.
#[test]
fn what_is_only_published_is_charged_as_stated() {
    let quantile = |epsilon: f64, bytes: u64| {
        move |files: &mut Files| {
            files.charges.push(Charge {
                mechanism: MechanismId::new(
                    "norm-quantile v1: 0.5 of mean of 32x16x16, epsilon 0.1, function 00",
                ),
                event: Event::Pure { epsilon },
                bytes,
                ..bits(1, TRAIN, "clipping norm")
            });
            files.claims.clip = None;
            files.summary().epsilon = Some(self::epsilon(&files.charges));
        }
    };
    assert_eq!(found(quantile(0.1, 0)), []);
    let cheap = found(quantile(0.05, 0));
    assert_eq!(cheap, [Disagreement::Epsilon { line: 3, found: 0.05, expected: 0.1 }]);
    assert!(matches!(found(quantile(0.1, 4))[0], Disagreement::Mechanism { line: 3, .. }));
    // Charged before the first connection: there is no boundary log yet.
    let mut files = Files::delta();
    quantile(0.1, 0)(&mut files);
    let alone = ledger(&files.charges[2..]);
    let audit = check(&alone, b"", &Claims { summary: None, ..files.claims });
    assert_eq!((audit.disagreements, audit.epsilon), (vec![], Some(0.1)));
    assert_eq!(audit.notes.len(), 1, "not a message, so not missing: {:?}", audit.notes);
}

#[test]
fn every_message_must_be_what_its_kind_is() {
    let class = found(|files| files.lines[3].class = Class::Public);
    assert_eq!(class, [Disagreement::Class { line: 4, kind: Kind::Labels, found: Class::Public }]);
    let direction = found(|files| {
        files.lines[5].direction = Direction::Outward;
        files.lines[5].reason = Some("none of your business".into());
        files.summary().bytes_in = None;
    });
    let (kind, out) = (Kind::ResidualLogits, Direction::Outward);
    assert_eq!(direction, [Disagreement::Direction { line: 6, kind, found: out }]);
    for reason in [None, Some("  ".to_owned())] {
        let silent = found(|files| files.lines[1].reason = reason.clone());
        assert_eq!(silent, [Disagreement::NoReason { line: 2, kind: Kind::Parameters }]);
    }
    let derived = found(|files| files.lines.push(line("store", Kind::Derived, 8, 1)));
    assert_eq!(derived, [Disagreement::NoReason { line: 7, kind: Kind::Derived }]);
}

#[test]
fn every_release_must_have_been_paid_for() {
    let none = found(|files| files.lines[2].receipt = None);
    assert_eq!(none, [Disagreement::NoReceipt { line: 3, kind: Kind::ResidualBits }]);
    let beyond = found(|files| files.lines.push(released(2, 1)));
    assert_eq!(beyond, [Disagreement::NoEntry { line: 7, entry: 2 }]);
    let far = found(|files| files.lines.push(released(u64::MAX, 1)));
    assert_eq!(far, [Disagreement::NoEntry { line: 7, entry: u64::MAX }]);
    let other = found(|files| {
        files.lines[4].receipt = Some(Paid { entry: 1, hash: Digest([3; 32]) });
    });
    assert_eq!(other, [Disagreement::OtherEntry { line: 5, entry: 1 }]);
    let kind = found(|files| {
        let receipt = files.lines[2].receipt;
        files.lines.push(BoundaryLine { receipt, ..line("store", Kind::RandomisedLabels, 2, 1) });
    });
    let (of, paid) = (Kind::RandomisedLabels, Kind::ResidualBits);
    assert_eq!(kind, [Disagreement::OtherKind { line: 7, kind: of, entry: 0, paid }]);
    let longer = found(|files| files.lines[2].bytes += 1);
    let (found_bytes, records, paid) = (2 * TRAIN + 1, TRAIN, 2);
    assert_eq!(longer, [Disagreement::Bytes { line: 3, entry: 0, found: found_bytes, records, paid }]);
    let more = found(|files| files.lines[4] = released(1, TEST + 1));
    assert_eq!(more, [Disagreement::Records { line: 5, entry: 1, found: TEST + 1, paid: TEST }]);
    let huge = found(|files| {
        files.lines[4].records = u64::MAX;
        files.lines.push(files.lines[4].clone());
    });
    assert!(huge.contains(&Disagreement::Records { line: 5, entry: 1, found: u64::MAX, paid: TEST }));
}

#[test]
fn the_configuration_must_have_allowed_it() {
    let unnamed = found(|files| files.claims.allow.clear());
    assert_eq!(unnamed, [Disagreement::NotAllowed { line: 4, kind: Kind::Labels }]);
    let over = found(|files| files.claims.budget = Some(5.0));
    let dataset = Digest([1; 32]);
    assert!(
        matches!(over[0], Disagreement::Budget { dataset: d, budget: 5.0, .. } if d == dataset),
        "{over:?}"
    );
    assert_eq!(over.len(), 2, "both data sets");
    assert_eq!(found(|files| files.claims.budget = None), []);
    let clip = found(|files| files.claims.clip = Some(1.0));
    assert_eq!(clip, [Disagreement::Clip { line: 1, found: CLIP, stated: 1.0 }]);
}

#[test]
fn the_summary_must_not_claim_more_than_there_is() {
    let epsilon = epsilon(&Files::delta().charges);
    let smaller = found(|files| files.summary().epsilon = Some(1.0));
    assert_eq!(smaller, [Disagreement::Understated { stated: 1.0, found: epsilon }]);
    let larger = found(|files| files.summary().epsilon = Some(9.0));
    assert_eq!(larger, [Disagreement::Overstated { stated: 9.0, found: epsilon }]);
    assert_eq!(found(|files| files.summary().epsilon = Some(epsilon * (1.0 - 1e-9))), []);
    let delta = found(|files| files.summary().delta = Some(1e-3));
    assert_eq!(delta, [Disagreement::Delta { summary: 1e-3, config: DELTA }]);
    let flow = found(|files| files.summary().flow = "enclave".into());
    assert_eq!(flow, [Disagreement::Flow { summary: "enclave".into(), config: "delta".into() }]);
    let unlisted = found(|files| files.summary().not_covered.clear());
    assert_eq!(unlisted, [Disagreement::Unlisted { kind: Kind::Labels }]);
    let plain = found(|files| {
        files.lines.push(line("store", Kind::Inputs, 768, 1));
        files.claims.allow.push(Kind::Inputs);
        files.summary().not_covered.push("UNPROTECTED inputs".into());
    });
    assert_eq!(plain, [Disagreement::NoGuarantee { stated: epsilon, kinds: "inputs".into() }]);
}

/// What was logged after the summary was written may only add to it.
#[test]
fn more_in_the_log_than_in_the_summary_is_good() {
    let later = found(|files| {
        files.lines.push(released(1, TEST));
        files.lines.push(line("answer", Kind::ResidualLogits, 800, TEST));
    });
    assert_eq!(later, []);
}

/// Every sentence names a file, so that a reader knows where to look.
#[test]
fn sentences_name_files() {
    let mut files = Files::delta();
    files.claims.allow.clear();
    files.claims.budget = Some(0.5);
    files.lines[2].receipt = None;
    files.summary().epsilon = Some(0.5);
    let audit = files.check();
    assert!(!audit.consistent() && audit.disagreements.len() >= 5, "{:?}", audit.disagreements);
    for sentence in audit.disagreements.iter().map(ToString::to_string) {
        let names = ["ledger", "boundary.jsonl", "config.toml", "summary.json"];
        assert!(names.iter().any(|name| sentence.contains(name)), "{sentence}");
    }
}
