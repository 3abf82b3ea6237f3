//! Every case of `tests/cases/`, against every subject: all must print the same.

use plumb_testing::case::{self, OracleSubject, Subject};
use std::path::{Path, PathBuf};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 30, "only {} cases", files.len());
    files
}

fn run_all(subject: &dyn Fn() -> Box<dyn Subject>) {
    let mut failed = String::new();
    for file in cases() {
        let text = std::fs::read_to_string(&file).unwrap();
        let result = case::parse(&text).and_then(|lines| case::run(&lines, &mut *subject()));
        if let Err(error) = result {
            failed += &format!("{}: {error}\n", file.display());
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

#[test]
fn the_oracle_prints_what_is_recorded() {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        for file in cases() {
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, case::update(&text, &mut OracleSubject::default()).unwrap()).unwrap();
        }
    }
    run_all(&|| Box::new(OracleSubject::default()));
}
