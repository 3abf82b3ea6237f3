//! An online store that is killed, emptied, hung, slow, cut off or failing over while a job publishes to it and a
//! reader asks all the time: no answer is wrong and none is made up, and in the end every entity is there again, bit
//! for bit.
//!
//! `PLUMB_TEST_FULL=1` makes outages as long as reliability.md asks for.

use plumb_testing::reader::{Met, Reader};
use plumb_testing::service::kafka::Kafka;
use plumb_testing::service::proxy::{Fault, Proxy};
use plumb_testing::service::redis::{Redis, RedisCluster};
use plumb_testing::service::{eventually, skipped, within};
use plumb_testing::stream::{Feeder, Member, Online, Stream, careless, generated, questions};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn full() -> bool {
    std::env::var_os("PLUMB_TEST_FULL").is_some()
}

fn position(job: &Stream) -> u64 {
    job.committed().values().sum()
}

/// A job under load with a reader.
struct Running {
    job: Stream,
    member: Member,
    reader: Reader,
    feeder: Feeder,
}

impl Running {
    fn start(online: Online, seed: u32) -> Self {
        // More than can be sent meanwhile, also on a slow machine.
        let lines = generated(if full() { 300_000 } else { 100_000 }, 200, 80, seed);
        let job = Stream::new(Kafka::shared().clone(), online, 4);
        let member = job.start("a");
        let feeder = job.feed(careless(&lines, 3), 800);
        let reader = Reader::start(vec![member.address.clone()], questions(&lines));
        let mut running = Self { job, member, reader, feeder };
        running.progress("the first commits");
        running
    }

    /// Waits for commits.
    #[track_caller]
    fn progress(&mut self, what: &str) {
        let before = position(&self.job);
        eventually(what, || {
            self.member.must_live();
            (position(&self.job) > before).then_some(())
        });
    }

    /// Waits until the views have values again; gives how long that took.
    #[track_caller]
    fn answers(&mut self) -> Duration {
        let start = Instant::now();
        self.member.wait_until_ready();
        start.elapsed()
    }

    /// Ends the load and checks everything.
    #[track_caller]
    fn check(mut self, forward: bool) -> Met {
        self.feeder.end();
        let (truth, compared) = self.job.check(&mut [&mut self.member]);
        let met = self.reader.end(&truth, forward);
        println!("{compared:?} {met:?}");
        assert!(met.found > 100 && met.broken == 0, "{met:?}");
        met
    }
}

#[test]
fn redis_killed_and_started_empty_is_filled_again() {
    if skipped("redis_killed_and_started_empty_is_filled_again") {
        return;
    }
    let redis = Arc::new(Redis::start());
    let mut running = Running::start(Online::Redis(redis.clone()), 31);
    for _ in 0..2 {
        redis.kill();
        running.progress("commits without an online store");
        redis.restart();
        let took = running.answers();
        println!("readable {took:?} after the restart");
    }
    let met = running.check(false);
    assert!(met.refused + met.rebuilding > 0, "nobody noticed: {met:?}");
}

#[test]
fn redis_flushed_is_noticed_and_filled_again() {
    if skipped("redis_flushed_is_noticed_and_filled_again") {
        return;
    }
    let redis = Arc::new(Redis::start());
    let mut running = Running::start(Online::Redis(redis.clone()), 32);
    for _ in 0..3 {
        running.progress("load");
        redis.flush();
        let flushed = Instant::now();
        // Within a second the owner finds it empty and begins to fill it.
        within(Duration::from_secs(5), "keys after the flush", || (!redis.keys("plumb:").is_empty()).then_some(()));
        println!("noticed after {:?}", flushed.elapsed());
        running.answers();
    }
    running.check(false);
}

#[test]
fn redis_hung_leaves_answers_within_their_deadline() {
    if skipped("redis_hung_leaves_answers_within_their_deadline") {
        return;
    }
    let redis = Arc::new(Redis::start());
    let mut running = Running::start(Online::Redis(redis.clone()), 33);
    redis.pause();
    running.progress("commits with a hung online store");
    std::thread::sleep(Duration::from_secs(if full() { 30 } else { 4 }));
    running.member.must_live();
    redis.resume();
    running.answers();
    let met = running.check(true);
    assert!(met.refused + met.rebuilding > 0, "nobody was hindered: {met:?}");
    assert!(met.slowest_ms < 5_000, "an answer hung: {met:?}");
}

