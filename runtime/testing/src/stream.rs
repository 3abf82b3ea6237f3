//! A job from Kafka to an online and an offline store, run by real `plumb` processes, with records sent to it and
//! everything checked in the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::case::{oracle_event, parse_instant};
use crate::checker::{self, Compared, Left, Truth};
use crate::process::{self, Service};
use crate::reader::Questions;
use crate::service::kafka::{Kafka, Sent, Stored};
use crate::service::redis::{Redis, RedisCluster};
use crate::service::s3::{ACCESS_KEY, REGION, S3, SECRET_KEY};
use crate::service::{eventually, free_port, within};

/// Where a job publishes.
#[derive(Debug, Clone)]
pub enum Online {
    /// Each process its own, in its folder: for one process only.
    Embedded,
    /// One server, reached under its own address.
    Redis(Arc<Redis>),
    /// One server behind a proxy with this address.
    Proxied(Arc<Redis>, String),
    /// A Cluster.
    Cluster(Arc<RedisCluster>),
    /// One server, reached as these lines of `[online]` say.
    Under(Arc<Redis>, String),
}

/// The settings of a job and the folder of its processes.
#[derive(Debug)]
pub struct Stream {
    /// The broker.
    pub kafka: Arc<Kafka>,
    /// How the processes reach it.
    pub brokers: String,
    /// The topic, which the namespace in the online store is named after.
    pub topic: String,
    /// The consumer group.
    pub group: String,
    /// The online store.
    pub online: Online,
    /// The folder of the offline store, or where a copy of it is put if it is in a bucket.
    pub offline: PathBuf,
    /// The bucket of the offline store.
    pub bucket: Option<Bucket>,
    /// For how long ids are remembered, µs; a whole number of seconds.
    pub horizon_us: i64,
    /// More lines of `[source]`.
    pub source_lines: String,
    /// Lines of `[offline]` beside where it is.
    pub offline_lines: String,
    /// Lines of `[run]` beside `serve`.
    pub run_lines: String,
    root: tempfile::TempDir,
}

/// Where in S3 an offline store is.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// The server.
    pub s3: Arc<S3>,
    /// Its URL, or that of a proxy before it.
    pub endpoint: String,
    /// The bucket.
    pub name: String,
    /// What the keys begin with.
    pub prefix: String,
}

/// A running `plumb run` of a job.
#[derive(Debug)]
pub struct Member {
    /// Its process.
    pub service: Service,
    /// Where it answers.
    pub address: String,
    /// Its metrics.
    pub metrics: String,
    /// Its folder.
    pub folder: PathBuf,
}

impl Stream {
    /// A job on a new topic of so many partitions.
    pub fn new(kafka: Arc<Kafka>, online: Online, partitions: i32) -> Self {
        Self::with_topic(kafka, online, partitions, &[])
    }

    /// A job on a new topic with settings of its own.
    pub fn with_topic(kafka: Arc<Kafka>, online: Online, partitions: i32, settings: &[(&str, &str)]) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let topic = format!("events-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        kafka.create_topic(&topic, partitions, settings);
        let root = tempfile::tempdir().expect("a folder can be made");
        let offline = root.path().join("offline");
        std::fs::create_dir(&offline).expect("a folder can be made");
        Self {
            brokers: kafka.address(),
            kafka,
            group: topic.clone(),
            topic,
            online,
            offline,
            bucket: None,
            horizon_us: checker::HORIZON_US,
            source_lines: "session_timeout = \"3s\"\n".into(),
            offline_lines: String::new(),
            run_lines: "publish_interval = \"30ms\"\ncommit_interval = \"200ms\"\n".into(),
            root,
        }
    }

