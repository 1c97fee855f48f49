//! `asymflow bench`: flows in turns, and nothing left of them.

use asymflow_e2e::{Running, Sandbox, tiny};
use rustix::process::Signal;
use serde_json::Value;

/// As in `tiny`, with records for few steps and what every flow asks for.
fn configuration() -> String {
    tiny("delta").replace("allow = [", "allow = [\"inputs\", ")
}

fn number(flow: &Value, field: &str) -> f64 {
    flow[field].as_f64().unwrap_or_else(|| panic!("{field} is missing in {flow}"))
}

#[test]
fn flows_are_measured_in_one_run() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &configuration().replace("train_records = 192", "train_records = 640"));
    let done = sandbox.run(&[
        "bench",
        "run.toml",
        "--flows",
        "enclave,delta,plain,dp-input",
        "--steps",
        "12",
        "--json",
    ]);
    let answer = done.good();
    let (json, table) = (answer.json(), &answer.stderr);
    assert_eq!((&json["model"], &json["threads"]), (&"cnn-small".into(), &1.into()));
    let flows = json["flows"].as_array().expect("a list");
    assert_eq!(
        flows.iter().map(|flow| &flow["flow"]).collect::<Vec<_>>(),
        ["enclave", "delta", "plain", "dp-input"]
    );
    for flow in flows {
        for field in
            ["trusted_cpu_seconds_per_image", "inference_trusted_cpu_seconds_per_image", "images_per_second"]
        {
            assert!(number(flow, field) > 0.0, "{field} in {flow}");
        }
        assert_eq!(flow["epochs"], 3, "those of RUN.toml");
    }
    let [enclave, delta, plain, noised] = [0, 1, 2, 3].map(|i| &flows[i]);
    assert!(
        number(plain, "trusted_cpu_seconds_per_image") < number(enclave, "trusted_cpu_seconds_per_image")
    );
    assert_eq!(
        (number(enclave, "bytes_out_per_image"), number(enclave, "untrusted_cpu_seconds_per_image")),
        (0.0, 0.0)
    );
    assert!(number(delta, "untrusted_cpu_seconds_per_image") > 0.0);
    assert!(number(delta, "release_trusted_cpu_seconds_per_record") > 0.0);
    for field in ["session_trusted_cpu_seconds", "inference_session_trusted_cpu_seconds"] {
        assert!(number(delta, field) > 0.0 && number(enclave, field) == 0.0, "{field}");
    }
    assert!(number(noised, "release_trusted_cpu_seconds_per_record") > 0.0);
    assert!((number(noised, "epsilon") - 8.0).abs() < 1e-3, "{noised}");
    assert_eq!(delta["stages"].as_array().map(Vec::len), Some(2));
    assert!((number(delta, "epsilon") - 8.0).abs() < 1e-6, "no rule is relaxed");
    assert!(table.contains("training, trusted time per image"), "{table}");
    assert!(!sandbox.path("runs").exists(), "nothing is kept");
    sandbox.assert_no_process_left();
}

#[test]
fn what_a_flow_lacks_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("run.toml", &configuration());
    for (file, arguments, expected) in [
        ("few", vec!["--flows", "enclave"], "lower --steps or train.batch_size"),
        ("few", vec!["--flows", "enclave,enclave"], "--flows names a flow twice"),
        ("few", vec!["--flows", "enclave", "--steps", "0"], "--steps must be at least 1"),
        ("few", vec!["--flows", "enclave,delto"], "flow.kind"),
        ("secret", vec!["--flows", "enclave,delta", "--steps", "4"], "privacy.epsilon"),
        ("remote", vec!["--flows", "plain,delta"], "one accelerator for 2 flows"),
    ] {
        let text = match file {
            "secret" => {
                configuration().replace("epsilon = 8.0", "").replace("kind = \"delta\"", "kind = \"enclave\"")
            }
            "remote" => configuration() + "address = \"unix:socket\"\n",
            _ => configuration(),
        };
        sandbox.write("run.toml", &text);
        let failed = sandbox.run(&[&["bench", "run.toml"], arguments.as_slice()].concat());
        let said = expected.replace("privacy.epsilon", "state `epsilon");
        assert!(failed.code() == 2 && failed.stderr.contains(&said), "{}: {}", failed.status, failed.stderr);
    }
}

/// Flows that wait for their turn are halted: even so they end with the command.
#[test]
fn nothing_outlives_a_signal() {
    for signal in [Signal::INT, Signal::KILL] {
        let sandbox = Sandbox::new();
        sandbox.write("run.toml", &configuration().replace("train_records = 192", "train_records = 6400"));
        let mut running = sandbox.start(&["bench", "run.toml", "--flows", "enclave,delta", "--steps", "150"]);
        assert!(
            running.wait_until(|running: &Running| running.stderr().contains("turn 3")),
            "{}",
            running.stderr()
        );
        running.signal(signal);
        assert!(!running.wait().status.success());
        sandbox.assert_no_process_left();
    }
}
