//! Sessions that end in a window.

use super::{Asked, Frame, Instant};
use crate::column::Column;
use crate::view::WindowSpec;

/// What is asked of sessions that end in a window.
#[derive(Debug, Clone, Copy)]
pub(in crate::temporal) enum OfSessions {
    Count(WindowSpec),
    Duration(WindowSpec),
}

/// One key's runs of contributions without a gap above `gap_us`.
#[derive(Debug)]
pub(in crate::temporal) struct Sessions {
    /// The frame of everything before T in the slot.
    pub(in crate::temporal) frame: usize,
    pub(in crate::temporal) gap_us: i64,
    pub(in crate::temporal) asked: Vec<Asked<OfSessions>>,
    /// The index of each session's first contribution.
    starts: Vec<usize>,
    /// The time of each session's last contribution.
    ends_us: Vec<i64>,
    /// The durations of the sessions before each, added up.
    durations_us: Vec<i64>,
}

impl Sessions {
    pub(in crate::temporal) fn new(frame: usize, gap_us: i64) -> Self {
        Self { frame, gap_us, asked: Vec::new(), starts: Vec::new(), ends_us: Vec::new(), durations_us: Vec::new() }
    }

    pub(in crate::temporal) fn answer(
        &mut self,
        frame: &Frame,
        times_us: &[i64],
        instants: &[Instant],
        columns: &mut [Column],
    ) {
        self.find(times_us);
        for (instant, span) in instants.iter().zip(&frame.spans) {
            let ending_in =
                |window: WindowSpec| self.ending_in(times_us, span.high as usize, window.bounds(instant.as_of_us));
            for asked in &self.asked {
                columns[asked.column].push_i64(match asked.what {
                    OfSessions::Count(window) => ending_in(window).0,
                    OfSessions::Duration(window) => ending_in(window).1,
                });
            }
        }
    }

    fn find(&mut self, times_us: &[i64]) {
        self.starts.clear();
        self.ends_us.clear();
        self.durations_us.clear();
        let mut total_us = 0i64;
        for (index, &time_us) in times_us.iter().enumerate() {
            match self.ends_us.last_mut() {
                Some(end_us) if time_us.saturating_sub(*end_us) <= self.gap_us => *end_us = time_us,
                last => {
                    if let (Some(&mut end_us), Some(&start)) = (last, self.starts.last()) {
                        total_us = total_us.saturating_add(end_us.saturating_sub(times_us[start]));
                    }
                    self.starts.push(index);
                    self.ends_us.push(time_us);
                    self.durations_us.push(total_us);
                }
            }
        }
    }

    /// The number and the total duration of the sessions of the first `seen` contributions that end in
    /// `[start_us, end_us)`. The last of them ends at the last contribution seen.
    fn ending_in(&self, times_us: &[i64], seen: usize, (start_us, end_us): (i64, i64)) -> (i64, i64) {
        if seen == 0 {
            return (0, 0);
        }
        let open = self.starts.partition_point(|&start| start < seen) - 1;
        let closed = &self.ends_us[..open];
        let first = closed.partition_point(|&end| end < start_us);
        let after = closed.partition_point(|&end| end < end_us).max(first);
        let mut count = (after - first) as i64;
        let mut duration_us = self.durations_us[after] - self.durations_us[first];
        let open_end_us = times_us[seen - 1];
        if (start_us..end_us).contains(&open_end_us) {
            count += 1;
            duration_us = duration_us.saturating_add(open_end_us.saturating_sub(times_us[self.starts[open]]));
        }
        (count, duration_us)
    }
}
