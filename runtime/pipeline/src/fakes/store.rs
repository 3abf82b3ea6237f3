//! Objects and the archive in memory.

use super::{Fuse, STAMP_US};
use crate::Result;
use crate::commit::{sha256_hex, trashed};
use crate::decode::json::{JsonDecoder, Record, encode};
use crate::decode::time::TimeUnit;
use crate::port::{Archive, ArchiveScan, DeadLetter, ObjectStore, RowFile};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::time::DAY_US;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The age of every fake object.
pub(crate) const AGE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct FakeStore {
    pub(crate) objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    pub(crate) fuse: Arc<Fuse>,
}

impl ObjectStore for FakeStore {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<bool> {
        self.fuse.call(|| {
            let mut objects = self.objects.lock().unwrap();
            if objects.contains_key(path) {
                return Ok(false);
            }
            objects.insert(path.to_owned(), bytes.to_vec());
            Ok(true)
        })
    }

    fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        self.fuse.call(|| {
            self.objects.lock().unwrap().insert(path.to_owned(), bytes);
            Ok(())
        })
    }

    fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.fuse.call(|| Ok(self.objects.lock().unwrap().get(path).cloned()))
    }

    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let folder = format!("{folder}/");
        self.fuse.call(|| {
            let objects = self.objects.lock().unwrap();
            let inside = objects.iter().filter(|(path, _)| path.starts_with(&folder));
            Ok(inside.map(|(path, bytes)| (path.clone(), bytes.len() as u64)).collect())
        })
    }

    /// Everything is as old as the fake says: nobody waits in a test.
    fn ages(&self, folder: &str) -> Result<Vec<(String, Duration)>> {
        Ok(self.list(folder)?.into_iter().map(|(path, _)| (path, AGE)).collect())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.fuse.call(|| {
            let mut objects = self.objects.lock().unwrap();
            match objects.remove(from) {
                Some(bytes) => drop(objects.insert(to.to_owned(), bytes)),
                None => assert!(objects.contains_key(to), "neither `{from}` nor `{to}` exists"),
            }
            Ok(())
        })
    }

    fn delete(&self, path: &str) -> Result<()> {
        self.fuse.call(|| {
            self.objects.lock().unwrap().remove(path);
            Ok(())
        })
    }

    fn local_path(&self, _: &str) -> Option<PathBuf> {
        None
    }
}

/// An archive whose files are lines of `<offset> <json>`.
#[derive(Debug)]
pub(crate) struct FakeArchive {
    pub(crate) store: Arc<FakeStore>,
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = (u64, &str)> {
    std::str::from_utf8(bytes).unwrap().lines().map(|line| {
        let (offset, json) = line.split_once(' ').unwrap();
        (offset.parse().unwrap(), json)
    })
}

/// The ids of the events in a file.
pub(crate) fn ids_of(bytes: &[u8]) -> Vec<String> {
    lines(bytes)
        .map(|(offset, json)| {
            let event: serde_json::Value = serde_json::from_str(json).unwrap();
            event["event_id"].as_str().map_or_else(|| format!("without an id at {offset}"), str::to_owned)
        })
        .collect()
}

impl Archive for FakeArchive {
    fn stage(&self, _: u32, name: &str, batches: &[EventBatch]) -> Result<Vec<RowFile>> {
        let Some(first) = batches.first() else { return Ok(Vec::new()) };
        let mut events = EventBatch::new(first.schema.clone());
        batches.iter().for_each(|batch| events.append(batch));
        let events = &events;
        let mut days: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for row in 0..events.len() {
            days.entry(events.times_us[row].div_euclid(DAY_US)).or_default().push(row);
        }
        let mut files = Vec::new();
        for (day, rows) in days {
            let mut bytes = Vec::new();
            for &row in &rows {
                bytes.extend_from_slice(format!("{} ", events.offsets[row]).as_bytes());
                encode(events, row, &mut bytes);
                bytes.push(b'\n');
            }
            let (source, times) = (&events.schema.source, rows.iter().map(|&row| events.times_us[row]));
            let file = RowFile {
                staged: format!("_staging/events/{source}/{name}-{day}.lines"),
                path: format!("events/{source}/date={day}/{name}.lines"),
                rows: rows.len() as u64,
                bytes: bytes.len() as u64,
                sha256: sha256_hex(&bytes),
                event_time_us: (times.clone().min().unwrap(), times.max().unwrap()),
                offsets: (events.offsets[rows[0]], events.offsets[rows[rows.len() - 1]]),
            };
            self.store.put(&file.staged, bytes)?;
            files.push(file);
        }
        Ok(files)
    }

