//! What the operating system sees of the trusted process is what was planned, the program itself apart.

use asymflow_e2e::{Sandbox, tiny};

/// The program with its libraries, its stacks, and pieces of memory that are too small to give back.
const PROGRAM: u64 = 16 << 20;

/// A model whose states are much larger than that: with one of them too many, this fails.
#[test]
fn resident_memory_is_within_the_plan() {
    let text = tiny("delta")
        .replace("cnn-small", "resnet18-cifar")
        .replace("train_records = 192", "train_records = 16")
        .replace("test_records = 64", "test_records = 8")
        .replace("batch_size = 32", "batch_size = 8");
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &text);
    let summary = sandbox.run(&["train", "run.toml", "--out", "run", "--json"]).good().json();
    within(&summary);
    within(&sandbox.run(&["evaluate", "run", "--json"]).good().json());
}

fn within(summary: &serde_json::Value) {
    let bytes = |field: &str| summary[field].as_u64().unwrap_or_else(|| panic!("no {field} in {summary}"));
    let (planned, resident) = (bytes("peak_trusted_bytes"), bytes("resident_trusted_bytes"));
    assert!(resident <= planned + PROGRAM, "{resident} bytes were resident, the plan says {planned}");
}
