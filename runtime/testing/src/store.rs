//! What every object store must do, whatever it is made of. Each check works in a folder of its own, so that one
//! bucket serves many; `open` opens the same store again, as another process would.

use plumb_core::ErrorKind;
use plumb_pipeline::port::ObjectStore;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

type Store = Arc<dyn ObjectStore>;

/// All checks.
pub fn conforms(open: &dyn Fn() -> Store) {
    objects_are_what_was_put(open().as_ref());
    one_of_many_creators_wins(open);
    one_is_alone_at_a_time(open);
    readers_see_whole_objects_only(open().as_ref());
    folders_are_listed_whole_and_alone(open().as_ref());
    moving_twice_is_moving_once(open().as_ref());
    what_appears_takes_the_place_of_what_vanishes(open().as_ref());
    paths_stay_inside(open().as_ref());
    objects_age(open().as_ref());
    behaves_like_a_map(open().as_ref());
}

fn listed(store: &dyn ObjectStore, folder: &str) -> Vec<String> {
    store.list(folder).unwrap().into_iter().map(|(path, _)| path).collect()
}

fn objects_are_what_was_put(store: &dyn ObjectStore) {
    assert_eq!(store.get("o/none").unwrap(), None);
    assert_eq!(store.get_range("o/none", 0..4).unwrap(), None);
    store.delete("o/none").unwrap();
    // Large ones are written and read in parts.
    for size in [0, 1, 1000, 17 << 20] {
        let bytes: Vec<u8> = (0..size).map(|at: usize| (at.wrapping_mul(2_654_435_761) >> 16) as u8).collect();
        store.put("o/a", bytes.clone()).unwrap();
        assert!(store.get("o/a").unwrap().unwrap() == bytes, "{size} bytes are not what was put");
        let length = size as u64;
        for range in [0..length, 0..length / 2, length / 3..length / 2, length.saturating_sub(7)..length + 9, 5..5] {
            let found = store.get_range("o/a", range.clone()).unwrap().unwrap();
            let (start, end) = (range.start.min(length) as usize, range.end.min(length) as usize);
            assert!(found == bytes[start..end], "range {range:?} of {size} bytes");
        }
        assert_eq!(store.get_range("o/a", length + 1..length + 5).unwrap().unwrap(), b"");
    }
    let many: Vec<(String, Vec<u8>)> = (0..70).map(|n| (format!("o/many/{n}"), vec![n; n.into()])).collect();
    store.put_all(many.clone()).unwrap();
    for (path, bytes) in &many {
        assert_eq!(store.get(path).unwrap().as_ref(), Some(bytes));
    }
    let paths: Vec<String> = many.into_iter().map(|(path, _)| path).collect();
    store.delete_all(&paths[..69]).unwrap();
    store.delete_all(&paths[..69]).unwrap();
    assert_eq!(listed(store, "o/many"), ["o/many/69"]);
}

