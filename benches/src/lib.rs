//! Benchmarks: each answers one question as a ratio.
//!
//! Here is what several of them need: the shipped components, the same views as native code, and how cases are
//! measured.

pub mod measure;
pub mod native;

use std::path::{Path, PathBuf};

/// The bytes of a shipped component; the error says how to build it.
pub fn component(view: &str) -> std::io::Result<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let path = target.join("plumb").join(format!("{view}.wasm"));
    std::fs::read(&path).map_err(|error| {
        std::io::Error::new(error.kind(), format!("{}: {error}; run `make build` first", path.display()))
    })
}
