//! Model files, in and out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use import::weights;
use model::{Graph, Norm, Parameters};

use crate::prepare::Model;

/// One trained graph of a run.
pub struct Part {
    pub name: String,
    pub graph: Graph,
    pub parameters: Parameters,
}

/// A model of an ONNX file, and what its user should know.
///
/// # Errors
/// If the file cannot be read, or a node is not supported.
pub fn read_onnx(path: &Path) -> Result<(Model, Vec<String>)> {
    let about = || path.display().to_string();
    let bytes = fs::read(path).with_context(about)?;
    let imported = import::onnx::read(&bytes).with_context(about)?;
    let warning = |text: String| format!("{}: {text}", path.display());
    let warnings = imported.warnings.into_iter().map(warning).collect();
    Ok((Model { graph: imported.graph, parameters: imported.parameters }, warnings))
}

/// The model with its parameters replaced by those of a safetensors file.
///
/// # Errors
/// If the file cannot be read, or a tensor is missing or misshapen.
pub fn with_weights(model: Model, path: &Path) -> Result<Model> {
    let about = || path.display().to_string();
    let bytes = fs::read(path).with_context(about)?;
    let parameters = weights::read_safetensors(&bytes, &model.graph).with_context(about)?;
    Ok(Model { parameters, ..model })
}

/// The model with another norm in the place of batch norm, and the parameters of a safetensors file, if there is one: that of
/// the model with batch norm, or with the norm.
///
/// # Errors
/// As [`with_weights`].
pub fn with_norm(model: Model, norm: Norm, weights: Option<&Path>) -> Result<Model> {
    let convert = |model: Model| {
        let (graph, parameters) = norm.convert(&model.graph, model.parameters)?;
        anyhow::Ok(Model { graph, parameters })
    };
    let Some(path) = weights else { return convert(model) };
    let bare = Model { graph: model.graph.clone(), parameters: model.parameters.clone() };
    match with_weights(model, path) {
        Ok(model) => convert(model),
        // Trained with group norm, which has no running statistics.
        Err(error) if norm == Norm::Group => with_weights(convert(bare)?, path).map_err(|_| error),
        Err(error) => Err(error),
    }
}

/// Writes every part as ONNX, several as `FILE-PART.onnx`; returns the files.
///
/// # Errors
/// If a file cannot be written.
pub fn write_onnx(parts: &[Part], path: &Path) -> Result<Vec<PathBuf>> {
    let write_one = |part: &Part| {
        let path = if parts.len() == 1 { path.to_path_buf() } else { with_part(path, &part.name) };
        let bytes = import::onnx::write(&part.graph, &part.parameters)?;
        write(&path, &bytes)?;
        Ok(path)
    };
    parts.iter().map(write_one).collect()
}

/// Writes all parts as one safetensors file; of several parts, names begin with that of the part.
///
/// # Errors
/// If the file cannot be written.
pub fn write_safetensors(parts: &[Part], path: &Path) -> Result<()> {
    let prefix = |part: &Part| if parts.len() == 1 { String::new() } else { format!("{}.", part.name) };
    let prefixes: Vec<String> = parts.iter().map(prefix).collect();
    let named = parts.iter().zip(&prefixes);
    let parts: Vec<weights::Part<'_>> = named
        .map(|(part, prefix)| weights::Part { prefix, graph: &part.graph, parameters: &part.parameters })
        .collect();
    write(path, &weights::write_safetensors(&parts)?)
}

/// `model.onnx` and `main` give `model-main.onnx`.
fn with_part(path: &Path, part: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}-{part}{extension}"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use model::zoo;

    use super::*;

    fn part(name: &str, seed: u64) -> Part {
        let graph = zoo::build("cnn-small", [1, 8, 8].into(), 3).unwrap();
        Part { name: name.into(), parameters: Parameters::init(&graph, seed), graph }
    }

    #[test]
    fn one_part_keeps_pytorchs_names_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let (weights, onnx) = (folder.path().join("m.safetensors"), folder.path().join("m.onnx"));
        let trained = part("model", 1);
        write_safetensors(std::slice::from_ref(&trained), &weights).unwrap();
        let fresh = Model { parameters: part("", 2).parameters, graph: part("", 2).graph };
        assert_eq!(with_weights(fresh, &weights).unwrap().parameters, trained.parameters);
        assert_eq!(write_onnx(std::slice::from_ref(&trained), &onnx).unwrap(), std::slice::from_ref(&onnx));
        assert_eq!(read_onnx(&onnx).unwrap().0.parameters, trained.parameters);
    }

    /// Weights of the model with batch norm and with group norm both fit a model with group norm, and stay themselves.
    #[test]
    fn weights_of_both_norms_fit() {
        let folder = tempfile::tempdir().unwrap();
        let [batch, group] = ["batch", "group"].map(|name| folder.path().join(format!("{name}.safetensors")));
        let build = |seed| {
            let graph = zoo::build("resnet20", [3, 32, 32].into(), 10).unwrap();
            Model { parameters: Parameters::init(&graph, seed), graph }
        };
        let part =
            |model: Model| [Part { name: "model".into(), graph: model.graph, parameters: model.parameters }];
        write_safetensors(&part(build(1)), &batch).unwrap();
        let converted = with_norm(build(1), Norm::Group, None).unwrap();
        let expected = converted.parameters.clone();
        let onnx = folder.path().join("group.onnx");
        let converted = part(converted);
        write_safetensors(&converted, &group).unwrap();
        write_onnx(&converted, &onnx).unwrap();
        let read = read_onnx(&onnx).unwrap().0;
        assert_eq!((read.graph, read.parameters), (converted[0].graph.clone(), expected.clone()));
        for path in [&batch, &group] {
            assert_eq!(with_norm(build(2), Norm::Group, Some(path)).unwrap().parameters, expected);
        }
        assert!(with_norm(build(2), Norm::Batch, Some(&batch)).is_ok());
        let error = format!("{:#}", with_norm(build(2), Norm::Frozen, Some(&group)).err().unwrap());
        assert!(error.contains("running_mean") && error.contains("group.safetensors"), "{error}");
    }

    #[test]
    fn several_parts_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let parts = [part("backbone", 1), part("main", 2)];
        let files = write_onnx(&parts, &folder.path().join("m.onnx")).unwrap();
        assert_eq!(files, ["m-backbone.onnx", "m-main.onnx"].map(|name| folder.path().join(name)));
        let path = folder.path().join("m.safetensors");
        write_safetensors(&parts, &path).unwrap();
        let bytes = fs::read(path).unwrap();
        let main = weights::read_safetensors_part(&bytes, &parts[1].graph, "main.").unwrap();
        assert_eq!(main, parts[1].parameters);
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.onnx");
        fs::write(&path, b"not a model").unwrap();
        for error in
            [read_onnx(&path).err().unwrap(), read_onnx(&folder.path().join("none.onnx")).err().unwrap()]
        {
            assert!(format!("{error:#}").contains(".onnx: "), "{error:#}");
        }
    }
}
