//! The dependency rule between zones. The folder is the zone.
//!
//! `core` may use `core`; `trusted`, `untrusted` and `client` may use themselves and `core`; `lab`, `tests` and `xtask`
//! may use anything. Tests of any crate may also use `tests`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// What `cargo metadata` says of this workspace.
pub(crate) fn metadata(root: &Path) -> Result<Metadata> {
    MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec().context("cargo metadata")
}

/// Checks the rule for the workspace at `root`.
pub(crate) fn check(root: &Path) -> Result<()> {
    let broken = violations(&metadata(root)?);
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{}\n(see ARCHITECTURE.md, zones)", broken.join("\n"));
}

/// Every dependency that the rule forbids, in words.
fn violations(metadata: &Metadata) -> Vec<String> {
    let mut found = Vec::new();
    for package in &metadata.packages {
        let Some(from) = zone(metadata, package.manifest_path.as_std_path()) else {
            found.push(format!("{} lies in no zone", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let Some(path) = &dependency.path else { continue };
            let to = zone(metadata, path.as_std_path());
            let test_only = dependency.kind == DependencyKind::Development;
            if !to.as_deref().is_some_and(|to| allowed(&from, to, test_only)) {
                let to = to.unwrap_or_else(|| "no zone".to_owned());
                let name = &dependency.name;
                found.push(format!("{} ({from}) must not depend on {name} ({to})", package.name));
            }
        }
    }
    found
}

fn allowed(from: &str, to: &str, test_only: bool) -> bool {
    match from {
        "lab" | "tests" | "xtask" => true,
        "core" | "trusted" | "untrusted" | "client" => {
            to == from || to == "core" || (test_only && to == "tests")
        }
        _ => false,
    }
}

/// The first folder below the workspace's root.
fn zone(metadata: &Metadata, path: &Path) -> Option<String> {
    let inside = path.strip_prefix(metadata.workspace_root.as_std_path()).ok()?;
    Some(inside.iter().next()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn package(folder: &str, dependencies: &[(&str, &str)]) -> Value {
        let dependency = |(folder, kind): &(&str, &str)| {
            json!({
                "name": folder, "source": null, "req": "*", "kind": kind, "rename": null, "optional": false,
                "uses_default_features": true, "features": [], "target": null, "registry": null,
                "path": format!("/w/{folder}"),
            })
        };
        json!({
            "name": folder.replace('/', "-"), "version": "0.1.0", "id": format!("path+file:///w/{folder}#0.1.0"),
            "source": null, "targets": [], "features": {}, "manifest_path": format!("/w/{folder}/Cargo.toml"),
            "dependencies": dependencies.iter().map(dependency).collect::<Vec<_>>(),
        })
    }

    fn broken(packages: &[Value]) -> Vec<String> {
        let metadata = json!({
            "packages": packages, "workspace_members": [], "resolve": null, "workspace_root": "/w",
            "target_directory": "/w/target", "version": 1, "workspace_default_members": [],
        });
        violations(&serde_json::from_value(metadata).expect("the shape of cargo's metadata"))
    }

    #[test]
    fn zones_may_use_themselves_and_core() {
        let good = [
            package("core/a", &[("core/b", "normal")]),
            package("trusted/a", &[("core/a", "normal"), ("trusted/b", "normal"), ("core/a", "build")]),
            package("client/a", &[("core/a", "normal"), ("tests/vectors", "dev")]),
            package("tests/a", &[("trusted/a", "normal"), ("client/a", "normal")]),
            package("xtask", &[("client/a", "normal")]),
        ];
        assert_eq!(broken(&good), Vec::<String>::new());
    }

    #[test]
    fn everything_else_is_refused() {
        for (from, to, kind) in [
            ("core/a", "trusted/a", "normal"),
            ("core/a", "tests/vectors", "normal"),
            ("core/a", "tests/vectors", "build"),
            ("trusted/a", "untrusted/a", "normal"),
            ("trusted/a", "client/a", "dev"),
            ("trusted/a", "xtask", "dev"),
            ("untrusted/a", "trusted/a", "normal"),
            ("client/a", "trusted/a", "normal"),
            ("client/a", "lab/a", "dev"),
            ("elsewhere/a", "core/a", "normal"),
        ] {
            let found = broken(&[package(from, &[(to, kind)])]);
            assert_eq!(found.len(), 1, "{from} → {to} ({kind}): {found:?}");
            assert!(found[0].contains(to), "{found:?}");
        }
    }

    #[test]
    fn a_dependency_outside_the_workspace_has_no_zone() {
        let mut package = package("core/a", &[("core/b", "normal")]);
        package["dependencies"][0]["path"] = json!("/somewhere/else");
        assert_eq!(broken(&[package]), ["core-a (core) must not depend on core/b (no zone)"]);
    }

    #[test]
    fn this_workspace_keeps_the_rule() {
        check(&crate::root()).expect("the rule holds");
    }
}
