//! A reader that asks running processes all the time and notes every answer, to be derived again from its token.

use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::case::format_instant;
use crate::checker::{Positions, Truth, mistake, positions_of, view_of};
use crate::process;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Questions {
    /// Users.
    pub users: Vec<String>,
    /// Items.
    pub items: Vec<String>,
    /// Instants, µs.
    pub instants: Vec<i64>,
}

/// An answer as it came.
#[derive(Debug, Clone)]
struct Served {
    address: String,
    user: String,
    item: String,
    t: i64,
    answer: Value,
}

/// What a reader met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Met {
    /// Answers with 200.
    pub answers: usize,
    /// Views with values in them.
    pub found: usize,
    /// Views that said `rebuilding` or `warming`.
    pub rebuilding: usize,
    /// Answers of another status.
    pub refused: usize,
    /// Requests that nobody took or that broke.
    pub broken: usize,
    /// The longest time between two answers with values, in milliseconds.
    pub longest_silence_ms: u128,
    /// The slowest answer of any kind, in milliseconds.
    pub slowest_ms: u128,
}

/// Asks one process after the other until it is ended.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<(Vec<Served>, Met)>>,
}

#[derive(Debug)]
struct Shared {
    addresses: Mutex<Vec<String>>,
    ended: AtomicBool,
}

impl Reader {
    /// Starts asking the processes at these addresses.
    pub fn start(addresses: Vec<String>, questions: Questions) -> Self {
        let shared = Arc::new(Shared { addresses: Mutex::new(addresses), ended: AtomicBool::new(false) });
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || own.ask(&questions));
        Self { shared, thread: Some(thread) }
    }

    /// From now on these are asked.
    pub fn ask(&self, addresses: Vec<String>) {
        *self.shared.addresses.lock().expect("the reader does not panic while it holds this") = addresses;
    }

    /// Ends asking and derives every answer again from its position, bit for bit. With `forward`, positions must
    /// never go back either.
    ///
    /// # Panics
    /// On the first answer that is wrong.
    pub fn end(mut self, truth: &Truth, forward: bool) -> Met {
        self.shared.ended.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("a reader is ended once");
        let (served, met) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let mut seen = [Positions::new(), Positions::new()];
        let mut met = Met { answers: served.len(), ..met };
        for Served { address, user, item, t, answer } in &served {
            for (index, (entity, key)) in [("user", user), ("item", item)].into_iter().enumerate() {
                let view = view_of(entity);
                let status = answer["views"][view]["status"].as_str().unwrap_or_default();
                if matches!(status, "rebuilding" | "warming") {
                    met.rebuilding += 1;
                    let values = answer["features"].as_object().expect("features");
                    let made_up =
                        values.iter().find(|(name, value)| name.starts_with(&format!("{view}:")) && !value.is_null());
                    assert!(made_up.is_none(), "{address}: {view} is {status} and has a value: {answer}");
                    continue;
                }
                let below = positions_of(answer["position"].as_str().unwrap_or_default(), view);
                let expected = truth.features(entity, key, *t, Some(&below));
                if let Some(why) = mistake(expected.as_deref(), view, status, &answer["features"]) {
                    panic!("{address}: {entity} {key} at {}: {why}\n{answer}", format_instant(*t));
                }
                met.found += usize::from(expected.is_some());
                for (partition, offset) in &below {
                    let before = seen[index].insert(*partition, *offset).unwrap_or(0);
                    assert!(
                        !forward || *offset >= before,
                        "{address}: partition {partition} went back from {before}: {answer}"
                    );
                }
            }
        }
        met
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

/// A number below `bound`, the same for the same `n`. Strides instead would pass over some of what is asked for
/// whenever they share a factor with how many there are.
fn scrambled(n: usize, which: u64, bound: usize) -> usize {
    let mut mixed = (n as u64).wrapping_mul(3).wrapping_add(which).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for multiplier in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(multiplier);
    }
    (mixed >> 33) as usize % bound
}

impl Shared {
    fn ask(&self, questions: &Questions) -> (Vec<Served>, Met) {
        let mut served = Vec::new();
        let mut met = Met::default();
        let mut last_good = None;
        for n in 0_usize.. {
            if self.ended.load(Ordering::Relaxed) {
                break;
            }
            let addresses = self.addresses.lock().expect("nobody panics while they hold this").clone();
            let Some(address) = addresses.get(n % addresses.len().max(1)) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            let user = &questions.users[scrambled(n, 0, questions.users.len())];
            let item = &questions.items[scrambled(n, 1, questions.items.len())];
            let t = questions.instants[scrambled(n, 2, questions.instants.len())];
            let body = json!({"entities": {"user": user, "item": item}, "as_of": format_instant(t)});
            let start = Instant::now();
            let answer = process::request(address, "POST", "/features/vector", body.to_string().as_bytes());
            met.slowest_ms = met.slowest_ms.max(start.elapsed().as_millis());
            match answer {
                Ok((200, text)) => {
                    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                    let status = |view: &str| answer["views"][view]["status"].as_str().unwrap_or_default().to_owned();
                    let good = |status: String| matches!(status.as_str(), "found" | "not_found");
                    if good(status("user_activity")) && good(status("item_activity")) {
                        let now = Instant::now();
                        let silence = last_good.replace(now).map_or(0, |last| now.duration_since(last).as_millis());
                        met.longest_silence_ms = met.longest_silence_ms.max(silence);
                    }
                    served.push(Served { address: address.clone(), user: user.clone(), item: item.clone(), t, answer });
                }
                Ok((status, text)) => {
                    assert!(matches!(status, 429 | 503), "{address}: {status} {text}");
                    met.refused += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => {
                    met.broken += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        (served, met)
    }
}
