//! When records leave: at most so many per second, or in the rhythm of their event times.

use crate::exit::usage;
use anyhow::Result;
use std::time::Duration;

/// Says of each record in turn how long after the first it is due.
#[derive(Debug, Default)]
pub(super) struct Pace {
    per_second: Option<f64>,
    speed: Option<f64>,
    sent: u64,
    /// The first event time, and the newest so far.
    times_us: Option<(i64, i64)>,
}

impl Pace {
    /// The pace of `--rate` and `--speed`; with both, a record waits for the later of the two.
    pub(super) fn new(rate: Option<&str>, speed: Option<f64>) -> Result<Self> {
        let per_second = rate.map(per_second).transpose()?;
        if let Some(speed) = speed.filter(|speed| !(speed.is_finite() && *speed > 0.0)) {
            return Err(usage(format!("--speed {speed}: a factor above 0, such as 1 or 60")));
        }
        Ok(Self { per_second, speed, sent: 0, times_us: None })
    }

    /// When the next record is due, since the first; `None` if at once. Records keep their order: one whose event
    /// time lies before that of an earlier one is due with it, one without a time with the one before it.
    pub(super) fn due(&mut self, time_us: Option<i64>) -> Option<Duration> {
        let by_rate = self.per_second.map(|per_second| seconds(self.sent as f64 / per_second));
        self.sent += 1;
        if let Some(time_us) = time_us {
            let (first, newest) = self.times_us.unwrap_or((time_us, time_us));
            self.times_us = Some((first, newest.max(time_us)));
        }
        let by_time = self.speed.map(|speed| {
            let (first, newest) = self.times_us.unwrap_or_default();
            seconds(newest.abs_diff(first) as f64 / 1e6 / speed)
        });
        by_rate.max(by_time)
    }
}

/// A duration; one that is too long to count is as good as endless.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

fn per_second(text: &str) -> Result<f64> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err(usage(format!("--rate {text}: a number of events per second, such as 5000/s"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_spaces_records_evenly() {
        let mut pace = Pace::new(Some("4/s"), None).unwrap();
        let due: Vec<f64> = (0..3).map(|_| pace.due(None).unwrap().as_secs_f64()).collect();
        assert_eq!(due, [0.0, 0.25, 0.5]);
        assert_eq!(Pace::new(Some("0.5"), None).unwrap().per_second, Some(0.5));
        assert_eq!(Pace::new(None, None).unwrap().due(Some(7)), None);
        for wrong in ["0", "-1/s", "x", "1/m", "inf", "nan", ""] {
            assert!(Pace::new(Some(wrong), None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_speed_keeps_the_rhythm_of_event_times_and_the_order_of_records() {
        let mut pace = Pace::new(None, Some(60.0)).unwrap();
        let minute = 60_000_000;
        let mut due = |time: Option<i64>| pace.due(time).unwrap().as_secs_f64();
        assert_eq!(due(None), 0.0);
        assert_eq!(due(Some(5 * minute)), 0.0);
        assert_eq!(due(Some(6 * minute)), 1.0);
        assert_eq!(due(Some(minute)), 1.0);
        assert_eq!(due(None), 1.0);
        assert_eq!(due(Some(15 * minute)), 10.0);
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Pace::new(None, Some(wrong)).is_err(), "{wrong}");
        }
        let mut endless = Pace::new(None, Some(f64::MIN_POSITIVE)).unwrap();
        endless.due(Some(i64::MIN));
        assert_eq!(endless.due(Some(i64::MAX)), Some(Duration::MAX));
    }

    #[test]
    fn with_both_a_record_waits_for_the_later() {
        let mut pace = Pace::new(Some("1/s"), Some(1.0)).unwrap();
        assert_eq!(pace.due(Some(0)), Some(Duration::ZERO));
        assert_eq!(pace.due(Some(5_000_000)), Some(Duration::from_secs(5)));
        assert_eq!(pace.due(Some(5_000_000)), Some(Duration::from_secs(5)));
    }
}
