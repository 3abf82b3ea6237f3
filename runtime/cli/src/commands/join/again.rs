//! `plumb join --from-manifest`: the same training set from the same inputs, or a word on what differs.

use super::super::offline::{Prepared, event_paths};
use super::Plan;
use crate::args::Join;
use crate::context::instant;
use crate::exit::usage;
use anyhow::Result;
use plumb_assembly::{Settings, event_files};
use plumb_offline_parquet::{FileDigest, Manifest, SourceRules, Subfolders, digest_files, table_files};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The join that a manifest describes, with its inputs where they were, or where the command line says they are
/// now. Every difference to the manifest is an error that names it, before anything is computed.
pub(super) fn plan(path: &Path, arguments: &Join) -> Result<Plan> {
    let manifest = Manifest::read(path)?;
    let threads = arguments.reading.threads.unwrap_or(1);
    let mut different = Vec::new();
    let components = components(&manifest, arguments, threads, &mut different)?;
    let labels = labels(&manifest, arguments, threads, &mut different)?;
    let paths = events(&manifest, arguments, threads, &mut different)?;
    refuse(path, different)?;
    let now_us = instant("now", &manifest.options.now)?;
    let settings = settings(&manifest)?;
    let prepared = Prepared::of(settings, now_us, &components, paths, arguments.reading.threads)?;
    let features: Vec<&str> = manifest.features.iter().map(|feature| feature.feature.as_str()).collect();
    Ok(Plan {
        prepared,
        components,
        features: features.join(","),
        labels,
        options: manifest.options.clone(),
        wanted: Some(manifest),
    })
}

/// What came out must be what the manifest says: nothing is written otherwise.
pub(super) fn check(wanted: &Manifest, made: &Manifest) -> Result<()> {
    if wanted.schema != made.schema {
        let differs = wanted.schema.iter().zip(&made.schema).find(|(wanted, made)| wanted != made);
        let differs = differs.map_or_else(
            || format!("{} columns instead of {}", made.schema.len(), wanted.schema.len()),
            |(wanted, made)| {
                format!("`{}` is {}, was `{}`, {}", made.name, made.data_type, wanted.name, wanted.data_type)
            },
        );
        anyhow::bail!(
            "the same inputs gave other columns: {differs} (made by plumb {}, this is {})",
            wanted.plumb,
            made.plumb
        );
    }
    if wanted.rows != made.rows {
        anyhow::bail!(
            "the same inputs gave other rows: {} rows with the hash {}, the manifest has {} with {} (made by plumb {}, \
             this is {})",
            made.rows.kept,
            made.rows.sha256,
            wanted.rows.kept,
            wanted.rows.sha256,
            wanted.plumb,
            made.plumb
        );
    }
    Ok(())
}

/// One line for all that differs, the first few by name.
fn refuse(manifest: &Path, different: Vec<String>) -> Result<()> {
    const NAMED: usize = 3;
    if different.is_empty() {
        return Ok(());
    }
    let more = match different.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let named = different[..different.len().min(NAMED)].join("; ");
    Err(usage(format!("not what `{}` was made from: {named}{more}", manifest.display())))
}

/// The components' files: those given whose content is the manifest's, else where they were.
fn components(
    manifest: &Manifest,
    arguments: &Join,
    threads: usize,
    different: &mut Vec<String>,
) -> Result<Vec<PathBuf>> {
    let given = digest_files(&arguments.transforms, threads)?;
    let mut used = vec![false; given.len()];
    let mut files = Vec::new();
    for view in &manifest.views {
        let (name, version, sha256) = (&view.view, &view.version, &view.sha256);
        if let Some(at) = given.iter().position(|digest| digest.sha256 == *sha256) {
            used[at] = true;
            files.push(arguments.transforms[at].clone());
            continue;
        }
        let path = PathBuf::from(&view.path);
        match digest_files(std::slice::from_ref(&path), 1) {
            Ok(digests) if digests[0].sha256 == *sha256 => {}
            Ok(digests) if arguments.transforms.is_empty() => different.push(format!(
                "component `{}` of view `{name}` has the digest {}, not {sha256} ({version})",
                view.path, digests[0].sha256
            )),
            _ => different.push(format!(
                "the component of view `{name}` {version}, with the digest {sha256}, is not there: give it by --transform"
            )),
        }
        files.push(path);
    }
    if let Some(at) = used.iter().position(|used| !used) {
        let (path, sha256) = (arguments.transforms[at].display(), &given[at].sha256);
        different.push(format!("component `{path}` has the digest {sha256}, which is of no view there"));
    }
    Ok(files)
}

