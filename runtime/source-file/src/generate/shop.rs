//! What happens in the shop: visits that follow a day's rhythm, in which users look at items, put some into
//! the cart, buy some of those, and rate some of what they bought hours later.
//!
//! Only integers and the four basic operations on f64 decide, so that the events are the same on every
//! machine. Few users and few items make most of the events, as in life.

use super::GenerateOptions;
use plumb_core::event::EventBatch;
use plumb_core::time::{DAY_US, HOUR_US};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::RngCore;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How busy each hour of a day is, per thousand.
const HOURS: [u64; 24] = [18, 10, 6, 4, 4, 7, 16, 30, 43, 50, 52, 53, 56, 52, 48, 48, 51, 57, 66, 76, 84, 77, 57, 35];
const CATEGORIES: [&str; 12] = [
    "audio", "books", "camera", "garden", "grocery", "home", "kitchen", "office", "outdoor", "phones", "shoes", "toys",
];
/// Times are whole milliseconds.
const MS_US: i64 = 1_000;
/// One event in so many is written later than its time says.
const ONE_IN_DELAYED: u64 = 100;
/// At most so many rows later.
const DELAY_ROWS: u64 = 200;
/// One event in so many is written twice.
const ONE_IN_REPEATED: u64 = 500;
/// At most so many rows later.
const REPEAT_ROWS: u64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    View,
    Click,
    Cart,
    Purchase,
    Rating,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::View => "view",
            Kind::Click => "click",
            Kind::Cart => "cart",
            Kind::Purchase => "purchase",
            Kind::Rating => "rating",
        }
    }
}

/// Something that happens at a time; ordered by it, then by when it was thought of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Happening {
    time_us: i64,
    number: u64,
    kind: Kind,
    /// `None` = not signed in.
    user: Option<u64>,
    item: u64,
    quantity: i64,
    /// Half stars; 0 = none.
    rating: u8,
    /// `None` = outside a visit.
    session: Option<u64>,
}

/// An event of the shop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShopEvent {
    happening: Happening,
    seed: u64,
}

/// The shop.
#[derive(Debug)]
pub(super) struct Shop {
    rng: Pcg64,
    options: GenerateOptions,
    /// The events planned so far, which says where in the span of days the next visit begins.
    planned: u64,
    sessions: u64,
    next_visit_us: i64,
    /// What will happen, soonest first.
    ahead: BinaryHeap<Reverse<Happening>>,
    /// What is written late or again, by the row at which it is due.
    held: BinaryHeap<Reverse<(u64, ShopEvent)>>,
    row: u64,
}

impl Shop {
    pub(super) fn new(options: &GenerateOptions) -> Self {
        let mut shop = Self {
            // The stream is an arbitrary constant.
            rng: Pcg64::new(u128::from(options.seed), 0x706c_756d_622d_7368_6f70),
            options: *options,
            planned: 0,
            sessions: 0,
            next_visit_us: 0,
            ahead: BinaryHeap::new(),
            held: BinaryHeap::new(),
            row: 0,
        };
        shop.next_visit_us = shop.visit_start();
        shop
    }

    /// The event of the next row.
    pub(super) fn next_event(&mut self) -> ShopEvent {
        let event = loop {
            if let Some(due) = self.take_due() {
                break due;
            }
            let event = ShopEvent { happening: self.next_happening(), seed: self.options.seed };
            if self.one_in(ONE_IN_DELAYED) {
                let due = self.row + 1 + self.below(DELAY_ROWS);
                self.held.push(Reverse((due, event)));
                continue;
            }
            if self.one_in(ONE_IN_REPEATED) {
                let due = self.row + 1 + self.below(REPEAT_ROWS);
                self.held.push(Reverse((due, event.clone())));
            }
            break event;
        };
        self.row += 1;
        event
    }

    fn take_due(&mut self) -> Option<ShopEvent> {
        let due = self.held.peek().is_some_and(|Reverse((row, _))| *row <= self.row);
        if due { self.held.pop().map(|Reverse((_, event))| event) } else { None }
    }

    /// What happens next, in time order: visits begin in time order, so what lies before the next is complete.
    fn next_happening(&mut self) -> Happening {
        loop {
            let complete = self.ahead.peek().is_some_and(|Reverse(next)| next.time_us <= self.next_visit_us);
            match self.ahead.pop() {
                Some(Reverse(next)) if complete => return next,
                Some(next) => self.ahead.push(next),
                None => {}
            }
            self.visit();
            let start_us = self.visit_start() + self.pause_us(60_000);
            self.next_visit_us = self.next_visit_us.max(start_us);
        }
    }

    /// When the next visit begins: as far into the span of days as events have been planned.
    fn visit_start(&mut self) -> i64 {
        let GenerateOptions { events, days, start_us, .. } = self.options;
        let place = u128::from(self.planned) * u128::from(days) * DAY_US as u128 / u128::from(events);
        let place = i64::try_from(place).unwrap_or(i64::MAX / 2);
        let (day, of_day) = (place / DAY_US, place % DAY_US);
        // The share of the day's events that lie before is where the clock stands.
        let mut share = of_day as u64;
        for (hour, weight) in HOURS.into_iter().enumerate() {
            let length = DAY_US as u64 * weight / 1_000;
            if share < length {
                let within = (share as u128 * HOUR_US as u128 / u128::from(length)) as i64;
                let time_us = day * DAY_US + hour as i64 * HOUR_US + within;
                return start_us + time_us / MS_US * MS_US;
            }
            share -= length;
        }
        start_us + (day + 1) * DAY_US - MS_US
    }

