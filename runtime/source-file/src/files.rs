//! Which files a path means, in which order, and what identifies their content.

use plumb_columnar::ParquetFile;
use plumb_pipeline::{Error, Result};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// How deep folders may nest; a link that leads back up ends here.
const DEPTH_MAX: usize = 32;

/// The format of an event file, told by its ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.parquet`
    Parquet,
    /// `.jsonl` or `.ndjson`
    JsonLines,
    /// `.csv`
    Csv,
}

impl Format {
    /// The format of a path; `None` for any other ending.
    pub fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match ending.as_str() {
            "parquet" => Format::Parquet,
            "jsonl" | "ndjson" => Format::JsonLines,
            "csv" => Format::Csv,
            _ => return None,
        })
    }
}

/// An event file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its path under the folder it was found in, with `/`; its file name if it was named itself.
    pub name: String,
    /// Its format.
    pub format: Format,
    /// The SHA-256 that its commit names, hex; `None` of a file that no commit names.
    pub sha256: Option<String>,
}

/// The event files of a path: the file itself, or those of the folder tree in byte order of their names.
///
/// In folders, files of other endings are passed over, and so is everything whose name begins with `.` or
/// `_` (what is not committed, by the convention of Hive). It is an error if nothing is left.
pub fn find(path: &Path) -> Result<Vec<EventFile>> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::invalid(format!("`{shown}` does not exist")),
        _ => Error::unavailable(format!("read `{shown}`"), error),
    })?;
    if !metadata.is_dir() {
        let Some(format) = Format::of(path) else {
            return Err(Error::invalid(format!(
                "`{shown}` is no event file: expected .parquet, .jsonl, .ndjson or .csv"
            )));
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(vec![EventFile { path: path.to_owned(), name, format, sha256: None }]);
    }
    let mut found = Vec::new();
    walk(path, "", 0, &mut found)?;
    if found.is_empty() {
        let why = "holds no event file (.parquet, .jsonl, .ndjson or .csv)";
        return Err(Error::invalid(format!("folder `{shown}` {why}")));
    }
    found.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    Ok(found)
}

/// Checks that every event file says when its events were ingested: files of plumb's archive do, others are refused by
/// name.
pub fn require_ingest_times(files: &[EventFile]) -> Result<()> {
    const COLUMNS: [&str; 4] = ["_source", "_partition", "_offset", "_ingest_time"];
    for file in files {
        let missing = match file.format {
            Format::Parquet => {
                let parquet = ParquetFile::open(&file.path)?;
                COLUMNS.into_iter().filter(|name| parquet.schema().index_of(name).is_err()).collect()
            }
            Format::JsonLines | Format::Csv => COLUMNS.to_vec(),
        };
        if !missing.is_empty() {
            return Err(Error::invalid(format!(
                "`{}` does not say when its events were ingested (no {}): give files of plumb's archive, \
                 as events/<source>/ of an offline store, or use `--knowledge event-time`",
                file.path.display(),
                missing.join(", ")
            )));
        }
    }
    Ok(())
}

/// Whether a file or folder of this name is none of a folder's events.
fn is_passed_by(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

/// Whether [`find`] would come upon a path in a folder, were there an event file: it lies in it or below, under whatever
/// names, and nowhere that is passed by. It need not be there yet.
pub fn would_find(folder: &Path, path: &Path) -> bool {
    let (Ok(folder), Ok(path)) = (folder.canonicalize(), std::path::absolute(path)) else { return false };
    // What is there already may be a link to elsewhere.
    let place = path.ancestors().skip(1).find_map(|above| {
        let rest = path.strip_prefix(above).ok()?;
        Some(above.canonicalize().ok()?.join(rest))
    });
    let below = place.as_deref().and_then(|place| place.strip_prefix(&folder).ok());
    below.is_some_and(|below| !below.iter().any(|name| is_passed_by(&name.to_string_lossy())))
}

/// How often a folder is listed again because files in it have gone: plumb's own archive replaces files while it runs.
const LISTINGS: usize = 20;

fn walk(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<EventFile>) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Error::invalid(format!("`{}` nests deeper than {DEPTH_MAX} folders", folder.display())));
    }
    let before = found.len();
    for _ in 0..LISTINGS {
        if walk_once(folder, prefix, depth, found)? {
            return Ok(());
        }
        found.truncate(before);
    }
    Err(Error::unavailable(format!("read folder `{}`", folder.display()), "its files come and go"))
}

/// Lists a folder; false if a file was gone by the time it was looked at: another may have taken its place.
fn walk_once(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<EventFile>) -> Result<bool> {
    let failed = |error| Error::unavailable(format!("read folder `{}`", folder.display()), error);
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let own = entry.file_name();
        let Some(own) = own.to_str() else {
            return Err(Error::invalid(format!("the name of `{}` is not UTF-8", path.display())));
        };
        if is_passed_by(own) {
            continue;
        }
        let name = if prefix.is_empty() { own.to_owned() } else { format!("{prefix}/{own}") };
        // Follows links, as the reading will.
        let metadata = match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => return Ok(false),
            metadata => metadata.map_err(failed)?,
        };
        if metadata.is_dir() {
            folders.push((path, name));
        } else if let Some(format) = Format::of(&path) {
            found.push(EventFile { path, name, format, sha256: None });
        }
    }
    for (path, name) in folders {
        walk(&path, &name, depth + 1, found)?;
    }
    Ok(true)
}

/// Opens a file that must hold something.
pub(crate) fn open(path: &Path) -> Result<File> {
    let shown = path.display();
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => Error::invalid(format!("`{shown}` does not exist")),
        _ => Error::unavailable(format!("open `{shown}`"), error),
    };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() == 0 {
        return Err(Error::invalid(format!("`{shown}` is empty (0 bytes), expected events")));
    }
    Ok(file)
}

/// The size of a file and the xxh3-128 of its content, in hex.
pub(crate) fn fingerprint(path: &Path) -> Result<(u64, String)> {
    let failed = |error| Error::unavailable(format!("read `{}`", path.display()), error);
    let mut file = open(path)?;
    let mut hash = Xxh3::new();
    let mut bytes = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            return Ok((bytes, format!("{:032x}", hash.digest128())));
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
}
