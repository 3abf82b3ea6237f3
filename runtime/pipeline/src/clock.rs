//! Time for intervals and labels. No feature value depends on it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock; tests bring their own.
pub trait Clock: Send + Sync {
    /// The time of day: µs since the Unix epoch.
    fn now_us(&self) -> i64;
    /// A time that never goes back, from an arbitrary start.
    fn elapsed(&self) -> Duration;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now_us(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            // A clock set before 1970 reads as 1970.
            Err(_) => 0,
        }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