    /// The folder that the processes' folders are in.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Writes the settings of a process into its folder; gives its addresses of answers and of metrics.
    fn configure(&self, folder: &Path) -> (String, String) {
        std::fs::create_dir_all(folder).expect("a folder can be made");
        let (listen, metrics) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let shared = |url: String| format!("url = \"{url}\"\nnamespace = \"{}\"\n", self.topic);
        let online = match &self.online {
            Online::Embedded => String::new(),
            Online::Redis(redis) => shared(redis.url()),
            Online::Proxied(_, address) => shared(format!("redis://{address}")),
            Online::Cluster(cluster) => shared(cluster.url()),
            Online::Under(_, lines) => format!("{lines}namespace = \"{}\"\n", self.topic),
        };
        let offline = match &self.bucket {
            None => format!("url = \"file:{}\"\n", self.offline.display()),
            Some(Bucket { endpoint, name, prefix, .. }) => format!(
                "url = \"s3://{name}/{prefix}\"\nendpoint = \"{endpoint}\"\nallow_http = true\nregion = \"{REGION}\"\n\
                 access_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n"
            ),
        };
        let text = format!(
            "data_dir = \"{data}\"\n\
             [source]\nkind = \"kafka\"\nbrokers = \"{brokers}\"\ntopic = \"{topic}\"\ngroup = \"{group}\"\n\
             dedupe_horizon = \"{horizon}s\"\n{source}\
             [transforms]\npaths = [\"{components}/user_activity.wasm\", \"{components}/item_activity.wasm\"]\n\
             [online]\n{online}\
             [offline]\n{offline}{offline_lines}\
             [run]\nserve = true\n{run}\
             [serve]\nlisten = \"{listen}\"\nadmin_listen = \"127.0.0.1:0\"\nmetrics_listen = \"{metrics}\"\n",
            data = folder.join("data").display(),
            brokers = self.brokers,
            topic = self.topic,
            group = self.group,
            horizon = self.horizon_us / 1_000_000,
            source = self.source_lines,
            offline_lines = self.offline_lines,
            components = process::repository().join("target/plumb").display(),
            run = self.run_lines,
        );
        std::fs::write(folder.join("plumb.toml"), text).expect("settings can be written");
        (listen, metrics)
    }

    /// Starts a process in the folder of this name; does not wait for it.
    pub fn launch(&self, name: &str) -> Member {
        self.launch_with(name, &[], &["run", "--config", "plumb.toml"])
    }

    /// Starts a process behind a command such as `strace …` and with other arguments.
    pub fn launch_with(&self, name: &str, before: &[&str], arguments: &[&str]) -> Member {
        let folder = self.root.path().join(name);
        let (address, metrics) = self.configure(&folder);
        let plumb = process::plumb();
        let mut words: Vec<&std::ffi::OsStr> = before.iter().map(std::ffi::OsStr::new).collect();
        words.push(plumb.as_os_str());
        words.extend(arguments.iter().map(std::ffi::OsStr::new));
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        Member { service: Service::start_as(&mut command, &folder), address, metrics, folder }
    }

    /// Starts a process and waits until it is ready.
    pub fn start(&self, name: &str) -> Member {
        let mut member = self.launch(name);
        member.wait_until_ready();
        member
    }

    /// Runs `plumb` with arguments to its end in the folder of this name.
    pub fn run(&self, name: &str, arguments: &[&str]) -> std::process::Output {
        let folder = self.root.path().join(name);
        self.configure(&folder);
        process::run(&folder, arguments)
    }

    /// What the topic holds, judged by the oracle.
    pub fn truth(&self) -> Truth {
        let partitions = self.kafka.watermarks(&self.topic).into_keys().map(|partition| partition as u32);
        Truth::remembering(&self.records(), partitions, self.horizon_us)
    }

    /// What the topic holds.
    pub fn records(&self) -> Vec<Stored> {
        self.kafka.read(&self.topic)
    }

    /// Makes the copy of the part of a bucket below a folder anew; nothing where the store is no bucket.
    pub fn fetch(&self, folder: &str) {
        let Some(Bucket { s3, name, prefix, .. }) = &self.bucket else { return };
        let to = self.offline.join(folder);
        if to.exists() {
            std::fs::remove_dir_all(&to).expect("a copy can be removed");
        }
        std::fs::create_dir_all(&to).expect("a folder can be made");
        s3.download(name, format!("{prefix}/{folder}").trim_end_matches('/'), &to);
    }

    /// [`Stream::fetch`] of each partition's newest manifest only.
    fn fetch_newest_manifests(&self) {
        let Some(Bucket { s3, name, prefix, .. }) = &self.bucket else { return };
        let to = self.offline.join("manifest");
        if to.exists() {
            std::fs::remove_dir_all(&to).expect("a copy can be removed");
        }
        let mut newest: BTreeMap<String, String> = BTreeMap::new();
        for key in s3.list(name, &format!("{prefix}/manifest/default/")) {
            let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
            // In byte order, so a later one of a folder is newer.
            newest.insert(folder, key);
        }
        for key in newest.values() {
            // Removed since it was listed: there are newer ones, which the next look finds.
            let Some(bytes) = s3.get(name, key) else { continue };
            let path = self.offline.join(key[prefix.len()..].trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().expect("a key has a folder")).expect("a folder can be made");
            std::fs::write(path, bytes).expect("a file can be written");
        }
    }

