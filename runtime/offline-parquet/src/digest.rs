//! What identifies the content of input files: their size and SHA-256.

use crate::rows_hash::hex;
use plumb_pipeline::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigest {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, hex.
    pub sha256: String,
}

/// Digests files with up to `threads` threads; the results in the files' order. A file that is not there is an
/// error that names it.
pub fn digest_files(paths: &[PathBuf], threads: usize) -> Result<Vec<FileDigest>> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, FileDigest)>> {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = paths.get(index) else { return Ok(done) };
            done.push((index, digest(path)?));
        }
    };
    let all: Vec<Result<Vec<_>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.clamp(1, paths.len().max(1))).map(|_| scope.spawn(work)).collect();
        let panicked = |_| Err(Error::internal("a thread that digests files panicked"));
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(panicked)).collect()
    });
    let mut digests = all.into_iter().collect::<Result<Vec<_>>>()?.concat();
    digests.sort_by_key(|&(index, _)| index);
    Ok(digests.into_iter().map(|(_, digest)| digest).collect())
}

fn digest(path: &Path) -> Result<FileDigest> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => Error::invalid(format!("`{}` does not exist", path.display())),
        _ => Error::unavailable(format!("read `{}`", path.display()), error),
    };
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 18]);
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            return Ok(FileDigest { bytes, sha256: hex(&hash.finalize()) });
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
}
