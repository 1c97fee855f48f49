//! The move: alter the stored messages of records, or put those of another record, view, set, run or key in their place.
//!
//! What must hold: only what this mechanism made with this key for these records is sent again; anything else is refused and
//! nothing of it leaves. (On a real disk the files are sealed as well; here the attacker gets past that.)
//!
//! Enforced in `mechanism::stored` (a keyed tag over messages and all that identifies them).
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_attacks::{MemoryLedger, STEPS, resume, stopped_after, train};
use asymflow_flows::{Disk, MemoryHost, two_views};
use ledger::{Digest, RecordSet};
use mechanism::{BitRelease, BitReleaseConfig, NoiseKey, RecordRelease, ReleaseError, ReleaseShape};
use runtime::RunError;

const FIRST: &str = "messages-train-00000000";
const SECOND: &str = "messages-train-view0001-00000000";
const TEST: &str = "messages-test-00000000";

fn refused(disk: Disk, key: [u8; 32]) {
    let mut host = MemoryHost { key, ..MemoryHost::on(disk) };
    let error = resume(&mut host, &two_views(3)).unwrap_err();
    assert!(matches!(error, RunError::Release(ReleaseError::Stored { first: 0 })), "{error}");
}

#[test]
fn altered_or_exchanged_files_are_refused() {
    let (host, disk) = stopped_after(&two_views(3), STEPS + 1);
    let key = host.key;
    for name in [FIRST, SECOND, TEST] {
        let len = disk.files[name].len();
        for at in [0, len / 2, len - 33, len - 32, len - 1] {
            let mut altered = disk.clone();
            altered.files.get_mut(name).unwrap()[at] ^= 0x10;
            refused(altered, key);
        }
        let changes: [fn(&mut Vec<u8>); 3] =
            [|file| file.truncate(31), |file| file.push(0), |file| file.rotate_left(1)];
        for change in changes {
            let mut altered = disk.clone();
            change(altered.files.get_mut(name).unwrap());
            refused(altered, key);
        }
    }
    for (from, to) in [(FIRST, SECOND), (SECOND, FIRST), (FIRST, TEST), (TEST, FIRST)] {
        let mut exchanged = disk.clone();
        exchanged.files.insert(to.into(), disk.files[from].clone());
        refused(exchanged, key);
    }
    // Those of a run with another key, and this run with another key.
    let mut foreign = MemoryHost { key: [1; 32], ..MemoryHost::default() };
    train(&mut foreign, &two_views(3)).unwrap();
    let mut exchanged = disk.clone();
    exchanged.files.insert(FIRST.into(), foreign.disk().files[FIRST].clone());
    refused(exchanged, key);
    refused(disk, [1; 32]);
}

/// Everything that identifies a message is under its tag.
#[test]
fn a_tag_is_for_one_place() {
    let config = BitReleaseConfig {
        clip: 1.0,
        sigma: 1.0,
        shape: ReleaseShape::Full,
        residual: [1, 2, 8],
        function: Digest([3; 32]),
    };
    let release = |config, key: u8| BitRelease::new(config, NoiseKey::new([key; 32])).unwrap();
    let mut ledger = MemoryLedger::default().writer(f64::INFINITY, 1e-5);
    let own = release(config, 1);
    let mut receipt = |release: &BitRelease, dataset: u8, view: u32| {
        ledger.charge(release.charge(Digest([dataset; 32]), RecordSet::range(0..20), view, "a test")).unwrap()
    };
    let paid = receipt(&own, 1, 0);
    let messages = own.release(&paid, 4..8, &[0.5; 64]).unwrap();
    let stored = own.to_stored(&paid, 4..8, &messages);
    assert_eq!(stored.len(), 4 * 2 + 32);
    assert!(own.from_stored(&paid, 4..8, &stored).is_ok());
    let wrong = |result: Result<_, ReleaseError>, first: u64| {
        let error = result.map(|_: Vec<_>| ()).unwrap_err();
        assert_eq!(error, ReleaseError::Stored { first });
    };
    wrong(own.from_stored(&paid, 5..9, &stored), 5);
    wrong(own.from_stored(&paid, 4..7, &stored), 4);
    wrong(own.from_stored(&paid, 4..4, &stored[..0]), 4);
    wrong(own.from_stored(&receipt(&own, 2, 0), 4..8, &stored), 4);
    wrong(own.from_stored(&receipt(&own, 1, 1), 4..8, &stored), 4);
    wrong(release(config, 2).from_stored(&paid, 4..8, &stored), 4);
    let other = release(BitReleaseConfig { function: Digest([4; 32]), ..config }, 1);
    wrong(other.from_stored(&receipt(&other, 1, 0), 4..8, &stored), 4);
    // Without its charge, not even the right one.
    let unpaid = own.from_stored(&paid, 18..22, &stored).unwrap_err();
    assert_eq!(unpaid, ReleaseError::NotCharged { record: 20 });
    let unpaid = other.from_stored(&paid, 4..8, &stored).unwrap_err();
    assert_eq!(unpaid, ReleaseError::NotCharged { record: 4 });
}
