//! Every command, from a new folder to a trained and exported model.

use asymflow_e2e::{Sandbox, tiny};

const FIELDS: [&str; 17] = [
    "flow",
    "model",
    "epochs",
    "accuracy",
    "accuracy_trusted_only",
    "loss",
    "images_per_second",
    "trusted_cpu_seconds_per_image",
    "untrusted_cpu_seconds_per_image",
    "bytes_out_per_image",
    "bytes_in_per_image",
    "peak_trusted_bytes",
    "resident_trusted_bytes",
    "epsilon",
    "delta",
    "not_covered",
    "seconds",
];

fn picture(sandbox: &Sandbox) {
    let picture = image::RgbImage::from_fn(40, 50, |x, y| image::Rgb([x as u8 * 6, y as u8 * 5, 90]));
    picture.save(sandbox.path("picture.png")).expect("the folder can be written");
}

#[test]
fn delta_from_configuration_to_export() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &tiny("delta"));
    let trained = sandbox.run(&["train", "run.toml", "--json"]).good();
    let report = trained.json();
    for field in FIELDS {
        assert!(!report[field].is_null(), "{field} is missing in {report}");
    }
    let epsilon = report["epsilon"].as_f64().expect("a number");
    assert!((epsilon - 8.0).abs() < 1e-6, "{epsilon}");
    assert!(report["not_covered"].as_array().is_some_and(|sentences| !sentences.is_empty()));
    assert!(trained.stderr.contains("trusted part alone"), "{}", trained.stderr);

    for file in ["config.toml", "metrics.jsonl", "ledger", "boundary.jsonl", "summary.json", "job.key"] {
        assert!(sandbox.path("runs/run-1").join(file).is_file(), "{file}");
    }
    let evaluated = sandbox.run(&["evaluate", "runs/run-1", "--json"]).good().json();
    for field in ["accuracy", "accuracy_trusted_only", "epsilon"] {
        assert_eq!(evaluated[field], report[field], "{field}");
    }
    picture(&sandbox);
    let inferred = sandbox.run(&["infer", "runs/run-1", "picture.png", "--json"]).good().json();
    assert_eq!((&inferred["flow"], &inferred["degraded"]), (&"delta".into(), &false.into()));
    let prediction = &inferred["predictions"][0];
    assert_eq!(prediction["logits"].as_array().map(Vec::len), Some(10));
    assert!(prediction["class"].is_string() && prediction["probability"].is_f64());

    sandbox.run(&["export", "runs/run-1", "--onnx", "m.onnx", "--safetensors", "m.safetensors"]).good();
    for file in ["m-backbone.onnx", "m-main.onnx", "m-residual.onnx", "m.safetensors"] {
        assert!(sandbox.path(file).is_file(), "{file}");
    }
    sandbox.assert_no_process_left();
}

/// The baseline with noise on the images: one message per record, and nothing of the trusted side's own.
#[test]
fn dp_input_from_configuration_to_audit() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &tiny("dp-input"));
    let plan = sandbox.run(&["plan", "run.toml", "--json"]).good().json();
    let release = &plan["releases"][0];
    assert_eq!((&release["kind"], &release["numbers"]), (&"noised-inputs".into(), &3072.into()), "{plan}");
    assert!(release["sigma"].as_f64().is_some_and(|sigma| sigma > 0.0), "{plan}");
    let report = sandbox.run(&["train", "run.toml", "--out", "r", "--json"]).good().json();
    let epsilon = report["epsilon"].as_f64().expect("a number");
    assert!(epsilon <= 8.0 && epsilon > 7.999, "{epsilon}");
    assert!(report["accuracy_trusted_only"].is_null(), "{report}");
    let evaluated = sandbox.run(&["evaluate", "r", "--json"]).good().json();
    assert_eq!((&evaluated["accuracy"], &evaluated["epsilon"]), (&report["accuracy"], &report["epsilon"]));
    picture(&sandbox);
    let inferred = sandbox.run(&["infer", "r", "picture.png", "--json"]).good().json();
    assert_eq!(inferred["flow"], "dp-input");
    let audited = sandbox.run(&["audit", "r", "--json"]).good().json();
    assert_eq!(audited["epsilon"], report["epsilon"]);
    let kinds = audited["kinds"].as_array().expect("a list");
    let noised = kinds.iter().find(|kind| kind["kind"] == "noised-inputs").expect("images left");
    // 192 and 64 in training, the 64 again for evaluation, and the picture.
    assert_eq!((&noised["records"], &noised["class"]), (&321.into(), &"noised+counted".into()), "{noised}");
    sandbox.run(&["export", "r", "--onnx", "m.onnx"]).good();
    sandbox.assert_no_process_left();
}

