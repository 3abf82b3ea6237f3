//! This process's name in a consumer group, the same after a restart: without one, the group waits for the session
//! of a killed process to end before it gives its partitions to the process that took its place.
//!
//! `<data_dir>/instances/<source>-<n>` holds a random name; the process that has the file locked goes by it. The lock
//! dies with the process, however it ends, so a restarted one finds the name free, and several processes that share
//! one data folder take different ones.

use crate::settings::{Settings, SourceKind};
use crate::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Read, Write};
use std::path::Path;

/// The word for it in the settings.
pub const AUTO: &str = "auto";

/// More processes than this that share a data folder get no name.
const SLOTS: usize = 64;

/// Names held by this process; free again when dropped.
#[derive(Debug, Default)]
pub struct Instances(Vec<File>);

impl Instances {
    /// Gives a name to this process in the group of each Kafka source that asks for one.
    pub fn take(settings: &mut Settings) -> Result<Self> {
        let folder = settings.data_dir.join("instances");
        let mut held = Self::default();
        for (source, of) in &mut settings.sources {
            if of.kind == SourceKind::Kafka && of.kafka.instance_id.as_deref() == Some(AUTO) {
                std::fs::create_dir_all(&folder)
                    .map_err(|error| Error::unavailable(format!("create `{}`", folder.display()), error))?;
                of.kafka.instance_id = held.slot(&folder, source)?;
            }
        }
        Ok(held)
    }

    /// The first name that no process goes by now.
    fn slot(&mut self, folder: &Path, source: &str) -> Result<Option<String>> {
        for number in 0..SLOTS {
            let path = folder.join(format!("{source}-{number}"));
            let failed = |error| Error::unavailable(format!("use `{}`", path.display()), error);
            let mut options = OpenOptions::new();
            let mut file = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            let mut name = String::new();
            file.read_to_string(&mut name).map_err(failed)?;
            // A process that died while writing it has left less.
            if name.len() != 22 {
                name = format!("plumb-{:016x}", RandomState::new().build_hasher().finish());
                file.set_len(0).map_err(failed)?;
                let mut file = &file;
                std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(0)).map_err(failed)?;
                file.write_all(name.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
            }
            self.0.push(file);
            return Ok(Some(name));
        }
        tracing::warn!(
            source,
            SLOTS,
            "too many processes share this data folder: this one gets no lasting name in its group"
        );
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(folder: &Path) -> Settings {
        let text = format!("data_dir = {:?}\n[source]\nkind = \"kafka\"\n", folder.display().to_string());
        Settings::parse("test", &text, []).unwrap()
    }

    fn name(settings: &Settings) -> Option<String> {
        settings.sources["default"].kafka.instance_id.clone()
    }

    #[test]
    fn a_name_is_found_again_and_never_shared() {
        let folder = tempfile::tempdir().unwrap();
        let [mut first, mut second, mut third] = [(); 3].map(|()| settings(folder.path()));
        let one = Instances::take(&mut first).unwrap();
        let two = Instances::take(&mut second).unwrap();
        assert!(name(&first).is_some_and(|name| name.starts_with("plumb-")));
        assert_ne!(name(&first), name(&second));
        drop(one);
        let again = Instances::take(&mut third).unwrap();
        assert_eq!(name(&third), name(&first));
        drop((two, again));
        // What a process left that died while writing is replaced.
        std::fs::write(folder.path().join("instances/default-0"), "plumb-12").unwrap();
        let mut fourth = settings(folder.path());
        let _held = Instances::take(&mut fourth).unwrap();
        assert!(name(&fourth).is_some_and(|name| name.len() == 22) && name(&fourth) != name(&first));
    }

    #[test]
    fn a_given_name_and_none_at_all_stay() {
        let folder = tempfile::tempdir().unwrap();
        for (text, expected) in [("one", Some("one".to_owned())), ("", None)] {
            let mut settings = settings(folder.path());
            settings.sources.get_mut("default").unwrap().kafka.instance_id =
                Some(text.to_owned()).filter(|text| !text.is_empty());
            let _held = Instances::take(&mut settings).unwrap();
            assert_eq!(name(&settings), expected);
        }
    }
}
