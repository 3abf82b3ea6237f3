//! The proof that a partition is still this process's, looked at before the online store is written.
//!
//! The stores refuse what an old owner writes. But an online store that was emptied has forgotten its fences, and a
//! process that was stopped meanwhile (SIGSTOP, a frozen machine) may wake up as the first to write to it. So a proof
//! is good for a while only, on a clock that goes on while the process does not.

use super::WorkerSetup;
use crate::clock::Clock;
use crate::commit::latest;
use crate::{Error, Result};
use plumb_core::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a proof is good for.
const GOOD_FOR: Duration = Duration::from_secs(10);
/// A membership that has been asked at least this often, without a break, for this long, and has not said that
/// partitions are lost, is a proof as well: a group takes no longer to tell.
const PULSE_BREAK: Duration = Duration::from_millis(1500);
const PULSE_LENGTH: Duration = Duration::from_secs(15);

/// When a membership was asked, as far as it matters; times are the clock's boot time in ms.
#[derive(Debug, Default)]
pub struct Pulse {
    since: AtomicU64,
    last: AtomicU64,
}

impl Pulse {
    /// The membership has just been asked.
    pub fn beat(&self, clock: &dyn Clock) {
        let now = millis(clock.boot_time());
        let last = self.last.swap(now, Ordering::AcqRel);
        if last == 0 || now.saturating_sub(last) > millis(PULSE_BREAK) {
            self.since.store(now, Ordering::Release);
        }
    }

    fn proves(&self, now: Duration) -> bool {
        let (since, last) = (self.since.load(Ordering::Acquire), self.last.load(Ordering::Acquire));
        let now = millis(now);
        last > 0
            && now.saturating_sub(last) <= millis(PULSE_BREAK)
            && last.saturating_sub(since) >= millis(PULSE_LENGTH)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The last proof of one partition.
#[derive(Debug)]
pub(super) struct Proof {
    at: Duration,
    /// When the commit that is under way was begun: a proof of that time once it has succeeded.
    begun: Duration,
}

impl Proof {
    /// The partition has just been taken over.
    pub(super) fn new(clock: &dyn Clock) -> Self {
        Self { at: clock.boot_time(), begun: Duration::ZERO }
    }

    /// A commit begins.
    pub(super) fn begin(&mut self, clock: &dyn Clock) {
        self.begun = clock.boot_time();
    }

    /// The commit has succeeded.
    pub(super) fn committed(&mut self) {
        self.at = self.at.max(self.begun);
    }

    /// Whether the partition is still this process's, as far as anybody can tell. [`Error::Fenced`] if it is not.
    pub(super) fn holds(
        &mut self,
        setup: &WorkerSetup,
        pulse: Option<&Pulse>,
        source: &str,
        partition: u32,
        generation: u64,
    ) -> Result<bool> {
        let now = setup.clock.boot_time();
        if now.saturating_sub(self.at) < GOOD_FOR {
            return Ok(true);
        }
        match look(setup, source, partition, generation) {
            Ok(()) => {
                self.at = now;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Unavailable && !matches!(error, Error::Fenced { .. }) => {
                // Without a group nobody takes over on their own.
                Ok(pulse.is_none_or(|pulse| pulse.proves(now)))
            }
            Err(error) => Err(error),
        }
    }
}

/// Looks at the chain: an error unless its newest manifest is of this process and generation.
pub(super) fn look(setup: &WorkerSetup, source: &str, partition: u32, generation: u64) -> Result<()> {
    let newest = latest(setup.edges.store.as_ref(), source, partition)?;
    match newest {
        Some(newest) if newest.generation == generation && *newest.owner == *setup.edges.owner => Ok(()),
        newest => Err(Error::Fenced {
            what: format!("partition {partition} of source `{source}`"),
            current: newest.map_or(0, |newest| newest.generation),
            own: generation,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct SetClock(Mutex<Duration>);

    impl Clock for SetClock {
        fn now_us(&self) -> i64 {
            0
        }
        fn elapsed(&self) -> Duration {
            *self.0.lock().unwrap()
        }
    }

    #[test]
    fn a_pulse_proves_only_after_it_has_gone_on_for_long_without_a_break() {
        let clock = SetClock(Mutex::new(Duration::from_secs(100)));
        let pulse = Pulse::default();
        let now = || clock.elapsed();
        let go_on = |by: Duration| *clock.0.lock().unwrap() += by;
        assert!(!pulse.proves(now()));
        for _ in 0..14 {
            pulse.beat(&clock);
            go_on(Duration::from_secs(1));
        }
        assert!(!pulse.proves(now()));
        for _ in 0..3 {
            pulse.beat(&clock);
            go_on(Duration::from_secs(1));
        }
        assert!(pulse.proves(now()));
        // The process has slept: what was before proves nothing, neither before the next beat nor after it.
        go_on(Duration::from_secs(60));
        assert!(!pulse.proves(now()));
        pulse.beat(&clock);
        assert!(!pulse.proves(now()));
    }
}
