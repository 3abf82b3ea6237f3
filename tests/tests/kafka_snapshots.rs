//! Snapshots of a job on Kafka with several processes, which are killed and joined while dates are written, and with a
//! backfill into the same folder all the while: what is there in the end is what one backfill makes of the archive, and
//! whoever looks meanwhile sees whole dates only.
//!
//! `PLUMB_TEST_FULL=1` kills and looks more often.

use plumb_testing::archive::parquet_files;
use plumb_testing::case::parse_instant;
use plumb_testing::onlooker::Onlooker;
use plumb_testing::process;
use plumb_testing::service::kafka::{Kafka, Sent};
use plumb_testing::service::redis::Redis;
use plumb_testing::service::s3::S3;
use plumb_testing::service::skipped;
use plumb_testing::snapshots::tree;
use plumb_testing::stream::{Bucket, Member, Online, Stream, record};
use plumb_testing::table::{instants, table};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn full() -> bool {
    std::env::var_os("PLUMB_TEST_FULL").is_some()
}

fn job(partitions: i32) -> Stream {
    Stream::new(Kafka::shared().clone(), Online::Redis(Redis::shared().clone()), partitions)
}

/// Generated events over so many days from 2024-01-01, by time: nothing comes late.
fn in_order(events: usize, days: u32) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let words = format!(
        "generate --events {events} --users 30 --items 12 --days {days} --seed 5 --start 2024-01-01T00:00:00Z --out e.jsonl"
    );
    process::run_ok(folder.path(), words.split(' '));
    let text = std::fs::read_to_string(folder.path().join("e.jsonl")).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_by_key(|line| time_of(line));
    lines
}

fn time_of(line: &str) -> String {
    let event: Value = serde_json::from_str(line).unwrap();
    event["event_time"].as_str().unwrap().to_owned()
}

/// An event in each partition, by which all of them have passed the instants up to its time but for the lateness.
fn closing(job: &Stream, time: &str) -> Vec<Sent> {
    let partitions = job.kafka.watermarks(&job.topic).into_keys();
    let of = |partition: i32| {
        let event = json!({
            "event_id": format!("closing-{partition}-{time}"), "event_time": time, "user_id": "closing",
            "item_id": "i1", "event_type": "view",
        });
        Sent { partition: Some(partition), value: Some(event.to_string().into()), ..Sent::default() }
    };
    partitions.map(of).collect()
}

/// Fails unless both have the same files of the same bytes.
#[track_caller]
fn same(found: &BTreeMap<String, Vec<u8>>, wanted: &BTreeMap<String, Vec<u8>>) {
    let names = |one: &BTreeMap<String, Vec<u8>>, other: &BTreeMap<String, Vec<u8>>| {
        one.iter().filter(|(path, bytes)| other.get(*path) != Some(bytes)).map(|(path, _)| path.clone()).collect()
    };
    let (only_found, only_wanted): (Vec<String>, Vec<String>) = (names(found, wanted), names(wanted, found));
    assert!(only_found.is_empty() && only_wanted.is_empty(), "there {only_found:?}, in their place {only_wanted:?}");
}

/// What dates a folder or bucket has: for each its files.
fn by_date<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeMap<String, BTreeSet<String>> {
    let mut dates: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in paths.filter(|path| path.ends_with(".parquet")) {
        let (date, name) = path.rsplit_once('/').unwrap();
        dates.entry(date.to_owned()).or_default().insert(name.to_owned());
    }
    dates
}

/// Looks at the snapshots in a local folder, as other programs do. Each look: every date has one file, which can be read
/// whole, and no fewer instants than at the look before; with `once` the same file ever after.
fn glob_of_folder(offline: PathBuf, once: bool) -> Onlooker {
    let mut known = BTreeMap::<String, (String, i64)>::new();
    Onlooker::start(Duration::from_millis(5), move || {
        let paths = parquet_files(&offline.join("features"));
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        for (date, files) in by_date(names.iter().map(String::as_str)) {
            assert_eq!(files.len(), 1, "{date} has {files:?}");
            let name = files.first().unwrap();
            if known.get(&date).is_some_and(|(before, _)| before == name) {
                continue;
            }
            assert!(!once || !known.contains_key(&date), "{date} was written again");
            let path = Path::new(&date).join(name);
            // Replaced since it was listed: the next look sees what is there then.
            let copy = tempfile::tempdir().unwrap();
            let kept = copy.path().join("one.parquet");
            if std::fs::copy(&path, &kept).is_err() {
                assert!(!once, "{} was listed and is gone", path.display());
                continue;
            }
            let last = instants(&table(&kept), "event_time").into_iter().max().expect("a file has rows");
            let before = known.insert(date.clone(), (name.clone(), last)).map_or(i64::MIN, |known| known.1);
            assert!(last >= before, "{date} has lost hours");
        }
        !known.is_empty()
    })
}