#[test]
fn an_exported_model_gives_the_same_logits() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &tiny("enclave"));
    let report = sandbox.run(&["train", "run.toml", "--out", "r", "--json"]).good().json();
    assert_eq!(report["bytes_out_per_image"].as_f64(), Some(0.0));
    picture(&sandbox);
    let own = sandbox.run(&["infer", "r", "picture.png", "--json"]).good().json();
    sandbox.run(&["export", "r", "--onnx", "m.onnx"]).good();
    let constants = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"];
    let arguments = [&["infer", "m.onnx", "picture.png", "--json"], constants.as_slice()].concat();
    let exported = sandbox.run(&arguments).good().json();
    let logits = |answer: &serde_json::Value| -> Vec<f64> {
        let logits = answer["predictions"][0]["logits"].as_array().expect("a list");
        logits.iter().map(|logit| logit.as_f64().expect("a number")).collect()
    };
    for (a, b) in logits(&own).iter().zip(logits(&exported)) {
        assert!((a - b).abs() <= 1e-4 * (1.0 + a.abs()), "{a} and {b}");
    }
    sandbox.assert_no_process_left();
}

#[test]
fn plan_adds_up() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &tiny("delta"));
    let plan = sandbox.run(&["plan", "run.toml", "--json"]).good().json();
    let layers = plan["layers"].as_array().expect("a list");
    for field in ["name", "op", "placement", "trusted_macs", "untrusted_macs", "bytes_out", "bytes_in"] {
        assert!(layers.iter().all(|layer| !layer[field].is_null()), "{field}");
    }
    for layer in layers {
        let field = if layer["placement"] == "trusted" { "untrusted_macs" } else { "trusted_macs" };
        assert_eq!(layer[field], 0, "{layer}");
    }
    let parts = plan["memory"].as_array().expect("a list").iter();
    let sum: u64 = parts.map(|part| part["bytes"].as_u64().expect("a number")).sum();
    assert_eq!(plan["peak_trusted_bytes"].as_u64(), Some(sum));
    assert!(!sandbox.path("runs").exists());
    sandbox.assert_no_process_left();
}

/// Memory of the enclave's program and libraries, and of a data set on its way in.
const PROGRAM: u64 = 24 << 20;

#[test]
fn a_run_keeps_to_its_plan_and_to_its_budget() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &tiny("delta"));
    let planned = sandbox.run(&["plan", "run.toml", "--json"]).good().json();
    let report = sandbox.run(&["train", "run.toml", "--json"]).good().json();
    assert_eq!(report["peak_trusted_bytes"], planned["peak_trusted_bytes"]);
    let number = |field: &str| report[field].as_u64().expect("a number");
    let (peak, resident) = (number("peak_trusted_bytes"), number("resident_trusted_bytes"));
    assert!(
        resident > 0 && resident <= peak + PROGRAM,
        "{resident} bytes are resident, the plan says {peak}"
    );
    sandbox.write("small.toml", &(tiny("delta") + "\n[trusted]\nmemory = \"2 MiB\"\n"));
    for command in ["plan", "train"] {
        let refused = sandbox.run(&[command, "small.toml"]);
        assert_eq!(refused.code(), 2, "{}", refused.stderr);
        assert!(refused.stderr.contains("[trusted] memory grants 2.0 MiB"), "{}", refused.stderr);
    }
    sandbox.assert_no_process_left();
}

#[test]
fn what_is_not_allowed_by_name_does_not_start() {
    let sandbox = Sandbox::new();
    for (flow, kind) in [("delta", "labels"), ("plain", "inputs")] {
        let config = tiny(flow);
        let allow = config.lines().find(|line| line.starts_with("allow")).expect("allows something");
        sandbox.write("run.toml", &config.replace(allow, ""));
        let refused = sandbox.run(&["train", "run.toml", "--out", "r"]);
        assert!([1, 2].contains(&refused.code()), "{}", refused.status);
        assert!(refused.stderr.contains(kind) && refused.stderr.contains("allow"), "{}", refused.stderr);
        assert!(!sandbox.path("r").exists(), "a refused run leaves nothing");
    }
    sandbox.assert_no_process_left();
}

#[test]
fn a_run_is_not_overwritten() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &tiny("enclave"));
    sandbox.run(&["train", "run.toml", "--out", "r"]).good();
    let again = sandbox.run(&["train", "run.toml", "--out", "r"]);
    assert_eq!(again.code(), 2);
    assert!(again.stderr.contains("--resume"), "{}", again.stderr);
    let resumed = sandbox.run(&["train", "run.toml", "--out", "r", "--resume", "--json"]).good();
    assert!(resumed.json()["accuracy"].is_f64());
}

/// No checkpoint saw the charge of an image, but the boundary log has its receipt.
#[test]
fn a_ledger_behind_what_left_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &tiny("delta"));
    sandbox.run(&["train", "run.toml", "--out", "r"]).good();
    picture(&sandbox);
    sandbox.run(&["infer", "r", "picture.png"]).good();
    let path = sandbox.path("r/ledger");
    let whole = std::fs::read(&path).expect("the ledger is there");
    let last = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').expect("several lines") + 1;
    for cut in [last, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).expect("it can be written");
        let refused = sandbox.run(&["infer", "r", "picture.png"]);
        assert_eq!(refused.code(), 1, "{}", refused.stderr);
        assert!(refused.stderr.contains("rolled back"), "{}", refused.stderr);
        assert_eq!(std::fs::read(&path).expect("left as it was").len(), cut);
    }
    std::fs::write(&path, &whole).expect("it can be written");
    sandbox.run(&["infer", "r", "picture.png"]).good();
}
