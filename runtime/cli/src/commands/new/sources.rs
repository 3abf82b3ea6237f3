//! The SDK's sources, carried in the binary, so that a new crate needs nothing but cargo.

use anyhow::{Context, Result};

/// The workspace's lock file: what the SDK was tested with.
pub(super) const LOCK: &str = include_str!("../../../../../Cargo.lock");

const WORKSPACE: &str = include_str!("../../../../../Cargo.toml");

macro_rules! sdk {
    ($($path:literal)*) => {
        /// Every file of the SDK by its path in `sdk/`.
        pub(super) const SDK: &[(&str, &str)] = &[
            $(($path, include_str!(concat!("../../../../../sdk/", $path))),)*
        ];
    };
}

sdk! {
    "Cargo.toml"
    "src/column.rs"
    "src/component.rs"
    "src/component/bump.rs"
    "src/definition.rs"
    "src/error.rs"
    "src/json.rs"
    "src/lib.rs"
    "src/native.rs"
    "src/operator.rs"
    "src/read.rs"
    "src/testing.rs"
    "src/testing/aggregate.rs"
    "src/testing/columns.rs"
    "src/testing/instant.rs"
    "src/time.rs"
    "src/view.rs"
    "src/write.rs"
    "tests/describe.rs"
    "macros/Cargo.toml"
    "macros/src/aggregates.rs"
    "macros/src/duration.rs"
    "macros/src/features.rs"
    "macros/src/input.rs"
    "macros/src/lib.rs"
    "macros/src/rows.rs"
    "macros/src/tests.rs"
    "wit/describe.example.json"
    "wit/describe.schema.json"
    "wit/view.wit"
}

/// The manifest above the SDK's crates: what they take from their workspace, and no more.
pub(super) fn workspace_manifest() -> Result<String> {
    let manifest: toml::Table = WORKSPACE.parse().context("cannot read the workspace's manifest")?;
    let part = |name: &str| {
        let part = manifest.get("workspace").and_then(|workspace| workspace.get(name)).and_then(toml::Value::as_table);
        part.with_context(|| format!("no `workspace.{name}` in the manifest"))
    };
    let mut dependencies = toml::Table::new();
    for name in wanted_dependencies()? {
        let value = part("dependencies")?.get(&name);
        dependencies.insert(name.clone(), value.with_context(|| format!("`{name}` is no dependency"))?.clone());
    }
    let lints = toml::Table::from_iter([("rust".to_owned(), toml::Table::new().into())]);
    let workspace = toml::Table::from_iter([
        ("resolver".to_owned(), "3".into()),
        ("members".to_owned(), toml::Value::Array(vec!["sdk".into(), "sdk/macros".into()])),
        ("package".to_owned(), part("package")?.clone().into()),
        ("dependencies".to_owned(), dependencies.into()),
        ("lints".to_owned(), lints.into()),
    ]);
    let manifest = toml::Table::from_iter([("workspace".to_owned(), workspace.into())]);
    Ok(format!("# The SDK that `plumb new` put here, as it was in that version of plumb.\n{manifest}"))
}

/// The names of all dependencies of the SDK's crates.
fn wanted_dependencies() -> Result<Vec<String>> {
    let mut wanted = Vec::new();
    for (_, text) in SDK.iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
        let manifest: toml::Table = text.parse().context("cannot read a manifest of the SDK")?;
        collect_dependencies(&manifest, &mut wanted);
    }
    wanted.sort_unstable();
    wanted.dedup();
    Ok(wanted)
}

/// Dependencies of all targets: every table called `dependencies` or `dev-dependencies`.
fn collect_dependencies(table: &toml::Table, wanted: &mut Vec<String>) {
    for (key, value) in table {
        if let toml::Value::Table(inner) = value {
            match key.as_str() {
                "dependencies" | "dev-dependencies" => wanted.extend(inner.keys().cloned()),
                _ => collect_dependencies(inner, wanted),
            }
        }
    }
}
