//! Sessions: maximal runs of contributions with no gap between neighbours above a limit.
//!
//! Kept as disjoint intervals. A contribution inside an interval is within the gap of its neighbours
//! there, so intervals merge as exactly as the contributions themselves would.

/// One session: the times of its first and last contribution and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session {
    /// The first contribution's time in µs.
    pub start_us: i64,
    /// The last contribution's time in µs.
    pub end_us: i64,
    /// The number of contributions.
    pub count: u64,
}

impl Session {
    /// The session of one contribution.
    pub fn of(time_us: i64) -> Self {
        Self { start_us: time_us, end_us: time_us, count: 1 }
    }

    /// Whether the two are one session: no more than the gap apart.
    fn touches(&self, other: &Session, gap_us: i64) -> bool {
        let apart = |from: i64, to: i64| i128::from(to) - i128::from(from) > i128::from(gap_us);
        !apart(self.end_us, other.start_us) && !apart(other.end_us, self.start_us)
    }

    fn absorb(&mut self, other: &Session) {
        self.start_us = self.start_us.min(other.start_us);
        self.end_us = self.end_us.max(other.end_us);
        self.count += other.count;
    }
}

/// The sessions of a set of contributions, in order of time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sessions(pub(crate) Vec<Session>);

impl Sessions {
    /// No contributions.
    pub fn new() -> Self {
        Self::default()
    }

    /// The sessions in order of time; neighbours are more than the gap apart.
    pub fn as_slice(&self) -> &[Session] {
        &self.0
    }

    /// Adds a session, or a single contribution as [`Session::of`].
    pub fn add(&mut self, session: Session, gap_us: i64) {
        // The usual case: the newest contribution goes on with the last session or begins one.
        match self.0.last_mut() {
            Some(last) if session.start_us >= last.start_us => {
                if last.touches(&session, gap_us) {
                    last.absorb(&session);
                } else {
                    self.0.push(session);
                }
                return;
            }
            None => {
                self.0.push(session);
                return;
            }
            Some(_) => {}
        }
        // Everything it touches becomes one with it.
        let ends_before = |held: &Session| held.end_us < session.start_us && !held.touches(&session, gap_us);
        let from = self.0.partition_point(ends_before);
        let mut merged = session;
        let touched = self.0[from..].iter().take_while(|held| held.touches(&session, gap_us)).count();
        for held in &self.0[from..from + touched] {
            merged.absorb(held);
        }
        self.0.splice(from..from + touched, [merged]);
    }

    /// Adds all of `other`, made with the same gap.
    pub fn merge(&mut self, other: &Sessions, gap_us: i64) {
        for session in &other.0 {
            self.add(*session, gap_us);
        }
    }

    /// The sessions of any intervals, in any order.
    pub fn from_unsorted(mut parts: Vec<Session>, gap_us: i64) -> Self {
        parts.sort_unstable();
        let mut sessions = Self::new();
        for part in parts {
            sessions.add(part, gap_us);
        }
        sessions
    }
}