/// Of a bucket: every date has one object, which is the same ever after and whole.
fn glob_of_bucket(bucket: Bucket) -> Onlooker {
    let mut known = BTreeMap::<String, BTreeSet<String>>::new();
    Onlooker::start(Duration::from_millis(20), move || {
        let keys = bucket.s3.list(&bucket.name, &format!("{}/features/", bucket.prefix));
        for (date, files) in by_date(keys.iter().map(String::as_str)) {
            assert_eq!(files.len(), 1, "{date} has {files:?}");
            if let Some(before) = known.get(&date) {
                assert_eq!(*before, files, "{date} was written again");
                continue;
            }
            let key = format!("{date}/{}", files.first().unwrap());
            let copy = tempfile::tempdir().unwrap();
            let kept = copy.path().join("one.parquet");
            std::fs::write(&kept, bucket.s3.get(&bucket.name, &key).expect("it was listed")).unwrap();
            assert!(!instants(&table(&kept), "event_time").is_empty());
            known.insert(date, files);
        }
        !known.is_empty()
    })
}

/// How many files of dates there are.
fn count(job: &Stream) -> usize {
    match &job.bucket {
        None => parquet_files(&job.offline.join("features")).len(),
        Some(Bucket { s3, name, prefix, .. }) => {
            s3.list(name, &format!("{prefix}/features/")).iter().filter(|key| key.ends_with(".parquet")).count()
        }
    }
}

/// What was decided last, and whether it is made; null before.
fn decided(job: &Stream, every: &str) -> Value {
    job.fetch("manifest/_snapshots");
    let journal = job.offline.join("manifest/_snapshots/default").join(every);
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(journal).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    // Old entries are removed while new ones come.
    let last = entries.last().and_then(|path| std::fs::read(path).ok());
    last.map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
}

