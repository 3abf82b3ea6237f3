//! An author's first steps: a new crate passes its own test, becomes a component, and the same bytes anywhere.
#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Shared by all runs, so that dependencies are compiled once; the crates themselves lie in fresh folders.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("authoring")
}

fn run(program: &str, arguments: &[&str], folder: &Path) -> Output {
    Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target())
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn plumb(arguments: &[&str], folder: &Path) -> Output {
    run(env!("CARGO_BIN_EXE_plumb"), arguments, folder)
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn refused(output: &Output, what: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(what), "`{what}` is not in: {message}");
}

#[test]
fn a_new_crate_passes_its_test_and_becomes_the_same_component_anywhere() {
    let here = tempfile::tempdir().unwrap();
    let there = tempfile::tempdir().unwrap();
    let there = there.path().join("deeper");
    std::fs::create_dir(&there).unwrap();
    let mut components = Vec::new();
    for folder in [here.path(), &there] {
        succeeded(&plumb(&["new", "shop_visits", "--entity", "shop"], folder));
        let file = folder.join("out/visits.wasm");
        succeeded(&plumb(&["build", "shop_visits", "-o", file.to_str().unwrap()], folder));
        components.push(std::fs::read(&file).unwrap());
    }
    assert!(components[0].starts_with(b"\0asm\x0d\0\x01\0"), "not a component");
    assert!(components[0] == components[1], "the bytes depend on where the crate lies");

    let krate = here.path().join("shop_visits");
    let tested = run("cargo", &["test"], &krate);
    succeeded(&tested);
    assert!(String::from_utf8_lossy(&tested.stdout).contains("1 passed"));

    // Without changes nothing is written again, and the default place is the workspace's target folder.
    succeeded(&plumb(&["build"], &krate));
    let file = target().join("plumb/shop_visits.wasm");
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    succeeded(&plumb(&["build"], &krate));
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written);

    // A crate that asks for something outside is refused by name, and what was built before stays.
    let lib = krate.join("src/lib.rs");
    let source = std::fs::read_to_string(&lib).unwrap();
    let clock = "#[link(wasm_import_module = \"env\")]\nunsafe extern \"C\" { fn now() -> i64; }\n\
                 #[unsafe(no_mangle)]\npub extern \"C\" fn keep() -> i64 { unsafe { now() } }\n";
    std::fs::write(&lib, format!("{source}\n{clock}")).unwrap();
    refused(&plumb(&["build"], &krate), "needs `env::now` from outside");
    assert!(std::fs::read(&file).unwrap() == components[0]);
    std::fs::write(&lib, source.replace("plumb_sdk::export!", "// ")).unwrap();
    refused(&plumb(&["build"], &krate), "exports no view");
    std::fs::write(&lib, source.replace("count(view,", "count(viewed,")).unwrap();
    refused(&plumb(&["build"], &krate), "no field `viewed`");
}

#[test]
fn what_is_no_transform_crate_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    refused(&plumb(&["build"], folder.path()), "no Cargo.toml here");
    refused(&plumb(&["new", "Shop"], folder.path()), "view `Shop`");
    refused(&plumb(&["new", "shop", "--entity", "online"], folder.path()), "entity `online`");
    succeeded(&plumb(&["new", "shop"], folder.path()));
    refused(&plumb(&["new", "shop"], folder.path()), "exists already");
    let manifest = folder.path().join("shop/Cargo.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("[\"cdylib\", \"rlib\"]", "[\"rlib\"]")).unwrap();
    refused(&plumb(&["build", "shop"], folder.path()), "crate-type = [\"cdylib\", \"rlib\"]");
}
