//! Who owns a data directory: a lock on `<data_dir>/owner` that dies with its process, and in that file
//! who it is, so that others can talk to the owner or name it.

use plumb_pipeline::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The process that owns a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its process id.
    pub pid: u32,
    /// Where its admin routes listen (`127.0.0.1:8081`), once they do.
    pub admin: Option<String>,
    /// Where its reading routes listen, once they do.
    pub listen: Option<String>,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}", self.pid)?;
        match &self.admin {
            Some(admin) => write!(f, " (admin address {admin})"),
            None => Ok(()),
        }
    }
}

/// An owned data directory; owned until dropped or until the process ends, however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    file: File,
}

impl DataDir {
    /// Takes ownership, creating the directory if needed; refused while another process has it.
    pub fn own(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path)
            .map_err(|error| Error::unavailable(format!("create data directory `{}`", path.display()), error))?;
        let name = path.join("owner");
        let failed = |error| Error::unavailable(format!("lock `{}`", name.display()), error);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&name).map_err(failed)?;
        // A process that only asks who the owner is holds the lock for an instant, hence more than one try.
        for attempt in 0.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < 5 => std::thread::sleep(Duration::from_millis(20)),
                Err(TryLockError::WouldBlock) => {
                    let owner = read_owner(&name).map_or_else(|| "another process".to_owned(), |o| o.to_string());
                    return Err(Error::invalid(format!(
                        "data directory `{}` is in use by {owner}; stop it, or set another `data_dir`",
                        path.display()
                    )));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        let owned = Self { path: path.to_owned(), file };
        owned.announce(None, None)?;
        Ok(owned)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells other processes the addresses of this one.
    pub fn announce(&self, admin: Option<String>, listen: Option<String>) -> Result<()> {
        let owner = Owner { pid: std::process::id(), admin, listen };
        let text = serde_json::to_vec(&owner).map_err(|error| Error::internal(error.to_string()))?;
        let mut file = &self.file;
        let written = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.set_len(0))
            .and_then(|()| file.write_all(&text))
            .and_then(|()| file.sync_all());
        written.map_err(|error| Error::unavailable(format!("write `{}`", self.path.join("owner").display()), error))
    }
}

/// The process that owns a data directory now; `None` if nobody does.
pub fn owner_of(path: &Path) -> Result<Option<Owner>> {
    let name = path.join("owner");
    let file = match File::open(&name) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::unavailable(format!("open `{}`", name.display()), error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => match read_owner(&name) {
            Some(owner) => Ok(Some(owner)),
            None => Err(Error::unavailable(
                format!("read `{}`", name.display()),
                "it is locked by a process that has not written who it is; try again",
            )),
        },
        Err(TryLockError::Error(error)) => Err(Error::unavailable(format!("lock `{}`", name.display()), error)),
    }
}

/// Reads the owner's own words; they are missing for an instant while they are being written.
fn read_owner(name: &Path) -> Option<Owner> {
    for _ in 0..25 {
        let mut text = String::new();
        let read = File::open(name).and_then(|mut file| file.read_to_string(&mut text));
        if read.is_ok()
            && let Ok(owner) = serde_json::from_str(&text)
        {
            return Some(owner);
        }
        std::thread::sleep(Duration::from_millis(4));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_owner_is_refused_by_name_and_a_left_directory_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        assert_eq!(owner_of(&path).unwrap(), None);
        let first = DataDir::own(&path).unwrap();
        first.announce(Some("127.0.0.1:8081".into()), None).unwrap();
        let owner = owner_of(&path).unwrap().unwrap();
        assert_eq!((owner.pid, owner.admin.as_deref()), (std::process::id(), Some("127.0.0.1:8081")));
        let refused = DataDir::own(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains("127.0.0.1:8081"), "{refused}");
        drop(first);
        assert_eq!(owner_of(&path).unwrap(), None);
        DataDir::own(&path).unwrap();
    }
}
