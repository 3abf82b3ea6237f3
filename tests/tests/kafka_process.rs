//! Real processes between Kafka, Redis and Parquet, killed, stopped, started and handed over in every way; after
//! each run everything is checked against the topic.
//!
//! `PLUMB_TEST_FULL=1` kills a hundred times and does everything longer.

use plumb_testing::checker;
use plumb_testing::reader::{Met, Questions, Reader};
use plumb_testing::service::kafka::{Kafka, Sent};
use plumb_testing::service::redis::Redis;
use plumb_testing::service::{eventually, skipped, within};
use plumb_testing::stream::{Member, Online, Stream, careless, generated, questions, questions_of_the_past, record};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn full() -> bool {
    std::env::var_os("PLUMB_TEST_FULL").is_some()
}

fn job(partitions: i32) -> Stream {
    Stream::new(Kafka::shared().clone(), Online::Redis(Redis::shared().clone()), partitions)
}

fn addresses(members: &[Member]) -> Vec<String> {
    members.iter().map(|member| member.address.clone()).collect()
}

/// Drains and checks through all of these.
#[track_caller]
fn check(job: &Stream, members: &mut [Member]) -> (checker::Truth, checker::Compared) {
    job.check(&mut members.iter_mut().collect::<Vec<_>>())
}

/// Numbers that are the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn kafka_to_redis_and_parquet_with_one_process() {
    if skipped("kafka_to_redis_and_parquet_with_one_process") {
        return;
    }
    let lines = generated(6000, 150, 60, 1);
    for partitions in [1, 12] {
        let job = job(partitions);
        let records: Vec<Sent> = careless(&lines, partitions as u64);
        let (early, late) = records.split_at(records.len() / 2);
        job.send(early.iter().cloned());
        let mut members = vec![job.start("a")];
        let reader = Reader::start(addresses(&members), questions_of_the_past(&lines));
        job.send(late.iter().cloned());
        let (truth, compared) = check(&job, &mut members);
        let met = reader.end(&truth, true);
        println!("{partitions} partitions: {compared:?} {met:?}");
        assert!(truth.accounting.values().any(|counts| counts.duplicate > 0) && !truth.rejected.is_empty());
        assert!(compared.events > 5500 && compared.values > 3 * 150 * 10, "{compared:?}");
        assert!(met.found > 20 && met.broken == 0, "{met:?}");
        let stopping = Instant::now();
        assert_eq!(members.remove(0).service.terminate(), Some(0));
        assert!(stopping.elapsed() < Duration::from_secs(10));
        the_checker_sees_what_is_spoiled(&job, &truth);
    }
}

/// The checker itself: what it must not let pass.
fn the_checker_sees_what_is_spoiled(job: &Stream, truth: &checker::Truth) {
    let fails = |what: &str| {
        let left =
            checker::Left { offline: &job.offline, damaged: &[], addresses: &[], online_keys: &|| job.online_keys() };
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| checker::check(truth, &left)));
        assert!(checked.is_err(), "the checker does not see {what}");
    };
    let files = plumb_testing::archive::parquet_files(&job.offline.join("events"));
    let (file, aside) = (&files[0], job.offline.join("aside"));
    std::fs::rename(file, &aside).unwrap();
    fails("a lost file");
    std::fs::rename(&aside, file).unwrap();
    let twice = file.with_file_name("twice.parquet");
    std::fs::copy(file, &twice).unwrap();
    fails("a file twice");
    std::fs::remove_file(&twice).unwrap();
    let Online::Redis(redis) = &job.online else { panic!("a job with Redis") };
    let keys = job.online_keys().unwrap();
    let entity = keys
        .iter()
        .find(|key| key.windows(6).any(|part| part == b"{user/") && !key.windows(4).any(|part| part == [0xff; 4]));
    let entity = entity.filter(|key| !key.ends_with(b":_at")).expect("an entity").clone();
    let mut connection = redis.connection();
    let removed: i64 = ::redis::cmd("DEL").arg(&entity).query(&mut connection).unwrap();
    assert_eq!(removed, 1);
    fails("a lost entity");
}