#[test]
fn redis_slow_reset_cut_and_half_open() {
    if skipped("redis_slow_reset_cut_and_half_open") {
        return;
    }
    let redis = Arc::new(Redis::start());
    let proxy = Proxy::start(redis.address());
    let mut running = Running::start(Online::Proxied(redis.clone(), proxy.address()), 34);
    let each = Duration::from_secs(if full() { 20 } else { 2 });
    for fault in [
        Fault::Latency(Duration::from_millis(200)),
        Fault::Reset,
        Fault::BlackHole,
        Fault::HalfOpen,
        // In the middle of a publish; and after it, so that its writer cannot know.
        Fault::CutToServer(2_000),
        Fault::CutToServer(20_000),
        Fault::CutToClient(0),
        Fault::Throttle(200_000),
    ] {
        let hits = proxy.counts().hits;
        proxy.set(fault.clone());
        std::thread::sleep(each);
        eventually(&format!("{fault:?} met somebody"), || {
            running.member.must_live();
            (proxy.counts().hits > hits).then_some(())
        });
        proxy.set(Fault::None);
        running.answers();
        running.progress(&format!("commits after {fault:?}"));
    }
    let met = running.check(true);
    assert!(met.refused + met.rebuilding > 0, "nobody was hindered: {met:?}");
    assert!(met.slowest_ms < 8_000, "an answer hung: {met:?}");
}

#[test]
fn redis_failing_over_to_a_replica_that_lacks_the_tail() {
    if skipped("redis_failing_over_to_a_replica_that_lacks_the_tail") {
        return;
    }
    let primary = Arc::new(Redis::start());
    let replica = Arc::new(Redis::replica_of(&primary));
    let proxy = Proxy::start(primary.address());
    let mut running = Running::start(Online::Proxied(replica.clone(), proxy.address()), 35);
    running.progress("load");
    let offset = |redis: &Redis| {
        let info = redis.info("replication");
        let line = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")).expect("an offset");
        line.trim().parse::<u64>().expect("a number")
    };
    eventually("a copy of the first publishes", || (!replica.keys("plumb:").is_empty()).then_some(()));
    replica.pause();
    let behind = offset(&primary);
    within(Duration::from_secs(30), "publishes that the replica lacks", || {
        (offset(&primary) > behind + 20_000).then_some(())
    });
    primary.kill();
    replica.resume();
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    proxy.set_upstream(replica.address());
    proxy.set(Fault::Reset);
    proxy.set(Fault::None);
    running.answers();
    running.progress("commits after the fail-over");
    running.check(false);
}

#[test]
fn redis_cluster_serves_a_job_and_fails_over() {
    if skipped("redis_cluster_serves_a_job_and_fails_over") {
        return;
    }
    let cluster = Arc::new(RedisCluster::start());
    let mut running = Running::start(Online::Cluster(cluster.clone()), 36);
    running.progress("load");
    // A second process, so that answers are made of what others publish.
    let mut other = running.job.start("b");
    running.reader.ask(vec![running.member.address.clone(), other.address.clone()]);
    running.progress("commits of two processes");
    let failed = cluster.primaries()[0];
    failed.kill();
    eventually("a replica in its place", || (cluster.primaries().len() == 3).then_some(()));
    running.progress("commits after the fail-over");
    running.answers();
    other.wait_until_ready();
    let Running { job, mut member, reader, feeder } = running;
    feeder.end();
    let (truth, compared) = job.check(&mut [&mut member, &mut other]);
    let met = reader.end(&truth, false);
    println!("{compared:?} {met:?}");
    assert!(met.found > 100, "{met:?}");
}

#[test]
fn redis_that_may_forget_is_refused() {
    if skipped("redis_that_may_forget_is_refused") {
        return;
    }
    let redis = Redis::start_with(&[("maxmemory", "100mb"), ("maxmemory-policy", "allkeys-lru")]);
    let job = Stream::new(Kafka::shared().clone(), Online::Redis(Arc::new(redis)), 1);
    let (code, log) = job.launch("a").wait_for_end(Duration::from_secs(60));
    assert!(matches!(code, Some(2 | 3)), "{code:?} {log}");
    assert!(log.contains("allkeys-lru") && log.contains("noeviction"), "{log}");
}
