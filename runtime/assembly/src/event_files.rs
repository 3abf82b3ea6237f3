//! The event files that a path of the command line means.

use crate::{Error, Result};
use plumb_pipeline::commit::{committed_files, trashed, waiting};
use plumb_pipeline::port::RowFile;
use plumb_source_file::{EventFile, Format, find};
use plumb_store_object::LocalStore;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long committed files may be on their way from where they were staged; a process that died leaves them there.
const MOVING: Duration = Duration::from_secs(2);

/// The event files of a path, in byte order of their names: those of the folder tree, or, where the path is all of a
/// source in plumb's own archive (`<root>/events/<source>`), those that its manifests name, wherever they lie by now. So
/// what a running job commits, merges and spreads meanwhile changes nothing, and rows that
/// [wait](plumb_pipeline::commit::waiting) are there too.
pub fn event_files(path: &Path) -> Result<Vec<EventFile>> {
    let Some((root, source)) = archive_of(path) else { return find(path) };
    let (mut files, begun) = (Vec::new(), Instant::now());
    for (_, file) in committed_files(&LocalStore::reading(&root), &source)? {
        let inside = file.path.strip_prefix(&format!("events/{source}/")).unwrap_or(&file.path);
        let (path, name) = (place(&root, &file, begun)?, inside.to_owned());
        files.push(EventFile { path, name, format: Format::Parquet, sha256: Some(file.sha256) });
    }
    if files.is_empty() {
        return find(path);
    }
    files.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    Ok(files)
}

/// The root of the offline store and the source, if a path is a whole source in one that has manifests.
fn archive_of(path: &Path) -> Option<(PathBuf, String)> {
    let path = path.canonicalize().ok().filter(|path| path.is_dir())?;
    let source = path.file_name()?.to_str()?.to_owned();
    let events = path.parent().filter(|events| events.file_name().is_some_and(|name| name == "events"))?;
    let root = events.parent()?;
    root.join("manifest").join(&source).is_dir().then(|| (root.to_owned(), source))
}

/// Where a committed file lies; `begun` is when the first was looked for.
fn place(root: &Path, file: &RowFile, begun: Instant) -> Result<PathBuf> {
    let at = |path: &str| Some(root.join(path)).filter(|path| path.is_file());
    loop {
        if let Some(found) = at(&file.path).or_else(|| at(&trashed(&file.path))) {
            return Ok(found);
        }
        match at(&file.staged) {
            Some(_) if begun.elapsed() < MOVING => std::thread::sleep(Duration::from_millis(10)),
            Some(staged) => return Ok(staged),
            // Moved between the looks, or not there at all.
            None if at(&file.path).is_some() => {}
            None => {
                let (shown, waits) = (root.join(&file.path), waiting::is_waiting(&file.path));
                let what = if waits { "is committed and waits for its dates" } else { "is committed" };
                return Err(Error::invalid(format!(
                    "`{}` {what}, and is not there: restore it, or read a part of the archive by its own path \
                     (`date=…`)",
                    shown.display()
                )));
            }
        }
    }
}

#[cfg(test)]
mod tests;
