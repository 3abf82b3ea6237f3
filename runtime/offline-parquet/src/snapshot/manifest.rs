//! The manifest beside the snapshots of a view: what each date was made from, and its files.
//! `docs/backfill.md` describes it; `golden/` holds one.

use crate::dates::{date_of_day, day_of};
use plumb_core::time::{DAY_US, format_duration};
use plumb_pipeline::decode::time::{format_rfc3339, parse_rfc3339};
use plumb_pipeline::port::{SnapshotDate, SnapshotInputs, SnapshotView};
use plumb_pipeline::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const FORMAT: &str = "plumb snapshots";
const FORMAT_VERSION: u32 = 1;

/// What the snapshots of one version of a view were made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SnapshotManifest {
    format: String,
    format_version: u32,
    /// The version of plumb that wrote it last.
    plumb: String,
    view: String,
    version: String,
    /// The SHA-256 of the component, hex.
    sha256: String,
    source: String,
    /// The options, as on the command line.
    pub(super) every: String,
    pub(super) entities: String,
    /// The max age that the values follow.
    max_age: Option<String>,
    /// By `YYYY-MM-DD`.
    pub(super) dates: BTreeMap<String, DateEntry>,
}

/// A finished date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DateEntry {
    /// The instants that were asked for, from and to (both included).
    first: String,
    last: String,
    /// The events that its values can depend on: how many, and their hash.
    events: u64,
    events_hash: String,
    /// The least position that holds them.
    position: String,
    rows: u64,
    /// The rows that are null because `finalize` failed.
    faulty: u64,
    pub(super) files: Vec<FileEntry>,
}

/// A file of a date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEntry {
    pub(super) name: String,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl SnapshotManifest {
    pub(super) fn new(view: &SnapshotView) -> Self {
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            plumb: env!("CARGO_PKG_VERSION").to_owned(),
            view: view.view.clone(),
            version: view.version_folder.replacen('_', "+", 1),
            sha256: view.digest.clone(),
            source: view.source.clone(),
            every: view.every.clone(),
            entities: view.entities.clone(),
            max_age: view.max_age_us.map(format_duration),
            dates: BTreeMap::new(),
        }
    }

    /// Reads the manifest of a view; `shown` is where it is. An error if the dates in it were made with other options,
    /// with the `remedy` for that.
    pub(super) fn read(bytes: &[u8], shown: &str, view: &SnapshotView, remedy: fn(&Self) -> String) -> Result<Self> {
        let bad = |why: String| Error::invalid(format!("`{shown}` {why}"));
        let value: serde_json::Value = serde_json::from_slice(bytes)
            .map_err(|error| bad(format!("is not a manifest of snapshots: it is not JSON: {error}")))?;
        if value["format"] != FORMAT {
            return Err(bad(format!("is not a manifest of snapshots: `format` should be \"{FORMAT}\"")));
        }
        if value["format_version"] != FORMAT_VERSION {
            let found = &value["format_version"];
            return Err(bad(format!("has format_version {found}, this plumb reads {FORMAT_VERSION}")));
        }
        let found: Self = serde_json::from_value(value)
            .map_err(|error| bad(format!("is a damaged manifest ({error}); without it all dates are made again")))?;
        let wanted = Self::new(view);
        if found.kind() != wanted.kind() {
            return Err(bad(format!("is of snapshots of {}; {}", found.kind(), remedy(&wanted))));
        }
        Ok(Self { dates: found.dates, ..wanted })
    }

    /// What all dates of a folder have in common.
    pub(super) fn kind(&self) -> String {
        let max_age = self.max_age.as_deref().unwrap_or("none");
        format!(
            "`{}` (component {}, source `{}`) with --every {} --entities {} and max age {max_age}",
            self.view, self.sha256, self.source, self.every, self.entities
        )
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("strings and numbers are JSON");
        bytes.push(b'\n');
        bytes
    }
}

impl DateEntry {
    pub(super) fn new(date: &SnapshotDate, files: Vec<FileEntry>) -> Self {
        let inputs = &date.inputs;
        Self {
            first: format_rfc3339(inputs.first_us),
            last: format_rfc3339(inputs.last_us),
            events: inputs.events,
            events_hash: format!("{:032x}", inputs.events_hash),
            position: inputs.position.clone(),
            rows: date.rows,
            faulty: date.faulty,
            files,
        }
    }

    /// The date's 00:00 UTC in µs and what it was made from; `None` if the entry contradicts itself.
    pub(super) fn date(&self, name: &str) -> Option<(i64, SnapshotDate)> {
        let (first_us, last_us) = (parse_rfc3339(self.first.as_bytes())?.us, parse_rfc3339(self.last.as_bytes())?.us);
        let day = day_of(first_us);
        let rows: u64 = self.files.iter().map(|file| file.rows).sum();
        if date_of_day(day) != name || day_of(last_us) != day || rows != self.rows {
            return None;
        }
        let inputs = SnapshotInputs {
            first_us,
            last_us,
            events: self.events,
            events_hash: u128::from_str_radix(&self.events_hash, 16).ok()?,
            position: self.position.clone(),
        };
        Some((day * DAY_US, SnapshotDate { inputs, rows: self.rows, faulty: self.faulty }))
    }
}