fn one_of_many_creators_wins(open: &dyn Fn() -> Store) {
    let stores: Vec<Store> = (0..4).map(|_| open()).collect();
    for round in 0..10 {
        let path = format!("c/default/0/{round:020}");
        let barrier = Barrier::new(stores.len());
        let create = |number: usize| {
            barrier.wait();
            stores[number].create(&path, &[number as u8; 100]).unwrap()
        };
        let create = &create;
        let wins: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|number| scope.spawn(move || create(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(wins.iter().filter(|won| **won).count(), 1, "round {round}: {wins:?}");
        let winner = wins.iter().position(|won| *won).unwrap() as u8;
        assert_eq!(stores[0].get(&path).unwrap().unwrap(), [winner; 100]);
        assert!(!stores[1].create(&path, b"again").unwrap());
        assert_eq!(stores[2].get(&path).unwrap().unwrap(), [winner; 100]);
    }
    assert_eq!(listed(stores[0].as_ref(), "c").len(), 10);
}

fn one_is_alone_at_a_time(open: &dyn Fn() -> Store) {
    let stores: Vec<Store> = (0..4).map(|_| open()).collect();
    stores[0].put("l/count", b"0".to_vec()).unwrap();
    let count = |store: &Store| {
        let text = store.get("l/count").unwrap().unwrap();
        std::str::from_utf8(&text).unwrap().parse::<u32>().unwrap()
    };
    // A look and a change that is made of it, which is lost where two look at once.
    std::thread::scope(|scope| {
        for store in &stores {
            scope.spawn(move || {
                for _ in 0..10 {
                    let next = &mut || store.put("l/count", (count(store) + 1).to_string().into_bytes());
                    store.alone("counting", next).unwrap();
                }
            });
        }
    });
    assert_eq!(count(&stores[1]), 40);
    let failing = stores[2].alone("counting", &mut || Err(plumb_pipeline::Error::internal("not today")));
    assert!(failing.unwrap_err().to_string().contains("not today"));
    // An error is an end too; and others are not waited for.
    stores[3].alone("counting", &mut || stores[1].alone("another", &mut || Ok(()))).unwrap();
    assert!(listed(stores[0].as_ref(), "").iter().all(|path| !path.contains("counting")), "no part of the store");
    stores[0].delete("l/count").unwrap();
}

fn readers_see_whole_objects_only(store: &dyn ObjectStore) {
    store.put("w/x", vec![0; 10_000]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..40u8 {
                store.put("w/x", vec![round; 10_000 + usize::from(round)]).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let bytes = store.get("w/x").unwrap().unwrap();
            assert_eq!(bytes.len(), 10_000 + usize::from(bytes[0]));
            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
            assert_eq!(listed(store, "w").len(), 1, "unfinished writes are not listed");
        }
    });
}

/// More than a server lists in one answer, and neighbours whose names only begin alike.
fn folders_are_listed_whole_and_alone(store: &dyn ObjectStore) {
    let mut paths: Vec<String> = (0..1_100).map(|n| format!("l/one/date={n:04}/f.parquet")).collect();
    paths.push("l/one-more/f".into());
    paths.push("l/one.f".into());
    store.put_all(paths.iter().map(|path| (path.clone(), vec![1, 2, 3])).collect()).unwrap();
    assert_eq!(listed(store, "l/one"), paths[..1_100]);
    assert_eq!(listed(store, "l/one/"), paths[..1_100]);
    paths.sort();
    assert_eq!(listed(store, "l"), paths);
    assert!(store.list("l").unwrap().iter().all(|(_, bytes)| *bytes == 3));
    assert!(listed(store, "l/none").is_empty());
    assert!(listed(store, "").len() >= paths.len());
    store.delete_all(&paths).unwrap();
    assert!(listed(store, "l").is_empty());
}

fn moving_twice_is_moving_once(store: &dyn ObjectStore) {
    let moves: Vec<(String, String)> =
        (0..40).map(|n| (format!("m/_staging/c/{n}"), format!("m/events/date={n}/f.parquet"))).collect();
    store.put_all(moves.iter().map(|(from, _)| (from.clone(), from.clone().into_bytes())).collect()).unwrap();
    store.rename(&moves[7].0, &moves[7].1).unwrap();
    store.rename_all(&moves).unwrap();
    store.rename_all(&moves).unwrap();
    assert!(listed(store, "m/_staging").is_empty());
    for (from, to) in &moves {
        assert_eq!(store.get(to).unwrap().unwrap(), from.as_bytes());
    }
    let error = store.rename("m/nowhere", "m/elsewhere").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    assert!(error.to_string().contains("exist"), "{error}");
}

fn what_appears_takes_the_place_of_what_vanishes(store: &dyn ObjectStore) {
    let day = |name: &str| format!("s/events/date=1/{name}");
    for name in ["a", "b", "c", "other"] {
        store.put(&day(name), name.into()).unwrap();
    }
    store.put("s/_staging/m", b"m".to_vec()).unwrap();
    store.put("s/_staging/alone", b"alone".to_vec()).unwrap();
    let appear =
        [("s/_staging/m".to_owned(), day("m")), ("s/_staging/alone".to_owned(), "s/events/date=2/alone".to_owned())];
    let vanish: Vec<(String, String)> = ["a", "b", "c"].map(|name| (day(name), format!("s/_trash/{name}"))).into();
    let done = AtomicBool::new(false);
    let local = store.local_path("s").is_some();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            store.swap(&appear, &vanish).unwrap();
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let found = listed(store, "s/events/date=1");
            // At once where the store can; elsewhere nothing is missing at any time.
            let before: Vec<String> = ["a", "b", "c", "other"].map(day).into();
            let after: Vec<String> = ["m", "other"].map(day).into();
            assert!(found == before || found == after || (!local && found.contains(&day("m"))), "{found:?}");
        }
    });
    for _ in 0..2 {
        assert_eq!(listed(store, "s/events"), [day("m"), day("other"), "s/events/date=2/alone".into()]);
        assert_eq!(listed(store, "s/_trash"), ["s/_trash/a", "s/_trash/b", "s/_trash/c"]);
        assert_eq!(listed(store, "s/_staging"), Vec::<String>::new());
        assert_eq!(store.get(&day("m")).unwrap().unwrap(), b"m");
        assert_eq!(store.get(&day("other")).unwrap().unwrap(), b"other");
        assert_eq!(store.get("s/_trash/b").unwrap().unwrap(), b"b");
        // Once more, as after a crash.
        store.swap(&appear, &vanish).unwrap();
    }
    // What vanished and was then deleted for good has vanished.
    store.delete("s/_trash/b").unwrap();
    store.swap(&appear, &vanish).unwrap();
    assert_eq!(listed(store, "s/_trash"), ["s/_trash/a", "s/_trash/c"]);
}