#[test]
fn kafka_to_redis_with_three_processes_and_more_partitions() {
    if skipped("kafka_to_redis_with_three_processes_and_more_partitions") {
        return;
    }
    let lines = generated(6000, 150, 60, 2);
    for (before, after) in [(1, 1), (12, 15)] {
        let job = job(before);
        let records: Vec<Sent> = careless(&lines, 3);
        let (early, late) = records.split_at(records.len() / 2);
        let mut members: Vec<Member> = ["a", "b", "c"].map(|name| job.launch(name)).into();
        members.iter_mut().for_each(Member::wait_until_ready);
        let reader = Reader::start(addresses(&members), questions_of_the_past(&lines));
        job.send(early.iter().cloned());
        if after > before {
            job.kafka.add_partitions(&job.topic, after as usize);
        }
        job.send(late.iter().cloned());
        let (truth, compared) = check(&job, &mut members);
        let met = reader.end(&truth, true);
        println!("{before} to {after} partitions: {compared:?} {met:?}");
        assert_eq!(truth.ends.len(), after as usize);
        assert!(truth.ends.values().filter(|end| **end > 0).count() * 5 >= after as usize * 4, "{:?}", truth.ends);
        assert!(met.found > 20 && met.broken == 0, "{met:?}");
        let working = members.iter().filter(|member| member.metric("plumb_owned_partitions", "") > Some(0.0)).count();
        assert_eq!(working, if before == 1 { 1 } else { 3 }, "processes that own partitions");
        for member in members {
            assert_eq!(member.service.terminate(), Some(0));
        }
    }
}

#[test]
fn kafka_killed_at_random_under_load() {
    if skipped("kafka_killed_at_random_under_load") {
        return;
    }
    let rounds = if full() { 100 } else { 10 };
    // More than can be sent meanwhile, also on a slow machine; likewise below.
    let lines = generated(rounds * 8000, 200, 80, 3);
    let mut job = job(4);
    // A member that comes back under its name gets its partitions at once.
    job.source_lines += "instance_id = \"a\"\n";
    let feeder = job.feed(careless(&lines, 5), 1500);
    let mut chance = Chance(11);
    let (mut hits, mut slowest) = (0, Duration::ZERO);
    for round in 0..rounds {
        let started = Instant::now();
        let before = job.committed();
        let mut member = job.launch("a");
        within(Duration::from_secs(60), "a commit of the process", || {
            member.must_live();
            (job.committed() != before).then_some(())
        });
        slowest = slowest.max(started.elapsed());
        std::thread::sleep(Duration::from_millis(chance.below(400)));
        let end: i64 = job.kafka.watermarks(&job.topic).values().map(|(_, end)| end).sum();
        let committed: u64 = job.committed().values().sum();
        assert!(member.service.ended().is_none(), "round {round}: it ended by itself:\n{}", member.service.log());
        member.service.kill();
        // With records in flight, the kill met work.
        hits += usize::from(committed < end as u64);
    }
    println!("{hits} of {rounds} kills under load, from a start to a commit at most {slowest:?}");
    assert!(hits >= rounds * 8 / 10, "only {hits} kills met work");
    feeder.end();
    let mut members = vec![job.start("a")];
    let (_, compared) = check(&job, &mut members);
    println!("{compared:?}");
}

/// The calls by which a commit or a publish reaches the outside: files, and Redis.
const CALLS: [&str; 8] = [
    "write",
    "fsync",
    "mkdir",
    "rename,renameat,renameat2",
    "linkat",
    "unlink,unlinkat",
    "ftruncate,fallocate",
    "sendto",
];

#[test]
fn kafka_killed_at_each_call_of_a_commit() {
    if skipped("kafka_killed_at_each_call_of_a_commit") {
        return;
    }
    let lines = generated(if full() { 40_000 } else { 8000 }, 60, 30, 4);
    let mut job = job(2);
    job.source_lines += "instance_id = \"a\"\n";
    job.run_lines = "publish_interval = \"10ms\"\ncommit_interval = \"50ms\"\n".into();
    let feeder = job.feed(careless(&lines, 7), 400);
    let mut kills = BTreeMap::new();
    let steps: &[usize] = if full() { &[1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 30, 40, 60, 90] } else { &[2, 9] };
    for call in CALLS {
        for step in steps {
            let inject = format!("inject={call}:signal=KILL:when={step}");
            let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject];
            let mut member = job.launch_with("a", &strace, &["run", "--config", "plumb.toml", "--no-serve"]);
            let killed = (0..800).find_map(|_| {
                std::thread::sleep(Duration::from_millis(10));
                member.service.ended()
            });
            if let Some(status) = killed {
                use std::os::unix::process::ExitStatusExt;
                assert_eq!(status.signal(), Some(9), "{call} {step}: {status}\n{}", member.service.log());
                *kills.entry(call).or_insert(0) += 1;
            }
        }
    }
    feeder.end();
    println!("kills by call: {kills:?}");
    let reached = ["write", "fsync", "sendto"].iter().filter(|call| kills.contains_key(**call)).count();
    assert!(reached == 3 && kills.len() >= 5, "the injection does not reach: {kills:?}");
    let mut members = vec![job.start("a")];
    check(&job, &mut members);
}

