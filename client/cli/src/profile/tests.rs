use super::*;

fn profiler(file: &Path) -> Profiler {
    let graph = model::zoo::build("cnn-small", tensor::Shape::from([3, 32, 32]), 10).unwrap();
    let mut profiler = Profiler::new(file);
    profiler.add(Profile::Graphs(vec![("model".into(), graph)]));
    profiler
}

fn span(work: Work, begin: f64, end: f64) -> Span {
    Span { work, begin, end }
}

#[test]
fn rows_and_events_have_the_nodes_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.json");
    let mut profiler = profiler(&file);
    let forward = Work::Forward { part: 0, node: 0 };
    let spans = vec![span(forward, 10.25, 10.5), span(Work::Step, 10.0, 11.0)];
    for _ in 0..2 {
        profiler.add(Profile::Spans { step: Some(4), spans: spans.clone() });
    }
    profiler.add(Profile::Spans { step: None, spans: vec![span(Work::Release, 12.0, 14.0)] });
    let table = profiler.finish().unwrap();
    let name = profiler.parts[0].1.nodes()[0].name.clone();
    let row = table.lines().find(|line| line.starts_with(&name)).unwrap_or_else(|| panic!("{table}"));
    assert!(row.contains("forward") && row.contains("250.00 ms") && row.contains("25.0%"), "{row}");
    assert!(table.starts_with("trusted side, 2 steps of 1.0 s each"), "{table}");
    assert!(table.contains("everything else") && table.contains("75.0%"), "{table}");
    assert!(table.contains("release 2.0 s"), "{table}");

    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert_eq!((events.len(), &events[0]["name"]), (5, &name.as_str().into()));
    assert_eq!((events[0]["ts"].as_f64(), events[0]["dur"].as_f64()), (Some(250_000.0), Some(250_000.0)));
    assert_eq!((&events[3]["name"], &events[1]["ph"]), (&"step 2".into(), &"X".into()));
}

#[test]
fn costs_are_those_of_the_definition() {
    let profiler = profiler(Path::new("unused"));
    let graph = &profiler.parts[0].1;
    let sum = |work: fn(u32) -> Work| {
        let mut all = Cost::default();
        (0..graph.nodes().len()).for_each(|n| all += Cost::of(&profiler.parts, work(n as u32), 3));
        all
    };
    let forward = sum(|node| Work::Forward { part: 0, node });
    let backward = sum(|node| Work::Backward { part: 0, node });
    assert_eq!(forward.operations, 2.0 * 3.0 * graph.macs() as f64);
    // Two products for each of the forward pass, but for the input's gradient.
    let first = Cost::of(&profiler.parts, Work::Forward { part: 0, node: 0 }, 3);
    assert_eq!(backward.operations, 2.0 * forward.operations - first.operations);
    assert_eq!(backward.bytes, 2.0 * forward.bytes);
    assert_eq!(Cost::of(&profiler.parts, Work::Split, 3), Cost::default());
}
