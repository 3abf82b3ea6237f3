//! Redis servers, single and as a Cluster of six.

use redis::{Client, Connection, RedisResult};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::{Server, eventually, free_port};

/// A running server; ends when dropped, and with the test process.
#[derive(Debug)]
pub struct Redis {
    server: Server,
    port: u16,
}

impl Redis {
    /// Starts a server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with settings of `redis.conf`, such as `("appendonly", "yes")`.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let redis = Self::new(settings);
        redis.restart();
        redis
    }

    /// Starts a server that also listens with TLS on a port, with the certificate of [`super::tls`] in a folder.
    pub fn start_with_tls(folder: &Path, port: u16) -> Self {
        let file = |name: &str| folder.join(name).to_str().expect("a path in UTF-8").to_owned();
        Self::start_with(&[
            ("tls-port", &port.to_string()),
            ("tls-cert-file", &file("server.pem")),
            ("tls-key-file", &file("server.key")),
            ("tls-ca-cert-file", &file("ca.pem")),
            ("tls-auth-clients", "no"),
        ])
    }

    /// The server that the tests of this process share; for those that do not harm it and use a namespace of
    /// their own.
    pub fn shared() -> &'static Arc<Self> {
        static SHARED: LazyLock<Arc<Redis>> = LazyLock::new(|| Arc::new(Redis::start()));
        &SHARED
    }

    /// A server that copies another one.
    pub fn replica_of(primary: &Self) -> Self {
        let replica = Self::start_with(&[("repl-diskless-sync-delay", "0")]);
        replica.command(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
        eventually("the replica's link to its primary", || {
            replica.info("replication").contains("master_link_status:up").then_some(())
        });
        replica
    }

    fn new(settings: &[(&str, &str)]) -> Self {
        let port = free_port();
        let mut arguments = vec!["--port".to_owned(), port.to_string()];
        arguments.extend(settings.iter().flat_map(|(key, value)| [(*key).to_owned(), (*value).to_owned()]));
        Self { server: Server::new("redis.sh", arguments), port }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `redis://host:port`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// kill -9; without `appendonly` everything is gone.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Starts it again on the same port, and waits until it answers.
    pub fn restart(&self) {
        self.server.start(|| {
            let ping = self.try_connection().and_then(|mut connection| redis::cmd("PING").query(&mut connection));
            // While it loads its file it answers with an error.
            ping.is_ok_and(|pong: String| pong == "PONG")
        });
    }

    /// SIGSTOP: connections stay, nothing is answered.
    pub fn pause(&self) {
        self.server.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.server.signal("CONT");
    }

    fn try_connection(&self) -> RedisResult<Connection> {
        Client::open(self.url())?.get_connection_with_timeout(Duration::from_secs(2))
    }

    /// A connection of the plain client.
    pub fn connection(&self) -> Connection {
        self.try_connection().unwrap_or_else(|error| panic!("{}: {error}", self.address()))
    }

    /// One command; fails when the server refuses it.
    pub fn command(&self, words: &[&str]) -> redis::Value {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.connection()).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// A section of INFO.
    pub fn info(&self, section: &str) -> String {
        redis::cmd("INFO").arg(section).query(&mut self.connection()).unwrap_or_else(|error| panic!("INFO: {error}"))
    }

    /// Every key that begins so.
    pub fn keys(&self, prefix: &str) -> Vec<Vec<u8>> {
        let mut connection = self.connection();
        let mut keys = Vec::new();
        let mut cursor = 0u64;
        loop {
            let (next, some): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(format!("{prefix}*"))
                .arg("COUNT")
                .arg(1000)
                .query(&mut connection)
                .expect("the server answers");
            keys.extend(some);
            cursor = next;
            if cursor == 0 {
                keys.sort();
                keys.dedup();
                return keys;
            }
        }
    }

    /// Forgets everything.
    pub fn flush(&self) {
        self.command(&["FLUSHALL"]);
    }
}

/// Three primaries with a replica each.
#[derive(Debug)]
pub struct RedisCluster {
    /// The nodes in the order they were given to `redis-cli --cluster create`: the primaries first.
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts the nodes and makes them a cluster that serves every slot.
    pub fn start() -> Self {
        let nodes: Vec<Redis> = (0..6)
            .map(|_| {
                let bus = free_port().to_string();
                Redis::start_with(&[
                    ("cluster-enabled", "yes"),
                    ("cluster-port", &bus),
                    ("cluster-node-timeout", "2000"),
                    ("cluster-replica-validity-factor", "0"),
                    ("repl-diskless-sync-delay", "0"),
                ])
            })
            .collect();
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(nodes.iter().map(Redis::address));
        let output = create.args(["--cluster-replicas", "1", "--cluster-yes"]).output().expect("redis-cli runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let cluster = Self { nodes };
        eventually("every slot served and every replica in place", || cluster.is_whole().then_some(()));
        cluster
    }

    /// The cluster that the tests of this process share; for those that do not harm it.
    pub fn shared() -> &'static Arc<Self> {
        static SHARED: LazyLock<Arc<RedisCluster>> = LazyLock::new(|| Arc::new(RedisCluster::start()));
        &SHARED
    }

    /// The addresses of all nodes, comma separated.
    pub fn addresses(&self) -> String {
        self.nodes.iter().map(Redis::address).collect::<Vec<_>>().join(",")
    }

    /// `redis+cluster://host:port,host:port,…`.
    pub fn url(&self) -> String {
        format!("redis+cluster://{}", self.addresses())
    }

    fn is_whole(&self) -> bool {
        self.nodes.iter().all(|node| {
            let Ok(mut connection) = node.try_connection() else { return false };
            let mut ask = |what: &str| redis::cmd("CLUSTER").arg(what).query::<String>(&mut connection);
            ask("INFO").is_ok_and(|info| info.contains("cluster_state:ok"))
                && ask("NODES").is_ok_and(|nodes| nodes.matches("slave").count() == 3)
        }) && self.nodes.iter().filter(|node| node.info("replication").contains("master_link_status:up")).count() == 3
    }

    /// The nodes that are primaries now.
    pub fn primaries(&self) -> Vec<&Redis> {
        let is_primary = |node: &&Redis| {
            node.try_connection()
                .and_then(|mut connection| redis::cmd("ROLE").query::<redis::Value>(&mut connection))
                .is_ok_and(|role| matches!(&role, redis::Value::Array(parts) if matches!(&parts[0], redis::Value::BulkString(name) if name == b"master")))
        };
        self.nodes.iter().filter(is_primary).collect()
    }

    /// Every key of every primary that begins so.
    pub fn keys(&self, prefix: &str) -> Vec<Vec<u8>> {
        self.primaries().into_iter().flat_map(|node| node.keys(prefix)).collect()
    }
}
