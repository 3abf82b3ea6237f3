//! `plumb.toml` and the environment as one tree of untyped values that remember where they came from.
//!
//! Readers take keys out of a [`RawTable`] by name; what is left at the end is unknown and refused,
//! naming the key, its section and near ones.

use crate::{Error, Result};
use plumb_pipeline::secret::MASK;
use plumb_pipeline::{Secret, near};
use std::path::PathBuf;

/// The prefix of environment variables that override keys.
const ENV_PREFIX: &str = "PLUMB__";

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct RawValue {
    /// The file's name, or the environment variable's.
    pub(super) origin: String,
    pub(super) node: RawNode,
}

#[derive(Debug, Clone)]
pub(super) enum RawNode {
    /// A section, or a table as a value.
    Table(Vec<(String, RawValue)>),
    /// A value of the file.
    Value(toml::Value),
    /// Text of the environment: its type is that of the key.
    Text(String),
}

/// A section whose keys are taken out one after the other.
#[derive(Debug)]
pub(super) struct RawTable {
    /// Its dotted name; empty for the top level.
    name: String,
    entries: Vec<(String, RawValue)>,
    known: Vec<&'static str>,
    /// Where the keys that were taken out had been written.
    origins: Vec<(&'static str, String)>,
}

/// Reads TOML text and lays environment variables over it; the result is the top level.
pub(super) fn parse(
    file: &str,
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<RawTable> {
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        Error::invalid(format!("{file}, line {line}: {}", error.message().trim().replace('\n', "; ")))
    })?;
    let mut entries = from_toml(file, table);
    let mut variables: Vec<(String, String)> =
        environment.into_iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    variables.sort();
    for (variable, text) in variables {
        let path: Vec<String> = variable[ENV_PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
        if path.iter().any(String::is_empty) {
            return Err(Error::invalid(format!(
                "environment variable {variable}: overrides read PLUMB__SECTION__KEY, as in PLUMB__RUN__SERVE"
            )));
        }
        // `[source]` and `[sources.default]` are one section, whichever of them the file has.
        let path = match path.as_slice() {
            [section, rest @ ..] if section == "source" && has_default_source(&entries) => {
                [&["sources".to_owned(), "default".to_owned()], rest].concat()
            }
            [section, name, rest @ ..] if section == "sources" && name == "default" && has(&entries, "source") => {
                [&["source".to_owned()], rest].concat()
            }
            _ => path,
        };
        set(&mut entries, &path, &variable, text)?;
    }
    Ok(RawTable::new(String::new(), entries))
}

fn has(entries: &[(String, RawValue)], key: &str) -> bool {
    entries.iter().any(|(name, _)| name == key)
}

fn has_default_source(entries: &[(String, RawValue)]) -> bool {
    entries.iter().any(|(name, value)| {
        name == "sources" && matches!(&value.node, RawNode::Table(sources) if has(sources, "default"))
    })
}

fn from_toml(file: &str, table: toml::Table) -> Vec<(String, RawValue)> {
    let value = |value| match value {
        toml::Value::Table(table) => RawNode::Table(from_toml(file, table)),
        other => RawNode::Value(other),
    };
    table.into_iter().map(|(key, v)| (key, RawValue { origin: file.to_owned(), node: value(v) })).collect()
}

fn set(entries: &mut Vec<(String, RawValue)>, path: &[String], variable: &str, text: String) -> Result<()> {
    let (key, rest) = path.split_first().expect("invariant: a split string has at least one part");
    let origin = format!("environment variable {variable}");
    if !has(entries, key) {
        entries.push((key.clone(), RawValue { origin: origin.clone(), node: RawNode::Table(Vec::new()) }));
    }
    let entry = entries.iter_mut().find(|(name, _)| name == key).map(|(_, value)| value);
    let entry = entry.expect("invariant: the key was added above");
    if rest.is_empty() {
        *entry = RawValue { origin, node: RawNode::Text(text) };
        return Ok(());
    }
    match &mut entry.node {
        RawNode::Table(inner) => set(inner, rest, variable, text),
        _ => Err(Error::invalid(format!("{origin}: `{key}` is a value, not a section"))),
    }
}

impl RawTable {
    fn new(name: String, entries: Vec<(String, RawValue)>) -> Self {
        Self { name, entries, known: Vec::new(), origins: Vec::new() }
    }

    /// Whether a key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        has(&self.entries, key)
    }