/// Fails unless every generation of a partition was written by one owner.
fn one_owner_for_each_generation(job: &Stream) {
    for partition in std::fs::read_dir(job.offline.join("manifest/default")).unwrap() {
        let mut owners: BTreeMap<u64, String> = BTreeMap::new();
        for file in std::fs::read_dir(partition.unwrap().path()).unwrap() {
            let manifest: serde_json::Value =
                serde_json::from_slice(&std::fs::read(file.unwrap().path()).unwrap()).unwrap();
            let owner = manifest["owner"].as_str().unwrap().to_owned();
            let known = owners.entry(manifest["generation"].as_u64().unwrap()).or_insert_with(|| owner.clone());
            assert_eq!(*known, owner, "two owners of one generation: {manifest}");
        }
    }
}

#[test]
fn kafka_zombie_writes_nothing() {
    if skipped("kafka_zombie_writes_nothing") {
        return;
    }
    let lines = generated(if full() { 600_000 } else { 150_000 }, 200, 80, 5);
    let job = job(4);
    let feeder = job.feed(careless(&lines, 9), 1000);
    let mut zombie = job.start("first");
    let trials = if full() { 20 } else { 2 };
    let (mut fenced, mut rejoined) = (0, 0);
    let reader = Reader::start(Vec::new(), questions(&lines));
    for trial in 0..trials {
        let position = |job: &Stream| job.committed().values().sum::<u64>();
        let before = position(&job);
        eventually("work of the one to be stopped", || (position(&job) > before).then_some(()));
        zombie.service.signal("STOP");
        let stopped_at = position(&job);
        let mut heir = job.launch(&format!("heir-{trial}"));
        let waiting = Instant::now();
        eventually("commits of the one that takes over", || {
            heir.must_live();
            assert!(
                waiting.elapsed() < Duration::from_secs(60),
                "trial {trial}: nothing is committed by the one that takes over, from {stopped_at}, sent {}:\n{}",
                feeder.sent(),
                heir.service.log()
            );
            (position(&job) > stopped_at + 500).then_some(())
        });
        println!("trial {trial}: taken over after {:?}", waiting.elapsed());
        heir.wait_until_ready();
        reader.ask(vec![heir.address.clone()]);
        zombie.service.signal("CONT");
        // It notices before it writes: either it was fenced and ends, or it has lost its partitions and joins anew.
        let between = position(&job);
        eventually("work after the zombie woke", || {
            heir.must_live();
            (position(&job) > between + 500).then_some(())
        });
        let ended = zombie.service.ended();
        let code = ended.map_or_else(|| zombie.service.stop(), |status| status.code());
        let log = std::fs::read_to_string(zombie.folder.join("service.log")).unwrap();
        match code {
            Some(3) => {
                assert!(log.contains("generation"), "{log}");
                fenced += 1;
            }
            _ => {
                assert_eq!(code, Some(0), "{log}");
                rejoined += 1;
            }
        }
        zombie = heir;
    }
    println!("{trials} zombies: {fenced} fenced, {rejoined} joined anew");
    feeder.end();
    let mut members = vec![zombie];
    let (truth, _) = check(&job, &mut members);
    let met = reader.end(&truth, true);
    println!("{met:?}");
    assert!(met.found > 100, "{met:?}");
    one_owner_for_each_generation(&job);
}

#[test]
fn kafka_two_owners_at_once_one_wins() {
    if skipped("kafka_two_owners_at_once_one_wins") {
        return;
    }
    let lines = generated(100_000, 100, 40, 6);
    let mut job = job(3);
    let feeder = job.feed(careless(&lines, 10), 1000);
    let mut first = job.start("first");
    // Of another group, so that Kafka gives every partition to both.
    job.group += "-other";
    let mut second = job.launch("second");
    let mut losers = Vec::new();
    eventually("one of two owners ends", || {
        for (name, member) in [("first", &mut first), ("second", &mut second)] {
            if let Some(status) = member.service.ended() {
                losers.push((name, status.code(), member.service.log()));
            }
        }
        (!losers.is_empty()).then_some(())
    });
    assert_eq!(losers.len(), 1, "both ended: {losers:?}");
    let (name, code, log) = &losers[0];
    assert_eq!(*code, Some(3), "{name}: {log}");
    assert!(log.contains("generation"), "{name}: {log}");
    let mut members = vec![if *name == "first" { second } else { first }];
    feeder.end();
    check(&job, &mut members);
    one_owner_for_each_generation(&job);
}

