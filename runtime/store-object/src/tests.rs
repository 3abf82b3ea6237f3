//! What is special about local files; what every store must do is checked in `tests/tests/object_stores.rs`.

use crate::{LocalStore, local_root, open};
use plumb_core::ErrorKind;
use plumb_pipeline::port::ObjectStore;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

fn store() -> (tempfile::TempDir, LocalStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path().join("deep/offline")).unwrap();
    (folder, store)
}

#[test]
fn urls_name_a_folder_or_say_what_would_be_right() {
    assert_eq!(local_root("file:data/offline").unwrap(), PathBuf::from("data/offline"));
    assert_eq!(local_root("file:/a/b").unwrap(), PathBuf::from("/a/b"));
    assert_eq!(local_root("file:///a/b").unwrap(), PathBuf::from("/a/b"));
    for (url, why) in [
        ("s3:bucket", "s3://bucket/prefix"),
        ("data/offline", "is not a URL"),
        ("file:", "names no folder"),
        ("file://host/a", "names a host"),
        ("ftp:x", "unknown kind `ftp`"),
    ] {
        let error = open(url).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn reading_leaves_no_trace() {
    let (folder, store) = store();
    assert_eq!(store.get("manifest/1").unwrap(), None);
    assert!(store.list("").unwrap().is_empty());
    store.delete("manifest/1").unwrap();
    assert!(!folder.path().join("deep").exists());
}

#[test]
fn opening_removes_what_the_dead_left_and_spares_the_living() {
    let (_folder, store) = store();
    store.put("a", vec![1]).unwrap();
    let scratch = store.root().join("_tmp");
    let living: Vec<PathBuf> = fs::read_dir(&scratch).unwrap().map(|entry| entry.unwrap().path()).collect();
    fs::write(living[0].join("77"), b"being written").unwrap();
    let dead = scratch.join("1-0");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("lock"), b"").unwrap();
    fs::write(dead.join("0"), b"half an obj").unwrap();
    fs::create_dir(scratch.join("1-1")).unwrap();

    let second = LocalStore::open(store.root()).unwrap();
    assert!(!dead.exists() && !scratch.join("1-1").exists());
    assert!(living[0].join("77").exists());
    assert_eq!(second.list("").unwrap(), [("a".to_owned(), 1)]);
    second.put("b", vec![2]).unwrap();
    drop(second);
    drop(store);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
}

#[test]
fn disk_errors_name_the_path() {
    let (_folder, store) = store();
    store.put("a", vec![1]).unwrap();
    for error in [
        store.put("a/b", vec![2]).unwrap_err(),
        store.create("a/b", b"2").unwrap_err(),
        store.put(&"n".repeat(300), vec![2]).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("deep/offline/"), "{error}");
    }
    assert_eq!(store.get("a/b").unwrap(), None);
    let on_a_file = LocalStore::open(store.root().join("a")).unwrap_err();
    assert!(on_a_file.to_string().contains("is a file, expected a folder"), "{on_a_file}");
    // Nothing unfinished stays behind a failed write.
    let scratch = fs::read_dir(store.root().join("_tmp")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read_dir(scratch).unwrap().count(), 1, "only the lock");
}

#[test]
fn a_folder_is_listed_before_or_after_a_swap_never_between() {
    let (_folder, store) = store();
    let day = |name: &str| format!("events/default/date=1/{name}");
    store.put(&day("other"), vec![0]).unwrap();
    store.put(&day("m0"), vec![0]).unwrap();
    let rounds = 300;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=rounds {
                let staged = format!("_staging/m{round}");
                store.put(&staged, vec![0]).unwrap();
                let appear = [(staged, day(&format!("m{round}")))];
                let old = format!("m{}", round - 1);
                store.swap(&appear, &[(day(&old), format!("_trash/{}", day(&old)))]).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        // Another process moves files into the same folder, and loses none of them.
        scope.spawn(|| {
            let other = LocalStore::open(store.root()).unwrap();
            for round in 0..rounds {
                let staged = format!("_staging/n{round}");
                other.put(&staged, vec![0]).unwrap();
                other.rename(&staged, &day(&format!("n{round}"))).unwrap();
            }
        });
        let mut listings = 0;
        while !done.load(Ordering::Acquire) {
            let names = store.list("events/default/date=1").unwrap();
            let merged: Vec<_> = names.iter().filter(|(path, _)| path.contains("/m")).collect();
            assert_eq!(merged.len(), 1, "{merged:?}");
            listings += 1;
        }
        assert!(listings > 10, "{listings}");
    });
    let names = store.list("events/default/date=1").unwrap();
    assert_eq!(names.len(), 2 + rounds, "{names:?}");
    assert_eq!(store.list("_trash").unwrap().len(), rounds);
    assert!(store.list("_staging").unwrap().is_empty());
}
