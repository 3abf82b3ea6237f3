//! A tree of snapshots as tests see it: every file, by date, and each row against the oracle.

use crate::archive::{self, Archived};
use crate::oracle::{self, OracleEvent};
use crate::table::{as_promised, cell, column, instants, table, texts};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The folder of a date (`/entity=…/view=…/version=…/date=…`) → the files in it.
pub type Dates<'a> = BTreeMap<&'a str, BTreeMap<&'a str, &'a [u8]>>;

/// Every file below `features` of an offline store, by its path there (`/entity=…`); none where there is no such folder.
pub fn tree(offline: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let features = offline.join("features");
    if features.exists() {
        walk(&features, "", &mut found);
    }
    found
}

/// A folder that a running job changes may lose a file between the listing and the look: that is not there.
fn walk(folder: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    let is_gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let inside = match std::fs::read_dir(folder) {
        Ok(inside) => inside,
        Err(error) if is_gone(&error) => return,
        Err(error) => panic!("{}: {error}", folder.display()),
    };
    for entry in inside {
        let path = entry.expect("a folder can be listed").path();
        let name = format!("{prefix}/{}", path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8"));
        if path.is_dir() {
            walk(&path, &name, found);
            continue;
        }
        match std::fs::read(&path) {
            Ok(bytes) => drop(found.insert(name, bytes)),
            Err(error) if is_gone(&error) => {}
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

/// The files of each date, without the manifests.
pub fn dates(tree: &BTreeMap<String, Vec<u8>>) -> Dates<'_> {
    let mut dates = Dates::new();
    for (path, bytes) in tree.iter().filter(|(path, _)| !path.ends_with(".json")) {
        let (date, name) = path.rsplit_once('/').expect("a file lies in a folder");
        dates.entry(date).or_default().insert(name, bytes);
    }
    dates
}

/// What a report of `plumb backfill --json` counts over all views: dates `made` or `unchanged`.
pub fn count(report: &Value, what: &str) -> u64 {
    let views = report["dates"].as_object().expect("a report of a backfill");
    views.values().map(|view| view[what].as_u64().expect("a count of dates")).sum()
}

/// Checks every row of the snapshots of an offline store against the oracle over the archive beside them (of source
/// `default`) at the row's position; how many rows there were.
pub fn check_rows(offline: &Path) -> usize {
    let archived: Vec<Archived> = archive::read(&offline.join("events/default"));
    let mut checked = 0;
    for file in archive::parquet_files(&offline.join("features")) {
        let path = file.display().to_string();
        let view = path.split("view=").nth(1).and_then(|rest| rest.split('/').next()).expect("a folder of a view");
        let of_view = oracle::view(view).unwrap_or_else(|| panic!("the oracle has no view {view}"));
        let rows = table(&file);
        let (users, positions) = (texts(&rows, "user_id"), texts(&rows, "_position"));
        for (row, instant_us) in instants(&rows, "event_time").into_iter().enumerate() {
            let position = positions[row].as_deref().unwrap_or_else(|| panic!("{path} row {row}: no position"));
            let below = offsets(position);
            let is_seen = |one: &&Archived| below.get(&one.partition).is_some_and(|&end| one.offset < end);
            let seen: Vec<OracleEvent> = archived.iter().filter(is_seen).map(|one| one.event.clone()).collect();
            let user = users[row].as_deref().unwrap_or_else(|| panic!("{path} row {row}: no entity"));
            let expected = of_view(&seen, user, instant_us).unwrap_or_else(|| panic!("{path}: {user} has no event"));
            for (feature, value) in expected {
                let found = cell(column(&rows, feature), row);
                assert!(as_promised(feature, &found, &value), "{path} row {row}: {feature} {found:?}, not {value:?}");
            }
            checked += 1;
        }
    }
    checked
}

/// Partition → end offset, of a position such as `default:0=169,1=172`.
fn offsets(position: &str) -> BTreeMap<i32, i64> {
    let parts = position.strip_prefix("default:").unwrap_or_else(|| panic!("not of source default: {position}"));
    parts
        .split(',')
        .map(|part| {
            let (partition, offset) = part.split_once('=').expect("partition=offset");
            (partition.parse().expect("a partition"), offset.parse().expect("an offset"))
        })
        .collect()
}