    /// The full name of a key of this section.
    pub(super) fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn take(&mut self, key: &'static str) -> Option<RawValue> {
        self.known.push(key);
        let index = self.entries.iter().position(|(name, _)| name == key)?;
        let value = self.entries.remove(index).1;
        self.origins.push((key, value.origin.clone()));
        Some(value)
    }

    /// An error about a key that was taken out: names where it was written, and the key in full.
    pub(super) fn refuse(&self, key: &str, why: impl std::fmt::Display) -> Error {
        let origin = self.origins.iter().find(|(name, _)| *name == key).map(|(_, origin)| format!("{origin}: "));
        Error::invalid(format!("{}{} {why}", origin.unwrap_or_default(), self.path(key)))
    }

    /// Refuses the first of these keys that was set (to something else than its default).
    pub(super) fn refuse_set(&self, keys: &[(&str, bool)], why: impl Fn() -> String) -> Result<()> {
        match keys.iter().find(|(_, set)| *set) {
            Some((key, _)) => Err(self.refuse(key, why())),
            None => Ok(()),
        }
    }

    /// Takes a section out; an empty one if it is not there.
    pub(super) fn section(&mut self, key: &'static str) -> Result<RawTable> {
        let name = self.path(key);
        let entries = match self.take(key) {
            None => Vec::new(),
            Some(RawValue { node: RawNode::Table(entries), .. }) => entries,
            Some(value) => return Err(value.bad(&name, "a section")),
        };
        Ok(RawTable::new(name, entries))
    }

    /// Takes every entry out, each a section of its own.
    pub(super) fn sections(self) -> Result<Vec<(String, RawTable)>> {
        let RawTable { name: parent, entries, .. } = self;
        let section = |(key, value): (String, RawValue)| {
            let name = format!("{parent}.{key}");
            match value.node {
                RawNode::Table(entries) => Ok((key, RawTable::new(name, entries))),
                _ => Err(value.bad(&name, "a section")),
            }
        };
        entries.into_iter().map(section).collect()
    }

