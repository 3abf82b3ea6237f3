//! Instants.

/// An instant: UTC microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(i64);

impl Time {
    /// The instant so many microseconds after the epoch.
    #[inline]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch.
    #[inline]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The integer difference in microseconds; negative if `earlier` is later. Saturates.
    #[inline]
    pub const fn micros_since(self, earlier: Time) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The difference in seconds: the microseconds as a float, divided once.
    pub fn seconds_since(self, earlier: Time) -> f64 {
        self.micros_since(earlier) as f64 / 1_000_000.0
    }

    /// The difference in hours: the microseconds as a float, divided once.
    pub fn hours_since(self, earlier: Time) -> f64 {
        self.micros_since(earlier) as f64 / 3_600_000_000.0
    }

    /// The difference in days of 24 hours: the microseconds as a float, divided once.
    pub fn days_since(self, earlier: Time) -> f64 {
        self.micros_since(earlier) as f64 / 86_400_000_000.0
    }
}
