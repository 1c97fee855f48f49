//! `asymflow audit`: consistent after everything that is done with a run, and not after any file of it was changed.

use std::fs;

use asymflow_e2e::{Finished, Sandbox, tiny};
use rustix::process::Signal;
use serde_json::Value;

const FIELDS: [&str; 7] =
    ["epsilon", "delta", "epsilon_zero_record", "kinds", "not_covered", "conditions", "consistent"];

/// A finished run `r` of this flow.
fn trained(flow: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &tiny(flow));
    sandbox.run(&["train", "run.toml", "--out", "r"]).good();
    sandbox
}

fn audit(sandbox: &Sandbox) -> Finished {
    sandbox.run(&["audit", "r", "--json"])
}

/// The audit of a run whose files agree.
fn consistent(sandbox: &Sandbox) -> Value {
    let report = audit(sandbox).good().json();
    assert_eq!((&report["consistent"], &report["disagreements"]), (&true.into(), &Value::Array(vec![])));
    report
}

fn kind<'a>(report: &'a Value, name: &str) -> &'a Value {
    let kinds = report["kinds"].as_array().expect("a list");
    kinds.iter().find(|kind| kind["kind"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

fn text(sandbox: &Sandbox, file: &str) -> String {
    fs::read_to_string(sandbox.path("r").join(file)).expect("a file of the run")
}

fn picture(sandbox: &Sandbox, name: &str) -> (u32, u32) {
    image::image_dimensions(sandbox.path(name)).expect("a picture")
}

#[test]
fn what_a_run_states_is_what_its_files_amount_to() {
    let sandbox = trained("delta");
    let summary: Value = serde_json::from_str(&text(&sandbox, "summary.json")).expect("JSON");
    let report = consistent(&sandbox);
    for field in FIELDS {
        assert!(!report[field].is_null(), "{field} is missing in {report}");
    }
    assert_eq!((&report["epsilon"], &report["delta"]), (&summary["epsilon"], &summary["delta"]));
    let bits = kind(&report, "residual-bits");
    assert_eq!(
        (bits["class"].as_str(), bits["bytes"].as_u64()),
        (Some("noised+counted"), Some(2 * (192 + 64)))
    );
    assert_eq!(bits["epsilon"], report["epsilon"]);
    let labels = kind(&report, "labels");
    assert_eq!((labels["class"].as_str(), labels["epsilon"].is_null()), (Some("UNPROTECTED"), true));
    let sentences = |field: &str| report[field].to_string();
    assert!(sentences("not_covered").contains("UNPROTECTED labels"), "{report}");
    for condition in ["backbone is trained on the same", "job.key", "Rollback protection: none"] {
        assert!(sentences("conditions").contains(condition), "{condition}: {report}");
    }
    let bound = report["mechanisms"][0]["information_bits"].as_f64().expect("a number");
    assert!((0.4..0.6).contains(&bound), "about half a bit at ε = 8: {bound}");

    // Evaluation and inference go on writing to the same files; so does an interrupted command that goes on.
    sandbox.run(&["evaluate", "r"]).good();
    let drawn =
        sandbox.run(&["audit", "r", "--json", "--paper", "--images", "3", "--images-dir", "shown"]).good();
    // Images of 32×32, four times as large; bits of 4×4 fill as much.
    assert_eq!(picture(&sandbox, "shown/audit-images.png"), (4 * 134 + 6, 3 * 134 + 6));
    assert!(drawn.stderr.contains("NOT A GUARANTEE"), "{}", drawn.stderr);
    assert!(!drawn.stderr.contains("nothing was released"), "{}", drawn.stderr);
    let paper = drawn.json()["mechanisms"][0]["epsilon_of_the_papers_not_a_guarantee"].as_f64();
    assert!(paper.is_some_and(|epsilon| epsilon > 0.0), "{paper:?}");
    let shown = "shown/audit-images.png";
    sandbox.run(&["infer", "r", shown, shown]).good();
    sandbox.run(&["train", "run.toml", "--out", "r", "--resume"]).good();
    let later = consistent(&sandbox);
    assert_eq!(later["epsilon"], report["epsilon"]);
    assert_eq!(later["datasets"].as_array().map(Vec::len), Some(3), "training, test, inference: {later}");
    sandbox.assert_no_process_left();
}

/// What is changed in a file, and what the audit says of it.
type Forgery = (&'static str, fn(&str) -> String, &'static str);

const FORGERIES: [Forgery; 14] = [
    ("ledger", |text| text.replacen("\"view\":0", "\"view\":1", 1), "ledger line 1 was altered"),
    ("ledger", |text| text.lines().rev().map(|line| format!("{line}\n")).collect(), "ledger line 1"),
    ("ledger", |text| format!("{}\n", first_line(text)), "names entry 1, which the ledger does not have"),
    ("ledger", |_| String::new(), "restore the file `ledger`"),
    ("boundary.jsonl", |text| text.replacen("\"bytes\":384", "\"bytes\":385", 1), "boundary.jsonl line 3"),
    (
        "boundary.jsonl",
        |text| text.lines().skip(1).map(|line| format!("{line}\n")).collect(),
        "line 1 is entry 1",
    ),
    (
        "boundary.jsonl",
        |text| text.lines().take(3).map(|line| format!("{line}\n")).collect(),
        "lines are missing",
    ),
    ("boundary.jsonl", |_| String::new(), "boundary.jsonl is missing or empty"),
    ("summary.json", |text| replace_value(text, "epsilon", "1.5"), "summary.json: `epsilon` claims 1.5"),
    (
        "summary.json",
        |text| text.replace("UNPROTECTED labels: True labels.", "Nothing."),
        "does not list labels",
    ),
    ("summary.json", |_| "{".to_owned(), "summary.json: "),
    (
        "config.toml",
        |text| text.replace("epsilon = 8.0", "epsilon = 4.0"),
        "config.toml: `epsilon` in [privacy]",
    ),
    (
        "config.toml",
        |text| text.replace("allow = [\"labels\"]", "allow = []"),
        "config.toml does not name it",
    ),
    ("config.toml", |text| text.replace("epsilon = 8.0", "epsilon = -8.0"), "config.toml"),
];

fn first_line(text: &str) -> &str {
    text.lines().next().expect("a line")
}

/// Replaces the value of a top-level key in indented JSON.
fn replace_value(text: &str, key: &str, value: &str) -> String {
    let start = format!("  \"{key}\": ");
    let line = |line: &str| {
        if line.starts_with(&start) { format!("{start}{value},\n") } else { format!("{line}\n") }
    };
    text.lines().map(line).collect()
}

#[test]
fn any_file_that_was_changed_is_named() {
    let sandbox = trained("delta");
    consistent(&sandbox);
    for (file, forge, expected) in FORGERIES {
        let (path, good) = (sandbox.path("r").join(file), text(&sandbox, file));
        let forged = forge(&good);
        assert_ne!(forged, good, "{file}: nothing was changed");
        fs::write(&path, forged).expect("writable");
        let found = audit(&sandbox);
        assert_eq!(found.code(), 1, "{file}, {expected}: {}", found.stderr);
        assert!(found.stderr.contains(expected), "{file}, {expected}: {}", found.stderr);
        fs::write(&path, good).expect("writable");
    }
    for file in ["ledger", "boundary.jsonl"] {
        let (path, kept) = (sandbox.path("r").join(file), sandbox.path("kept"));
        fs::rename(&path, &kept).expect("there");
        let found = sandbox.run(&["audit", "r", "--json", "--images", "1"]);
        assert_eq!((found.code(), &found.json()["consistent"]), (1, &false.into()), "{}", found.stderr);
        assert!(found.stderr.contains(file) && found.stderr.contains("no picture"), "{}", found.stderr);
        fs::rename(&kept, &path).expect("there");
    }
    consistent(&sandbox);
}

#[test]
fn flows_without_a_ledger_are_what_they_are() {
    let enclave = trained("enclave");
    let report = consistent(&enclave);
    assert_eq!((report["epsilon"].as_f64(), report["kinds"].as_array().map(Vec::len)), (Some(0.0), Some(0)));
    let refused = enclave.run(&["audit", "r", "--images", "1"]);
    assert_eq!(refused.code(), 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("splits nothing"), "{}", refused.stderr);

    let plain = trained("plain");
    let report = consistent(&plain);
    assert!(report["epsilon"].is_null(), "{report}");
    for name in ["inputs", "labels"] {
        assert!(report["not_covered"].to_string().contains(&format!("UNPROTECTED {name}")), "{report}");
    }
    assert!(audit(&plain).stderr.contains("NO GUARANTEE"));
}

#[test]
fn without_noise_nothing_is_guaranteed_and_the_signs_are_shown() {
    let sandbox = Sandbox::new();
    let noiseless = tiny("delta").replace("epsilon = 8.0", "noise = 0.0");
    sandbox.write("run.toml", &noiseless.replace("[\"labels\"]", "[\"labels\", \"plain-residuals\"]"));
    sandbox.run(&["train", "run.toml", "--out", "r"]).good();
    let found = sandbox.run(&["audit", "r", "--json", "--images", "2"]).good();
    assert!(
        found.json()["epsilon"].is_null() && !found.stderr.contains("nothing was released"),
        "{}",
        found.stderr
    );
    assert_eq!(kind(&found.json(), "plain-residuals")["class"], "UNPROTECTED");
    assert_eq!(picture(&sandbox, "r/audit-images.png"), (4 * 134 + 6, 2 * 134 + 6));
}

/// Every way in which records and labels may leave under a guarantee.
#[test]
fn every_release_policy_is_consistent() {
    for (more, kinds) in [
        ("labels = \"randomised\"\nlabel_epsilon = 2.0\nviews = 2", ["residual-bits", "randomised-labels"]),
        ("labels = \"withheld\"\nlabel_epsilon = 4.0", ["residual-bits", "logit-gradients"]),
        (
            "release = \"per-step\"\nclip = { quantile = 0.5, epsilon = 0.5 }\nallow = [\"labels\"]",
            ["residual-bits", "labels"],
        ),
    ] {
        let sandbox = Sandbox::new();
        sandbox.write("run.toml", &tiny("delta").replace("allow = [\"labels\"]", more));
        sandbox.run(&["train", "run.toml", "--out", "r"]).good();
        let shown = sandbox.run(&["audit", "r", "--json", "--images", "2"]).good();
        assert!(!shown.stderr.contains("nothing was released"), "{more}: {}", shown.stderr);
        let report = shown.json();
        let epsilon = report["epsilon"].as_f64().expect("a number");
        assert!(epsilon > 7.9 && epsilon <= 8.0, "{more}: {epsilon}");
        for name in kinds {
            let found = kind(&report, name);
            let own = found["epsilon"].as_f64();
            assert!(name == "labels" || own.is_some_and(|own| own > 0.0 && own < epsilon), "{more}: {found}");
        }
        sandbox.run(&["evaluate", "r"]).good();
        assert_eq!(consistent(&sandbox)["epsilon"], report["epsilon"], "{more}");
    }
}

#[test]
fn a_killed_run_is_consistent_before_and_after_it_goes_on() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &tiny("delta").replace("epochs = 3", "epochs = 12\ncheckpoint_steps = 4"));
    let mut running = sandbox.start(&["train", "run.toml", "--out", "r"]);
    // Epoch 5 is the first of stage 2: messages have left.
    assert!(running.wait_until(|running| running.stderr().contains("epoch 5/")), "{}", running.stderr());
    running.signal(Signal::KILL);
    running.wait();
    sandbox.assert_no_process_left();
    let report = consistent(&sandbox);
    assert!(report["notes"].to_string().contains("no summary.json"), "{report}");
    let epsilon = report["epsilon"].as_f64().expect("a number");
    assert!((epsilon - 8.0).abs() < 1e-6, "{epsilon}");
    sandbox.run(&["train", "run.toml", "--out", "r", "--resume"]).good();
    let report = consistent(&sandbox);
    // Sent again after the restart, charged once.
    assert_eq!(kind(&report, "residual-bits")["bytes"], 2 * 2 * (192 + 64));
    assert_eq!(report["ledger_entries"], 2);
}
