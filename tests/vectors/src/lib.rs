//! Reads the reference vectors that `vectors_*` tests compare with.
//!
//! The folder is `ASYMFLOW_VECTORS`, or `../shared/vectors` beside the checkout. Without it a test runs on the small golden
//! set of `tests/golden`, or says in one line that it is skipped where there is none of its kind; with `CI=true` or
//! `ASYMFLOW_VECTORS` set, a missing folder is a failure.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The folder `name` of the reference vectors, or of the golden set the project carries; `None` where there is neither.
/// One line on standard error says so in both cases.
///
/// # Panics
/// If the folder is missing although `CI=true` or `ASYMFLOW_VECTORS` is set.
pub fn folder(name: &str) -> Option<PathBuf> {
    let stated = std::env::var_os("ASYMFLOW_VECTORS");
    let must = stated.is_some() || std::env::var("CI").is_ok_and(|ci| ci == "true");
    let root = stated.map_or_else(|| shared().join("vectors"), PathBuf::from);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden").join(name);
    if !must && !root.join(name).is_dir() && golden.is_dir() {
        eprintln!("the golden set only: no reference vectors at {}", root.join(name).display());
        return Some(golden);
    }
    present(root.join(name), must, "reference vectors")
}

/// The folder `name` of the real image data (`../shared/data`), under the same rule.
///
/// # Panics
/// If the folder is missing although `CI=true` is set.
pub fn data(name: &str) -> Option<PathBuf> {
    let must = std::env::var("CI").is_ok_and(|ci| ci == "true");
    present(shared().join("data").join(name), must, "image data")
}

fn shared() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared")
}

fn present(folder: PathBuf, must: bool, what: &str) -> Option<PathBuf> {
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(!must, "no {what} at {}", folder.display());
    eprintln!("skipped: no {what} at {}", folder.display());
    None
}

/// An index file.
///
/// # Panics
/// If it cannot be read or is not JSON.
pub fn index(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All tensors of a safetensors file.
pub struct Tensors {
    bytes: Vec<u8>,
    path: PathBuf,
}

/// Reads a safetensors file.
///
/// # Panics
/// If it cannot be read.
pub fn tensors(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Tensors { bytes, path: path.to_owned() }
}

impl Tensors {
    fn open(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.path.display()))
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.open().names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.open().tensor(name).is_ok()
    }

    /// Shape and values of a float32 (or float64, rounded) tensor.
    ///
    /// # Panics
    /// If it is missing or has another type.
    pub fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let open = self.open();
        let view = open.tensor(name).unwrap_or_else(|e| panic!("{}: {name}: {e}", self.path.display()));
        let values = match view.dtype() {
            Dtype::F32 => numbers(view.data(), f32::from_le_bytes),
            Dtype::F64 => numbers(view.data(), f64::from_le_bytes).into_iter().map(|x| x as f32).collect(),
            other => panic!("{}: {name} is {other:?}, not a float", self.path.display()),
        };
        (view.shape().to_vec(), values)
    }

    /// Shape and values of an int64 tensor.
    ///
    /// # Panics
    /// If it is missing or has another type.
    pub fn i64(&self, name: &str) -> (Vec<usize>, Vec<i64>) {
        let open = self.open();
        let view = open.tensor(name).unwrap_or_else(|e| panic!("{}: {name}: {e}", self.path.display()));
        assert_eq!(view.dtype(), Dtype::I64, "{}: {name}", self.path.display());
        (view.shape().to_vec(), numbers(view.data(), i64::from_le_bytes))
    }
}

fn numbers<const N: usize, T>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|c| from(c.try_into().expect("chunks_exact gives N bytes"))).collect()
}
