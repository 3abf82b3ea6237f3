//! From a core module to a component that imports nothing.

use crate::exit::usage;
use anyhow::{Context, Result, anyhow};
use wit_component::{ComponentEncoder, DecodedWasm};

/// Wraps the core module of crate `krate`.
///
/// # Errors
/// The caller's mistake when the module exports no view or needs something from outside, which is named.
pub(super) fn encode(module: &[u8], krate: &str) -> Result<Vec<u8>> {
    let encoded = ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| explain(&error, krate))?;
    match wit_component::decode(&encoded).context("cannot read the component back")? {
        DecodedWasm::Component(resolve, world) => {
            let world = &resolve.worlds[world];
            if let Some(import) = world.imports.keys().next() {
                return Err(impure(krate, &resolve.name_world_key(import)));
            }
            let exports_view =
                world.exports.keys().any(|export| resolve.name_world_key(export).starts_with("plumb:transform/view@"));
            if !exports_view {
                return Err(no_view(krate));
            }
            Ok(encoded)
        }
        DecodedWasm::WitPackage(..) => Err(anyhow!("the encoder gave a WIT package for crate `{krate}`")),
    }
}

fn explain(error: &anyhow::Error, krate: &str) -> anyhow::Error {
    let text = format!("{error:#}");
    // The encoder names the import it cannot place between backticks.
    if text.contains("import") {
        let named = text.split('`').nth(1).unwrap_or("an unnamed import");
        return impure(krate, named);
    }
    anyhow!("cannot make a component of crate `{krate}`: {text}")
}

fn impure(krate: &str, import: &str) -> anyhow::Error {
    usage(format!(
        "crate `{krate}` needs `{import}` from outside, and a transform has no outside: no clock, randomness, files or \
         network; look for a dependency that asks for it (often `getrandom`, `js-sys`, `web-time` or a feature of them)"
    ))
}

fn no_view(krate: &str) -> anyhow::Error {
    usage(format!("crate `{krate}` exports no view: write `plumb_sdk::export!(YourView);` in its lib.rs"))
}