    /// Takes a string and converts it; `default` if the key is not there.
    pub(super) fn text<T, E: std::fmt::Display>(
        &mut self,
        key: &'static str,
        default: T,
        convert: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T> {
        let path = self.path(key);
        let Some(value) = self.take(key) else { return Ok(default) };
        let text = match &value.node {
            RawNode::Text(text) | RawNode::Value(toml::Value::String(text)) => text,
            _ => return Err(value.bad(&path, "a string")),
        };
        convert(text).map_err(|why| Error::invalid(format!("{}: {path} = \"{}\": {why}", value.origin, mask_url(text))))
    }

    /// Takes a string as it is.
    pub(super) fn string(&mut self, key: &'static str, default: &str) -> Result<String> {
        self.text(
            key,
            default.to_owned(),
            |text| {
                if text.is_empty() { Err("must not be empty") } else { Ok(text.to_owned()) }
            },
        )
    }

    /// Takes a string that may be empty, which is the same as not being there.
    pub(super) fn optional(&mut self, key: &'static str) -> Result<Option<String>> {
        let text = self.text(key, String::new(), |text| Ok::<_, String>(text.to_owned()))?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// Takes a path that may be empty.
    pub(super) fn optional_path(&mut self, key: &'static str) -> Result<Option<PathBuf>> {
        Ok(self.optional(key)?.map(PathBuf::from))
    }

    /// Takes a string that may be empty and is in no error.
    pub(super) fn secret(&mut self, key: &'static str) -> Result<Option<Secret>> {
        let path = self.path(key);
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.node {
            RawNode::Text(text) | RawNode::Value(toml::Value::String(text)) => {
                Ok(Some(text).filter(|text| !text.is_empty()).map(Secret::new))
            }
            _ => Err(Error::invalid(format!("{}: {path} is {MASK}, expected a string", value.origin))),
        }
    }

    /// Takes one of some words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, default: T, words: &[(&str, T)]) -> Result<T> {
        self.text(key, default, |text| {
            let known = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
            known.ok_or_else(|| format!("write {}", either(words.iter().map(|(word, _)| *word))))
        })
    }

    /// Takes a truth value.
    pub(super) fn bool(&mut self, key: &'static str, default: bool) -> Result<bool> {
        let path = self.path(key);
        let Some(value) = self.take(key) else { return Ok(default) };
        match &value.node {
            RawNode::Value(toml::Value::Boolean(set)) => Ok(*set),
            RawNode::Text(text) if text == "true" => Ok(true),
            RawNode::Text(text) if text == "false" => Ok(false),
            _ => Err(value.bad(&path, "true or false")),
        }
    }

    /// Takes a whole number within bounds.
    pub(super) fn integer(&mut self, key: &'static str, default: u32, bounds: (u32, u32)) -> Result<u32> {
        let path = self.path(key);
        let Some(value) = self.take(key) else { return Ok(default) };
        let number = match &value.node {
            RawNode::Value(toml::Value::Integer(number)) => Some(*number),
            RawNode::Text(text) => text.parse().ok(),
            _ => None,
        };
        match number.and_then(|number| u32::try_from(number).ok()) {
            Some(number) if (bounds.0..=bounds.1).contains(&number) => Ok(number),
            _ => Err(value.bad(&path, &format!("a whole number from {} to {}", bounds.0, bounds.1))),
        }
    }

    /// Takes a list of strings (in the environment: a TOML list, or one string).
    pub(super) fn strings(&mut self, key: &'static str, default: Vec<String>) -> Result<Vec<String>> {
        let path = self.path(key);
        let Some(value) = self.take(key) else { return Ok(default) };
        let parsed;
        let list = match &value.node {
            RawNode::Text(text) if !text.trim_start().starts_with('[') => return Ok(vec![text.clone()]),
            RawNode::Text(text) => {
                parsed = inline(text);
                parsed.as_ref()
            }
            RawNode::Value(value) => Some(value),
            RawNode::Table(_) => None,
        };
        let strings = list.and_then(toml::Value::as_array).map(|list| list.iter().map(toml::Value::as_str));
        match strings.and_then(|strings| strings.map(|text| text.map(str::to_owned)).collect()) {
            Some(strings) => Ok(strings),
            None => Err(value.bad(&path, "a list of strings")),
        }
    }

    /// Takes a table of strings in its written order, each with its origin; `None` if the key is not there.
    pub(super) fn pairs(&mut self, key: &'static str) -> Result<Option<Vec<(String, String, String)>>> {
        let path = self.path(key);
        let Some(value) = self.take(key) else { return Ok(None) };
        let entries = match &value.node {
            RawNode::Table(entries) => entries.clone(),
            RawNode::Text(text) => match inline(text) {
                Some(toml::Value::Table(table)) => from_toml(&value.origin, table),
                _ => return Err(value.bad(&path, "a table, as in { user_id = \"string\" }")),
            },
            RawNode::Value(_) => return Err(value.bad(&path, "a table, as in { user_id = \"string\" }")),
        };
        let pair = |(key, value): (String, RawValue)| match &value.node {
            RawNode::Text(text) | RawNode::Value(toml::Value::String(text)) => {
                Ok((key, text.clone(), value.origin.clone()))
            }
            _ => Err(value.bad(&format!("{path}.{key}"), "a string")),
        };
        entries.into_iter().map(pair).collect::<Result<_>>().map(Some)
    }

    /// Refuses what was not taken.
    pub(super) fn finish(self) -> Result<()> {
        let Some((key, value)) = self.entries.first() else { return Ok(()) };
        let section = if self.name.is_empty() { "at the top level".to_owned() } else { format!("in [{}]", self.name) };
        let near = near::near_names(key, self.known.iter().copied());
        let hint = match near.as_slice() {
            [] => format!("known are {}", near::quoted(self.known.iter().copied())),
            near => format!("did you mean {}?", near::quoted(near.iter().map(String::as_str))),
        };
        Err(Error::invalid(format!("{}: unknown key `{key}` {section}; {hint}", value.origin)))
    }
}

impl RawValue {
    fn bad(&self, path: &str, wanted: &str) -> Error {
        let found = match &self.node {
            RawNode::Table(_) => "a section".to_owned(),
            RawNode::Value(value) => value.to_string(),
            RawNode::Text(text) => format!("\"{text}\""),
        };
        Error::invalid(format!("{}: {path} is {found}, expected {wanted}", self.origin))
    }
}

fn inline(text: &str) -> Option<toml::Value> {
    toml::from_str::<toml::Table>(&format!("value = {text}")).ok()?.remove("value")
}

/// `"a", "b" or "c"`.
pub(super) fn either<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Hides the password of a URL.
pub(super) fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // Where the password was not encoded, the authority seems to end inside it: all up to the last `@` is hidden.
    let Some(at) = rest[..authority_end].rfind('@').or_else(|| rest.rfind('@')) else { return url.to_owned() };
    match rest[..at].split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:{MASK}{}", &rest[at..]),
        None => url.to_owned(),
    }
}
