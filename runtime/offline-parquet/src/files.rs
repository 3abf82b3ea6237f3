//! Which table files a path of a command line means.

use crate::table::Format;
use plumb_pipeline::{Error, Result};
use std::path::{Path, PathBuf};

/// How deep folders may nest; a link that leads back up ends here.
const DEPTH_MAX: usize = 32;

/// What becomes of a folder in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subfolders {
    /// Its files count too, as those of the dates of snapshots.
    Entered,
    /// It is an error: the files of labels and of training sets lie side by side, and what a folder's name says of them
    /// would be lost.
    Refused,
}

/// The table files of paths, one path after the other: the file itself (.parquet or .csv), or those of a folder in byte
/// order of their paths. In folders, other files are passed over, and everything whose name begins with `.` or `_`. A
/// path that does not exist, a file with another ending and a folder without any table are errors that name it.
pub fn table_files(paths: &[PathBuf], subfolders: Subfolders) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::invalid(format!("`{}` does not exist", path.display())),
            _ => cannot_read(path, error),
        })?;
        if !metadata.is_dir() {
            Format::of(path)?;
            files.push(path.clone());
            continue;
        }
        let mut found = Vec::new();
        walk(path, subfolders, 0, &mut found)?;
        if found.is_empty() {
            return Err(Error::invalid(format!("folder `{}` holds no .parquet or .csv file", path.display())));
        }
        found.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
        files.append(&mut found);
    }
    Ok(files)
}

fn walk(folder: &Path, subfolders: Subfolders, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Error::invalid(format!("`{}` lies more than {DEPTH_MAX} folders deep", folder.display())));
    }
    for entry in std::fs::read_dir(folder).map_err(|error| cannot_read(folder, error))? {
        let entry = entry.map_err(|error| cannot_read(folder, error))?;
        let name = entry.file_name();
        if matches!(name.as_encoded_bytes().first(), Some(b'.' | b'_')) {
            continue;
        }
        let path = entry.path();
        // Follows links, as a glob does.
        let metadata = std::fs::metadata(&path).map_err(|error| cannot_read(&path, error))?;
        if !metadata.is_dir() {
            if Format::of(&path).is_ok() {
                found.push(path);
            }
            continue;
        }
        match subfolders {
            Subfolders::Entered => walk(&path, subfolders, depth + 1, found)?,
            Subfolders::Refused => {
                let (shown, name, why) = (folder.display(), name.display(), "the files must be in the folder itself");
                return Err(Error::invalid(format!("folder `{shown}` holds a folder `{name}`: {why}")));
            }
        }
    }
    Ok(())
}

fn cannot_read(path: &Path, error: std::io::Error) -> Error {
    Error::unavailable(format!("read `{}`", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files, and what is found in it: paths below it, or the error with `X` for its own path.
    fn check(files: &[&str], subfolders: Subfolders, expected: Result<&[&str], &str>) {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "n\n1\n").unwrap();
        }
        let found = table_files(&[folder.path().to_owned()], subfolders);
        let below = |path: &PathBuf| path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned();
        let found = found.map(|found| found.iter().map(below).collect::<Vec<_>>());
        let found = found.map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), "X"));
        assert_eq!(
            found,
            expected.map(|files| files.iter().map(|&file| file.to_owned()).collect()).map_err(str::to_owned)
        );
    }

    #[test]
    fn folders_are_listed_in_byte_order_without_what_is_not_committed() {
        use Subfolders::{Entered, Refused};
        let tables = ["b.parquet", "B.CSV", "a10.csv", "a9.csv", "_manifest.json", ".c.csv", "notes.txt"];
        for subfolders in [Entered, Refused] {
            check(&tables, subfolders, Ok(&["B.CSV", "a10.csv", "a9.csv", "b.parquet"]));
            check(&["notes.txt", "_a.csv"], subfolders, Err("folder `X` holds no .parquet or .csv file"));
        }
        let dates = ["date=2/b.parquet", "date=1/a.parquet", "_staging/c.parquet", "date=1/.d.parquet", "e.csv"];
        check(&dates, Entered, Ok(&["date=1/a.parquet", "date=2/b.parquet", "e.csv"]));
        let error = "folder `X` holds a folder `date=1`: the files must be in the folder itself";
        check(&["a.parquet", "date=1/a.parquet"], Refused, Err(error));
        check(&["a.parquet", "_staging/a.parquet", ".git/b.csv"], Refused, Ok(&["a.parquet"]));
    }

    #[test]
    fn several_paths_keep_their_order_and_wrong_ones_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a.csv", "b.csv", "notes.txt"] {
            std::fs::write(path(name), "n\n1\n").unwrap();
        }
        for subfolders in [Subfolders::Entered, Subfolders::Refused] {
            let found = table_files(&[path("b.csv"), path("")], subfolders).unwrap();
            assert_eq!(found, [path("b.csv"), path("a.csv"), path("b.csv")]);
            for (name, why) in [
                ("gone.csv", "does not exist"),
                ("gone", "does not exist"),
                ("notes.txt", "should end in .parquet or .csv"),
            ] {
                let error = table_files(&[path("a.csv"), path(name)], subfolders).unwrap_err();
                assert_eq!(error.kind(), plumb_core::ErrorKind::Invalid);
                assert_eq!(error.to_string(), format!("`{}` {why}", path(name).display()));
            }
            assert_eq!(table_files(&[], subfolders).unwrap(), Vec::<PathBuf>::new());
        }
        // A link to itself, and one to nothing.
        std::os::unix::fs::symlink(folder.path(), path("loop")).unwrap();
        let error = table_files(&[path("")], Subfolders::Entered).unwrap_err().to_string();
        assert!(error.ends_with("lies more than 32 folders deep"), "{error}");
        std::fs::remove_file(path("loop")).unwrap();
        std::os::unix::fs::symlink(path("nothing"), path("c.csv")).unwrap();
        let error = table_files(&[path("")], Subfolders::Refused).unwrap_err().to_string();
        assert!(error.contains(path("c.csv").to_str().unwrap()), "{error}");
    }
}
