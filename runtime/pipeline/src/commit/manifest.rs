//! The manifest of a commit, format 1: JSON, unknown fields refused.

use super::{damaged, sha256_hex};
use crate::accept::{Accounting, RecordClock};
use crate::port::{Gap, RowFile};
use crate::{Error, Result};
use plumb_core::plan::StateId;
use serde::{Deserialize, Serialize};

/// The number of the format.
pub const FORMAT: u32 = 1;

/// The state of one source partition as committed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The source.
    pub source: String,
    /// The partition.
    pub partition: u32,
    /// Its place in the chain, from 1.
    pub seq: u64,
    /// The manifest before it; `None` for the first.
    pub parent: Option<Parent>,
    /// The generation of the owner that wrote it; rises with every take-over.
    pub generation: u64,
    /// That owner's own mark, so that it knows its manifests from another's with the same content.
    pub owner: String,
    /// Where the partition began: the offset of its first record when it was first taken over.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_offset: u64,
    /// The offset after the last record it holds.
    pub next_offset: u64,
    /// Records that the source no longer had, and that it was told to do without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// The newest time of an accepted event, µs.
    pub newest_event_time_us: Option<i64>,
    /// What became of the records before `next_offset`.
    pub accounting: Accounting,
    /// What the source wants to find again.
    pub memo: Option<serde_json::Value>,
    /// The views whose state may be in the online store; it is in `state` but for those that were only just added.
    pub views: Vec<ViewRef>,
    /// State files, to be read in this order: a snapshot and the deltas after it.
    pub state: Vec<FileRef>,
    /// Files of accepted ids, oldest first; together they hold every one that is not forgotten.
    pub ids: Vec<FileRef>,
    /// What decides which ids are forgotten; none where none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<RecordClock>,
    /// The first of `lists`, where an earlier version wrote it.
    pub listed: Option<FileRef>,
    /// Lists of the row files committed before `rows` and `dead_letters`, in commit order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<FileRef>,
    /// The paths of files in `lists` that have been replaced since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// The paths of files that this very manifest replaces by others: they leave the tree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<String>,
    /// Event files, in commit order.
    pub rows: Vec<RowFile>,
    /// Dead-letter files, in commit order.
    pub dead_letters: Vec<RowFile>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The manifest before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// Its place in the chain.
    pub seq: u64,
    /// The SHA-256 of its bytes, hex.
    pub sha256: String,
}

/// A view as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewRef {
    /// Its name.
    pub name: String,
    /// Its semantic version.
    pub version: String,
    /// The SHA-256 of its component, hex.
    pub digest: String,
    /// The identity of its state, hex.
    pub state_id: String,
}

impl ViewRef {
    /// The identity of its state; `None` if the text is none.
    pub fn state_id(&self) -> Option<StateId> {
        let bytes: &[[u8; 2]; 8] = self.state_id.as_bytes().as_chunks().0.try_into().ok()?;
        let mut id = [0; 8];
        for (byte, digits) in id.iter_mut().zip(bytes) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(StateId(id))
    }
}

/// An object a manifest refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Its path.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The SHA-256 of its bytes, hex.
    pub sha256: String,
    /// The newest time of the ids in it, µs, if all have one: the file goes when that is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_us: Option<i64>,
}

impl FileRef {
    /// The reference to these bytes under this path.
    pub fn of(path: String, bytes: &[u8]) -> Self {
        Self { path, bytes: bytes.len() as u64, sha256: sha256_hex(bytes), newest_us: None }
    }

    /// Whether these are the bytes referred to.
    pub fn check(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 != self.bytes {
            return Err(damaged(&self.path, format!("{} bytes, committed were {}", bytes.len(), self.bytes)));
        }
        match sha256_hex(bytes) {
            found if found == self.sha256 => Ok(()),
            found => Err(damaged(&self.path, format!("its SHA-256 is {found}, committed was {}", self.sha256))),
        }
    }
}

impl Manifest {
    /// What a partition begins with, at the source's record `start_offset`; never stored as such.
    pub fn start_at(source: &str, partition: u32, start_offset: u64) -> Self {
        Self { start_offset, next_offset: start_offset, ..Self::start(source, partition) }
    }

    /// What a partition begins with where its source begins at 0.
    pub fn start(source: &str, partition: u32) -> Self {
        Self {
            format: FORMAT,
            source: source.to_owned(),
            partition,
            seq: 0,
            parent: None,
            generation: 0,
            owner: String::new(),
            start_offset: 0,
            next_offset: 0,
            gaps: Vec::new(),
            newest_event_time_us: None,
            accounting: Accounting::default(),
            memo: None,
            views: Vec::new(),
            state: Vec::new(),
            ids: Vec::new(),
            clock: None,
            listed: None,
            lists: Vec::new(),
            removed: Vec::new(),
            replaced: Vec::new(),
            rows: Vec::new(),
            dead_letters: Vec::new(),
        }
    }

    /// Its bytes; equal manifests have equal bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).map_err(|error| Error::internal(format!("cannot encode a manifest: {error}")))
    }

    /// Reads and checks a manifest stored under `path`.
    pub fn decode(path: &str, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let format: Format = serde_json::from_slice(bytes).map_err(|error| damaged(path, error))?;
        if format.format != FORMAT {
            return Err(Error::invalid(format!(
                "`{path}` has format {}, this version of plumb reads {FORMAT}: it was written by another version",
                format.format
            )));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| damaged(path, error))?;
        if manifest_path(&manifest.source, manifest.partition, manifest.seq) != path {
            return Err(damaged(path, "it is the manifest of another place"));
        }
        if !manifest.accounting.is_consistent() {
            return Err(damaged(path, "its accounting does not add up"));
        }
        Ok(manifest)
    }
}

/// Where a partition's manifests lie.
pub fn manifest_folder(source: &str, partition: u32) -> String {
    format!("manifest/{source}/{partition}")
}

/// Where a manifest lies.
pub fn manifest_path(source: &str, partition: u32, seq: u64) -> String {
    format!("manifest/{source}/{partition}/{seq:020}")
}

/// Where a partition's state files lie.
pub fn state_folder(source: &str, partition: u32) -> String {
    format!("state/{source}/{partition}")
}

/// The name of the row files of a commit, unique to it.
pub fn commit_name(partition: u32, generation: u64, seq: u64) -> String {
    format!("{partition}-{generation}-{seq}")
}
