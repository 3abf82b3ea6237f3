//! Which compiler makes the core module: one that has the wasm target, else Debian's with the standard
//! library built on the spot.

use super::cargo;
use crate::exit::usage;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The target of components.
pub(super) const TARGET: &str = "wasm32-unknown-unknown";

/// Set to `target` or `debian` to have no choice made.
const CHOICE_VARIABLE: &str = "PLUMB_GUEST_TOOLCHAIN";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// The compiler, its standard library and its linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Toolchain {
    /// The `rustc` that cargo takes by itself; it has the target's standard library and linker.
    Target,
    /// Debian's `rustc` with its library's sources and LLVM's linker: cargo builds the library too.
    Debian {
        /// LLVM's linker, e.g. `wasm-ld-22`.
        linker: PathBuf,
    },
}

impl std::fmt::Display for Toolchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Toolchain::Target => write!(f, "compiled by the default rustc, which has the target {TARGET}"),
            Toolchain::Debian { linker } => write!(f, "compiled by {DEBIAN_RUSTC}, linked by {}", linker.display()),
        }
    }
}

impl Toolchain {
    /// Chooses for a crate in `folder`; a `rust-toolchain.toml` there or above counts.
    pub(super) fn choose(folder: &Path) -> Result<Self> {
        if cargo().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return Err(missing("there is no cargo"));
        }
        let choice = std::env::var(CHOICE_VARIABLE).ok();
        match choice.as_deref() {
            None | Some("") => match (has_target(folder), debian()) {
                (true, _) => Ok(Toolchain::Target),
                (false, Ok(debian)) => Ok(debian),
                (false, Err(why)) => Err(missing(&format!("rustc has no target {TARGET}, and {why}"))),
            },
            Some("target") if has_target(folder) => Ok(Toolchain::Target),
            Some("target") => Err(missing(&format!("rustc has no target {TARGET}"))),
            Some("debian") => debian().map_err(|why| missing(&why)),
            Some(other) => Err(usage(format!("{CHOICE_VARIABLE}={other}: write `target` or `debian`"))),
        }
    }

    /// Sets what cargo needs.
    pub(super) fn apply(&self, command: &mut Command) {
        if let Toolchain::Debian { linker } = self {
            // build-std is unstable, hence the bootstrap switch; it is the only such thing in use.
            command
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1")
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
                .args(["-Z", "build-std=std,panic_abort"]);
        }
    }
}

/// Whether the default rustc has the target's standard library.
fn has_target(folder: &Path) -> bool {
    let output = Command::new("rustc")
        .current_dir(folder)
        .args(["--print", "target-libdir", "--target", TARGET])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else { return false };
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let Ok(entries) = folder.read_dir() else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

/// Debian's toolchain, or what of it is missing.
fn debian() -> Result<Toolchain, String> {
    let sysroot = Command::new(DEBIAN_RUSTC)
        .args(["--print", "sysroot"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|_| format!("there is no {DEBIAN_RUSTC}"))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let library = sysroot.join("lib/rustlib/src/rust/library/Cargo.toml");
    if !library.is_file() {
        return Err(format!("the library's sources are not in {}", library.display()));
    }
    match find_linker() {
        Some(linker) => Ok(Toolchain::Debian { linker }),
        None => Err("there is no wasm-ld".into()),
    }
}

/// The newest `wasm-ld` in the path.
fn find_linker() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for folder in std::env::split_paths(&path) {
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version = match name.to_str() {
                Some("wasm-ld") => Some(0),
                Some(name) => name.strip_prefix("wasm-ld-").and_then(|version| version.parse().ok()),
                None => None,
            };
            if let Some(version) = version {
                found.push((version, entry.path()));
            }
        }
    }
    found.into_iter().max().map(|(_, linker)| linker)
}

fn missing(why: &str) -> anyhow::Error {
    usage(format!(
        "no toolchain for components: {why}; with rustup run `rustup target add {TARGET}`, on Debian or Ubuntu \
         without it `apt-get install rustc-web cargo-web rust-web-src lld-22` (scripts/setup.sh does either)"
    ))
}