fn paths_stay_inside(store: &dyn ObjectStore) {
    for path in ["", "/etc/x", "a//b", "a/../b", "..", "./a", "a/", "a\0b", "a\\b", "_tmp/x", "_tmp"] {
        let refused = store.put(path, vec![]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{path}");
        assert!(store.get(path).is_err() && store.rename("a", path).is_err() && store.create(path, b"").is_err());
        assert!(store.get_range(path, 0..1).is_err() && store.delete(path).is_err());
        assert!(store.local_path(path).is_none());
    }
}

fn objects_age(store: &dyn ObjectStore) {
    store.put("g/a", vec![1]).unwrap();
    let ages = store.ages("g").unwrap();
    assert_eq!(ages.len(), 1);
    assert!(ages[0].0 == "g/a" && ages[0].1 < Duration::from_secs(60), "{ages:?}");
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while store.ages("g").unwrap()[0].1 < Duration::from_secs(2) {
        assert!(std::time::Instant::now() < end, "an object does not age");
    }
    // A move is a new beginning: what is in a folder is as old as its time there.
    store.rename("g/a", "g/b").unwrap();
    let ages = store.ages("g").unwrap();
    assert!(ages[0].0 == "g/b" && ages[0].1 < Duration::from_secs(2), "{ages:?}");
    assert!(store.ages("g/none").unwrap().is_empty());
}

/// Any sequence of calls behaves like a map.
fn behaves_like_a_map(store: &dyn ObjectStore) {
    const PATHS: [&str; 6] = ["p/a", "p/b/c", "p/b/d", "p/b/c.x", "p/e/f/g", "p/e-f"];
    let calls = prop::collection::vec((0..5u8, 0..6usize, 0..6usize), 1..30);
    let mut runner = TestRunner::new(Config { cases: 12, failure_persistence: None, ..Config::default() });
    let checked = runner.run(&calls, |calls| {
        store.delete_all(&PATHS.map(str::to_owned)).unwrap();
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
            prop_assert_eq!(store.list("p").unwrap(), listed);
        }
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
}
