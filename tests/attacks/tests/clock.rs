//! The move: set the clock, on the trusted machine or between two runs, to change noise, order or charges.
//!
//! What must hold: nothing in ledger, noise or messages depends on a clock. The boundary log has the time, for people only;
//! processor times are figures in a report.
//!
//! Enforced by `clippy.toml` in `core/` and `trusted/`, which bans clocks, and checked here in the sources: only
//! `trusted/enclave` may read one, and there only `journal.rs`, `process.rs` and `link.rs` (the time limit of a reply).
#![allow(clippy::unwrap_used)] // a test that fails says why

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use asymflow_attacks::train;
use asymflow_e2e::{Sandbox, tiny};
use asymflow_flows::{MemoryHost, everything, with_epsilon};
use ledger::{BoundaryLine, chain};
use wire::accelerator::{Job, Reply};

/// Files that may read a clock, below the project's root.
const ALLOWED: [&str; 3] =
    ["trusted/enclave/src/journal.rs", "trusted/enclave/src/link.rs", "trusted/enclave/src/process.rs"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn only_three_files_read_a_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let mut files = Vec::new();
    ["core", "trusted"].iter().for_each(|zone| sources(&root.join(zone), &mut files));
    assert!(files.len() > 80, "{}", files.len());
    let clocks =
        ["SystemTime", "Instant", "UNIX_EPOCH", "clock_gettime", "ClockId", "std::time", "rustix::time"];
    let mut readers = Vec::new();
    let measures = |file: &Path| {
        let last = file.strip_prefix(root).unwrap().components().map(|part| part.as_os_str());
        // `core/kernels/benches/…` and `core/kernels/tests/…` are no part of the enclave.
        last.take(3).any(|part| part == "benches" || part == "tests")
    };
    for file in files.iter().filter(|file| !measures(file)) {
        let text = fs::read_to_string(file).unwrap();
        if clocks.iter().any(|clock| text.contains(clock)) {
            readers.push(file.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
    readers.sort();
    assert!(readers.contains(&ALLOWED[0].to_owned()), "the search finds nothing");
    let others: Vec<_> = readers.iter().filter(|file| !ALLOWED.contains(&file.as_str())).collect();
    assert!(others.is_empty(), "{others:?}");
    for zone in ["core", "trusted"] {
        let bans = fs::read_to_string(root.join(zone).join("clippy.toml")).unwrap();
        assert!(bans.contains("std::time::SystemTime") && bans.contains("std::time::Instant"), "{zone}");
    }
}

/// Processor times that jump to and fro, at home and in the accelerator's replies.
#[test]
fn a_clock_that_runs_backwards_changes_nothing() {
    static TICKS: AtomicU64 = AtomicU64::new(0);
    for spec in [with_epsilon(3), everything(3)] {
        let mut steady = MemoryHost::default();
        train(&mut steady, &spec).unwrap();
        let jumping = |_: &Job, replies: &mut Vec<(Reply, Vec<u8>)>| {
            for (reply, _) in replies {
                if let Reply::Done { cpu_seconds, .. } = reply {
                    *cpu_seconds = (TICKS.fetch_add(7919, Ordering::Relaxed) % 10_007) as f64;
                }
            }
        };
        let mut host = MemoryHost {
            cpu_seconds: || 1e9 - (TICKS.fetch_add(104_729, Ordering::Relaxed) % 1_000_003) as f64,
            liar: Some(Rc::new(RefCell::new(jumping))),
            ..MemoryHost::default()
        };
        train(&mut host, &spec).unwrap();
        assert!(steady.links.borrow().jobs == host.links.borrow().jobs);
        assert!(steady.disk().ledger == host.disk().ledger);
        assert!(steady.losses() == host.losses());
    }
}

/// Two runs of the real programs at different times, with one job key: the same ledger, and the same boundary log but for
/// the time.
#[test]
fn runs_at_different_times_leave_the_same_ledger() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &tiny("delta").replace("[train]", "[trusted]\nkey = \"job.key\"\n\n[train]"));
    let run = |out: &str| {
        sandbox.run(&["train", "run.toml", "--out", out]).good();
        let log = fs::read(sandbox.path(&format!("{out}/boundary.jsonl"))).unwrap();
        let lines: Vec<BoundaryLine> = chain::lines(&log).collect::<Result<_, _>>().unwrap();
        (fs::read(sandbox.path(&format!("{out}/ledger"))).unwrap(), lines)
    };
    let (first, then) = run("a");
    let (second, now) = run("b");
    assert!(!first.is_empty() && first == second);
    assert!(then[0].time_ms < now[0].time_ms);
    assert_eq!(then.len(), now.len());
    for (a, b) in then.iter().zip(&now) {
        let same = BoundaryLine { time_ms: a.time_ms, previous: a.previous, hash: a.hash, ..b.clone() };
        assert_eq!(*a, same);
    }
}
