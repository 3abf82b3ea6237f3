//! Objects and the archive in memory.

use super::{Fuse, STAMP_US};
use crate::Result;
use crate::commit::waiting::{self, BLOCK_DAYS, Step, Thin};
use crate::commit::{sha256_hex, trashed};
use crate::decode::json::{JsonDecoder, Record, encode};
use crate::decode::time::{TimeUnit, parse_rfc3339};
use crate::port::{Archive, ArchiveScan, DeadLetter, EventReader, ObjectStore, RowFile};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::time::DAY_US;
use std::collections::{BTreeMap, VecDeque};
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

    fn alone(&self, _: &str, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        work()
    }

    fn local_path(&self, _: &str) -> Option<PathBuf> {
        None
    }
}

/// An archive whose files are lines of `<offset> <json>`.
#[derive(Debug)]
pub(crate) struct FakeArchive {
    pub(crate) store: Arc<FakeStore>,
    /// When rows wait for their dates.
    pub(crate) thin: Thin,
}

/// Offset, event time in µs, JSON.
type Row = (u64, i64, String);

impl FakeArchive {
    fn stage_rows(&self, staged: String, path: String, rows: &[Row]) -> Result<RowFile> {
        let bytes: Vec<u8> =
            rows.iter().flat_map(|(offset, _, json)| format!("{offset} {json}\n").into_bytes()).collect();
        let times = || rows.iter().map(|row| row.1);
        let file = RowFile {
            staged,
            path,
            rows: rows.len() as u64,
            bytes: bytes.len() as u64,
            sha256: sha256_hex(&bytes),
            event_time_us: (times().min().unwrap(), times().max().unwrap()),
            offsets: (rows[0].0, rows[rows.len() - 1].0),
        };
        self.store.put(&file.staged, bytes)?;
        Ok(file)
    }
}

fn rows_of(events: &EventBatch, rows: &[usize]) -> Vec<Row> {
    let json = |row: usize| {
        let mut json = Vec::new();
        encode(events, row, &mut json);
        String::from_utf8(json).unwrap()
    };
    rows.iter().map(|&row| (events.offsets[row], events.times_us[row], json(row))).collect()
}

/// The event time of a line's JSON, µs.
fn time_of(json: &str) -> i64 {
    let event: serde_json::Value = serde_json::from_str(json).unwrap();
    let text = event["event_time"].as_str().expect("an instant");
    parse_rfc3339(text.as_bytes()).expect("an instant").us
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
        let counts: Vec<u64> = days.values().map(|rows| rows.len() as u64).collect();
        let (mut places, mut waiting) = (Vec::new(), Vec::new());
        for ((day, rows), waits) in days.into_iter().zip(self.thin.waiting(&counts)) {
            match waits {
                true => waiting.extend(rows),
                false => places.push((format!("date={day}/"), rows)),
            }
        }
        let source = &events.schema.source;
        let staged = |place: &str| format!("_staging/events/{source}/{name}-{}.lines", place.trim_end_matches('/'));
        let mut files = Vec::new();
        if !waiting.is_empty() {
            waiting.sort_unstable();
            let path = format!("{}/{name}.lines", waiting::folder(source));
            files.push(self.stage_rows(staged("waiting"), path, &rows_of(events, &waiting))?);
        }
        for (place, rows) in places {
            let path = format!("events/{source}/{place}{name}.lines");
            files.push(self.stage_rows(staged(&place), path, &rows_of(events, &rows))?);
        }
        Ok(files)
    }

    fn spread(&self, name: &str, files: &[RowFile], step: Step) -> Result<Vec<RowFile>> {
        let mut places: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        let source = files[0].path.split('/').nth(2).unwrap();
        for file in files {
            assert!(waiting::is_waiting(&file.path), "{}", file.path);
            let bytes = self.store.get(&file.path)?.expect("a committed file is there");
            for (offset, json) in lines(&bytes) {
                let time_us = time_of(json);
                let day = time_us.div_euclid(DAY_US);
                let place = match step {
                    Step::Blocks => format!("{}/from={}", waiting::folder(source), day.div_euclid(BLOCK_DAYS)),
                    Step::Dates => format!("events/{source}/date={day}"),
                };
                places.entry(place).or_default().push((offset, time_us, json.to_owned()));
            }
        }
        let mut spread = Vec::new();
        for (place, mut rows) in places {
            rows.sort_by_key(|(offset, ..)| *offset);
            let staged = format!("_staging/events/{source}/{name}-{}.lines", place.rsplit('/').next().unwrap());
            spread.push(self.stage_rows(staged, format!("{place}/{name}.lines"), &rows)?);
        }
        Ok(spread)
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

    fn read(&self, schema: &Arc<SourceSchema>, scan: ArchiveScan) -> Result<Box<dyn EventReader>> {
        let mut batches = VecDeque::new();
        self.scan(schema, &scan, &mut |partition, batch| {
            batches.push_back((partition, batch));
            Ok(())
        })?;
        Ok(Box::new(FakeBatches(batches)))
    }

    fn scan(
        &self,
        schema: &Arc<SourceSchema>,
        scan: &ArchiveScan,
        visit: &mut dyn FnMut(u32, EventBatch) -> Result<()>,
    ) -> Result<()> {
        for (partition, file) in &scan.files {
            // Wherever it is by now, as it moves on: from stage to path to away.
            let mut found = None;
            for place in [&file.path, &file.staged, &file.path, &trashed(&file.path)] {
                if found.is_none() {
                    found = self.store.get(place)?;
                }
            }
            let bytes = found.expect("a committed file is there");
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

struct FakeBatches(VecDeque<(u32, EventBatch)>);

impl EventReader for FakeBatches {
    fn next_batch(&mut self) -> Result<Option<EventBatch>> {
        Ok(self.next_of_partition()?.map(|(_, batch)| batch))
    }

    fn next_of_partition(&mut self) -> Result<Option<(u32, EventBatch)>> {
        Ok(self.0.pop_front())
    }
}
