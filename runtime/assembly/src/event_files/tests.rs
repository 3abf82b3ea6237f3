use super::*;
use plumb_pipeline::commit::Chain;
use plumb_pipeline::port::ObjectStore;
use std::sync::Arc;

fn row_file(name: &str, path: &str) -> RowFile {
    RowFile {
        staged: format!("_staging/events/default/{name}"),
        path: path.to_owned(),
        rows: 1,
        bytes: 1,
        sha256: String::new(),
        event_time_us: (0, 0),
        offsets: (0, 0),
    }
}

fn names(path: &Path) -> Vec<String> {
    event_files(path).unwrap().into_iter().map(|file| file.name).collect()
}

#[test]
fn a_whole_source_of_the_archive_is_what_its_manifests_name_wherever_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::open(folder.path()).unwrap());
    let events = folder.path().join("events/default");
    let files = [
        row_file("a.parquet", "events/default/date=2026-01-01/a.parquet"),
        row_file("b.parquet", "events/default/date=2026-01-02/b.parquet"),
        row_file("c.parquet", "events/default/date=2026-01-03/c.parquet"),
        row_file("d.parquet", "_pending/events/default/d.parquet"),
    ];
    store.put(&files[0].path, vec![1]).unwrap();
    store.put("events/default/date=2026-01-01/stray.parquet", vec![1]).unwrap();
    // Without manifests: what is in the folder.
    assert_eq!(names(&events), ["date=2026-01-01/a.parquet", "date=2026-01-01/stray.parquet"]);

    let (mut chain, mut manifest) = Chain::take_over(store.clone(), "default", 0, "me", &|| Ok(0)).unwrap();
    assert_eq!(names(&events).len(), 2, "nothing is committed");
    manifest.rows = files.to_vec();
    chain.commit(manifest).unwrap();
    // Committed by a process that died before it moved it, and replaced since the manifest.
    store.put(&files[1].staged, vec![1]).unwrap();
    store.put(&trashed(&files[2].path), vec![1]).unwrap();
    let error = event_files(&events).unwrap_err().to_string();
    assert!(
        error.contains("_pending/events/default/d.parquet` is committed and waits for its dates, and is"),
        "{error}"
    );
    store.put(&files[3].path, vec![1]).unwrap();
    let found = event_files(&events).unwrap();
    let place = |path: &str| folder.path().canonicalize().unwrap().join(path);
    let expected = [
        ("_pending/events/default/d.parquet", place(&files[3].path)),
        ("date=2026-01-01/a.parquet", place(&files[0].path)),
        ("date=2026-01-02/b.parquet", place(&files[1].staged)),
        ("date=2026-01-03/c.parquet", place(&trashed(&files[2].path))),
    ];
    let found: Vec<_> = found.iter().map(|file| (file.name.as_str(), file.path.clone())).collect();
    assert_eq!(found, expected);
    // A part of it is what is in the folder.
    assert_eq!(names(&events.join("date=2026-01-01")), ["a.parquet", "stray.parquet"]);
}
