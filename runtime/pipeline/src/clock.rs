//! Time for intervals and labels. No feature value depends on it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock; tests bring their own.
pub trait Clock: Send + Sync {
    /// The time of day: µs since the Unix epoch.
    fn now_us(&self) -> i64;
    /// A time that never goes back, from an arbitrary start.
    fn elapsed(&self) -> Duration;
    /// The same, but going on while the machine sleeps.
    fn boot_time(&self) -> Duration {
        self.elapsed()
    }
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

    #[cfg(target_os = "linux")]
    fn boot_time(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
        Duration::new(seconds, nanos)
    }
}
