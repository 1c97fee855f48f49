//! The `asymml` flow as a user meets it: pre-trained models from files, a trained run, a plan.

use std::path::{Path, PathBuf};

use asymflow_e2e::{Finished, Sandbox};
use serde_json::Value;

/// Largest difference of logits of both flows, as a share of the largest.
const BOUND: f64 = 1e-4;

fn picture(sandbox: &Sandbox) {
    let colour = |x: u32, y: u32| image::Rgb([(x * 6) as u8, (y * 5) as u8, (x * y / 9) as u8]);
    let picture = image::RgbImage::from_fn(70, 80, colour);
    picture.save(sandbox.path("picture.png")).expect("the folder can be written");
}

fn logits(finished: &Finished) -> Vec<f64> {
    let answer = finished.json();
    let logits = answer["predictions"][0]["logits"].as_array().expect("logits").clone();
    logits.iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// ONNX files of every exporter, in evaluation mode.
fn models() -> Vec<PathBuf> {
    let Some(folder) = vectors::folder("models") else { return Vec::new() };
    let mut found: Vec<PathBuf> = Vec::new();
    let mut look = |folder: &Path| {
        let files =
            std::fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("readable").path());
        found.extend(files.filter(|file| file.extension().is_some_and(|extension| extension == "onnx")));
    };
    for entry in std::fs::read_dir(&folder).expect("it is there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            look(&path);
        }
    }
    found.sort();
    found
}

#[test]
fn onnx_files_answer_as_in_the_enclave() {
    let sandbox = Sandbox::new();
    picture(&sandbox);
    let models = models();
    for model in &models {
        let model = model.to_str().expect("a path of ASCII");
        let whole = logits(&sandbox.run(&["infer", model, "picture.png", "--json"]).good());
        for ranks in ["--energy=0.8", "--ranks=authors"] {
            let split = ["infer", model, "picture.png", "--json", "--flow", "asymml", ranks];
            let split = logits(&sandbox.run(&[&split[..], &["--allow", "plain-residuals"]].concat()).good());
            let most = whole.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            let error =
                whole.iter().zip(&split).fold(0.0f64, |worst, (a, b)| worst.max((a - b).abs())) / most;
            println!("{model} {ranks}: {error:.1e}");
            assert!(error < BOUND, "{model} {ranks}: {error}");
        }
    }
    if vectors::folder("models").is_some_and(|folder| folder.join("vgg16_tv64").is_dir()) {
        assert!(models.len() > 5, "{models:?}");
    }
}

const TINY: &str = "[model]\narchitecture = \"cnn-small\"\n[data]\nformat = \"synthetic\"\ntrain_records = 96\n\
                    test_records = 32\n[train]\nepochs = 1\nbatch_size = 32\n[flow]\nkind = \"asymml\"\nenergy = 0.9\n\
                    calibration = 8\ndecomposition = \"shared\"\n";
const ALLOWED: &str =
    "[privacy]\nnoise = 0.0\nallow = [\"plain-residuals\", \"output-gradients\", \"weight-updates\"]\n";

#[test]
fn what_is_not_allowed_is_refused_and_named() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &format!("{TINY}[privacy]\nnoise = 0.0\n"));
    let refused = sandbox.run(&["train", "run.toml"]);
    assert_eq!(refused.status.code(), Some(1));
    for kind in ["plain-residuals", "output-gradients", "weight-updates"] {
        assert!(refused.stderr.contains(kind), "{}", refused.stderr);
    }
    let profiled = sandbox.run(&["train", "run.toml", "--profile"]);
    assert_eq!(profiled.status.code(), Some(2));
    assert!(profiled.stderr.contains("--profile cannot name split convolutions"), "{}", profiled.stderr);
    sandbox.write("run.toml", TINY);
    assert!(sandbox.run(&["train", "run.toml"]).stderr.contains("state `epsilon = …`, or `noise = 0.0`"));
}

#[test]
fn trained_evaluated_audited_and_planned() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &format!("{TINY}{ALLOWED}"));
    let report = sandbox.run(&["train", "run.toml", "--out", "r", "--json"]).good().json();
    assert_eq!((&report["flow"], &report["epsilon"]), (&"asymml".into(), &Value::Null));
    assert!(report["untrusted_busy"].as_f64().is_some_and(|busy| busy > 0.0), "{report}");
    assert!(report["accuracy_trusted_only"].is_f64(), "{report}");
    let evaluated = sandbox.run(&["evaluate", "r", "--json"]).good().json();
    assert_eq!(evaluated["accuracy"], report["accuracy"]);
    let audited = sandbox.run(&["audit", "r", "--json"]).good().json();
    assert_eq!(audited["consistent"], true, "{audited}");
    let kinds: Vec<&str> = audited["kinds"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|kind| kind["kind"].as_str())
        .collect();
    for kind in ["plain-residuals", "output-gradients", "weight-updates", "results"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    let untrained = sandbox.run(&["evaluate", "run.toml", "--json"]).good().json();
    assert!(untrained["accuracy"].is_f64() && untrained["epochs"] == 0, "{untrained}");
    let planned = sandbox.run(&["plan", "run.toml", "--json"]).good();
    assert!(
        planned.stderr.contains("energy that stays") && planned.stderr.contains('█'),
        "{}",
        planned.stderr
    );
    let plan = planned.json();
    let layers = plan["layers"].as_array().expect("a list");
    let split: Vec<&Value> = layers.iter().filter(|layer| layer["placement"] == "split").collect();
    for layer in &split {
        assert!(layer["energy"].as_f64().is_some_and(|energy| energy >= 0.9), "{layer}");
        assert!(layer["rank"].is_u64() && layer["method"] == "shared" && layer["cost"].is_f64(), "{layer}");
    }
    let costs = plan["energy_costs"].as_array().expect("a list");
    let cost = |i: usize| costs[i]["cost"].as_f64().expect("a number");
    // An estimate: a rank more may make a convolution's way another, and its estimate a little smaller.
    assert!((1..costs.len()).all(|i| cost(i) >= cost(i - 1) - 0.02), "more energy costs more: {costs:?}");
}

#[test]
fn with_noise_every_release_is_in_the_ledger() {
    let sandbox = Sandbox::new();
    let privacy =
        "[privacy]\nepsilon = 8.0\nclip = 0.05\nallow = [\"output-gradients\", \"weight-updates\"]\n";
    sandbox.write("run.toml", &format!("{TINY}{privacy}"));
    let report = sandbox.run(&["train", "run.toml", "--out", "r", "--json"]).good().json();
    let epsilon = report["epsilon"].as_f64().expect("a number");
    assert!(epsilon > 0.0 && epsilon < 8.0, "{epsilon}");
    let conditions = report["conditions"].to_string();
    assert!(
        conditions.contains("weights of that step") && conditions.contains("Batch statistics"),
        "{conditions}"
    );
    let audited = sandbox.run(&["audit", "r", "--json"]).good().json();
    assert_eq!(audited["consistent"], true, "{audited}");
    assert!((audited["epsilon"].as_f64().expect("a number") - epsilon).abs() < 1e-9);
    sandbox.run(&["evaluate", "r"]).good();
}
