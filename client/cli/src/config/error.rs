use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// Most edits between a wrong name and the one that is suggested for it.
const NEAR: usize = 3;

/// A RUN.toml that cannot be used: where, and why.
#[derive(Debug)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    pub fault: ConfigFault,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    #[error("cannot read the configuration: {0}")]
    Read(std::io::Error),
    #[error("{message}{}", quote(excerpt))]
    Syntax { message: String, excerpt: String },
    #[error("unknown key `{key}`{}", hint(nearest, known))]
    UnknownKey { key: String, nearest: Option<String>, known: Vec<String> },
    #[error("`{key}` is missing; every RUN.toml needs it")]
    Missing { key: String },
    #[error("{key}: {problem}")]
    Value { key: String, problem: String },
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.fault)
    }
}

impl ConfigError {
    pub(super) fn new(file: &Path, line: Option<usize>, fault: ConfigFault) -> Self {
        ConfigError { file: file.to_path_buf(), line, fault }
    }

    /// The same in our words: unknown keys and values get the nearest known one.
    pub(super) fn from_toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let line = error.span().map(|span| line_at(text, span.start));
        let message = error.message().trim();
        let excerpt = line.and_then(|n| text.lines().nth(n - 1)).unwrap_or_default().trim().to_owned();
        let fault = if message.starts_with("unknown field") {
            let (key, known) = named(message);
            ConfigFault::UnknownKey { nearest: nearest(&key, &known), key, known }
        } else if message.starts_with("missing field") {
            ConfigFault::Missing { key: named(message).0 }
        } else if message.starts_with("unknown variant") {
            let (found, known) = named(message);
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            ConfigFault::Syntax { message: unknown_value(&found, &known), excerpt }
        } else {
            ConfigFault::Syntax { message: message.lines().collect::<Vec<_>>().join("; "), excerpt }
        };
        // A missing field has the span of its whole section, which begins where nothing is wrong.
        let line = line.filter(|_| !matches!(fault, ConfigFault::Missing { .. }));
        ConfigError::new(file, line, fault)
    }
}

/// The line, counted from 1, where `section.key` stands; of the section, if the key is not there.
pub(super) fn line_of_key(text: &str, key: &str) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let (section, key) = key.split_once('.').unwrap_or((key, ""));
    let (name, value) = table.get_ref().iter().find(|(name, _)| name.get_ref().as_ref() == section)?;
    let inner = match value.get_ref() {
        DeValue::Table(inner) => inner.iter().find(|(name, _)| name.get_ref().as_ref() == key),
        _ => None,
    };
    let span = inner.map_or(name.span(), |(name, _)| name.span());
    Some(line_at(text, span.start))
}

/// `` `x` is not known; did you mean `y`? Known: … ``
pub(super) fn unknown_value(found: &str, known: &[&str]) -> String {
    let list: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
    let near = nearest(found, &list);
    format!("`{found}` is not known here{}", hint(&near, &list))
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&b| b == b'\n').count()
}

/// serde writes ``unknown field `x`, expected one of `a`, `b` ``: the first name, and the others.
fn named(message: &str) -> (String, Vec<String>) {
    let mut names = message.split('`').skip(1).step_by(2).map(str::to_owned);
    (names.next().unwrap_or_default(), names.collect())
}

fn nearest(name: &str, known: &[String]) -> Option<String> {
    let distance = |other: &String| strsim::damerau_levenshtein(&clipped(name), other);
    known.iter().filter(|other| distance(other) <= NEAR).min_by_key(|other| distance(other)).cloned()
}

fn clipped(name: &str) -> String {
    name.chars().take(64).collect()
}

fn hint(nearest: &Option<String>, known: &[String]) -> String {
    match nearest {
        Some(name) => format!("; did you mean `{name}`?"),
        None if known.is_empty() => String::new(),
        None => format!("; known: {}", known.join(", ")),
    }
}

fn quote(excerpt: &str) -> String {
    if excerpt.is_empty() { String::new() } else { format!(" in `{}`", clipped(excerpt)) }
}
