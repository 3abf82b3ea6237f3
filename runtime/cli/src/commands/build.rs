//! `plumb build`: a transform crate to one component.
//!
//! Cargo compiles the crate for wasm32-unknown-unknown in a target folder of its own (so that it neither waits
//! for nor disturbs a host build), then the core module is wrapped into a component, which may import nothing.

mod component;
mod toolchain;

use crate::exit::usage;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use toolchain::Toolchain;

/// The memory a component begins with: one instance a batch pays for each growth.
const INITIAL_MEMORY_BYTES: u32 = 4 << 20;

/// Builds the transform crate at `path` (default: here) and writes its component to `out` (default:
/// `target/plumb/<view>.wasm` of its workspace). Gives back where.
///
/// # Errors
/// The caller's mistake: no transform crate there, no toolchain, a crate that does not compile or whose
/// component would import something.
pub(crate) fn build(path: Option<&Path>, out: Option<&Path>) -> Result<PathBuf> {
    let krate = TransformCrate::find(path.unwrap_or(Path::new(".")))?;
    let toolchain = Toolchain::choose(&krate.folder)?;
    let module_path = compile(&krate, &toolchain)?;
    let module = std::fs::read(&module_path).with_context(|| format!("cannot read {}", module_path.display()))?;
    let component = component::encode(&module, &krate.name)?;
    let out = match out {
        Some(out) => out.to_owned(),
        None => krate.target.join("plumb").join(format!("{}.wasm", krate.view)),
    };
    write_if_changed(&out, &component)?;
    Ok(out)
}

/// A crate that can become a component.
#[derive(Debug)]
struct TransformCrate {
    name: String,
    /// The library's name, which is the view's.
    view: String,
    folder: PathBuf,
    workspace: PathBuf,
    /// The workspace's target folder.
    target: PathBuf,
}

/// What of `cargo metadata` is needed.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    crate_types: Vec<String>,
}

impl TransformCrate {
    fn find(path: &Path) -> Result<Self> {
        let shown = path.display();
        let manifest = path.join("Cargo.toml");
        if !manifest.is_file() {
            return Err(usage(format!("{shown}: no Cargo.toml here; give the folder of a transform crate")));
        }
        let manifest = manifest.canonicalize().with_context(|| format!("cannot read {}", manifest.display()))?;
        let output = cargo()
            .args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"])
            .arg(&manifest)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| usage(format!("cannot run cargo: {error}; install Rust from https://rustup.rs")))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
            return Err(usage(format!("{shown}: cargo does not accept the crate: {why}")));
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cannot read what cargo says")?;
        let package =
            metadata.packages.into_iter().find(|package| package.manifest_path == manifest).ok_or_else(|| {
                usage(format!("{shown}: a workspace without a crate of its own; give a member's folder"))
            })?;
        let library = package
            .targets
            .iter()
            .find(|target| target.crate_types.iter().any(|kind| kind == "cdylib"))
            .ok_or_else(|| {
                let right = "write `crate-type = [\"cdylib\", \"rlib\"]` under `[lib]` in its Cargo.toml";
                usage(format!("{shown}: crate `{}` has no library that can become a component; {right}", package.name))
            })?;
        Ok(Self {
            view: library.name.replace('-', "_"),
            folder: manifest.parent().map(Path::to_owned).unwrap_or_default(),
            workspace: metadata.workspace_root,
            target: metadata.target_directory,
            name: package.name,
        })
    }
}

/// Cargo, without what an outer cargo or the user's settings for host builds put into the environment.
fn cargo() -> Command {
    let mut command = Command::new("cargo");
    for variable in [
        "RUSTC",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        command.env_remove(variable);
    }
    command
}

/// Compiles the crate to a core module; cargo's own progress and errors go to stderr.
fn compile(krate: &TransformCrate, toolchain: &Toolchain) -> Result<PathBuf> {
    let target = krate.target.join("guest");
    let mut command = cargo();
    command
        .args(["build", "--profile", "guest", "--lib", "--target", toolchain::TARGET])
        // A crate without the profile gets it from `release`.
        .args(["--config", "profile.guest.inherits=\"release\"", "--config", "profile.guest.panic=\"abort\""])
        .arg("--manifest-path")
        .arg(krate.folder.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(krate))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    toolchain.apply(&mut command);
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        return Err(usage(format!("crate `{}` does not compile, see above ({toolchain})", krate.name)));
    }
    Ok(target.join(toolchain::TARGET).join("guest").join(format!("{}.wasm", krate.view)))
}

/// The compiler's flags: memory, and no path of this machine in the bytes.
fn flags(krate: &TransformCrate) -> String {
    let mut flags = vec![format!("-Clink-arg=--initial-memory={INITIAL_MEMORY_BYTES}")];
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    for (folder, name) in [(Some(krate.workspace.clone()), "workspace"), (cargo_home, "cargo")] {
        if let Some(folder) = folder {
            flags.push(format!("--remap-path-prefix={}=/{name}", folder.display()));
        }
    }
    flags.join("\x1f")
}

/// Writes the file whole or not at all, and leaves it alone when it holds these bytes already.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let failed = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    let mut staged = path.as_os_str().to_owned();
    // Two builds at a time each stage their own.
    staged.push(format!(".{}.tmp", std::process::id()));
    std::fs::write(&staged, bytes).with_context(failed)?;
    std::fs::rename(&staged, path).with_context(failed)
}
