//! The manifest beside a training set: all that is needed to make it again, and to tell that it is the same.
//! `docs/training-sets.md` describes it; `golden/` holds one.

use plumb_pipeline::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

const FORMAT: &str = "plumb training set";
const FORMAT_VERSION: u32 = 1;

/// What a training set was made from, how, and what came out. Nothing in it depends on when, where or with how many
/// threads it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always `plumb training set`.
    pub format: String,
    /// The version of this format.
    pub format_version: u32,
    /// The version of plumb that made the set.
    pub plumb: String,
    /// How it was made.
    pub options: OptionsUsed,
    /// The components, in the order of the features.
    pub views: Vec<ViewUsed>,
    /// The features, in column order.
    pub features: Vec<FeatureEntry>,
    /// The events, by source.
    pub events: Vec<EventsInput>,
    /// The label files, in the order of their rows.
    pub labels: Vec<LabelsInput>,
    /// The rows that came out.
    pub rows: RowsMade,
    /// The columns that came out.
    pub schema: Vec<SchemaColumn>,
    /// The files that were written, in the order of their rows.
    pub files: Vec<OutputFile>,
}

/// The options of a join, as on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "named as the options of the command")]
pub struct OptionsUsed {
    pub label_time: String,
    pub as_of: String,
    pub cold_start: String,
    pub max_age: Option<String>,
    pub knowledge: String,
    /// The instant against which `max_future` was measured (RFC 3339).
    pub now: String,
}

/// A component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewUsed {
    /// The view.
    pub view: String,
    /// Its version with the digest's beginning.
    pub version: String,
    /// The SHA-256 of the component, hex.
    pub sha256: String,
    /// Where the component was.
    pub path: String,
    /// The source it reads.
    pub source: String,
}

/// A feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureEntry {
    /// Its column.
    pub column: String,
    /// `view:feature`.
    pub feature: String,
    /// The view's version.
    pub version: String,
}

/// The events of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsInput {
    /// The source.
    pub source: String,
    /// The file or folder they were read from.
    pub path: String,
    /// What is known of its records.
    pub rules: SourceRules,
    /// The event files, in the order read.
    pub files: Vec<InputFile>,
    /// Records read.
    pub read: u64,
    /// Those that were accepted; the others were duplicates or rejected.
    pub accepted: u64,
}

/// The settings of a source that decide what its events are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "named as the keys of plumb.toml")]
pub struct SourceRules {
    pub time_field: String,
    pub time_unit: String,
    pub id_field: String,
    pub key_field: String,
    pub min_time: String,
    pub max_future: String,
    pub fields: Vec<SourceField>,
}

/// A field of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceField {
    /// Its name.
    pub name: String,
    /// Its type, as in `plumb.toml`.
    #[serde(rename = "type")]
    pub data_type: String,
    /// Whether a record without it is rejected.
    pub required: bool,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// Its path under the folder it was found in; its file name if it was named itself.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, hex.
    pub sha256: String,
}

/// A label file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelsInput {
    /// Where it was.
    pub path: String,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, hex.
    pub sha256: String,
}

/// How many rows there were, and what identifies those that came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsMade {
    /// Labels read.
    #[serde(rename = "in")]
    pub read: u64,
    /// Labels answered.
    pub kept: u64,
    /// Labels left out because an entity was not found.
    pub dropped: u64,
    /// The hash of the rows, hex.
    pub sha256: String,
}

/// A column of the training set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemaColumn {
    /// Its name.
    pub name: String,
    /// What its values are.
    #[serde(rename = "type")]
    pub data_type: String,
}

/// A file of the training set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputFile {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, hex.
    pub sha256: String,
}

impl Manifest {
    /// The value of `format` and `format_version` that this code writes.
    pub fn format() -> (String, u32) {
        (FORMAT.to_owned(), FORMAT_VERSION)
    }

    /// Reads a manifest; an error says what is wrong with the file.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::invalid(format!("`{shown}` does not exist")),
            std::io::ErrorKind::InvalidData => Error::invalid(format!("`{shown}` is not a manifest: it is not text")),
            _ => Error::unavailable(format!("read `{shown}`"), error),
        })?;
        Self::parse(&text).map_err(|why| Error::invalid(format!("`{shown}` {why}")))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| format!("is not a manifest: it is not JSON: {error}"))?;
        if value["format"] != FORMAT {
            return Err(format!("is not a manifest: `format` should be \"{FORMAT}\""));
        }
        if value["format_version"] != FORMAT_VERSION {
            let found = &value["format_version"];
            return Err(format!("has format_version {found}, this plumb reads {FORMAT_VERSION}"));
        }
        serde_json::from_value(value).map_err(|error| format!("is a damaged manifest: {error}"))
    }

    /// The manifest as text.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("strings and numbers are JSON");
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the first version; every later one reads it, and writes the same.
    const GOLDEN: &str = include_str!("../golden/training_set_manifest_v1.json");

    #[test]
    fn the_first_version_is_read_and_written_the_same() {
        let manifest = Manifest::parse(GOLDEN).unwrap();
        assert_eq!(manifest.rows.kept, 2);
        assert_eq!(manifest.to_text(), GOLDEN);
    }

    #[test]
    fn what_is_no_manifest_is_said() {
        for (text, why) in [
            ("PAR1", "is not a manifest: it is not JSON"),
            ("{}", "is not a manifest: `format` should be"),
            (
                &GOLDEN.replace("\"format_version\": 1", "\"format_version\": 2"),
                "has format_version 2, this plumb reads 1",
            ),
            (&GOLDEN.replace("\"kept\"", "\"left\""), "is a damaged manifest: unknown field `left`"),
        ] {
            let error = Manifest::parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