fn labels(manifest: &Manifest, arguments: &Join, threads: usize, different: &mut Vec<String>) -> Result<Vec<PathBuf>> {
    let mut paths = table_files(&arguments.labels, Subfolders::Refused)?;
    if paths.is_empty() {
        paths = manifest.labels.iter().map(|labels| PathBuf::from(&labels.path)).collect();
    }
    if paths.len() != manifest.labels.len() {
        different.push(format!("{} label files instead of {}", paths.len(), manifest.labels.len()));
        return Ok(paths);
    }
    for (path, wanted) in paths.iter().zip(&manifest.labels) {
        let found = present(path, threads)?;
        compare(
            &format!("label file `{}`", path.display()),
            "--labels",
            found,
            (wanted.bytes, &wanted.sha256),
            different,
        );
    }
    Ok(paths)
}

fn events(
    manifest: &Manifest,
    arguments: &Join,
    threads: usize,
    different: &mut Vec<String>,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut paths = event_paths(&arguments.events)?;
    if let Some(extra) = paths.keys().find(|source| manifest.events.iter().all(|events| events.source != **source)) {
        different.push(format!("events of source `{extra}`, which it does not read"));
    }
    for events in &manifest.events {
        let path = paths.entry(events.source.clone()).or_insert_with(|| PathBuf::from(&events.path));
        let flag = format!("--events {}=PATH", events.source);
        if !path.exists() {
            different.push(format!("`{}` is not there: say where it is by {flag}", path.display()));
            continue;
        }
        let found = event_files(path)?;
        // A file alone may have another name now.
        let alone = found.len() == 1 && events.files.len() == 1;
        for wanted in &events.files {
            let file = found.iter().find(|file| alone || file.name == wanted.name);
            let what = match file {
                Some(file) => format!("event file `{}`", file.path.display()),
                None => format!("event file `{}` of `{}`", wanted.name, path.display()),
            };
            let digest = file.map(|file| present(&file.path, threads)).transpose()?.flatten();
            compare(&what, &flag, digest, (wanted.bytes, &wanted.sha256), different);
        }
        let known = |name: &String| alone || events.files.iter().any(|wanted| wanted.name == *name);
        if let Some(new) = found.iter().find(|file| !known(&file.name)) {
            different.push(format!("`{}` has come to the events of source `{}`", new.path.display(), events.source));
        }
    }
    Ok(paths)
}

fn present(path: &Path, threads: usize) -> Result<Option<FileDigest>> {
    if !path.is_file() {
        return Ok(None);
    }
    Ok(digest_files(&[path.to_owned()], threads)?.pop())
}

fn compare(
    what: &str,
    flag: &str,
    found: Option<FileDigest>,
    (bytes, sha256): (u64, &str),
    different: &mut Vec<String>,
) {
    match found {
        None => different.push(format!("{what} is not there: say where it is by {flag}")),
        Some(found) if found.sha256 != sha256 => different.push(format!(
            "{what} has {} bytes with the digest {}, not {bytes} with {sha256}",
            found.bytes, found.sha256
        )),
        Some(_) => {}
    }
}

/// The settings of the sources as they were.
fn settings(manifest: &Manifest) -> Result<Settings> {
    let sources: Table = manifest.events.iter().map(|events| (events.source.clone(), source(&events.rules))).collect();
    let text = Table::from_iter([("sources".to_owned(), Value::Table(sources))]).to_string();
    Ok(Settings::parse("the manifest", &text, [])?)
}

fn source(rules: &SourceRules) -> Value {
    let text = |text: &str| Value::String(text.to_owned());
    let fields = rules.fields.iter().map(|field| (field.name.clone(), text(&field.data_type))).collect();
    let required = rules.fields.iter().filter(|field| field.required).map(|field| text(&field.name)).collect();
    let entries = [
        ("time_field", text(&rules.time_field)),
        ("time_unit", text(&rules.time_unit)),
        ("id_field", text(&rules.id_field)),
        ("key_field", text(&rules.key_field)),
        ("min_time", text(&rules.min_time)),
        ("max_future", text(&rules.max_future)),
        ("fields", Value::Table(fields)),
        ("required", Value::Array(required)),
    ];
    Value::Table(entries.map(|(key, value)| (key.to_owned(), value)).into_iter().collect())
}
