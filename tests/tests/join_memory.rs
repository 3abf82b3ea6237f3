//! `--memory`: the real process writes the same files whatever memory and threads it is given, in whatever files and
//! order the events come, and leaves nothing else behind.

use plumb_testing::process;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn plumb(folder: &Path, words: &str) -> Output {
    Command::new(process::plumb()).args(words.split_whitespace()).current_dir(folder).output().unwrap()
}

fn run(folder: &Path, words: &str) -> String {
    let output = plumb(folder, words);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "plumb {words}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn no_memory_threads_files_or_order_change_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for view in ["user_transactions", "item_activity"] {
        std::fs::copy(process::component(view), here.join(format!("{view}.wasm"))).unwrap();
    }
    let generate = "generate --events 600000 --users 900 --items 300 --days 40 --seed 7 --start 2024-01-01T00:00:00Z";
    run(here, &format!("{generate} --out events.parquet"));
    run(here, &format!("{generate} --out events.csv"));
    // The same events in two files, the later ones first.
    std::fs::create_dir(here.join("parts")).unwrap();
    let text = std::fs::read_to_string(here.join("events.csv")).unwrap();
    let (head, rows) = text.split_once('\n').unwrap();
    let middle = rows[rows.len() / 3..].find('\n').unwrap() + rows.len() / 3 + 1;
    std::fs::write(here.join("parts/a.csv"), format!("{head}\n{}", &rows[middle..])).unwrap();
    std::fs::write(here.join("parts/b.csv"), format!("{head}\n{}", &rows[..middle])).unwrap();
    let mut labels = String::from("user_id,item_id,event_time,label\n");
    for n in 0u32..150_000 {
        // Keys as `generate` names them, some of nobody; times from before the first event on, many equal.
        let (day, hour) = (n % 41, n % 24);
        let date = if day < 31 { format!("2024-01-{:02}", day + 1) } else { format!("2024-02-{:02}", day - 30) };
        labels += &format!("u{:05},i{:05},{date}T{hour:02}:00:00Z,{n}\n", n * 7 % 950, n * 13 % 320);
    }
    std::fs::write(here.join("labels.csv"), labels).unwrap();
    let views = "--transform user_transactions.wasm --transform item_activity.wasm --now 2025-01-01T00:00:00Z";
    // Labels in Parquet are read window by window: the first training set serves as some.
    let two = "user_transactions:total_amount_30d,item_activity:*";
    let first = format!("join {views} --features {two} --labels labels.csv --events events.parquet");
    run(here, &format!("{first} --memory 8GiB --out labels.parquet"));

    let second = format!("join {views} --features user_transactions:*,item_activity:* --cold-start drop");
    // Names of the features that the labels carry are taken.
    let clash = plumb(here, &format!("{second} --labels labels.parquet --events events.parquet --out x.parquet"));
    assert_eq!(clash.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&clash.stderr).contains("which is also the name of a feature column"));

    for view in ["user_transactions", "item_activity"] {
        std::fs::remove_file(here.join(format!("{view}.wasm"))).unwrap();
    }
    for view in ["user_activity", "user_daily"] {
        std::fs::copy(process::component(view), here.join(format!("{view}.wasm"))).unwrap();
    }
    let views = "--transform user_activity.wasm --transform user_daily.wasm --now 2025-01-01T00:00:00Z";
    let join = format!("join {views} --labels labels.parquet --cold-start drop");
    let summary = run(here, &format!("{join} --events events.parquet --memory 8GiB --threads 1 --out whole.parquet"));
    assert!(summary.starts_with("joined 150000 labels with 14 features over "), "{summary}");
    let whole = std::fs::read(here.join("whole.parquet")).unwrap();
    for (events, memory, threads) in
        [("events.parquet", "64MiB", 1), ("events.parquet", "64MiB", 8), ("parts", "100MiB", 3), ("parts", "8GiB", 8)]
    {
        let words = format!("{join} --events {events} --memory {memory} --threads {threads} --out set.parquet");
        run(here, &words);
        assert!(std::fs::read(here.join("set.parquet")).unwrap() == whole, "{words}");
    }
    // Labels in CSV, with a last row that makes a column of numbers one of text.
    let labels = std::fs::read_to_string(here.join("labels.csv")).unwrap();
    std::fs::write(here.join("labels.csv"), labels + "u00001,i00001,2024-02-09T00:00:00Z,none\n").unwrap();
    let join = format!("join {views} --labels labels.csv --events events.parquet");
    run(here, &format!("{join} --memory 8GiB --threads 1 --out whole.parquet"));
    let whole = std::fs::read(here.join("whole.parquet")).unwrap();
    run(here, &format!("{join} --memory 64MiB --threads 8 --out set.parquet"));
    assert!(std::fs::read(here.join("set.parquet")).unwrap() == whole, "of labels in CSV");
    let left = names(here);
    assert!(!left.iter().any(|name| name.starts_with('.')), "{left:?}");
    assert!(!left.contains(&"x.parquet".to_owned()), "{left:?}");
}

