//! What is special about local files; what every store must do is checked in `tests/tests/object_stores.rs`.

use crate::local::moves::appear;
use crate::local::swap::{Change, Exchange};
use crate::{LocalStore, local_root, open};
use plumb_core::ErrorKind;
use plumb_pipeline::port::ObjectStore;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    fs::write(scratch.join("moves"), b"").unwrap();

    let second = LocalStore::open(store.root()).unwrap();
    assert!(!dead.exists() && !scratch.join("1-1").exists());
    assert!(living[0].join("77").exists());
    assert!(scratch.join("moves").exists(), "of an earlier version");
    fs::remove_file(scratch.join("moves")).unwrap();
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

/// Three processes replace their files in one folder and a fourth moves files into it: nobody's change is lost or
/// undone, and nobody who lists sees a state between two.
#[test]
fn a_folder_is_listed_before_or_after_a_swap_never_between() {
    let (_folder, store) = store();
    let day = |name: &str| format!("events/default/date=1/{name}");
    store.put(&day("other"), vec![0]).unwrap();
    let rounds = 60;
    let swappers = ["a", "b", "c"];
    for swapper in swappers {
        store.put(&day(&format!("{swapper}0")), vec![0]).unwrap();
    }
    let running = AtomicUsize::new(swappers.len());
    std::thread::scope(|scope| {
        for swapper in swappers {
            let (running, store) = (&running, &store);
            scope.spawn(move || {
                let own = LocalStore::open(store.root()).unwrap();
                for round in 1..=rounds {
                    let staged = format!("_staging/{swapper}{round}");
                    own.put(&staged, vec![0]).unwrap();
                    let appear = [(staged.clone(), day(&format!("{swapper}{round}")))];
                    let old = format!("{swapper}{}", round - 1);
                    own.swap(&appear, &[(day(&old), format!("_trash/{}", day(&old)))]).unwrap();
                    assert!(own.get(&appear[0].1).unwrap().is_some() && own.get(&staged).unwrap().is_none());
                    assert_eq!(own.get(&day(&old)).unwrap(), None);
                }
                running.fetch_sub(1, Ordering::Release);
            });
        }
        scope.spawn(|| {
            let other = LocalStore::open(store.root()).unwrap();
            for round in 0..rounds {
                let staged = format!("_staging/n{round}");
                other.put(&staged, vec![0]).unwrap();
                other.rename(&staged, &day(&format!("n{round}"))).unwrap();
                assert!(other.get(&day(&format!("n{round}"))).unwrap().is_some());
            }
        });
        let mut listings = 0;
        while running.load(Ordering::Acquire) > 0 {
            let names = store.list("events/default/date=1").unwrap();
            for swapper in swappers {
                let own: Vec<_> = names.iter().filter(|(path, _)| path.contains(&format!("/{swapper}"))).collect();
                assert_eq!(own.len(), 1, "{own:?}");
            }
            listings += 1;
        }
        assert!(listings > 10, "{listings}");
    });
    let names = store.list("events/default/date=1").unwrap();
    assert_eq!(names.len(), 1 + swappers.len() + rounds, "{names:?}");
    assert_eq!(store.list("_trash").unwrap().len(), swappers.len() * rounds);
    assert!(store.list("_staging").unwrap().is_empty());
}

/// A process that is stopped just before it exchanges a folder stops nobody, and undoes nothing when it goes on.
#[test]
fn one_stopped_before_its_exchange_holds_nobody_up_and_undoes_nothing() {
    let (_folder, store) = store();
    let stopped = LocalStore::open(store.root()).unwrap();
    let path = |name: &str| store.root().join(name);
    let (day, away) = ("events/date=1", "_trash/events/date=1");
    for name in ["old", "resting"] {
        store.put(&format!("{day}/{name}"), vec![0]).unwrap();
    }
    store.put("_staging/merged", vec![1]).unwrap();
    let change = Change {
        appear: vec![(path("_staging/merged"), path(&format!("{day}/merged")))],
        vanish: vec![(path(&format!("{day}/old")), path(&format!("{away}/old")))],
    };
    let names = || store.list(day).unwrap().into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    let successor = || stopped.successor(&path(day), &change).unwrap().unwrap();

    // Another moves a file there meanwhile.
    let before = successor();
    store.put("_staging/fresh", vec![2]).unwrap();
    store.rename("_staging/fresh", &format!("{day}/fresh")).unwrap();
    assert_eq!(stopped.succeed(&path(day), &before).unwrap(), Exchange::Overtaken);
    assert_eq!(names(), ["fresh", "old", "resting"].map(|name| format!("{day}/{name}")));

    // Its heir makes the same change.
    let before = successor();
    let swap = || {
        let appear = [("_staging/merged".to_owned(), format!("{day}/merged"))];
        store.swap(&appear, &[(format!("{day}/old"), format!("{away}/old"))]).unwrap();
    };
    swap();
    assert_eq!(stopped.succeed(&path(day), &before).unwrap(), Exchange::Overtaken);
    let after = ["fresh", "merged", "resting"].map(|name| format!("{day}/{name}"));
    assert_eq!(names(), after);
    swap();
    assert_eq!(names(), after);

    // Put away in the last moment by one that moves a file, which it then finds gone and puts back.
    store.put("_staging/merged", vec![1]).unwrap();
    store.rename(&format!("{day}/merged"), "_trash/merged").unwrap();
    store.put(&format!("{day}/old"), vec![0]).unwrap();
    let before = successor();
    store.put("_staging/late", vec![3]).unwrap();
    let late = (path("_staging/late"), path(&format!("{day}/late")));
    assert!(appear(&late.0, &late.1).unwrap());
    assert_eq!(stopped.succeed(&path(day), &before).unwrap(), Exchange::Made);
    assert_eq!(names(), after, "the exchange took the file with it");
    store.rename("_staging/late", &format!("{day}/late")).unwrap();
    assert_eq!(names(), ["fresh", "late", "merged", "resting"].map(|name| format!("{day}/{name}")));
    assert_eq!(store.get("_staging/late").unwrap(), None);

    // What it leaves behind when it dies goes with the next that opens.
    std::mem::forget(successor());
    let successors = path("_tmp/successors");
    assert_eq!(fs::read_dir(&successors).unwrap().count(), 1);
    drop(LocalStore::open(store.root()).unwrap());
    assert_eq!(fs::read_dir(&successors).unwrap().count(), 1, "it lives");
    drop(stopped);
    drop(LocalStore::open(store.root()).unwrap());
    assert!(!successors.exists());
}
