//! The move: go on with a run over almost the same records, so that they count as another data set with a budget of its own.
//!
//! What must hold: a run is bound to the training records it was begun with; with any others it is refused before anything
//! leaves.
//!
//! Enforced in `runtime::train` (the root of the training records is stored with the run).
#![allow(clippy::unwrap_used)] // a test that fails says why

use asymflow_attacks::{STEPS, TEST, TRAIN, bytes_sent, stopped_after};
use asymflow_flows::{MemoryHost, per_step, records, with_epsilon, withheld_labels};
use runtime::Run;
use wire::accelerator::RecordSet;

#[test]
fn a_run_with_other_records_is_refused() {
    for spec in [per_step(4), with_epsilon(4), withheld_labels(4)] {
        for steps in [1, STEPS, 2 * STEPS] {
            let (_, disk) = stopped_after(&spec, steps);
            let mut body = records(TRAIN, 1);
            body[7] ^= 1;
            let mut host = MemoryHost::on(disk.clone());
            let mut run = Run::open(&mut host, spec.accelerator.clone()).unwrap();
            run.add_records(RecordSet::Train, TRAIN, &body).unwrap();
            run.add_records(RecordSet::Test, TEST, &records(TEST, 2)).unwrap();
            let ended = run.train(&mut host);
            let left = (bytes_sent(&host), host.disk().ledger == disk.ledger);
            assert!(
                ended.is_err() && left == (0, true),
                "after {steps} steps of {:?}: {left:?}",
                spec.privacy
            );
        }
    }
}
