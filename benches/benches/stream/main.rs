//! What does the whole stream cost, from a real Kafka broker to a real Redis and the Parquet archive? How fresh is it
//! under a steady load, and how soon does it go on after kill -9?
//!
//! - *Throughput*: `plumb run --until-end` over a full topic with both shipped views, beside a program of one thread
//!   that consumes the same topic, decodes the same JSON and writes the same archive files, and does nothing else. Both
//!   are processes of their own and are counted from their start to their end; they take turns, and the medians are
//!   compared.
//! - *Freshness*: `plumb run` while a producer keeps a steady rate. A reader asks for an entity again and again; the
//!   position in each answer says which of the records that were sent it holds, and how old they are.
//! - *Recovery*: that process killed under the same load and started again; the time until it has consumed records.
//!
//! `cargo bench --workspace --bench stream [-- EVENTS [RATE [SECONDS]]]`: events of the first part (1,000,000), records
//! per second of the others (75,000: half of what issue 3 asks of a core), and for how long (20). 12 partitions.

mod fresh;
mod plain;

use plumb_source_file::{GenerateOptions, generate};
use plumb_testing::process::{component, plumb, request};
use plumb_testing::service::kafka::{Kafka, Sent};
use plumb_testing::service::redis::Redis;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The allocator of the `plumb` binary, for the program beside it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: i32 = 12;
const DAY_US: i64 = 86_400_000_000;
const ROUNDS: usize = 3;

/// What a process took from its start to its end, in seconds.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
    /// Of `cpu`: in the kernel.
    system: f64,
}

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, brokers, events] = arguments.as_slice()
        && first == plain::COMMAND
    {
        return plain::run(brokers, events.parse()?);
    }
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse::<u64>().ok());
    let events = numbers.next().unwrap_or(1_000_000);
    let rate = numbers.next().unwrap_or(75_000);
    let seconds = numbers.next().unwrap_or(20);
    let kafka = Kafka::start();
    let lines = lines(events)?;
    let bytes: usize = lines.iter().map(|(_, line)| line.len()).sum();
    kafka.create_topic("full", PARTITIONS, &[]);
    let sent = |(key, line): &(Vec<u8>, Vec<u8>)| Sent {
        key: Some(key.clone()),
        value: Some(line.clone()),
        ..Sent::default()
    };
    kafka.produce("full", lines.iter().map(sent));

    println!("{events} events of {} bytes in {PARTITIONS} partitions:", bytes / lines.len().max(1));
    println!("{:54} {:>8} {:>8} {:>8} {:>12} {:>14}", "", "s wall", "s CPU", "(kernel)", "events/s", "per core (CPU)");
    let print = |name: &str, Cost { wall, cpu, system }: Cost| {
        let (rate, per_core) = (events as f64 / wall, events as f64 / cpu);
        println!("{name:54} {wall:8.2} {cpu:8.2} {system:8.2} {rate:12.0} {per_core:14.0}");
    };
    let (mut plain, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(ended(plain::spawn(&kafka, events)?)?);
        print("consume, decode, write Parquet; one thread, no more", plain[plain.len() - 1]);
        whole.push(run_to_end(&kafka)?);
        print("plumb run: both views, Redis, Parquet, commits", whole[whole.len() - 1]);
    }
    let median = |costs: &[Cost], of: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let ratio = |of| median(&plain, of) / median(&whole, of);
    let per_core = events as f64 / median(&whole, |cost| cost.cpu);
    println!(
        "medians: plumb {per_core:.0} events/s per core; plain / plumb: CPU {:.2}, wall {:.2}",
        ratio(|cost| cost.cpu),
        ratio(|cost| cost.wall)
    );

    fresh::run(&kafka, &lines, rate, Duration::from_secs(seconds))
}

