//! Whole models against PyTorch: logits, loss, gradients and running statistics.

// A test fails by panicking; Clippy knows that of test functions only.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use asymflow_import::{Imported, onnx, weights};
use engine::{Executor, Pass};
use kernels::dropout::Dropout;
use kernels::softmax_cross_entropy::loss_and_gradient;
use kernels::{Mode, Op, Threads};
use model::{Graph, GraphBuilder, Parameters, zoo};
use serde_json::Value;
use tensor::Shape;
use tensor::compare::{Tolerance, assert_close};
use vectors::Tensors;

/// Logits of the same model in another order of additions, float32.
const LOGITS: Tolerance = Tolerance { relative: 1e-5, absolute: 1e-5 };
/// Gradients through twenty layers, float32. The absolute part is for those that are truly zero: the bias of a
/// convolution before batch norm, a sum of thousands of terms that cancel.
const GRADIENTS: Tolerance = Tolerance { relative: 5e-5, absolute: 5e-6 };
const STATISTICS: Tolerance = Tolerance { relative: 1e-5, absolute: 1e-7 };

const TRAIN: Mode = Mode::Train { seed: 1 };

/// One model of the index.
struct Case {
    name: String,
    folder: PathBuf,
    entry: Value,
    reference: Tensors,
}

fn cases() -> Vec<Case> {
    let Some(folder) = vectors::folder("models") else { return Vec::new() };
    let index = vectors::index(&folder.join("index.json"));
    let case = |(name, entry): (&String, &Value)| {
        let folder = folder.join(name);
        let reference = vectors::tensors(&folder.join("reference.safetensors"));
        Case { name: name.clone(), folder, entry: entry.clone(), reference }
    };
    index.as_object().unwrap().iter().map(case).collect()
}

impl Case {
    fn exports(&self) -> Vec<String> {
        let exports = self.entry["exports"].as_object().unwrap();
        exports.iter().filter(|(_, export)| export["ok"] == true).map(|(name, _)| name.clone()).collect()
    }

    fn import(&self, export: &str) -> Imported {
        let bytes = read(&self.folder.join(format!("{export}.onnx")));
        onnx::read(&bytes).unwrap_or_else(|e| panic!("{} {export}: {e}", self.name))
    }

    fn has_batch_norm(&self) -> bool {
        self.entry["state_dict"].as_object().unwrap().keys().any(|name| name.ends_with("running_mean"))
    }

    fn state_shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let state = self.entry["state_dict"].as_object().unwrap().iter();
        state.map(|(name, tensor)| (name.clone(), sizes(&tensor[1]))).collect()
    }

    /// The zoo's graph for this model, its widths read off the weights.
    fn zoo(&self) -> Option<Graph> {
        let (base, kind) = self.name.split_once('_')?;
        let base = base.replace("bn", "-bn");
        let architecture = if kind == "cifar" { format!("{base}-cifar") } else { base };
        let shapes = self.state_shapes();
        let dim = |name: &str, axis: usize| shapes.get(name).map(|shape| shape[axis]);
        let width = dim("conv1.weight", 0).or(dim("features.0.weight", 0))?;
        let pool = dim("classifier.0.weight", 1).map(|features| (features / (8 * width)).isqrt());
        let options = zoo::Options { width: Some(width), pool, hidden: dim("classifier.0.weight", 0) };
        let input = Shape::new(&sizes(&self.entry["input"])[1..]);
        let classes = self.entry["classes"].as_u64().unwrap() as usize;
        zoo::ARCHITECTURES
            .contains(&architecture.as_str())
            .then(|| zoo::build_with(&architecture, input, classes, options).unwrap())
    }
}

