//! What the owner is shown is what the accelerator got, and showing it changes nothing.
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_flows::{MemoryHost, enclave, plain, records, with_epsilon, without_noise};
use model::Parameters;
use runtime::{Run, RunError};
use wire::RunSpec;
use wire::accelerator::{Job, RecordSet};

const TRAIN: usize = 48;
const SHOWN: usize = 5;
/// Numbers of the split map's channel.
const AREA: usize = 16 * 16;

fn run(spec: RunSpec) -> Run {
    let initial = Parameters::init(&spec.graph, spec.train.seed);
    let mut run = Run::create(&mut MemoryHost::default(), spec, initial).unwrap();
    run.add_records(RecordSet::Train, TRAIN, &records(TRAIN, 1)).unwrap();
    run
}

/// Messages of the training records, as the accelerator got them.
fn stored(host: &MemoryHost) -> Vec<u8> {
    let links = host.links.borrow();
    links.jobs.iter().find_map(|(job, body)| matches!(job, Job::Store { .. }).then(|| body.clone())).unwrap()
}

#[test]
fn the_owner_sees_the_bits_that_left() {
    for spec in [with_epsilon(2), without_noise(2)] {
        let (mut run, mut host) = (run(spec), MemoryHost::default());
        run.train(&mut host).unwrap();
        let before = host.disk();
        let messages = stored(&host);
        let (pictures, body) = run.pictures(&host, SHOWN).unwrap();
        assert_eq!((pictures.map, pictures.released), ([16, 16], vec![true; SHOWN]));
        let (maps, len) = (SHOWN * 2 * AREA * 4, pictures.bits.iter().product::<usize>() / 8);
        assert_eq!(body.len(), maps + SHOWN * len);
        assert_eq!(body[maps..], messages[..SHOWN * len]);
        let numbers = wire::body::to_f32(&body[..maps], SHOWN * 2 * AREA).unwrap();
        assert!(numbers.chunks(AREA).all(|map| map.iter().any(|x| *x != map[0])), "every map has a content");
        let after = host.disk();
        assert!(after.ledger == before.ledger && after.files == before.files, "something was written");
    }
}

#[test]
fn what_never_left_is_not_made_for_the_occasion() {
    for spec in [with_epsilon(2), without_noise(2)] {
        let (mut run, host) = (run(spec), MemoryHost::default());
        let (pictures, body) = run.pictures(&host, SHOWN).unwrap();
        assert_eq!(pictures.released, [false; SHOWN]);
        assert_eq!(body.len(), SHOWN * 2 * AREA * 4);
        assert!(host.disk().ledger.is_empty() && host.disk().files.is_empty());
    }
    // Other records than those that were released: their charge is not there.
    let (mut trained, mut host) = (run(with_epsilon(2)), MemoryHost::default());
    trained.train(&mut host).unwrap();
    trained.add_records(RecordSet::Train, 1, &records(1, 9)).unwrap();
    assert_eq!(trained.pictures(&host, SHOWN).unwrap().0.released, [false; SHOWN]);
}

#[test]
fn altered_messages_and_flows_without_a_split_are_refused() {
    let (mut trained, mut host) = (run(with_epsilon(2)), MemoryHost::default());
    trained.train(&mut host).unwrap();
    host.disk.borrow_mut().files.get_mut("messages-train-00000000").unwrap()[0] ^= 1;
    assert!(matches!(trained.pictures(&host, SHOWN), Err(RunError::Release(_))));
    for spec in [enclave(1), plain(1)] {
        let error = run(spec).pictures(&MemoryHost::default(), SHOWN).unwrap_err();
        assert!(matches!(&error, RunError::Request(text) if text.contains("splits nothing")), "{error}");
    }
    // A ledger that is not to be trusted shows nothing.
    host.ledger.lock().unwrap()[20] ^= 1;
    assert!(matches!(trained.pictures(&host, SHOWN), Err(RunError::Ledger(_))));
}
