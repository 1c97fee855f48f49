//! RUN.toml: what it may say, where it is wrong, and what it means.
//!
//! [`Loaded::parse`] is a pure function of the text. Defaults that depend on the data or the model are filled in later,
//! by [`crate::prepare`]; the result is written to the run directory and reads back as itself.

mod check;
mod error;
mod sections;
mod size;

use std::path::{Path, PathBuf};

pub use check::{FLOWS, check_untrained, parse_augment, parse_shape};
pub use error::{ConfigError, ConfigFault};
pub use sections::{
    Accelerator, Clip, Config, Data, Decomposition, Flow, Labels, Leak, Model, NamedRanks, Norm, Normalise,
    OnFailure, Optimiser, Privacy, Quantile, Ranks, Release, Schedule, Side, Train, Trusted,
};
pub use size::parse_size;

/// Settings of the papers' own runs; what RUN.toml says itself takes precedence.
const PRESETS: [(&str, &str); 2] = [
    ("paper-cifar", include_str!("paper-cifar.toml")),
    ("paper-imagenet", include_str!("paper-imagenet.toml")),
];

/// A configuration with the file it came from, so that later errors can still name file and line.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub file: PathBuf,
    text: String,
}

impl Loaded {
    /// Reads and checks a RUN.toml; relative paths become absolute, seen from the file's folder.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line and key.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let fault = |source| ConfigError::new(file, None, ConfigFault::Read(source));
        let text = std::fs::read_to_string(file).map_err(fault)?;
        let mut loaded = Self::parse(&text, file)?;
        let absolute = std::path::absolute(file).map_err(fault)?;
        loaded.config.anchor(absolute.parent().unwrap_or(Path::new("/")));
        Ok(loaded)
    }

    /// Parses and checks the text of a RUN.toml; `file` is only named in errors.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line and key.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let own: Config = toml::from_str(text).map_err(|e| ConfigError::from_toml(file, text, &e))?;
        let mut loaded = Loaded { config: own, file: file.to_path_buf(), text: text.to_owned() };
        if let Some(name) = loaded.config.flow.preset.clone() {
            loaded.config = loaded.with_preset(&name)?;
        }
        check::check(&loaded.config).map_err(|p| loaded.fault(p.key, p.problem))?;
        Ok(loaded)
    }

    /// A configuration that did not come from a file.
    pub fn built(config: Config) -> Self {
        Loaded { config, file: PathBuf::from("(defaults)"), text: String::new() }
    }

    /// An error about the value of `key`, such as `flow.rank`, with the line where it stands, if it does.
    pub fn fault(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        let line = error::line_of_key(&self.text, key);
        ConfigError::new(
            &self.file,
            line,
            ConfigFault::Value { key: key.to_owned(), problem: problem.into() },
        )
    }

    /// The same configuration for another flow, checked again.
    ///
    /// # Errors
    /// [`ConfigError`] where it lacks what that flow needs.
    pub fn with_flow(&self, kind: &str) -> Result<Self, ConfigError> {
        let mut other = self.clone();
        kind.clone_into(&mut other.config.flow.kind);
        check::check(&other.config).map_err(|p| other.fault(p.key, p.problem))?;
        Ok(other)
    }

    fn with_preset(&self, name: &str) -> Result<Config, ConfigError> {
        let known = PRESETS.iter().find(|(known, _)| *known == name);
        let (_, preset) = known.ok_or_else(|| {
            let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
            self.fault("flow.preset", error::unknown_value(name, &names))
        })?;
        let mut merged: toml::Table = toml::from_str(preset).expect("a preset is valid TOML (tested)");
        let own =
            toml::from_str(&self.text).map_err(|e| ConfigError::from_toml(&self.file, &self.text, &e))?;
        overlay(&mut merged, own);
        merged.try_into().map_err(|e: toml::de::Error| self.fault("flow.preset", e.message()))
    }
}

/// Puts every key of `own` over `base`.
fn overlay(base: &mut toml::Table, own: toml::Table) {
    for (key, value) in own {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => overlay(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