fn sizes(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The reference was computed with dropout off.
fn without_dropout(graph: &Graph) -> Graph {
    let mut builder = GraphBuilder::new(graph.name(), graph.input());
    for node in graph.nodes() {
        let op = match &node.op {
            Op::Dropout(_) => Op::from(Dropout { probability: 0.0 }),
            other => other.clone(),
        };
        builder.add(&*node.name, op, &node.inputs).unwrap();
    }
    builder.finish_at(graph.output()).unwrap()
}

fn logits(graph: &Graph, parameters: &Parameters, input: &[f32], mode: Mode) -> Vec<f32> {
    let records = input.len() / graph.input().len();
    let graph = without_dropout(graph);
    let mut executor = match mode {
        Mode::Train { .. } => Executor::for_training(graph, records),
        Mode::Eval => Executor::for_inference(graph, records),
    };
    executor.input_mut(records).copy_from_slice(input);
    executor.forward(&mut parameters.clone(), Pass { records, mode }, &Threads::new(1)).to_vec()
}

#[test]
fn vectors_models_logits_of_every_onnx_file() {
    for case in cases() {
        let input = case.reference.f32("input").1;
        for export in case.exports() {
            let Imported { graph, mut parameters, .. } = case.import(&export);
            let what = format!("{} {export}", case.name);
            if !export.starts_with("eval") {
                let train = logits(&graph, &parameters, &input, TRAIN);
                assert_close(&format!("{what} train"), &train, &case.reference.f32("logits_train").1, LOGITS);
                // Tracing a model in training mode moved the running statistics that ended up in the file.
                let state = read(&case.folder.join("state_dict.safetensors"));
                parameters.buffers = weights::read_safetensors(&state, &graph).unwrap().buffers;
            }
            let eval = logits(&graph, &parameters, &input, Mode::Eval);
            assert_close(&format!("{what} eval"), &eval, &case.reference.f32("logits_eval").1, LOGITS);
        }
    }
}

#[test]
fn vectors_models_fold_flags_and_names() {
    for case in cases() {
        let state = case.state_shapes();
        for export in case.exports() {
            let imported = case.import(&export);
            let folded = export.starts_with("eval") && case.has_batch_norm();
            let what = format!("{} {export}: {:?}", case.name, imported.warnings);
            assert_eq!((imported.batch_norm_folded, imported.trainable), (folded, !folded), "{what}");
            assert_eq!(imported.warnings.len(), usize::from(folded), "{what}");
            assert_eq!((imported.input_name.as_str(), imported.output_name.as_str()), ("input", "logits"));
            let specs = imported.graph.param_specs().into_iter().chain(imported.graph.buffer_specs());
            let found: BTreeMap<String, Vec<usize>> = specs.map(|(n, s)| (n, s.dims().to_vec())).collect();
            if folded {
                // Every kernel keeps its module's name; the biases are those of batch norm.
                let kernels = found.iter().filter(|(_, shape)| shape.len() == 4);
                assert!(kernels.clone().count() > 0, "{what}");
                kernels.for_each(|(name, shape)| assert_eq!(state.get(name), Some(shape), "{what} {name}"));
            } else {
                let floats = state.iter().filter(|(name, _)| !name.ends_with("num_batches_tracked"));
                let expected: BTreeMap<_, _> = floats.map(|(n, s)| (n.clone(), s.clone())).collect();
                assert_eq!(found, expected, "{what}");
            }
        }
    }
}

#[test]
fn vectors_models_training_step() {
    for case in cases() {
        let state = read(&case.folder.join("state_dict.safetensors"));
        let imported =
            case.exports().contains(&"train_legacy".to_owned()).then(|| case.import("train_legacy").graph);
        let graphs = [("train_legacy", imported), ("zoo", case.zoo())];
        assert!(graphs.iter().any(|(_, graph)| graph.is_some()), "{} has no trainable form", case.name);
        for (form, graph) in graphs.into_iter().filter_map(|(form, graph)| Some((form, graph?))) {
            let parameters = weights::read_safetensors(&state, &graph).unwrap();
            check_step(&case, &format!("{} {form}", case.name), &graph, parameters);
        }
    }
}

fn check_step(case: &Case, what: &str, graph: &Graph, mut parameters: Parameters) {
    let reference = |name: &str| case.reference.f32(name).1;
    let input = reference("input");
    assert_close(
        &format!("{what} eval"),
        &logits(graph, &parameters, &input, Mode::Eval),
        &reference("logits_eval"),
        LOGITS,
    );
    let labels: Vec<u32> = case.reference.i64("labels").1.into_iter().map(|l| l as u32).collect();
    let (records, threads) = (labels.len(), Threads::new(1));
    let pass = Pass { records, mode: TRAIN };
    let mut executor = Executor::for_training(without_dropout(graph), records);
    executor.input_mut(records).copy_from_slice(&input);
    let found = executor.forward(&mut parameters, pass, &threads).to_vec();
    assert_close(&format!("{what} train"), &found, &reference("logits_train"), LOGITS);
    let mut grad = vec![0.0; found.len()];
    let loss = loss_and_gradient(&found, &labels, graph.classes(), &mut grad);
    assert_close(&format!("{what} loss"), &[loss], &reference("loss_train"), LOGITS);
    let grad_input = executor.backward(&parameters, &grad, pass, true, &threads).unwrap().to_vec();
    assert_close(&format!("{what} grad_input"), &grad_input, &reference("grad_input"), GRADIENTS);
    for ((name, _), grad) in graph.param_specs().iter().zip(executor.grad_params()) {
        let expected = reference(&format!("grad.{name}"));
        assert_close(&format!("{what} grad.{name}"), grad.data(), &expected, GRADIENTS);
    }
    for ((name, _), after) in graph.buffer_specs().iter().zip(&parameters.buffers) {
        let expected = reference(&format!("after.{name}"));
        assert_close(&format!("{what} after.{name}"), after.data(), &expected, STATISTICS);
    }
}

#[test]
fn vectors_models_survive_export() {
    for case in cases() {
        for export in case.exports() {
            let Imported { graph, parameters, .. } = case.import(&export);
            let bytes = onnx::write(&graph, &parameters).unwrap();
            let again = onnx::read(&bytes).unwrap();
            assert_eq!((&again.graph, &again.parameters), (&graph, &parameters), "{} {export}", case.name);
        }
    }
}

#[test]
fn vectors_models_state_dict_round_trip() {
    for case in cases() {
        let Some(graph) = case.zoo() else { continue };
        let state = read(&case.folder.join("state_dict.safetensors"));
        let parameters = weights::read_safetensors(&state, &graph).unwrap();
        let part = weights::Part { prefix: "", graph: &graph, parameters: &parameters };
        let written = weights::write_safetensors(&[part]).unwrap();
        assert_eq!(weights::read_safetensors(&written, &graph), Ok(parameters));
        let path = std::env::temp_dir().join(format!(
            "asymflow-import-{}-{}.safetensors",
            case.name,
            std::process::id()
        ));
        std::fs::write(&path, written).unwrap();
        let names = vectors::tensors(&path).names();
        std::fs::remove_file(&path).unwrap();
        let original = vectors::tensors(&case.folder.join("state_dict.safetensors")).names();
        assert_eq!(names, original, "{}: every name of the state_dict, counters included", case.name);
    }
}

/// Damaged files are errors or other models, never panics.
#[test]
fn vectors_models_damaged_onnx_files() {
    let mut state = 20_240_901u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for case in cases() {
        for export in case.exports() {
            let bytes = read(&case.folder.join(format!("{export}.onnx")));
            for _ in 0..12 {
                let mut damaged = bytes.clone();
                for _ in 0..1 + next() % 4 {
                    // Structure sits in the first and last kilobytes; the middle is weights.
                    let at = if next() % 2 == 0 { next() % 6000 } else { bytes.len() - 1 - next() % 30_000 };
                    damaged[at] = next() as u8;
                }
                if next() % 4 == 0 {
                    damaged.truncate(next() % bytes.len());
                }
                if let Ok(imported) = onnx::read(&damaged) {
                    assert!(imported.parameters.fits(&imported.graph));
                }
            }
        }
    }
}
