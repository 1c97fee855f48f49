//! `trusted/tcb.txt`: the reviewed list of every crate that makes up the enclave.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

const FILE: &str = "trusted/tcb.txt";
const HEADER: &str = "\
# Every crate linked into the enclave on x86-64 Linux, or whose macros write code of it. A change here is a change of
# what must be trusted: review it.
# Written by `cargo xtask tcb`, compared by `cargo xtask check`.
";

/// Writes the list.
pub(crate) fn write(root: &Path) -> Result<()> {
    let path = root.join(FILE);
    std::fs::write(&path, text(&linked(root)?)).with_context(|| format!("{}", path.display()))
}

/// Compares the list with what is linked.
pub(crate) fn check(root: &Path) -> Result<()> {
    let path = root.join(FILE);
    let stored = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    let differences = differences(&entries(&stored), &linked(root)?);
    if differences.is_empty() {
        return Ok(());
    }
    bail!("{FILE} is not what is linked; review this and run `cargo xtask tcb`:\n{}", differences.join("\n"));
}

/// Name and version of every crate, as `cargo tree` gives them.
fn linked(root: &Path) -> Result<BTreeSet<String>> {
    let arguments = [
        "tree",
        "-p",
        "asymflow-enclave",
        "-e",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
        "--locked",
        "--target",
        "x86_64-unknown-linux-gnu",
    ];
    let output = Command::new("cargo").args(arguments).current_dir(root).output().context("cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(parse(&String::from_utf8(output.stdout).context("cargo tree")?))
}

fn parse(tree: &str) -> BTreeSet<String> {
    let name_and_version = |line: &str| {
        let mut words = line.split_whitespace();
        Some(format!("{} {}", words.next()?, words.next()?.trim_start_matches('v')))
    };
    tree.lines().filter_map(name_and_version).collect()
}

fn entries(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn differences(stored: &BTreeSet<String>, linked: &BTreeSet<String>) -> Vec<String> {
    let gone = stored.difference(linked).map(|entry| format!("- {entry}"));
    let new = linked.difference(stored).map(|entry| format!("+ {entry}"));
    gone.chain(new).collect()
}

fn text(linked: &BTreeSet<String>) -> String {
    let lines: Vec<&str> = linked.iter().map(String::as_str).collect();
    format!("{HEADER}{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "a v0.1.0 (/w/a)\nb v1.2.3\nserde_derive v1.0.0 (proc-macro)\nb v1.2.3 (*)\n";

    #[test]
    fn names_and_versions_once() {
        let found = parse(TREE);
        assert_eq!(
            found.iter().map(String::as_str).collect::<Vec<_>>(),
            ["a 0.1.0", "b 1.2.3", "serde_derive 1.0.0"]
        );
        assert_eq!(entries(&text(&found)), found);
    }

    #[test]
    fn a_new_version_is_a_difference() {
        let (stored, linked) = (entries("a 0.1.0\nb 1.2.3\n"), entries("a 0.1.0\nb 1.2.4\n"));
        assert_eq!(differences(&stored, &linked), ["- b 1.2.3", "+ b 1.2.4"]);
        assert!(differences(&stored, &stored).is_empty());
    }
}
