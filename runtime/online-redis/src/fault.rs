//! What goes wrong between this process and a server.

use std::io;

/// Why an exchange failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    /// For people; names the server once it has passed [`Fault::at`].
    pub(crate) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The deadline passed.
    TimedOut,
    /// The connection broke or could not be made; what was sent may have arrived.
    Broken,
    /// The server does not let us in.
    Refused,
    /// The server is not the primary.
    Replica,
    /// The server is out of memory, and refuses what could need more.
    Full,
    /// The server answered with an error, or is in no state to answer.
    Server,
    /// Anything else.
    Other,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

impl Fault {
    pub(crate) fn io(doing: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::timed_out(),
            io::ErrorKind::InvalidData => Self::other(format!("{doing}: {error}")),
            _ => Self { kind: FaultKind::Broken, text: format!("{doing}: {error}") },
        }
    }

    pub(crate) fn timed_out() -> Self {
        Self { kind: FaultKind::TimedOut, text: "no answer in time".into() }
    }

    pub(crate) fn refused(text: String) -> Self {
        // Those are of a server that is not ready, not of a wrong password.
        let kind = match text.split(' ').next() {
            Some("LOADING" | "BUSY" | "MASTERDOWN") => FaultKind::Server,
            _ => FaultKind::Refused,
        };
        Self { kind, text }
    }

    pub(crate) fn full(text: &str) -> Self {
        Self { kind: FaultKind::Full, text: text.into() }
    }

    pub(crate) fn replica() -> Self {
        Self { kind: FaultKind::Replica, text: "it is a replica; connect to its primary".into() }
    }

    pub(crate) fn other(text: impl Into<String>) -> Self {
        Self { kind: FaultKind::Other, text: text.into() }
    }

    /// An error reply, explained where its own words do not say what to do.
    pub(crate) fn server(text: &str) -> Self {
        let has = |code: &str| text.starts_with(code) || text.contains(&format!("-{code} "));
        let (kind, text) = if has("READONLY") {
            (FaultKind::Replica, format!("it has become a replica; connect to its primary ({text})"))
        } else if has("OOM") {
            (FaultKind::Full, format!("it is out of memory, raise its maxmemory ({text})"))
        } else if has("MISCONF") {
            (FaultKind::Server, format!("it cannot save to its disk and refuses writes ({text})"))
        } else if has("LOADING") {
            (FaultKind::Server, format!("it is still loading its data ({text})"))
        } else {
            (FaultKind::Server, text.to_owned())
        };
        Self { kind, text }
    }

    /// Names the server.
    pub(crate) fn at(mut self, server: &str) -> Self {
        self.text = format!("Redis at {server}: {}", self.text);
        self
    }

    /// Whether the connection it came from is of no more use.
    pub(crate) fn ends_connection(&self) -> bool {
        !matches!(self.kind, FaultKind::Server | FaultKind::Full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_servers_say_what_to_do() {
        for (reply, kind, wanted) in [
            ("READONLY You can't write against a read only replica.", FaultKind::Replica, "connect to its primary"),
            ("ERR Error running script: -OOM command not allowed", FaultKind::Full, "raise its maxmemory"),
            ("OOM command not allowed when used memory > 'maxmemory'.", FaultKind::Full, "raise its maxmemory"),
            ("MISCONF Redis is configured to save RDB snapshots", FaultKind::Server, "cannot save to its disk"),
            ("WRONGTYPE Operation against a key", FaultKind::Server, "WRONGTYPE"),
        ] {
            let fault = Fault::server(reply).at("h:1");
            assert_eq!(fault.kind, kind, "{reply}");
            assert!(fault.text.starts_with("Redis at h:1: ") && fault.text.contains(wanted), "{fault}");
        }
        assert_eq!(Fault::refused("WRONGPASS invalid".into()).kind, FaultKind::Refused);
        assert_eq!(Fault::refused("LOADING Redis is loading".into()).kind, FaultKind::Server);
    }
}
