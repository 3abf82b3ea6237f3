//! The rules of the folder tree, as checks: who may depend on whom, and what the core may not know.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The layers, lowest first; a crate depends only on lower layers.
const LAYERS: [&[&str]; 8] = [
    &["plumb-core"],
    &["plumb-transform"],
    &["plumb-pipeline"],
    &["plumb-columnar", "plumb-insight"],
    &[
        "plumb-source-file",
        "plumb-source-kafka",
        "plumb-formats",
        "plumb-embedded",
        "plumb-online-redis",
        "plumb-offline-parquet",
        "plumb-store-object",
        "plumb-serve-http",
    ],
    &["plumb-assembly"],
    &["plumb-runtime"],
    &["plumb-testing"],
];

struct Package {
    normal: BTreeSet<String>,
    all_kinds: BTreeSet<String>,
}

fn workspace() -> BTreeMap<String, Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names = |package: &serde_json::Value, wanted: &dyn Fn(&serde_json::Value) -> bool| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        dependencies.filter(|d| wanted(d)).map(|d| d["name"].as_str().unwrap().to_owned()).collect()
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let normal = names(package, &|dependency| dependency["kind"].is_null());
            let all_kinds = names(package, &|_| true);
            (package["name"].as_str().unwrap().to_owned(), Package { normal, all_kinds })
        })
        .collect()
}

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

#[test]
fn crates_depend_only_on_layers_below_them() {
    for (name, package) in workspace() {
        let Some(own) = layer_of(&name) else { continue };
        for dependency in package.normal.iter().filter(|dependency| dependency.starts_with("plumb-")) {
            let other =
                layer_of(dependency).unwrap_or_else(|| panic!("{name} depends on {dependency}, which has no layer"));
            assert!(other < own, "{name} depends on {dependency}, which is not below it");
        }
    }
}

#[test]
fn the_core_knows_no_io_clock_async_or_engine() {
    let allowed: BTreeSet<&str> = ["hashbrown", "num-bigint", "rustc-hash", "semver", "thiserror"].into();
    let core = &workspace()["plumb-core"];
    let strangers: Vec<_> = core.normal.iter().filter(|name| !allowed.contains(name.as_str())).collect();
    assert!(strangers.is_empty(), "the core depends on {strangers:?}");
}

#[test]
fn transforms_and_the_runtime_meet_in_wit_only() {
    for (name, package) in workspace() {
        let guest_side = name.starts_with("plumb-sdk") || name.ends_with("_activity");
        for dependency in &package.normal {
            let guest_dependency = dependency.starts_with("plumb-sdk") || dependency.ends_with("_activity");
            assert!(!(guest_side && layer_of(dependency).is_some()), "{name} depends on the runtime's {dependency}");
            assert!(!(layer_of(&name).is_some() && guest_dependency), "the runtime's {name} depends on {dependency}");
        }
    }
}

#[test]
fn test_helpers_stay_out_of_the_product() {
    for (name, package) in workspace() {
        if name == "plumb-tests" || name == "plumb-benches" || name == "plumb-testing" {
            continue;
        }
        assert!(
            !package.normal.contains("plumb-testing"),
            "{name} depends on plumb-testing outside [dev-dependencies]"
        );
    }
}

#[test]
fn guests_have_no_wasi_and_files_name_no_second_arrow() {
    for (name, package) in workspace() {
        for banned in ["wasmtime-wasi", "wasi-common", "arrow", "chrono"] {
            assert!(!package.all_kinds.contains(banned), "{name} depends on {banned}");
        }
    }
}

/// The tests named in `docs/guarantees.md`, by promise: file and function.
fn named_tests(page: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut promises: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut promise = None;
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            promise = title.split_once(". ").map(|(number, _)| number.to_owned());
        }
        let named =
            line.strip_prefix("- `").and_then(|rest| rest.strip_suffix('`')).and_then(|rest| rest.split_once("::"));
        if let (Some((file, test)), Some(promise)) = (named, &promise) {
            promises.entry(promise.clone()).or_default().push((file.to_owned(), test.to_owned()));
        }
    }
    promises
}

#[test]
fn every_guarantee_names_tests_that_exist() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let page = std::fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let promises = named_tests(&page);
    let numbers: Vec<&str> = promises.keys().map(String::as_str).collect();
    assert_eq!(numbers, ["G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8"]);
    for (promise, tests) in promises {
        assert!(tests.len() >= 4, "{promise} names {} tests", tests.len());
        for (file, test) in tests {
            let text =
                std::fs::read_to_string(root.join(&file)).unwrap_or_else(|error| panic!("{promise}: {file}: {error}"));
            let at =
                text.find(&format!("fn {test}(")).unwrap_or_else(|| panic!("{promise}: {file} has no test {test}"));
            let before = text[..at].trim_end();
            assert!(before.ends_with("#[test]"), "{promise}: {file}: {test} is no test that runs");
        }
    }
}
