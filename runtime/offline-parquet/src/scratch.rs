//! Scratch files: what a job cannot keep in memory.

use plumb_pipeline::port::{Scratch, ScratchFolder};
use plumb_pipeline::{Error, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A folder in which scratch files are made. They have no name there: their room is given back when they are closed,
/// also where the process is killed.
#[derive(Debug, Clone)]
pub struct LocalScratch {
    folder: PathBuf,
}

impl LocalScratch {
    /// Scratch files in a folder, which must be there once one is needed.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }
}

impl ScratchFolder for LocalScratch {
    fn create(&self) -> Result<Box<dyn Scratch>> {
        let shown = self.folder.display();
        if !self.folder.is_dir() {
            return Err(Error::invalid(format!(
                "there is no folder `{shown}` for scratch files; name one that is there"
            )));
        }
        let file = tempfile::tempfile_in(&self.folder)
            .map_err(|error| Error::unavailable(format!("make a scratch file in `{shown}`"), error))?;
        Ok(Box::new(LocalFile { folder: self.folder.clone(), file, end: Mutex::new(0) }))
    }
}

#[derive(Debug)]
struct LocalFile {
    folder: PathBuf,
    file: File,
    end: Mutex<u64>,
}

impl Scratch for LocalFile {
    fn append(&self, bytes: &[u8]) -> Result<u64> {
        let mut end =
            self.end.lock().map_err(|_| Error::internal("a thread panicked while it wrote a scratch file"))?;
        let at = *end;
        self.file.write_all_at(bytes, at).map_err(|error| {
            let folder = self.folder.display();
            Error::unavailable(
                format!("write {} bytes to a scratch file in `{folder}`", at + bytes.len() as u64),
                error,
            )
        })?;
        *end += bytes.len() as u64;
        Ok(at)
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(bytes, at)
            .map_err(|error| Error::unavailable(format!("read a scratch file in `{}`", self.folder.display()), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_read_back_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = LocalScratch::new(folder.path()).create().unwrap();
        assert_eq!(scratch.append(b"first").unwrap(), 0);
        let at = scratch.append(b"second").unwrap();
        let mut bytes = [0; 6];
        scratch.read(at, &mut bytes).unwrap();
        assert_eq!(&bytes, b"second");
        assert!(scratch.read(at + 1, &mut bytes).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = LocalScratch::new(&folder.path().join("gone")).create().unwrap_err();
        assert!(error.to_string().contains("gone"), "{error}");
    }
}
