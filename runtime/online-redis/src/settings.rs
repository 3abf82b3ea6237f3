//! Which Redis, and how to reach it.

use plumb_pipeline::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// A Redis server or Cluster, as checked by the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// Where to connect: one server, or some nodes of a Cluster (`host`, port). Never empty.
    pub nodes: Vec<(String, u16)>,
    /// Whether they are nodes of a Cluster.
    pub cluster: bool,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// A PEM file of the authorities that servers' certificates must come from; `None` = those of the system.
    pub tls_ca: Option<PathBuf>,
    /// The user's name; `None` = Redis's default user.
    pub username: Option<String>,
    /// The password, if one is asked for.
    pub password: Option<Secret>,
    /// The number of the database; 0 in a Cluster.
    pub database: u32,
    /// The first part of every key after `plumb:`: jobs that share a Redis have different ones.
    pub namespace: String,
    /// The most open connections of this process (to each node, in a Cluster).
    pub connections: u32,
    /// How long connecting may take, the greeting included.
    pub connect_timeout: Duration,
    /// How long a read may take, waiting for a connection included.
    pub read_timeout: Duration,
    /// How long a write may take, likewise.
    pub write_timeout: Duration,
    /// The number of parts an entity's keys are spread over in a Cluster. All processes of a namespace have the same.
    pub buckets: u32,
}

/// The port where none is given.
const DEFAULT_PORT: u16 = 6379;

/// The schemes of a URL: (text, Cluster, TLS).
const SCHEMES: [(&str, bool, bool); 4] = [
    ("redis://", false, false),
    ("rediss://", false, true),
    ("redis+cluster://", true, false),
    ("rediss+cluster://", true, true),
];

impl RedisSettings {
    /// Reads `redis[s]://[user[:password]@]host[:port][/database]`, or `redis[s]+cluster://…` with one or several
    /// hosts, comma-separated, and no database. Special characters of the name and password are percent-encoded. The
    /// other settings are the defaults. The error says what is wrong and never holds the password.
    pub fn parse(url: &str) -> Result<Self, String> {
        let found = SCHEMES.iter().find_map(|&(scheme, cluster, tls)| Some((url.strip_prefix(scheme)?, cluster, tls)));
        let (rest, cluster, tls) = found
            .ok_or_else(|| format!("write {}", SCHEMES.map(|(scheme, ..)| format!("{scheme}host:port")).join(", ")))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if rest.contains(['?', '#']) {
            return Err("a Redis URL has no `?` or `#` part; encode them in a password as %3F and %23".into());
        }
        if path.contains('@') {
            return Err("encode `/` in a name or password as %2F".into());
        }
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            Some((name, password)) => (decoded("user name", name)?, decoded("password", password)?),
            None => (None, None),
        };
        let nodes: Vec<(String, u16)> = hosts.split(',').map(node).collect::<Result<_, _>>()?;
        if nodes.len() > 1 && !cluster {
            return Err("several hosts are a Cluster: write redis+cluster://".into());
        }
        let database = match path.trim_end_matches('/') {
            "" => 0,
            _ if cluster => return Err("a Cluster has no databases: leave out what follows the host".into()),
            number => number.parse().map_err(|_| format!("the database `{number}` is no number"))?,
        };
        Ok(Self {
            nodes,
            cluster,
            tls,
            tls_ca: None,
            username,
            password: password.map(Secret::new),
            database,
            namespace: "default".into(),
            connections: 16,
            connect_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(5),
            buckets: 256,
        })
    }
}

/// `host`, `host:port` or `[v6]:port`.
fn node(text: &str) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(DEFAULT_PORT), str::parse);
    match port {
        Ok(port) if !host.is_empty() && port > 0 => Ok((host.to_owned(), port)),
        _ => Err(format!("`{text}` is no host:port")),
    }
}

/// Text without its percent-encoding; `None` if it is empty.
fn decoded(what: &str, text: &str) -> Result<Option<String>, String> {
    let bad = || format!("the {what} is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit)).ok_or_else(bad)?;
        let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        rest = &after[2..];
    }
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> RedisSettings {
        RedisSettings::parse(url).unwrap()
    }

    #[test]
    fn urls_are_taken_apart() {
        let plain = parse("redis://127.0.0.1:6380/2");
        assert_eq!((plain.nodes, plain.database), (vec![("127.0.0.1".into(), 6380)], 2));
        assert!(!plain.tls && !plain.cluster && plain.username.is_none() && plain.password.is_none());
        assert_eq!(parse("redis://host").nodes, [("host".to_owned(), 6379)]);
        assert_eq!(parse("rediss://[::1]:1/").nodes, [("::1".to_owned(), 1)]);
        let user = parse("rediss://al%40ice:p%3a%2Fw@host:1");
        assert_eq!(user.username.as_deref(), Some("al@ice"));
        assert_eq!(user.password.unwrap().reveal(), "p:/w");
        let default_user = parse("redis://:pw@host");
        assert_eq!((default_user.username, default_user.password), (None, Some(Secret::new("pw"))));
        let cluster = parse("rediss+cluster://u:p@a:1,b,c:3");
        assert!(cluster.cluster && cluster.tls);
        assert_eq!(cluster.nodes, [("a".into(), 1), ("b".into(), 6379), ("c".into(), 3)]);
    }

    #[test]
    fn mistakes_are_named_without_the_password() {
        for (url, wanted) in [
            ("http://h", "write redis://host:port, rediss://host:port, redis+cluster://"),
            ("redis://", "`` is no host:port"),
            ("redis://u:secret@h:x", "`h:x` is no host:port"),
            ("redis://h:0", "`h:0` is no host:port"),
            ("redis://a:1,b:2", "several hosts are a Cluster: write redis+cluster://"),
            ("redis+cluster://a:1/3", "a Cluster has no databases"),
            ("redis://h/x", "the database `x` is no number"),
            ("redis://h?timeout=3", "a Redis URL has no `?` or `#` part"),
            ("redis://u:secret/x@h", "encode `/` in a name or password as %2F"),
            ("redis://u:secret%+f@h", "the password is not percent-encoded UTF-8"),
            ("redis://u:secret%4@h", "the password is not percent-encoded UTF-8"),
            ("redis://u:secret%ff@h", "the password is not percent-encoded UTF-8"),
        ] {
            let why = RedisSettings::parse(url).unwrap_err();
            assert!(why.contains(wanted), "{url}: {why}");
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
