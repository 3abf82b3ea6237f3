//! Every case of `tests/cases/`, against every subject: all must print the same.

use plumb_testing::case::{self, CaseError, CaseLine, OracleSubject, Subject};
use plumb_testing::subject::{OfflineSubject, Restarts, ServiceSubject};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

fn case_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 30, "only {} cases", files.len());
    files
}

fn cases() -> Vec<(String, Vec<CaseLine>)> {
    let parsed = case_files().into_iter().map(|file| {
        let lines = case::parse(&std::fs::read_to_string(&file).unwrap());
        (file.display().to_string(), lines.unwrap_or_else(|error| panic!("{}: {error}", file.display())))
    });
    parsed.collect()
}

/// Runs every case against a subject of its own, several at a time.
fn run_all<S: Subject>(subject: &(dyn Fn() -> Result<S, CaseError> + Sync)) {
    let cases = cases();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let run = || {
        while let Some((name, lines)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = subject().and_then(|mut subject| case::run(lines, &mut subject)) {
                failed.lock().unwrap().push(format!("{name}: {error}"));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(run);
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    assert!(failed.is_empty(), "{} of {} cases fail\n{}", failed.len(), cases.len(), failed.join("\n"));
}

#[test]
fn the_oracle_prints_what_is_recorded() {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        for file in case_files() {
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, case::update(&text, &mut OracleSubject::default()).unwrap()).unwrap();
        }
    }
    run_all(&|| Ok(OracleSubject::default()));
}

#[test]
fn online_with_one_partition() {
    run_all(&|| ServiceSubject::start(1, Restarts::None));
}

#[test]
fn online_with_four_partitions() {
    run_all(&|| ServiceSubject::start(4, Restarts::None));
}

#[test]
fn restarted_after_every_line_with_one_partition() {
    run_all(&|| ServiceSubject::start(1, Restarts::EveryLine));
}

#[test]
fn restarted_after_every_line_with_four_partitions() {
    run_all(&|| ServiceSubject::start(4, Restarts::EveryLine));
}

#[test]
fn joined_and_backfilled_from_one_file_by_one_thread() {
    run_all(&|| OfflineSubject::new(1, usize::MAX));
}

#[test]
fn joined_and_backfilled_from_a_file_per_record_by_four_threads() {
    run_all(&|| OfflineSubject::new(4, 1));
}
