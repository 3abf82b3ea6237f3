//! The connections to one server: a bounded number, opened when needed, none tried while the server is known to be
//! away.

use crate::fault::{Fault, FaultKind};
use crate::net::{Connection, Dial};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a server that could not be reached is left alone: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A server.
pub(crate) struct Node {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `host:port`, for messages.
    pub(crate) name: String,
    dial: Arc<Dial>,
    most: u32,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    /// How many are open or being opened.
    open: u32,
    /// Connections older than this are not used again.
    era: u64,
    away: Option<Away>,
}

/// A server that could not be reached.
struct Away {
    until: Instant,
    pause: Duration,
    why: Fault,
}

impl Node {
    pub(crate) fn new(host: &str, port: u16, dial: Arc<Dial>, most: u32) -> Self {
        let name = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let (state, freed) = (Mutex::default(), Condvar::new());
        Self { host: host.to_owned(), port, name, dial, most: most.max(1), state, freed }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection. To be given back with [`Lease::keep`]; dropped otherwise, it is closed.
    pub(crate) fn take(&self, deadline: Instant) -> Result<Lease<'_>, Fault> {
        let mut state = self.lock();
        loop {
            if let Some(connection) = state.idle.pop() {
                let era = state.era;
                if connection.is_fresh() {
                    return Ok(Lease { node: self, connection: Some(connection), era, reused: true, kept: false });
                }
                state.open -= 1;
                self.freed.notify_one();
                continue;
            }
            if state.open < self.most {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = format!("all {} connections are in use", self.most);
                return Err(Fault { kind: FaultKind::TimedOut, text: why }.at(&self.name));
            }
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Some(away) = state.away.as_ref().filter(|away| Instant::now() < away.until) {
            return Err(away.why.clone());
        }
        state.open += 1;
        let era = state.era;
        drop(state);
        // From here on the lease gives the place back if opening fails.
        let mut lease = Lease { node: self, connection: None, era, reused: false, kept: false };
        match Connection::open(&self.dial, &self.host, self.port, deadline) {
            Ok(connection) => {
                lease.connection = Some(connection);
                self.lock().away = None;
                Ok(lease)
            }
            Err(fault) => {
                let fault = fault.at(&self.name);
                self.note_away(&fault);
                Err(fault)
            }
        }
    }

    fn note_away(&self, why: &Fault) {
        let mut state = self.lock();
        let now = Instant::now();
        let pause = match &state.away {
            // Others failed at the same time.
            Some(away) if now < away.until => return,
            Some(away) => (2 * away.pause).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        // Processes that lost the same server do not come back at the same instant.
        let jitter = xxhash_rust::xxh3::xxh3_64(format!("{:?}{now:?}", std::process::id()).as_bytes()) % 512;
        let until = now + pause.mul_f64(0.5 + jitter as f64 / 1024.0);
        state.away = Some(Away { until, pause, why: why.clone() });
    }

    /// Closes all idle connections and keeps none that is out: the server behind them is gone or has changed.
    pub(crate) fn renew(&self) {
        let mut state = self.lock();
        state.era += 1;
        state.open -= state.idle.len() as u32;
        state.idle.clear();
        self.freed.notify_all();
    }
}

/// A connection that is out.
pub(crate) struct Lease<'a> {
    node: &'a Node,
    connection: Option<Connection>,
    era: u64,
    /// Whether it was used before.
    pub(crate) reused: bool,
    /// Whether its place passed to the idle connection.
    kept: bool,
}

impl Lease<'_> {
    pub(crate) fn connection(&mut self) -> Result<&mut Connection, Fault> {
        self.connection.as_mut().ok_or_else(|| Fault::other("the connection is closed"))
    }

    /// Gives it back for the next one, after an exchange that went well.
    pub(crate) fn keep(mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.rest();
        let mut state = self.node.lock();
        if state.era == self.era {
            state.idle.push(connection);
            self.kept = true;
        }
        drop(state);
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.node.lock().open -= 1;
        }
        self.node.freed.notify_one();
    }
}