#[test]
fn kafka_rebalance_storm() {
    if skipped("kafka_rebalance_storm") {
        return;
    }
    let limit = Duration::from_secs(if full() { 300 } else { 15 });
    let lines = generated(if full() { 500_000 } else { 100_000 }, 200, 80, 7);
    let job = job(12);
    let feeder = job.feed(careless(&lines, 11), 1000);
    let mut members: Vec<Member> = ["a", "b"].map(|name| job.launch(name)).into();
    members.iter_mut().for_each(Member::wait_until_ready);
    let reader = Reader::start(addresses(&members), questions(&lines));
    let start = Instant::now();
    let (mut moves, mut last) = (0, job.committed().values().sum::<u64>());
    while start.elapsed() < limit {
        let mut guest = job.launch(&format!("guest-{}", moves % 3));
        // It has come when it owns something: a rebalance has happened.
        within(Duration::from_secs(60), "partitions of the guest", || {
            guest.must_live();
            (guest.metric("plumb_owned_partitions", "") > Some(0.0)).then_some(())
        });
        let now = job.committed().values().sum::<u64>();
        assert!(now > last, "nothing was committed in the {moves}th rebalance");
        last = now;
        match moves % 3 {
            0 => guest.service.kill(),
            _ => assert_eq!(guest.service.terminate(), Some(0)),
        }
        moves += 1;
    }
    println!("{moves} guests came and went in {:?}", start.elapsed());
    assert!(moves >= 2, "only {moves} rebalances");
    feeder.end();
    let (truth, compared) = check(&job, &mut members);
    let met = reader.end(&truth, true);
    println!("{compared:?} {met:?}");
    assert!(met.found > 100 && met.broken == 0, "{met:?}");
}

#[test]
fn kafka_rolling_restart_of_three_under_load() {
    if skipped("kafka_rolling_restart_of_three_under_load") {
        return;
    }
    let lines = generated(40_000, 200, 80, 8);
    let job = job(12);
    let feeder = job.feed(careless(&lines, 12), 1000);
    let mut members: Vec<Member> = ["a", "b", "c"].map(|name| job.launch(name)).into();
    members.iter_mut().for_each(Member::wait_until_ready);
    let Questions { users, items, instants } = questions(&lines);
    let reader = Reader::start(addresses(&members), Questions { users, items, instants });
    let mut slowest = Duration::ZERO;
    for round in 0..if full() { 12 } else { 3 } {
        let old = members.remove(0);
        // As a load balancer does: no new requests for the one that goes.
        reader.ask(addresses(&members));
        let stopping = Instant::now();
        assert_eq!(old.service.terminate(), Some(0), "round {round}");
        slowest = slowest.max(stopping.elapsed());
        members.push(job.start(&format!("next-{round}")));
        reader.ask(addresses(&members));
    }
    feeder.end();
    let (truth, compared) = check(&job, &mut members);
    let Met { answers, found, rebuilding, refused, broken, longest_silence_ms, .. } = reader.end(&truth, true);
    println!(
        "{compared:?} {answers} answers, silence at most {longest_silence_ms} ms, SIGTERM to exit at most {slowest:?}"
    );
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    assert!(found > 300, "{found}");
    assert_eq!((rebuilding, refused, broken), (0, 0, 0), "answers without values, refused, broken");
}