/// Waits until everything up to an instant is made, by these processes.
#[track_caller]
fn wait_until_made(job: &Stream, members: &mut [&mut Member], every: &str, instant: &str) {
    let begun = Instant::now();
    let wanted_us = parse_instant(instant).unwrap();
    loop {
        let last = decided(job, every);
        if last["made"] == true && last["through_us"].as_i64() >= Some(wanted_us) {
            return;
        }
        members.iter_mut().for_each(|member| member.must_live());
        let logs: Vec<String> = members.iter().map(|member| member.service.log()).collect();
        assert!(begun.elapsed() < Duration::from_secs(180), "{last}, wanted {instant}: {}", logs.join("\n--\n"));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// `plumb backfill` of both views over what the job has committed; the report.
#[track_caller]
fn backfill(job: &Stream, folder: &str, more: &str) -> Value {
    let components = process::repository().join("target/plumb");
    let of = |view: &str| format!("--transform {}/{view}.wasm", components.display());
    let words = format!("--json backfill --config plumb.toml {} {} {more}", of("user_activity"), of("item_activity"));
    let words: Vec<&str> = words.split_whitespace().collect();
    let output = job.run(folder, &words);
    assert!(output.status.success(), "{more}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a process says of itself.
fn state(member: &Member) -> String {
    let ready = process::request(&member.address, "GET", "/ready", b"");
    let owned = member.metric("plumb_owned_partitions", "");
    format!("{ready:?} owns {owned:?}\n{}", member.service.log())
}

/// Kills processes of a job while it writes dates, lets another join in between, and compares.
fn killed_and_joined(job: &Stream, glob: Onlooker, rounds: usize) {
    let days = 10 * rounds as u32 + 20;
    let lines = in_order(60 * days as usize, days);
    let mut parts = lines.chunks(lines.len().div_ceil(rounds + 1));
    let mut send_next = || job.send(parts.next().unwrap_or_default().iter().map(|line| record(line)));
    send_next();
    let mut members: BTreeMap<&str, Member> = BTreeMap::new();
    for name in ["a", "b"] {
        members.insert(name, job.start(name));
    }
    let mut kills = 0;
    for round in 0..rounds {
        let before = count(job);
        send_next();
        // Amid the work: at once when it is decided on, or when something of it is there.
        let early = round % 3 == 0;
        let waiting = Instant::now();
        while count(job) <= before && !(early && decided(job, "1d")["made"] == false) {
            glob.must_live();
            assert!(
                waiting.elapsed() < Duration::from_secs(120),
                "round {round}: no work on new dates, decided {}, committed {:?} of {:?}: {}",
                decided(job, "1d"),
                job.committed(),
                job.kafka.watermarks(&job.topic),
                members.values().map(state).collect::<Vec<_>>().join("\n--\n")
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        if round == rounds / 2 {
            // Partitions move while dates are written, and nobody dies.
            members.insert("c", job.start("c"));
        } else {
            let name = if round % 2 == 0 { "a" } else { "b" };
            let killed = members.remove(name).unwrap();
            killed.service.kill();
            kills += 1;
            members.insert(name, job.launch(name));
        }
    }
    job.send(closing(job, "2025-01-01T12:00:00Z"));
    let mut living: Vec<&mut Member> = members.values_mut().collect();
    living.iter_mut().for_each(|member| member.wait_until_ready());
    job.drain(&mut living);
    wait_until_made(job, &mut living, "1d", "2025-01-01T00:00:00Z");
    let looks = glob.end();
    job.fetch("features");
    let found = tree(&job.offline);
    backfill(job, "commands", "--every 1d --to 2025-01-01T00:00:00Z --out whole");
    same(&found, &tree(&job.root().join("commands/whole")));
    let dates = found.keys().filter(|path| path.ends_with(".parquet")).count();
    println!("{kills} kills, {dates} dates, {looks} looks");
    assert!(dates as u32 > days && looks > rounds, "{dates} dates, {looks} looks");
    // Nothing is left for a backfill of the job to do.
    let report = backfill(job, "commands", "--every 1d");
    for (view, dates) in report["dates"].as_object().unwrap() {
        assert_eq!((&dates["made"], &dates["removed"]), (&json!(0), &json!(0)), "{view}: {report}");
    }
    drop(job.check(&mut living));
}

#[test]
fn kafka_snapshots_of_two_processes_that_are_killed_and_joined() {
    if skipped("kafka_snapshots_of_two_processes_that_are_killed_and_joined") {
        return;
    }
    let job = job(3);
    let glob = glob_of_folder(job.offline.clone(), true);
    killed_and_joined(&job, glob, if full() { 30 } else { 5 });
}

#[test]
fn kafka_snapshots_in_s3_of_two_processes_that_are_killed_and_joined() {
    if skipped("kafka_snapshots_in_s3_of_two_processes_that_are_killed_and_joined") {
        return;
    }
    let mut job = job(2);
    let s3 = S3::shared().clone();
    let endpoint = s3.endpoint();
    let bucket = Bucket { s3, endpoint, name: "plumb".into(), prefix: format!("snapshots-{}", job.topic) };
    job.bucket = Some(bucket.clone());
    killed_and_joined(&job, glob_of_bucket(bucket), if full() { 12 } else { 3 });
}

#[test]
fn kafka_snapshots_with_a_backfill_into_the_same_folder_at_the_same_time() {
    if skipped("kafka_snapshots_with_a_backfill_into_the_same_folder_at_the_same_time") {
        return;
    }
    for (snapshots, every) in [("hourly", "1h"), ("event", "event")] {
        let mut job = job(2);
        job.offline_lines = format!("snapshots = \"{snapshots}\"\n");
        let days = if full() { 40 } else { 6 };
        let lines = in_order(100 * days as usize, days);
        // One in thirty comes late, for which a backfill makes again what the stream has made.
        let (mut records, mut held): (Vec<Sent>, VecDeque<&String>) = (Vec::new(), VecDeque::new());
        for (at, line) in lines.iter().enumerate() {
            match at % 30 {
                0 => held.push_back(line),
                _ => records.push(record(line)),
            }
            // 150 events, or a day and a half, later.
            if at >= 150 && at % 30 == 0 {
                records.extend(held.pop_front().map(|line| record(line)));
            }
        }
        records.extend(held.into_iter().map(|line| record(line)));
        let feeder = job.feed(records, 120);
        let mut member = job.start("a");
        wait_until_made(&job, &mut [&mut member], every, "2024-01-01T00:00:00Z");
        let glob = glob_of_folder(job.offline.clone(), false);
        let stop = AtomicBool::new(false);
        let runs = std::thread::scope(|scope| {
            let (job, stop) = (&job, &stop);
            // Two of them, so that backfills meet each other too.
            let backfills: Vec<_> = ["one", "two"]
                .map(|name| {
                    scope.spawn(move || {
                        let mut runs = 0;
                        while !stop.load(Ordering::Relaxed) {
                            backfill(job, name, &format!("--every {every}"));
                            runs += 1;
                        }
                        runs
                    })
                })
                .into();
            feeder.finish();
            job.send(closing(job, "2024-06-01T12:00:00Z"));
            job.drain(&mut [&mut member]);
            wait_until_made(job, &mut [&mut member], every, "2024-06-01T10:00:00Z");
            stop.store(true, Ordering::Relaxed);
            backfills.into_iter().map(|thread| thread.join().unwrap()).sum::<u32>()
        });
        let looks = glob.end();
        // In whatever order they came: what is left to do is what late events have changed, and then nothing is.
        backfill(&job, "one", &format!("--every {every}"));
        let again = backfill(&job, "two", &format!("--every {every}"));
        for (view, dates) in again["dates"].as_object().unwrap() {
            assert_eq!((&dates["made"], &dates["removed"]), (&json!(0), &json!(0)), "{view}: {again}");
        }
        backfill(&job, "two", &format!("--every {every} --to 2024-06-01T00:00:00Z --out whole"));
        let before_june = |tree: BTreeMap<String, Vec<u8>>| -> BTreeMap<String, Vec<u8>> {
            tree.into_iter().filter(|(path, _)| path.ends_with(".parquet") && !path.contains("date=2024-06")).collect()
        };
        let (found, whole) = (before_june(tree(&job.offline)), before_june(tree(&job.root().join("two/whole"))));
        same(&found, &whole);
        println!("{snapshots}: {runs} backfills beside the stream, {} dates, {looks} looks", found.len());
        assert!(runs >= 4 && looks > 10 && found.len() as u32 >= 2 * days, "{runs} runs, {looks} looks");
        drop(job.check(&mut [&mut member]));
    }
}