    fn stage_dead_letters(&self, source: &str, _: u32, name: &str, letters: &[DeadLetter]) -> Result<Vec<RowFile>> {
        let mut bytes = Vec::new();
        for letter in letters {
            let view = letter.view.as_deref().unwrap_or("-");
            bytes.extend_from_slice(format!("{} {view} {}\n", letter.offset, letter.reason).as_bytes());
        }
        let file = RowFile {
            staged: format!("_staging/dead_letters/{source}/{name}.lines"),
            path: format!("dead_letters/{source}/{name}.lines"),
            rows: letters.len() as u64,
            bytes: bytes.len() as u64,
            sha256: sha256_hex(&bytes),
            event_time_us: (0, 0),
            offsets: (letters[0].offset, letters[letters.len() - 1].offset),
        };
        self.store.put(&file.staged, bytes)?;
        Ok(vec![file])
    }

    fn merge(&self, groups: &[(String, Vec<RowFile>)]) -> Result<Vec<RowFile>> {
        let mut merged = Vec::new();
        for (name, files) in groups {
            let mut all = Vec::new();
            for file in files {
                let bytes = self.store.get(&file.path)?.expect("a committed file is there");
                all.extend(std::str::from_utf8(&bytes).unwrap().lines().map(str::to_owned).collect::<Vec<_>>());
            }
            all.sort_by_key(|line| line.split(' ').next().and_then(|offset| offset.parse::<u64>().ok()));
            let bytes: Vec<u8> = all.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect();
            let (folder, _) = files[0].path.rsplit_once('/').unwrap();
            let file = RowFile {
                staged: format!("_staging/{folder}/{name}.lines"),
                path: format!("{folder}/{name}.lines"),
                rows: all.len() as u64,
                bytes: bytes.len() as u64,
                sha256: sha256_hex(&bytes),
                event_time_us: (
                    files.iter().map(|file| file.event_time_us.0).min().unwrap(),
                    files.iter().map(|file| file.event_time_us.1).max().unwrap(),
                ),
                offsets: (
                    files.iter().map(|file| file.offsets.0).min().unwrap(),
                    files.iter().map(|file| file.offsets.1).max().unwrap(),
                ),
            };
            self.store.put(&file.staged, bytes)?;
            merged.push(file);
        }
        Ok(merged)
    }

    fn scan(
        &self,
        schema: &Arc<SourceSchema>,
        scan: &ArchiveScan,
        visit: &mut dyn FnMut(u32, EventBatch) -> Result<()>,
    ) -> Result<()> {
        for (partition, file) in &scan.files {
            let bytes = match self.store.get(&file.path)? {
                Some(bytes) => bytes,
                None => self.store.get(&trashed(&file.path))?.expect("a committed file is there"),
            };
            let mut decoder = JsonDecoder::new(schema.clone(), TimeUnit::Ms);
            let mut events = EventBatch::new(schema.clone());
            let from = scan.from_offset.get(partition).copied().unwrap_or(0);
            let below = scan.below_offset.get(partition).copied().unwrap_or(u64::MAX);
            for (offset, json) in lines(&bytes).filter(|(offset, _)| (from..below).contains(offset)) {
                let record = Record { offset, record_time_us: STAMP_US, bytes: json.as_bytes() };
                decoder.decode(&mut events, record).unwrap();
            }
            visit(*partition, events)?;
        }
        Ok(())
    }
}