/// Events of two days up to now as JSON lines with their keys.
fn lines(events: u64) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("events.jsonl");
    let start_us = now_us() - 2 * DAY_US;
    let (users, items) = (events / 100 + 1, events / 500 + 1);
    generate(&GenerateOptions { events, users, items, days: 2, seed: 7, start_us }, &path, &mut |_| {})?;
    let text = std::fs::read(&path)?;
    let mut lines = Vec::with_capacity(usize::try_from(events)?);
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let event: serde_json::Value = serde_json::from_slice(line)?;
        let key = event["user_id"].as_str().or(event["event_id"].as_str()).unwrap_or_default();
        lines.push((key.as_bytes().to_vec(), line.to_vec()));
    }
    Ok(lines)
}

fn settings(folder: &Path, kafka: &Kafka, redis: &Redis, topic: &str) -> Result<PathBuf> {
    let views = ["user_activity", "item_activity"].map(|view| format!("{:?}", component(view).display().to_string()));
    let text = format!(
        "data_dir = {data:?}\n[source]\nkind = \"kafka\"\nbrokers = {brokers:?}\ntopic = {topic:?}\ngroup = {topic:?}\n\
         [transforms]\npaths = [{views}]\n[online]\nurl = {redis:?}\nnamespace = {topic:?}\n\
         [offline]\nurl = {offline:?}\n[serve]\nlisten = \"127.0.0.1:{listen}\"\nadmin_listen = \"127.0.0.1:0\"\n\
         metrics_listen = \"127.0.0.1:{metrics}\"\n[run]\nserve = true\n",
        data = folder.join("data").display().to_string(),
        brokers = kafka.address(),
        views = views.join(", "),
        redis = redis.url(),
        offline = format!("file:{}", folder.join("offline").display()),
        listen = plumb_testing::service::free_port(),
        metrics = plumb_testing::service::free_port(),
    );
    let path = folder.join("plumb.toml");
    std::fs::write(&path, text)?;
    Ok(path)
}

fn spawn(settings: &Path, arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(plumb());
    command.arg("run").arg("--config").arg(settings).args(arguments).stdout(Stdio::null());
    Ok(command.spawn()?)
}

/// `plumb run --until-end` over the full topic.
fn run_to_end(kafka: &Kafka) -> Result<Cost> {
    let (dir, redis) = (tempfile::tempdir()?, Redis::start());
    let settings = settings(dir.path(), kafka, &redis, "full")?;
    ended(spawn(&settings, &["--until-end", "--no-serve"])?)
}

/// Waits for the end of a process that was just started.
fn ended(mut child: Child) -> Result<Cost> {
    let (wall, pid) = (Instant::now(), child.id().to_string());
    // A process that has ended keeps its figures until it is waited for.
    let (cpu, system) = loop {
        let figures = process(&pid)?;
        if figures.state == 'Z' {
            break (figures.cpu, figures.system);
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let wall = wall.elapsed().as_secs_f64();
    match child.wait()?.success() {
        true => Ok(Cost { wall, cpu, system }),
        false => Err("the process failed".into()),
    }
}

/// Waits for something to come true.
fn until(ready: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while !ready() {
        if Instant::now() > end {
            return Err("it did not happen within a minute".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn metrics_text(address: &str) -> Option<String> {
    request(address, "GET", "/metrics", b"").ok().filter(|(status, _)| *status == 200).map(|(_, text)| text)
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// What `/proc` tells of a process or a thread.
struct Figures {
    name: String,
    state: char,
    /// Processor time so far, in seconds; of a process that of all of its threads.
    cpu: f64,
    /// Of that: in the kernel.
    system: f64,
}

fn process(pid: &str) -> Result<Figures> {
    figures(Path::new("/proc").join(pid).as_path())
}

fn figures(folder: &Path) -> Result<Figures> {
    let stat = std::fs::read_to_string(folder.join("stat"))?;
    let (before, after_name) = stat.rsplit_once(')').ok_or("no process name")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // Fields 14 and 15 of the line, in ticks of 10 ms.
    let seconds = |field: usize| -> Result<f64> { Ok(fields[field].parse::<u64>()? as f64 / 100.0) };
    let (user, system) = (seconds(11)?, seconds(12)?);
    let name = before.split_once('(').map_or(before, |(_, name)| name).to_owned();
    Ok(Figures { name, state: fields[0].chars().next().ok_or("no state")?, cpu: user + system, system })
}
