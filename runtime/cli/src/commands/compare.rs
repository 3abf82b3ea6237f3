//! `plumb compare`: drift between two snapshots or training sets.

use super::stats::{profile, report_left_out};
use crate::args::Compare;
use crate::context::{Output, check_page, write_page};
use crate::exit::{Done, usage};
use anyhow::Result;
use plumb_insight::{Measure, TableProfile, compare, html};
use plumb_offline_parquet::{Subfolders, table_files};
use std::path::{Path, PathBuf};

/// Compares two tables; fails if a column is past a limit.
pub(crate) fn run(arguments: &Compare, output: Output) -> Result<Done> {
    let limits = limits(&arguments.fail_on)?;
    let files = table_files(&[arguments.a.clone(), arguments.b.clone()], Subfolders::Entered)?;
    check_page(arguments.tables.html.as_deref(), files.iter().map(PathBuf::as_path))?;
    let (a, left_out_a) = profile(std::slice::from_ref(&arguments.a), &arguments.tables)?;
    let (b, left_out_b) = profile(std::slice::from_ref(&arguments.b), &arguments.tables)?;
    for (path, table) in [(&arguments.a, &a), (&arguments.b, &b)] {
        if table.rows == 0 {
            return Err(usage(format!("`{}` has 0 rows: there is nothing to compare", path.display())));
        }
    }
    let comparison = compare(&a, &b);
    if comparison.columns.is_empty() && comparison.retyped.is_empty() {
        let names = |path: &Path, table: &TableProfile| {
            let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
            format!("`{}` has {}", path.display(), names.join(", "))
        };
        let (of_a, of_b) = (names(&arguments.a, &a), names(&arguments.b, &b));
        return Err(usage(format!("no column is in both tables: {of_a}; {of_b}")));
    }
    if let Some(page) = &arguments.tables.html {
        let names = [&arguments.a, &arguments.b].map(|path| path.display().to_string());
        write_page(page, &html::drift_page([&names[0], &names[1]], &comparison, &limits))?;
    }
    output.print(&comparison.to_json(&limits), || comparison.to_text(&limits));
    report_left_out(&left_out_a);
    if left_out_b.left_out != left_out_a.left_out {
        report_left_out(&left_out_b);
    }
    Ok(if comparison.flags(&limits).is_empty() { Done::Ok } else { Done::Failed })
}

fn limits(words: &[String]) -> Result<Vec<(Measure, f64)>> {
    let known = Measure::ALL.map(Measure::name).join(", ");
    let one = |word: &String| {
        let (name, limit) = word
            .split_once('=')
            .ok_or_else(|| usage(format!("--fail-on {word}: write MEASURE=LIMIT, as in psi=0.2")))?;
        let measure = Measure::parse(name)
            .ok_or_else(|| usage(format!("--fail-on {word}: `{name}` is no measure; there are {known}")))?;
        let limit: f64 = limit
            .parse()
            .ok()
            .filter(|limit: &f64| limit.is_finite() && *limit >= 0.0)
            .ok_or_else(|| usage(format!("--fail-on {word}: `{limit}` is no limit, write a number from 0 on")))?;
        Ok((measure, limit))
    };
    words.iter().map(one).collect()
}
