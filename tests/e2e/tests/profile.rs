//! `asymflow train --profile`: a table, and a trace whose spans are the graph's nodes.

use std::collections::HashSet;

use asymflow_e2e::{Sandbox, tiny};
use serde_json::Value;

/// A step spends most of its time in its spans, even on a busy machine.
const LEAST: f64 = 0.5;

#[test]
fn the_trace_holds_every_node_of_every_step() {
    for flow in ["enclave", "delta"] {
        let sandbox = Sandbox::new();
        sandbox.write("run.toml", &tiny(flow));
        let trained = sandbox.run(&["train", "run.toml", "--out", "run", "--profile=trace.json"]).good();
        assert!(trained.stderr.contains("trusted side, 18 steps of"), "{}", trained.stderr);
        assert!(trained.stderr.contains("conv2d"), "{}", trained.stderr);
        let text = std::fs::read_to_string(sandbox.path("trace.json")).expect("a trace");
        let trace: Value = serde_json::from_str(&text).expect("JSON");
        let events = trace["traceEvents"].as_array().expect("a list");

        let steps: Vec<&Value> = events.iter().filter(|event| event["cat"] == "step").collect();
        assert_eq!(steps.len(), 18, "3 epochs of 6 steps");
        for step in steps {
            let inside: Vec<&Value> = events.iter().filter(|event| within(event, step)).collect();
            let spent: f64 = inside.iter().map(|event| number(event, "dur")).sum();
            let whole = number(step, "dur");
            assert!(
                spent <= whole * 1.000_001 && spent > LEAST * whole,
                "{spent} of {whole} µs in {}",
                step["name"]
            );
        }
        let expected = expected(&sandbox, flow);
        let nodes = names(events, "forward", &expected);
        assert_eq!(nodes, expected, "{flow}");
        assert!(names(events, "backward", &expected).is_subset(&nodes));
        let released = events.iter().any(|event| event["cat"] == "release");
        assert_eq!(released, flow == "delta");
    }
}

fn number(event: &Value, field: &str) -> f64 {
    event[field].as_f64().unwrap_or_else(|| panic!("{field} is missing in {event}"))
}

fn within(event: &Value, step: &Value) -> bool {
    let (begin, end) = (number(step, "ts"), number(step, "ts") + number(step, "dur"));
    // Times are rounded.
    event["cat"] != "step"
        && number(event, "ts") >= begin - 0.01
        && number(event, "ts") + number(event, "dur") <= end + 0.01
}

/// The nodes that spans of a pass are of; a fused one is called after its parts, `layer1.0.bn1+relu1`, in the innermost
/// folder of the first that has one of the name.
fn names(events: &[Value], pass: &str, known: &HashSet<String>) -> HashSet<String> {
    let of_pass = events.iter().filter(|event| event["cat"] == pass);
    let parts = |event: &Value| {
        let name = event["name"].as_str().expect("a name").to_owned();
        let mut parts = name.split('+');
        let first = parts.next().unwrap_or_default().to_owned();
        let folders =
            || std::iter::successors(Some(first.as_str()), |name| Some(name.rsplit_once('.')?.0)).skip(1);
        let within = |part: &str| {
            let mut places = folders().map(|folder| format!("{folder}.{part}"));
            places.find(|place| known.contains(place)).unwrap_or_else(|| part.to_owned())
        };
        let rest: Vec<String> = parts.map(within).collect();
        std::iter::once(first.clone()).chain(rest).collect::<Vec<_>>()
    };
    of_pass.flat_map(parts).collect()
}

/// The nodes of the trusted graphs, as `plan` lists them.
fn expected(sandbox: &Sandbox, flow: &str) -> HashSet<String> {
    let plan = sandbox.run(&["plan", "run.toml", "--json"]).good().json();
    let layers = plan["layers"].as_array().expect("a list");
    let trusted = layers.iter().filter(|layer| match flow {
        "delta" => layer["part"] == "backbone" || layer["part"] == "main",
        _ => true,
    });
    let name = |layer: &Value| match flow {
        "delta" => {
            format!("{}.{}", layer["part"].as_str().expect("a part"), layer["name"].as_str().expect("a name"))
        }
        _ => layer["name"].as_str().expect("a name").to_owned(),
    };
    trusted.map(name).collect()
}
