//! Ctrl-C, `kill -9` and a dead accelerator: an error with its name, and the same weights in the end.

use std::fs;
use std::time::Duration;

use asymflow_e2e::{Finished, Running, Sandbox, tiny};
use rustix::process::Signal;

/// Weights of a run, as bytes.
fn weights(sandbox: &Sandbox, run: &str) -> Vec<u8> {
    let file = format!("{run}.safetensors");
    sandbox.run(&["export", run, "--safetensors", &file]).good();
    fs::read(sandbox.path(&file)).expect("written above")
}

/// With one job key for all runs of a sandbox: the noise depends on it.
fn config(flow: &str) -> String {
    tiny(flow).replace("[train]", "[trusted]\nkey = \"job.key\"\n\n[train]\ncheckpoint_steps = 4")
}

/// Weights of an uninterrupted run.
fn expected(sandbox: &Sandbox) -> Vec<u8> {
    sandbox.run(&["train", "run.toml", "--out", "whole"]).good();
    weights(sandbox, "whole")
}

fn has_done_an_epoch(running: &Running) -> bool {
    running.stderr().contains("epoch 1/")
}

#[test]
fn ctrl_c_writes_a_checkpoint() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &config("delta"));
    let whole = expected(&sandbox);
    let mut running = sandbox.start(&["train", "run.toml", "--out", "r", "--json"]);
    assert!(running.wait_until(has_done_an_epoch), "{}", running.stderr());
    running.signal(Signal::INT);
    let stopped = running.wait();
    sandbox.assert_no_process_left();
    assert_eq!(stopped.code(), 1, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("--out") && stopped.stderr.contains("--resume"), "{}", stopped.stderr);
    assert_eq!(stopped.json()["stopped"], true);
    let done = stopped.json()["steps_done"].as_u64().expect("a number");
    assert!((6..18).contains(&done), "{done} steps");
    sandbox.run(&["train", "run.toml", "--out", "r", "--resume"]).good();
    assert!(weights(&sandbox, "r") == whole, "other weights after Ctrl-C and --resume");
}

#[test]
fn killed_at_any_moment_it_goes_on_with_the_same_weights() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &config("delta"));
    let whole = expected(&sandbox);
    // Milliseconds between kills; a prime step, so that they fall on different moments.
    for wait in (30..).step_by(97) {
        let mut running = sandbox.start(&["train", "run.toml", "--out", "r", "--resume"]);
        let began = std::time::Instant::now();
        if !running.wait_until(|_| began.elapsed() > Duration::from_millis(wait)) {
            running.wait().good();
            break;
        }
        running.signal(Signal::KILL);
        running.wait();
        sandbox.assert_no_process_left();
    }
    assert!(weights(&sandbox, "r") == whole, "other weights after kill -9 and --resume");
    let text = fs::read_to_string(sandbox.path("r/metrics.jsonl")).expect("metrics");
    let epochs: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a row"))
        .filter(|row| row["kind"] == "epoch")
        .map(|row| row["epoch"].as_u64().expect("a number"))
        .collect();
    assert_eq!(epochs, [1, 2, 3], "every epoch once");
}

/// A long run whose accelerator the test started itself, after its first epoch.
fn with_worker(sandbox: &Sandbox, flow: &str, settings: &str) -> (Running, Running) {
    let socket = sandbox.path("worker.sock");
    let address = format!("unix:{}", socket.display());
    let config =
        config(flow).replace("epochs = 3", "epochs = 30").replace("rank = 4", "rank = 4\nstage1_epochs = 0");
    sandbox.write("run.toml", &format!("{config}address = \"{address}\"\n{settings}\n"));
    let mut worker = sandbox.start_program("asymflow-worker", &["--listen", &address]);
    assert!(worker.wait_until(|_| socket.exists()), "{}", worker.stderr());
    let mut running = sandbox.start(&["train", "run.toml", "--out", "r", "--json"]);
    assert!(running.wait_until(has_done_an_epoch), "{}", running.stderr());
    (worker, running)
}

fn assert_accelerator_named(failed: &Finished) {
    assert_eq!(failed.code(), 1);
    let last = failed.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && last.contains("accelerator"), "{}", failed.stderr);
}

#[test]
fn a_dead_accelerator_is_an_error_with_its_name() {
    let sandbox = Sandbox::new();
    let (worker, running) = with_worker(&sandbox, "plain", "");
    worker.signal(Signal::KILL);
    worker.wait();
    assert_accelerator_named(&running.wait());
    sandbox.assert_no_process_left();
}

#[test]
fn a_hanging_accelerator_is_an_error_with_its_name() {
    let sandbox = Sandbox::new();
    let (worker, running) = with_worker(&sandbox, "delta", "timeout = 1.0");
    worker.signal(Signal::STOP);
    let failed = running.wait();
    worker.signal(Signal::KILL);
    worker.wait();
    assert_accelerator_named(&failed);
    sandbox.assert_no_process_left();
}

#[test]
fn without_its_accelerator_a_run_goes_on_if_asked_to() {
    let sandbox = Sandbox::new();
    let (worker, running) = with_worker(&sandbox, "delta", "on_failure = \"degrade\"");
    worker.signal(Signal::KILL);
    worker.wait();
    let trained = running.wait().good();
    assert!(trained.json()["degraded"].is_string(), "{}", trained.stdout);
    assert!(trained.stderr.contains("DEGRADED"), "{}", trained.stderr);
    sandbox.assert_no_process_left();
}

#[test]
fn an_absent_accelerator_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &format!("{}address = \"unix:nowhere.sock\"\n", tiny("plain")));
    let failed = sandbox.run(&["train", "run.toml", "--out", "r"]);
    assert_eq!(failed.code(), 1, "{}", failed.stderr);
    assert!(failed.stderr.contains("accelerator"), "{}", failed.stderr);
    sandbox.assert_no_process_left();
}