#[test]
fn kafka_sigterm_commits_and_nothing_is_read_again() {
    if skipped("kafka_sigterm_commits_and_nothing_is_read_again") {
        return;
    }
    let lines = generated(8000, 100, 40, 9);
    let mut job = job(3);
    // No commit by time: the only one is that of the end.
    job.run_lines = "publish_interval = \"30ms\"\ncommit_interval = \"1h\"\n".into();
    let feeder = job.feed(careless(&lines, 13), 2000);
    let mut member = job.start("a");
    feeder.wait_for(3000);
    eventually("some records read", || {
        member.must_live();
        (member.metric("plumb_records_total", "") > Some(1000.0)).then_some(())
    });
    assert_eq!(member.service.terminate(), Some(0));
    let committed: u64 = job.committed().values().sum();
    assert!(committed > 1000, "{committed}");
    feeder.finish();
    let output = job.run("b", &["--json", "run", "--until-end", "--no-serve", "--config", "plumb.toml"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let truth = job.truth();
    let (read, applied) = truth.accounting.values().fold((0, 0), |sum, c| (sum.0 + c.read, sum.1 + c.applied));
    assert_eq!(summary["read"], read, "{summary}");
    assert!(summary["applied_now"].as_u64().unwrap() <= applied - committed.min(applied) * 9 / 10, "{summary}");
    job.run_lines = String::new();
    check(&job, &mut [job.start("c")]);
}

/// Copies inside and beyond the horizon, by the records' timestamps, some of which are wrong.
fn copied(lines: &[String], begin_ms: i64) -> Vec<Sent> {
    let mut chance = Chance(29);
    let mut records: Vec<(i64, i64, Sent)> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        // A line a second. Copies are sent so many seconds later; one of four says that it was then, others say 600 s
        // more, the time of the first, or half an hour ahead.
        let sent_s = index as i64;
        records.push((sent_s, sent_s, record(line)));
        if chance.below(4) == 0 {
            let after_s = [1, 60, 590, 600, 601, 700, 1500][chance.below(7) as usize];
            let says_s = match chance.below(8) {
                0 => sent_s,
                1 => sent_s + after_s + 600,
                2 if chance.below(10) == 0 => sent_s + after_s + 1800,
                _ => sent_s + after_s,
            };
            records.push((sent_s + after_s, says_s, record(line)));
        }
    }
    records.sort_by_key(|(sent_s, ..)| *sent_s);
    let stamped = |(_, says_s, sent)| Sent { timestamp: Some(begin_ms + says_s * 1000), ..sent };
    records.into_iter().map(stamped).collect()
}

#[test]
fn kafka_copies_count_again_beyond_the_horizon_over_kills_and_take_overs() {
    if skipped("kafka_copies_count_again_beyond_the_horizon_over_kills_and_take_overs") {
        return;
    }
    let mut job = job(2);
    job.horizon_us = 600 * 1_000_000;
    let lines = generated(9000, 200, 80, 31);
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    // The last is half an hour ahead at most: a broker takes no more than an hour.
    let records = copied(&lines, (now_ms / 1000 - 12_000) * 1000);
    let mut rest = records.as_slice();
    for (round, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let (part, later) = rest.split_at(records.len() / 5);
        rest = later;
        let before = job.committed().values().sum::<u64>();
        let mut member = job.launch(name);
        let feeder = job.feed(part.to_vec(), 4000);
        within(Duration::from_secs(120), "commits of the process", || {
            member.must_live();
            (job.committed().values().sum::<u64>() > before + 300).then_some(())
        });
        member.service.kill();
        feeder.finish();
        println!("killed in round {round} at {:?}", job.committed());
    }
    job.send(rest.iter().cloned());
    let mut members = vec![job.start("a")];
    let (truth, compared) = check(&job, &mut members);
    let counts = truth.accounting.values();
    let (applied, duplicate) = counts.fold((0, 0), |sum, of| (sum.0 + of.applied, sum.1 + of.duplicate));
    let ids: std::collections::BTreeSet<_> =
        truth.accepted.iter().map(|placed| (placed.partition, placed.event.id.as_deref())).collect();
    let again = truth.accepted.len() - ids.len();
    println!("{compared:?} {applied} applied, {duplicate} duplicates, {again} ids count again");
    assert!(again > 300 && duplicate > 300, "{again} of {}", ids.len());
    // Long forgotten ids are neither in commits nor in memory.
    for (partition, manifest) in checker::newest_manifests(&job.offline) {
        let forgotten = manifest["clock"]["forgotten_us"].as_i64().unwrap();
        assert!(forgotten > (now_ms - 9_000_000) * 1000, "partition {partition}: {}", manifest["clock"]);
        for file in manifest["ids"].as_array().unwrap() {
            assert!(file["newest_us"].as_i64().unwrap() >= forgotten, "partition {partition}: {file}");
        }
    }
    let remembered = members[0].metric("plumb_remembered_ids", "").unwrap();
    assert!(remembered > 500.0 && remembered < lines.len() as f64, "{remembered}");
    // The same log with every id remembered is another: the checker sees the difference.
    let forever = checker::Truth::of(&job.records(), 0..2);
    assert_eq!(forever.accepted.len(), ids.len());
}
