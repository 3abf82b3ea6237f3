//! Compiled components on disk, one file for each component and engine.
//!
//! A file is a magic, the SHA-256 of the compiled code, and the code. Its name holds the component's digest and a
//! hash of everything that the engine's compiler depends on (version, settings, CPU), so a file of another engine
//! is never looked at. A damaged one is compiled again.

use crate::Digest;
use sha2::{Digest as _, Sha256};
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use wasmtime::Engine;
use wasmtime::component::Component;

const MAGIC: &[u8; 8] = b"PLUMBC1\n";

/// The compiled component, if the cache has it undamaged.
pub(super) fn read(engine: &Engine, folder: &Path, digest: &Digest) -> Option<Component> {
    let path = path_of(engine, folder, digest);
    let bytes = std::fs::read(&path).ok()?;
    let found = checked_code(&bytes).and_then(|code| deserialize(engine, code));
    if found.is_none() {
        tracing::warn!(path = %path.display(), "compiled component in the cache is damaged, compiling again");
    }
    found
}

/// Keeps a compiled component: written beside and renamed, so a reader sees all of it or nothing.
pub(super) fn write(engine: &Engine, folder: &Path, digest: &Digest, component: &Component) -> std::io::Result<()> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let code = component.serialize().map_err(std::io::Error::other)?;
    create_private(folder)?;
    let path = path_of(engine, folder, digest);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{serial}.tmp", std::process::id()));
    let written = write_file(&temporary, &code).and_then(|()| std::fs::rename(&temporary, &path));
    if written.is_err() {
        // Best effort: the first error is the one to report.
        drop(std::fs::remove_file(&temporary));
    }
    written
}

fn write_file(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(MAGIC)?;
    file.write_all(&Sha256::digest(code))?;
    file.write_all(code)?;
    file.sync_all()
}

fn create_private(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn checked_code(bytes: &[u8]) -> Option<&[u8]> {
    let (hash, code) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    (Sha256::digest(code).as_slice() == hash).then_some(code)
}

#[expect(unsafe_code, reason = "compiled code cannot be checked, only trusted; see SAFETY")]
fn deserialize(engine: &Engine, code: &[u8]) -> Option<Component> {
    // SAFETY: `deserialize` must only be given what `Component::serialize` gave. These bytes come from our own cache
    // folder, which this process creates for its user alone; their hash is the one written with them, so they
    // are not damaged, and their name carries this engine's compatibility hash. No other path leads here: a
    // component that arrives from anywhere else is always compiled.
    unsafe { Component::deserialize(engine, code) }.ok()
}

fn path_of(engine: &Engine, folder: &Path, digest: &Digest) -> PathBuf {
    let mut hasher = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let compatibility = Digest(hasher.0.finalize().into());
    folder.join(format!("{digest}-{}.compiled", compatibility.short()))
}

/// SHA-256 as a hasher: the same value in every process, which std's does not promise.
struct Sha(Sha256);

impl Hasher for Sha {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash: [u8; 32] = self.0.clone().finalize().into();
        hash.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }
}
