//! A job of three processes under a steady load for as long as it takes, with something happening to it every few
//! seconds, and somebody who asks all the time. In the end everything is checked against the topic.
//!
//! Twenty seconds by default; `PLUMB_TEST_FULL=1` makes it five minutes, `PLUMB_TEST_SOAK` that many seconds.

use plumb_testing::archive;
use plumb_testing::reader::Reader;
use plumb_testing::service::kafka::Kafka;
use plumb_testing::service::redis::Redis;
use plumb_testing::service::{eventually, skipped, within};
use plumb_testing::stream::{Member, Online, Stream, careless, generated, questions};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn seconds() -> u64 {
    let by_default = if std::env::var_os("PLUMB_TEST_FULL").is_some() { 300 } else { 20 };
    std::env::var("PLUMB_TEST_SOAK").map_or(by_default, |text| text.parse().expect("PLUMB_TEST_SOAK is in seconds"))
}

/// The memory of a process, in MiB.
fn resident_mib(member: &Member) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", member.service.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[test]
fn kafka_soak_of_three_processes() {
    if skipped("kafka_soak_of_three_processes") {
        return;
    }
    let limit = Duration::from_secs(seconds());
    let per_second = 500;
    let lines = generated((limit.as_secs() * per_second) as usize + 4000, 300, 100, 81);
    let redis = Arc::new(Redis::start());
    let job = Stream::new(Kafka::shared().clone(), Online::Redis(redis.clone()), 6);
    let names = ["a", "b", "c"];
    let mut members: Vec<Member> = names.iter().map(|name| job.launch(name)).collect();
    members.iter_mut().for_each(Member::wait_until_ready);
    let addresses = |members: &[Member]| members.iter().map(|member| member.address.clone()).collect::<Vec<_>>();
    let reader = Reader::start(addresses(&members), questions(&lines));
    let records = careless(&lines, 12);
    let last = records.len() as u64;
    let feeder = job.feed(records, per_second);
    let start = Instant::now();
    let mut happened: BTreeMap<&str, usize> = BTreeMap::new();
    let mut round = 0;
    // At least each once, however slow the machine.
    while start.elapsed() < limit || round < 5 {
        let victim = round % names.len();
        let others = addresses(&members).into_iter().enumerate().filter(|(index, _)| *index != victim);
        reader.ask(others.map(|(_, address)| address).collect());
        let what = match round % 5 {
            0 => {
                members.remove(victim).service.kill();
                members.insert(victim, job.launch(names[victim]));
                "killed"
            }
            1 => {
                assert_eq!(members.remove(victim).service.terminate(), Some(0));
                members.insert(victim, job.launch(names[victim]));
                "restarted"
            }
            2 => {
                redis.flush();
                "redis emptied"
            }
            3 => {
                // Shorter than a session: it goes on where it was.
                members[victim].service.signal("STOP");
                std::thread::sleep(Duration::from_secs(1));
                members[victim].service.signal("CONT");
                "stopped for a second"
            }
            _ => {
                redis.pause();
                std::thread::sleep(Duration::from_secs(2));
                redis.resume();
                "redis hung for two seconds"
            }
        };
        *happened.entry(what).or_default() += 1;
        within(Duration::from_secs(120), &format!("all ready after: {what}"), || {
            for (name, member) in names.iter().zip(&mut members) {
                // One that was stopped may find that its partitions are another's: it ends, and is started again.
                if let Some(status) = member.service.ended() {
                    assert_eq!(status.code(), Some(3), "{name}: {status}\n{}", member.service.log());
                    *member = job.launch(name);
                }
            }
            let ready = |member: &Member| {
                matches!(plumb_testing::process::request(&member.address, "GET", "/ready", b""), Ok((200, _)))
            };
            members.iter().all(ready).then_some(())
        });
        reader.ask(addresses(&members));
        let before: u64 = job.committed().values().sum();
        eventually("commits", || {
            let moved = job.committed().values().sum::<u64>() > before;
            (moved || feeder.sent() == last).then_some(())
        });
        round += 1;
    }
    feeder.end();
    let (truth, compared) = job.check(&mut members.iter_mut().collect::<Vec<_>>());
    let met = reader.end(&truth, false);
    let files = archive::parquet_files(&job.offline.join("events")).len();
    let memory: Vec<u64> = members.iter().map(resident_mib).collect();
    println!("{:?}: {happened:?}, {compared:?} {met:?}, {files} files, {memory:?} MiB", start.elapsed());
    // What a killed process was asked is cut off; every answer that came is as the topic says.
    assert!(met.found > 100 && met.broken < met.found / 10, "{met:?}");
    // Two days and the day around each of six partitions; however long it lasts, small files stay few.
    assert!(files <= 6 * 3 * 40, "{files} row files");
    for member in members {
        assert_eq!(member.service.terminate(), Some(0));
    }
}
