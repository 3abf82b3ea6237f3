//! `plumb stats`: what is in snapshots and training sets.

use crate::args::{Stats, Tables};
use crate::context::{Output, check_page, progress_of, write_page};
use crate::exit::{Done, usage};
use anyhow::Result;
use plumb_insight::{TableProfile, html};
use plumb_offline_parquet::{Scanned, Subfolders, scan_tables, table_files};
use plumb_pipeline::Error;
use std::path::{Path, PathBuf};

/// Prints the statistics of every column.
pub(crate) fn run(arguments: &Stats, output: Output) -> Result<Done> {
    let files = table_files(&arguments.paths, Subfolders::Entered)?;
    check_page(arguments.tables.html.as_deref(), files.iter().map(PathBuf::as_path))?;
    let (profile, scanned) = profile(&arguments.paths, &arguments.tables)?;
    let names: Vec<String> = arguments.paths.iter().map(|path| path.display().to_string()).collect();
    if let Some(page) = &arguments.tables.html {
        write_page(page, &html::stats_page(&names.join(", "), &profile))?;
    }
    let mut document = profile.to_json();
    document["files"] = scanned.files.into();
    document["left_out"] = serde_json::json!(scanned.left_out);
    output.print(&document, || profile.to_text());
    report_left_out(&scanned);
    Ok(Done::Ok)
}

/// Reads tables into one profile.
pub(crate) fn profile(paths: &[PathBuf], tables: &Tables) -> Result<(TableProfile, Scanned)> {
    let files = table_files(paths, Subfolders::Entered)?;
    let threads = match tables.threads {
        Some(0) | None => std::thread::available_parallelism().map_or(1, usize::from),
        Some(threads) => threads,
    };
    let wanted = |name: &str| match &tables.columns[..] {
        [] => !name.starts_with('_'),
        patterns => patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        }),
    };
    let bar = progress_of("reading", "rows");
    let mut profile = TableProfile::default();
    let scanned = scan_tables(&files, &wanted, &mut |batch| {
        bar.inc(batch.rows);
        profile
            .add(batch.rows, &batch.columns, threads)
            .map_err(|conflict| Error::invalid(format!("`{}`: {conflict}", batch.file.display())))
    })?;
    bar.finish_and_clear();
    let shown = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("`, `");
    for pattern in tables.columns.iter().filter(|pattern| !pattern.ends_with('*')) {
        if profile.column(pattern).is_none() && !scanned.left_out.contains_key(pattern) {
            let names: Vec<String> = all_names(&files)?;
            return Err(usage(format!("`{shown}` has no column `{pattern}`; it has {}", names.join(", "))));
        }
    }
    if profile.columns.is_empty() {
        let why = match scanned.left_out.is_empty() {
            true => {
                let names = all_names(&files)?.join(", ");
                match tables.columns.is_empty() {
                    true => format!("all its columns begin with `_`; name those to look at by --columns: {names}"),
                    false => format!("no column is named by --columns {}; it has {names}", tables.columns.join(",")),
                }
            }
            false => format!("no column has a type that is read: {}", left_out(&scanned)),
        };
        return Err(usage(format!("`{shown}`: {why}")));
    }
    Ok((profile, scanned))
}

/// The columns of the first file, for a message.
fn all_names(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let first: Vec<PathBuf> = files.iter().take(1).map(|file: &PathBuf| Path::to_owned(file)).collect();
    scan_tables(&first, &|_| true, &mut |batch| {
        if names.is_empty() {
            names = batch.columns.into_iter().map(|(name, _)| name).collect();
        }
        Ok(())
    })?;
    Ok(names)
}

/// Says on stderr which columns were left out.
pub(crate) fn report_left_out(scanned: &Scanned) {
    if !scanned.left_out.is_empty() {
        eprintln!("plumb: left out, no type is read as that: {}", left_out(scanned));
    }
}

fn left_out(scanned: &Scanned) -> String {
    let columns = scanned.left_out.iter().map(|(name, of)| format!("`{name}` ({of})"));
    columns.collect::<Vec<_>>().join(", ")
}