/// The files under a folder, with their bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.append(&mut self::files(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

/// The files of a folder by the names they have in it.
fn files_in(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files(folder).into_iter().map(|(path, bytes)| (path.strip_prefix(folder).unwrap().to_owned(), bytes)).collect()
}

#[test]
fn no_memory_or_threads_change_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for view in ["user_activity", "user_daily"] {
        std::fs::copy(process::component(view), here.join(format!("{view}.wasm"))).unwrap();
    }
    run(here, "generate --events 500000 --users 900 --items 300 --days 9 --seed 7 --out events.parquet");
    let views = "--transform user_activity.wasm --transform user_daily.wasm --now 2035-01-01T00:00:00Z";
    // A date alone has more rows than are written at once.
    for every in ["event", "1h --entities all"] {
        let backfill = format!("backfill {views} --events events.parquet --every {every}");
        run(here, &format!("{backfill} --memory 8GiB --threads 2 --out whole"));
        let whole = files_in(&here.join("whole"));
        assert!(whole.len() > 18, "{:?}", whole.keys());
        for threads in [1, 8] {
            let words = format!("{backfill} --memory 64MiB --threads {threads} --spill-dir . --out set");
            run(here, &words);
            assert!(files_in(&here.join("set")) == whole, "{words}");
            std::fs::remove_dir_all(here.join("set")).unwrap();
        }
        std::fs::remove_dir_all(here.join("whole")).unwrap();
    }
    assert_eq!(names(here), ["events.parquet", "user_activity.wasm", "user_daily.wasm"]);
    // Its scratch files are beside the output, in the nearest folder that is there.
    let backfill = format!("backfill {views} --events events.parquet --every 1d --memory 64MiB --threads 2 --out a/b");
    run(here, &backfill);
    let output = plumb(here, &format!("{backfill} --spill-dir nowhere --entities all"));
    assert_eq!(output.status.code(), Some(2));
    let output = plumb(here, &format!("{} --spill-dir nowhere", backfill.replace("a/b", "c")));
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("there is no folder `nowhere` for scratch files"), "{error}");
    assert!(!here.join("c/features").exists());
}

#[test]
fn no_memory_or_threads_change_an_audit() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for view in ["user_activity", "item_activity"] {
        std::fs::copy(process::component(view), here.join(format!("{view}.wasm"))).unwrap();
    }
    run(
        here,
        "generate --events 400000 --users 3000 --items 900 --days 9 --seed 7 --start 2024-01-01T00:00:00Z --out events.parquet",
    );
    let labels: String = (0..2000)
        .map(|n| format!("u{:05},i{:05},2024-01-{:02}T07:30:00Z\n", n * 7 % 3100, n % 950, n % 9 + 1))
        .collect();
    std::fs::write(here.join("labels.csv"), format!("user_id,item_id,event_time\n{labels}")).unwrap();
    let views =
        "--transform user_activity.wasm --transform item_activity.wasm --events events.parquet --labels labels.csv";
    run(here, &format!("join {views} --out right.csv"));
    // What the views of the audit would not say.
    run(here, &format!("join {views} --as-of at --max-age 2h --out wrong.csv"));
    for set in ["right.csv", "wrong.csv"] {
        let audit = format!("--json audit {set} {views} --now 2035-01-01T00:00:00Z");
        let whole = plumb(here, &format!("{audit} --memory 8GiB --threads 2"));
        assert_eq!(whole.status.code(), Some(i32::from(set == "wrong.csv")), "{whole:?}");
        for threads in [1, 8] {
            let words = format!("{audit} --memory 64MiB --threads {threads}");
            assert!(plumb(here, &words).stdout == whole.stdout, "{words}");
        }
        // What does not fit did go to disk.
        let output = plumb(here, &format!("{audit} --memory 64MiB --spill-dir nowhere"));
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("there is no folder `nowhere`"), "{output:?}");
    }
}

#[test]
fn too_little_memory_and_a_missing_folder_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    std::fs::copy(process::component("user_activity"), here.join("view.wasm")).unwrap();
    run(here, "generate --events 800000 --users 9 --items 9 --days 9 --seed 1 --out events.parquet");
    let labels: String = (1..=9).map(|user| format!("u{user:05},2030-01-01T00:00:00Z\n")).collect();
    std::fs::write(here.join("labels.csv"), format!("user_id,event_time\n{labels}")).unwrap();
    // Of two workers one has at least 400,000 events, which take more than its share of 4 MiB.
    let join = "join --transform view.wasm --events events.parquet --labels labels.csv --threads 2 --out set.parquet";
    for (words, line) in [
        ("--memory 64MiB --spill-dir nowhere", "there is no folder `nowhere` for scratch files"),
        ("--memory 63MiB", "--memory 63MiB: at least 64MiB are needed"),
        ("--memory 512", "write a positive whole number and a unit"),
    ] {
        let output = plumb(here, &format!("{join} {words}"));
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(line), "{output:?}");
        assert!(!here.join("set.parquet").exists());
    }
}
