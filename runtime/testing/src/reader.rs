//! A reader that asks running processes all the time and notes every answer, to be derived again from its token.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
        let (served, met) = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        let mut met = Met { answers: served.len(), ..met };
        for derived in in_parallel(&served, |answer| answer.derive(truth)) {
            let Derived { found, rebuilding } = derived.unwrap_or_else(|why| panic!("{why}"));
            met.found += found;
            met.rebuilding += rebuilding;
        }
        if forward {
            never_back(&served);
        }
        met
    }
}

/// Of an answer that is right: how many views had values, and how many said that they have none yet.
#[derive(Debug)]
struct Derived {
    found: usize,
    rebuilding: usize,
}

impl Served {
    /// Each view with its entity, its key and its status.
    fn views(&self) -> [(&'static str, &str, &'static str, &str); 2] {
        [("user", self.user.as_str()), ("item", self.item.as_str())].map(|(entity, key)| {
            let view = view_of(entity);
            (entity, key, view, self.answer["views"][view]["status"].as_str().unwrap_or_default())
        })
    }

    fn positions(&self, view: &str) -> Positions {
        positions_of(self.answer["position"].as_str().unwrap_or_default(), view)
    }

    /// Derives the answer again from its position; the error says what is wrong with it.
    fn derive(&self, truth: &Truth) -> Result<Derived, String> {
        let Self { address, t, answer, .. } = self;
        let mut derived = Derived { found: 0, rebuilding: 0 };
        for (entity, key, view, status) in self.views() {
            if without_values(status) {
                derived.rebuilding += 1;
                let values =
                    answer["features"].as_object().ok_or_else(|| format!("{address}: no features: {answer}"))?;
                let of_view = |name: &str| name.split_once(':').is_some_and(|(of, _)| of == view);
                if values.iter().any(|(name, value)| of_view(name) && !value.is_null()) {
                    return Err(format!("{address}: {view} is {status} and has a value: {answer}"));
                }
                continue;
            }
            let expected = truth.features(entity, key, *t, Some(&self.positions(view)));
            if let Some(why) = mistake(expected.as_deref(), view, status, &answer["features"]) {
                return Err(format!("{address}: {entity} {key} at {}: {why}\n{answer}", format_instant(*t)));
            }
            derived.found += usize::from(expected.is_some());
        }
        Ok(derived)
    }
}

/// Whether a view with this status has no values yet.
fn without_values(status: &str) -> bool {
    matches!(status, "rebuilding" | "warming")
}

/// Fails when a view was answered from an older position than it was before.
fn never_back(served: &[Served]) {
    let mut seen: BTreeMap<(&str, u32), u64> = BTreeMap::new();
    for one in served {
        for (_, _, view, status) in one.views() {
            if without_values(status) {
                continue;
            }
            for (partition, offset) in one.positions(view) {
                let before = seen.insert((view, partition), offset).unwrap_or(0);
                let Served { address, answer, .. } = one;
                assert!(offset >= before, "{address}: partition {partition} went back from {before}: {answer}");
            }
        }
    }
}

/// The results of all, in their order, with a thread for each core.
fn in_parallel<T: Sync, R: Send>(all: &[T], of: impl Fn(&T) -> R + Sync) -> Vec<R> {
    /// Taken at once by a thread.
    const BLOCK: usize = 64;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let from = next.fetch_add(BLOCK, Ordering::Relaxed);
            let Some(rest) = all.get(from..).filter(|rest| !rest.is_empty()) else { return done };
            done.push((from, rest.iter().take(BLOCK).map(&of).collect::<Vec<R>>()));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut blocks: Vec<(usize, Vec<R>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        joined.flatten().collect()
    });
    blocks.sort_by_key(|(from, _)| *from);
    blocks.into_iter().flat_map(|(_, results)| results).collect()
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
    fn asks(&self, address: &String) -> bool {
        self.addresses.lock().expect("nobody panics while they hold this").contains(address)
    }

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
                // It was chosen when it was asked still, and had gone before it was reached: who balances asks elsewhere.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused && !self.asks(address) => {}
                Err(error) => {
                    println!("{address} after {:?}: {error}", start.elapsed());
                    met.broken += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        (served, met)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_whichever_thread_made_them() {
        for count in [0, 1, 63, 64, 65, 10_000] {
            let all: Vec<usize> = (0..count).collect();
            assert_eq!(in_parallel(&all, |number| number * 2), all.iter().map(|number| number * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_combination_is_asked_in_time() {
        // Lengths that share factors with each other and with every stride.
        let lengths = [35, 22, 5];
        let mut met = std::collections::BTreeSet::new();
        for n in 0..60_000 {
            met.insert([0, 1, 2].map(|which| scrambled(n, which as u64, lengths[which])));
        }
        assert_eq!(met.len(), lengths.iter().product::<usize>());
    }

    #[test]
    fn a_step_back_is_seen() {
        let served = |offset: u64, status: &str| Served {
            address: "here".into(),
            user: "u".into(),
            item: "i".into(),
            t: 0,
            answer: json!({
                "position": format!("default:0={offset},1=7"),
                "views": {"user_activity": {"status": status}, "item_activity": {"status": status}},
            }),
        };
        never_back(&[served(3, "found"), served(3, "found"), served(2, "rebuilding"), served(4, "not_found")]);
        let back = [served(3, "found"), served(2, "found")];
        assert!(std::panic::catch_unwind(|| never_back(&back)).is_err());
    }
}