    /// Plans a visit that begins at `next_visit_us`.
    fn visit(&mut self) {
        let session = self.sessions;
        self.sessions += 1;
        // One visit in fifty is not signed in.
        let user = if self.one_in(50) { None } else { Some(self.skewed(self.options.users, 2)) };
        let mut time_us = self.next_visit_us;
        let mut cart = Vec::new();
        loop {
            let item = self.skewed(self.options.items, 3);
            if self.one_in(6) {
                self.plan(time_us, Kind::Click, user, item, Some(session));
                time_us += self.pause_us(8_000);
            }
            self.plan(time_us, Kind::View, user, item, Some(session));
            time_us += self.pause_us(120_000);
            if self.below(100) < 22 {
                self.plan(time_us, Kind::Cart, user, item, Some(session));
                cart.push(item);
                time_us += self.pause_us(40_000);
            }
            if self.below(100) < 30 {
                break;
            }
        }
        if !cart.is_empty() && self.below(100) < 55 {
            time_us += self.pause_us(90_000);
            for item in cart {
                // All of a basket share one time.
                self.plan(time_us, Kind::Purchase, user, item, Some(session));
                if self.one_in(5) {
                    let later_us = HOUR_US + self.pause_us(5 * 3_600_000);
                    self.plan(time_us + later_us, Kind::Rating, user, item, None);
                }
            }
        }
    }

    fn plan(&mut self, time_us: i64, kind: Kind, user: Option<u64>, item: u64, session: Option<u64>) {
        let quantity = match self.below(20) {
            0..17 => 1,
            17..19 => 2,
            _ => 3 + self.below(4) as i64,
        };
        let rating = match kind {
            // Mostly content: the better of two throws of 1 to 5, in half stars.
            Kind::Rating => 2 + self.below(9).max(self.below(9)) as u8,
            _ => 0,
        };
        let number = self.planned;
        self.planned += 1;
        self.ahead.push(Reverse(Happening { time_us, number, kind, user, item, quantity, rating, session }));
    }

    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.rng.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A number in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A number below `bound`, small ones far more often: the n-th about n^(1/power − 1) times as often as the first.
    fn skewed(&mut self, bound: u64, power: usize) -> u64 {
        let unit = self.unit();
        let skewed = (1..power).fold(unit, |product, _| product * unit);
        ((skewed * bound as f64) as u64).min(bound - 1)
    }

    /// A pause in whole milliseconds, at least one second, mostly short.
    fn pause_us(&mut self, longest_ms: u64) -> i64 {
        let unit = self.unit();
        let ms = 1_000 + (unit * unit * longest_ms as f64) as i64;
        ms * MS_US
    }
}

/// A number that is always the same for an item (SplitMix64).
fn item_hash(item: u64) -> u64 {
    let mut hash = item.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// An item's price in cents: from 0.99 to about 200, mostly low, often ending in 9.
fn price_cents(item: u64) -> u64 {
    let hash = item_hash(item);
    let cents = 99 + (hash % 140) * ((hash >> 20) % 143);
    if hash >> 62 == 0 { cents } else { cents / 10 * 10 + 9 }
}

impl ShopEvent {
    /// Appends the event to a batch of the default schema.
    pub(super) fn push(&self, batch: &mut EventBatch, row: u64) {
        let Happening { time_us, number, kind, user, item, quantity, rating, session } = &self.happening;
        batch.offsets.push(row);
        batch.record_times_us.push(*time_us);
        batch.times_us.push(*time_us);
        let [id, user_id, item_id, event_type, category, price, count, stars, session_id] =
            batch.columns.as_mut_slice()
        else {
            unreachable!("the default schema has nine columns");
        };
        let seed = self.seed;
        id.push_bytes(format!("g{seed}-{number:08}").as_bytes());
        match user {
            Some(user) => user_id.push_bytes(format!("u{user:05}").as_bytes()),
            None => user_id.push_null(),
        }
        item_id.push_bytes(format!("i{item:05}").as_bytes());
        event_type.push_bytes(kind.name().as_bytes());
        // One item in fifty was never sorted in.
        let hash = item_hash(*item);
        match hash % 50 {
            0 => category.push_null(),
            _ => category.push_bytes(CATEGORIES[(hash >> 8) as usize % CATEGORIES.len()].as_bytes()),
        }
        if matches!(kind, Kind::Cart | Kind::Purchase) {
            price.push_f64(price_cents(*item) as f64 / 100.0);
            count.push_i64(*quantity);
        } else {
            price.push_null();
            count.push_null();
        }
        match rating {
            0 => stars.push_null(),
            halves => stars.push_f64(f64::from(*halves) / 2.0),
        }
        match session {
            Some(session) => session_id.push_bytes(format!("s{seed}-{session:07}").as_bytes()),
            None => session_id.push_null(),
        }
    }
}