    /// Up to where each partition is committed.
    pub fn committed(&self) -> BTreeMap<u32, u64> {
        let offset = |manifest: serde_json::Value| manifest["next_offset"].as_u64().expect("a manifest has an offset");
        self.fetch_newest_manifests();
        checker::newest_manifests(&self.offline).into_iter().map(|(p, manifest)| (p, offset(manifest))).collect()
    }

    /// Waits until everything the topic holds is committed by these processes, all of which have to live.
    #[track_caller]
    pub fn drain(&self, members: &mut [&mut Member]) {
        let ends = self.kafka.watermarks(&self.topic);
        let mut last = BTreeMap::new();
        let mut moved = Instant::now();
        loop {
            let committed = self.committed();
            if ends.iter().all(|(p, (_, end))| committed.get(&(*p as u32)).copied().unwrap_or(0) >= *end as u64) {
                return;
            }
            members.iter_mut().for_each(|member| member.must_live());
            if committed != last {
                (last, moved) = (committed, Instant::now());
            }
            let logs: Vec<String> = members.iter().map(|member| tail(&member.service.log())).collect();
            assert!(
                moved.elapsed() < Duration::from_secs(90),
                "nothing is committed any more: {last:?} of {ends:?}\n{}",
                logs.join("\n--\n")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Drains and checks everything, through these processes.
    #[track_caller]
    pub fn check(&self, members: &mut [&mut Member]) -> (Truth, Compared) {
        self.check_but(members, &[])
    }

    /// [`Stream::check`] where the test has damaged some manifests.
    #[track_caller]
    pub fn check_but(&self, members: &mut [&mut Member], damaged: &[PathBuf]) -> (Truth, Compared) {
        self.drain(members);
        let truth = self.truth();
        let addresses: Vec<String> = members.iter().map(|member| member.address.clone()).collect();
        self.fetch("");
        let left = Left { offline: &self.offline, damaged, addresses: &addresses, online_keys: &|| self.online_keys() };
        let compared = checker::check(&truth, &left);
        (truth, compared)
    }

    /// The names of the keys of this job in the online store, if it is a Redis.
    pub fn online_keys(&self) -> Option<Vec<Vec<u8>>> {
        let prefix = format!("plumb:{}:", self.topic);
        match &self.online {
            Online::Embedded => None,
            Online::Redis(redis) | Online::Proxied(redis, _) | Online::Under(redis, _) => Some(redis.keys(&prefix)),
            Online::Cluster(cluster) => Some(cluster.keys(&prefix)),
        }
    }

    /// Sends records now and waits until the broker has them.
    pub fn send(&self, records: impl IntoIterator<Item = Sent>) {
        self.kafka.produce(&self.topic, records);
    }

    /// Sends records beside the test, so many a second, until they or it end.
    pub fn feed(&self, records: Vec<Sent>, per_second: u64) -> Feeder {
        let shared = Arc::new(Fed { sent: AtomicU64::new(0), ended: AtomicBool::new(false) });
        let (own, producer, topic) = (Arc::clone(&shared), self.kafka.producer(), self.topic.clone());
        let thread = std::thread::spawn(move || {
            let start = Instant::now();
            for (index, record) in records.iter().enumerate() {
                let due = Duration::from_secs_f64(index as f64 / per_second as f64);
                while start.elapsed() < due && !own.ended.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(2));
                }
                if own.ended.load(Ordering::Relaxed) {
                    break;
                }
                producer.send(&topic, record);
                own.sent.fetch_add(1, Ordering::Relaxed);
            }
            producer.flush();
        });
        Feeder { shared, thread: Some(thread) }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

impl Member {
    /// Waits until it answers and is ready.
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        let address = self.address.clone();
        eventually(&format!("{address} ready"), || {
            self.must_live();
            matches!(process::request(&address, "GET", "/ready", b""), Ok((200, _))).then_some(())
        });
    }

    /// Fails when it has ended.
    #[track_caller]
    pub fn must_live(&mut self) {
        if let Some(status) = self.service.ended() {
            panic!("{} ended with {status}:\n{}", self.folder.display(), tail(&self.service.log()));
        }
    }

    /// Waits until it ends by itself; gives the exit code and what it has printed.
    #[track_caller]
    pub fn wait_for_end(mut self, limit: Duration) -> (Option<i32>, String) {
        let what = format!("the end of {}", self.folder.display());
        let status = within(limit, &what, || self.service.ended());
        (status.code(), self.service.log())
    }

    /// The sum of a metric over all of its labels that hold `with`; `None` if it is not there.
    pub fn metric(&self, name: &str, with: &str) -> Option<f64> {
        let (status, text) = process::request(&self.metrics, "GET", "/metrics", b"").ok()?;
        assert_eq!(status, 200, "{text}");
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(with))
        });
        let values: Vec<f64> = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

/// Sends records beside the test.
#[derive(Debug)]
pub struct Feeder {
    shared: Arc<Fed>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Fed {
    sent: AtomicU64,
    ended: AtomicBool,
}

impl Feeder {
    /// How many records were sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Waits until so many were sent.
    #[track_caller]
    pub fn wait_for(&self, records: u64) {
        eventually(&format!("{records} records sent"), || {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended || self.sent() >= records, "the feeder ended after {} records", self.sent());
            (self.sent() >= records).then_some(())
        });
    }

