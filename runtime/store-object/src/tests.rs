use crate::{LocalStore, local_root, open};
use plumb_core::ErrorKind;
use plumb_pipeline::port::ObjectStore;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Barrier;
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
        ("s3://bucket/prefix", "comes with a later release"),
        ("data/offline", "is not a URL"),
        ("file:", "names no folder"),
        ("file://host/a", "names a host"),
        ("ftp:x", "unknown kind `ftp`"),
    ] {
        let error = open(url).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(why), "{error}");
        assert!(error.to_string().contains("file:"), "{error}");
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
fn paths_cannot_leave_the_root() {
    let (_folder, store) = store();
    for path in ["", "/etc/x", "a//b", "a/../b", "..", "./a", "a/", "a\0b", "a\\b", "_tmp/x", "_tmp"] {
        let refused = store.put(path, vec![]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{path}");
        assert!(store.get(path).is_err() && store.rename("a", path).is_err() && store.create(path, b"").is_err());
        assert!(store.local_path(path).is_none());
    }
}

#[test]
fn one_of_many_creators_wins() {
    let (_folder, store) = store();
    for round in 0..50 {
        let path = format!("manifest/default/0/{round:020}");
        let barrier = Barrier::new(4);
        let wins: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4u8)
                .map(|thread| {
                    let (barrier, store, path) = (&barrier, &store, &path);
                    scope.spawn(move || {
                        barrier.wait();
                        store.create(path, &[thread; 100]).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(wins.iter().filter(|won| **won).count(), 1);
        let winner = wins.iter().position(|won| *won).unwrap() as u8;
        assert_eq!(store.get(&path).unwrap().unwrap(), [winner; 100]);
    }
    assert_eq!(store.list("manifest").unwrap().len(), 50);
}

#[test]
fn readers_see_whole_objects_only() {
    let (_folder, store) = store();
    store.put("x", vec![0; 10_000]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..60u8 {
                store.put("x", vec![round; 10_000 + usize::from(round)]).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let bytes = store.get("x").unwrap().unwrap();
            assert_eq!(bytes.len(), 10_000 + usize::from(bytes[0]));
            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
            assert_eq!(store.list("").unwrap().len(), 1, "unfinished writes are not listed");
        }
    });
}

#[test]
fn moving_twice_is_moving_once() {
    let (_folder, store) = store();
    let moves: Vec<(String, String)> =
        (0..40).map(|n| (format!("_staging/c/{n}"), format!("events/default/date={n}/f.parquet"))).collect();
    store.put_all(moves.iter().map(|(from, _)| (from.clone(), from.clone().into_bytes())).collect()).unwrap();
    store.rename(&moves[7].0, &moves[7].1).unwrap();
    store.rename_all(&moves).unwrap();
    store.rename_all(&moves).unwrap();
    assert!(store.list("_staging").unwrap().is_empty());
    for (from, to) in &moves {
        assert_eq!(store.get(to).unwrap().unwrap(), from.as_bytes());
    }
    let error = store.rename("nowhere", "elsewhere").unwrap_err();
    assert!(error.to_string().contains("neither exists"), "{error}");
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Any sequence of calls behaves like a map.
    #[test]
    fn behaves_like_a_map(calls in prop::collection::vec((0..5u8, 0..6usize, 0..6usize), 1..30)) {
        const PATHS: [&str; 6] = ["a", "b/c", "b/d", "b/c.x", "e/f/g", "e-f"];
        let (_folder, store) = store();
        let mut model: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for (step, (call, one, two)) in calls.into_iter().enumerate() {
            let (path, other, bytes) = (PATHS[one], PATHS[two], vec![step as u8; step]);
            match call {
                0 => {
                    prop_assert_eq!(store.create(path, &bytes).unwrap(), !model.contains_key(path));
                    model.entry(path).or_insert(bytes);
                }
                1 => {
                    store.put(path, bytes.clone()).unwrap();
                    model.insert(path, bytes);
                }
                2 => {
                    store.delete(path).unwrap();
                    model.remove(path);
                }
                3 if path != other => {
                    let possible = model.contains_key(path) || model.contains_key(other);
                    prop_assert_eq!(store.rename(path, other).is_ok(), possible);
                    if let Some(bytes) = model.remove(path) {
                        model.insert(other, bytes);
                    }
                }
                _ => prop_assert_eq!(&store.get(path).unwrap(), &model.get(path).cloned()),
            }
            let listed: Vec<(String, u64)> =
                model.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.len() as u64)).collect();
            prop_assert_eq!(store.list("").unwrap(), listed);
        }
    }
}
