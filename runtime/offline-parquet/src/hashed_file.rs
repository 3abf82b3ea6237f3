//! Files whose hash is told once they are written.

use crate::rows_hash::hex;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Write};

/// So many bytes are on their way to the disk before the next are written.
const SENT_BYTES: u64 = 4 << 20;

/// A file that is counted and hashed while it is written.
#[derive(Debug)]
pub(crate) struct HashedFile {
    sink: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
    /// What was sent on its way to the disk.
    sent_bytes: u64,
}

impl HashedFile {
    /// Writes to a file that is still empty.
    pub(crate) fn new(file: File) -> Self {
        Self { sink: BufWriter::new(file), hash: Sha256::new(), bytes: 0, sent_bytes: 0 }
    }

    /// Syncs the file; the number of its bytes, and their SHA-256, hex.
    pub(crate) fn finish(self) -> io::Result<(u64, String)> {
        let file = self.sink.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok((self.bytes, hex(&self.hash.finalize())))
    }

    /// Has the system begin to write what it holds of the file, so that the sync at the end does not wait for all of it.
    /// That nothing of it is needed any more is the one advice by which it does; what is not on disk yet stays.
    fn send(&mut self) {
        #[cfg(target_os = "linux")]
        if let Some(bytes) = std::num::NonZeroU64::new(self.bytes - self.sent_bytes) {
            let (file, from) = (self.sink.get_ref(), self.sent_bytes);
            if let Err(error) = rustix::fs::fadvise(file, from, Some(bytes), rustix::fs::Advice::DontNeed) {
                tracing::debug!(%error, "the system takes no advice about a file, the sync will write all of it");
            }
        }
        self.sent_bytes = self.bytes;
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        if self.bytes - self.sent_bytes >= SENT_BYTES {
            self.send();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