    /// Sends no more, and waits until the broker has what was sent.
    pub fn end(mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.join();
    }

    /// Waits until everything was sent and the broker has it.
    pub fn finish(mut self) {
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

/// Where the times of [`generated`] events begin.
pub const START: &str = "2024-01-01T00:00:00Z";

/// Lines of realistic events over two days from [`START`], the same for the same seed.
pub fn generated(events: usize, users: usize, items: usize, seed: u32) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let words = format!(
        "generate --events {events} --users {users} --items {items} --days 2 --seed {seed} --start {START} --out events.jsonl"
    );
    process::run_ok(folder.path(), words.split(' '));
    let text = std::fs::read_to_string(folder.path().join("events.jsonl")).expect("it was written");
    text.lines().map(str::to_owned).collect()
}

/// A record with the key that `plumb produce` gives it.
pub fn record(line: &str) -> Sent {
    let key = oracle_event(line).ok().and_then(|event| event.user.or(event.id));
    Sent { key: key.map(String::into_bytes), value: Some(line.into()), ..Sent::default() }
}

/// Records of lines as a careless producer sends them: one in twenty again a while later, one in a hundred broken,
/// neighbours in another order. The same for the same seed.
pub fn careless(lines: &[String], seed: u64) -> Vec<Sent> {
    let mut chance = seed.wrapping_mul(2).wrapping_add(1);
    let mut random = |bound: usize| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) as usize % bound
    };
    let mut sent: Vec<Sent> = Vec::with_capacity(lines.len() * 21 / 20);
    for (index, line) in lines.iter().enumerate() {
        sent.push(record(line));
        if random(20) == 0 {
            sent.push(record(&lines[index - random(200.min(index + 1))]));
        }
        if random(100) == 0 {
            let key = Some(format!("broken-{}", random(50)).into_bytes());
            let value = match random(4) {
                0 => None,
                1 => Some(b"\xff\xfe{}".to_vec()),
                2 => Some(b"{\"event_time\": \"2024-01-01T00:00:00Z\"}".to_vec()),
                _ => Some(line.as_bytes()[..line.len() / 2].to_vec()),
            };
            sent.push(Sent { key, value, ..Sent::default() });
        }
        let last = sent.len() - 1;
        let with = last - random(30.min(sent.len()));
        // Copies of one id stay in their order per key, and so do all records of one key.
        if sent[with..=last].iter().all(|between| between.key != sent[last].key || between == &sent[last]) {
            sent.swap(with, last);
        }
    }
    sent
}

/// What to ask a job that got these lines: their users and items, one that never was, and instants after the last of
/// the events, which the online store answers whatever has arrived.
pub fn questions(lines: &[String]) -> Questions {
    let events: Vec<_> = lines.iter().filter_map(|line| oracle_event(line).ok()).collect();
    let keys = |key: fn(&crate::oracle::OracleEvent) -> Option<String>| {
        let mut keys: Vec<String> = events.iter().filter_map(key).chain(["nobody".to_owned()]).collect();
        keys.sort();
        keys.dedup();
        keys
    };
    let newest = events.iter().map(|event| event.time).max().unwrap_or_default();
    Questions {
        users: keys(|event| event.user.clone()),
        items: keys(|event| event.item.clone()),
        instants: vec![newest + 1, newest + 1_800_000_000, newest + 90_000_000_000],
    }
}

/// [`questions`] with instants amid the events too: once events have passed them by a window, the archive answers.
pub fn questions_of_the_past(lines: &[String]) -> Questions {
    let mut questions = questions(lines);
    let start = parse_instant(START).expect("an instant");
    questions.instants.extend([questions.instants[0] - 7_200_000_000, start + 36_000_000_000]);
    questions
}
