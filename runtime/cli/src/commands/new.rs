//! `plumb new`: a transform crate that stands on its own, with the SDK beside it.

mod lock;
mod sources;

use crate::exit::usage;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Names that the HTTP interface uses in the place of an entity.
const RESERVED_ENTITIES: [&str; 4] = ["online", "offline", "vector", "batch"];

/// Names of crates that the new one depends on, or that cargo does not take for a library.
const TAKEN_CRATES: [&str; 4] = ["plumb_sdk", "test", "core", "std"];

/// Rust's words, which cannot name a library.
const KEYWORDS: [&str; 40] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "true",
];

/// Makes the folder `name` in `parent` with a transform crate for a view of that name about `entity`. Gives back
/// the folder.
///
/// # Errors
/// The caller's mistake: a name that is none, or a folder that exists.
pub(crate) fn new(name: &str, entity: &str, parent: &Path) -> Result<PathBuf> {
    check_name("view", name)?;
    if KEYWORDS.contains(&name) || TAKEN_CRATES.contains(&name) {
        return Err(usage(format!("view `{name}`: Rust cannot give a crate this name; take another")));
    }
    check_name("entity", entity)?;
    if RESERVED_ENTITIES.contains(&entity) {
        return Err(usage(format!("entity `{entity}`: {} are no entity names", RESERVED_ENTITIES.join(", "))));
    }
    let folder = parent.join(name);
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    // Not `exists()` first: making it is the check.
    match std::fs::create_dir(&folder) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(usage(format!("{} exists already; take another name or folder", folder.display())));
        }
        Err(error) => return Err(error).with_context(|| format!("cannot make {}", folder.display())),
    }
    for (path, text) in files(name, entity)? {
        write(&folder.join(path), &text)?;
    }
    Ok(folder)
}

/// The new crate's files by their path in it.
fn files(name: &str, entity: &str) -> Result<Vec<(String, String)>> {
    let fill = |template: &str| {
        template
            .replace("{name}", name)
            .replace("{type}", &type_name(name))
            .replace("{entity}", entity)
            .replace("{entity_article}", article(entity))
            .replace("{key}", &format!("{entity}_id"))
    };
    let mut files = vec![
        ("Cargo.toml".to_owned(), fill(include_str!("../../templates/Cargo.toml.in"))),
        ("Cargo.lock".to_owned(), lock::for_crate(name, sources::LOCK)?),
        ("README.md".to_owned(), fill(include_str!("../../templates/README.md.in"))),
        (".gitignore".to_owned(), "target/\n".to_owned()),
        ("src/lib.rs".to_owned(), fill(include_str!("../../templates/lib.rs.in"))),
        ("plumb-sdk/Cargo.toml".to_owned(), sources::workspace_manifest()?),
    ];
    files.extend(sources::SDK.iter().map(|(path, text)| (format!("plumb-sdk/sdk/{path}"), (*text).to_owned())));
    Ok(files)
}

/// `user_clicks` as the name of a type: `UserClicks`.
fn type_name(name: &str) -> String {
    name.split('_')
        .flat_map(|word| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<Vec<char>>()
        })
        .collect()
}

/// `user` is spoken with a consonant first.
fn article(entity: &str) -> &'static str {
    match entity.starts_with(['a', 'e', 'i', 'o']) {
        true => "an",
        false => "a",
    }
}

fn check_name(what: &str, name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let well_formed = bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && name.len() <= 63
        && !name.contains("__");
    match well_formed {
        true => Ok(()),
        false => Err(usage(format!(
            "{what} `{name}`: names are a lower-case letter, then up to 62 lower-case letters, digits or `_`, without `__`"
        ))),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    std::fs::write(path, text).with_context(failed)
}

#[cfg(test)]
mod tests;
