//! What compression works with.

use parquet::basic::ZstdLevel;
use std::io::Result;
use std::sync::{Mutex, PoisonError};
use zstd::bulk::Compressor;

/// Those that nobody works with: as many as worked at once. zstd asks the processor what it can do for each new one, which
/// costs some ten µs in a virtual machine, more than to compress a column of a small file.
static FREE: Mutex<Vec<Compressor<'static>>> = Mutex::new(Vec::new());

/// Compresses bytes into `to`, in the place of what it holds.
pub(crate) fn compress(level: ZstdLevel, bytes: &[u8], to: &mut Vec<u8>) -> Result<()> {
    let free = || FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let found = free().pop();
    let mut compressor = match found {
        None => Compressor::new(level.compression_level())?,
        Some(mut compressor) => {
            compressor.set_compression_level(level.compression_level())?;
            compressor
        }
    };
    to.clear();
    to.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
    compressor.compress_to_buffer(bytes, to)?;
    // One that failed is not used again.
    free().push(compressor);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_compressed_before_the_bytes_are_those_of_a_new_compressor() {
        let text: Vec<u8> = (0..20_000u32).flat_map(|n| (n * n % 1_009).to_le_bytes()).collect();
        let mut bytes = Vec::new();
        for (level, text) in [(1, &text[..]), (9, &text[..777]), (1, &text[5..]), (3, b""), (9, &text)] {
            compress(ZstdLevel::try_new(level).unwrap(), text, &mut bytes).unwrap();
            assert!(bytes == Compressor::new(level).unwrap().compress(text).unwrap(), "level {level}");
        }
    }
}
