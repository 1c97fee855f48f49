//! Picks the golden set that the project carries from the full reference vectors: `cargo xtask golden`.
//!
//! Only cases with random inputs are taken: layers, optimisers, privacy tables. Cases that come from pictures (models,
//! decompositions) stay outside the repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

/// Largest case that is taken, in elements over all its tensors.
const LARGEST_CASE: u64 = 2_000;
/// Of each table of numbers, every so many rows are taken.
const ROW_STRIDE: usize = 7;

fn main() {
    let from = asymflow_vectors::folder("layers").expect("the full reference vectors are there");
    let from = from.parent().expect("layers is a folder of the set").to_owned();
    let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden");
    layers(&from.join("layers"), &to.join("layers"));
    optim(&from.join("optim"), &to.join("optim"));
    privacy(&from.join("privacy"), &to.join("privacy"));
}

fn layers(from: &Path, to: &Path) {
    let index = asymflow_vectors::index(&from.join("index.json"));
    let mut kept = serde_json::Map::new();
    for (family, cases) in index.as_object().expect("families") {
        let small = |case: &&Value| elements(case) <= LARGEST_CASE;
        let cases: Vec<Value> = cases.as_array().expect("cases").iter().filter(small).cloned().collect();
        let names: BTreeSet<&str> = cases.iter().map(|c| c["case"].as_str().expect("a name")).collect();
        let file = format!("{family}.safetensors");
        copy_tensors(&from.join(&file), &to.join(&file), |tensor| {
            names.contains(tensor.split('/').next().expect("a case before the tensor"))
        });
        kept.insert(family.clone(), cases.into());
    }
    write(&to.join("index.json"), &Value::Object(kept));
}

fn elements(case: &Value) -> u64 {
    let tensors = case["tensors"].as_object().expect("tensors").values();
    let shape =
        |t: &Value| t[1].as_array().expect("a shape").iter().filter_map(Value::as_u64).product::<u64>();
    tensors.map(shape).sum()
}

fn optim(from: &Path, to: &Path) {
    write(&to.join("optim.json"), &asymflow_vectors::index(&from.join("optim.json")));
    copy_tensors(&from.join("optim.safetensors"), &to.join("optim.safetensors"), |_| true);
}

fn privacy(from: &Path, to: &Path) {
    let mut tables = asymflow_vectors::index(&from.join("privacy.json"));
    for table in tables.as_object_mut().expect("tables").values_mut() {
        for rows in
            table.as_object_mut().into_iter().flat_map(|t| t.values_mut()).filter_map(Value::as_array_mut)
        {
            if rows.iter().all(Value::is_object) {
                let every = |(i, row): (usize, &Value)| (i % ROW_STRIDE == 0).then(|| row.clone());
                *rows = rows.iter().enumerate().filter_map(every).collect();
            }
        }
    }
    write(&to.join("privacy.json"), &tables);
}

fn copy_tensors(from: &Path, to: &Path, keep: impl Fn(&str) -> bool) {
    let bytes = fs::read(from).expect("the reference file is readable");
    let all = SafeTensors::deserialize(&bytes).expect("the reference file is whole");
    let kept: Vec<(String, TensorView<'_>)> =
        all.tensors().into_iter().filter(|(name, _)| keep(name)).collect();
    create_parent(to);
    safetensors::serialize_to_file(kept, None, to).expect("the golden folder is writable");
}

fn write(path: &Path, value: &Value) {
    create_parent(path);
    let mut text = serde_json::to_string(value).expect("JSON is JSON");
    text.push('\n');
    fs::write(path, text).expect("the golden folder is writable");
}

fn create_parent(path: &Path) {
    fs::create_dir_all(path.parent().map_or_else(PathBuf::new, Path::to_owned))
        .expect("the folder can be made");
}
