//! What a server must be to keep features: asked once at the start.

use crate::fault::Fault;
use crate::pool::Node;
use crate::resp::Value;
use plumb_pipeline::{Error, Result};
use std::time::Instant;

/// The oldest release this works with (HSET of several fields, scripts replicated by their effects).
const OLDEST: (u32, u32) = (6, 0);

/// What `INFO` says.
struct Info<'a>(&'a str);

impl<'a> Info<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    }
}

/// Refuses a server that cannot keep features; warns of one that could keep them better.
pub(crate) fn probe(node: &Node, cluster: bool, deadline: Instant) -> Result<()> {
    let away = |fault: Fault| Error::unavailable("open the online store", fault.at(&node.name));
    let mut lease = node.take(deadline).map_err(|fault| Error::unavailable("open the online store", fault))?;
    let connection = lease.connection().map_err(away)?;
    let info = connection.ask(&[b"INFO"], deadline).map_err(away)?;
    let save = connection.ask(&[b"CONFIG", b"GET", b"save"], deadline).map_err(away)?;
    lease.keep();
    let info = match info {
        Value::Bulk(info) => String::from_utf8_lossy(&info).into_owned(),
        Value::Error(text) if text.starts_with("NOPERM") => {
            tracing::warn!(redis = node.name, "this user may not ask INFO, so the server is taken as it is");
            return Ok(());
        }
        Value::Error(text) => return Err(away(Fault::server(&text))),
        _ => return Err(away(Fault::other("INFO was not understood"))),
    };
    check(&Info(&info), cluster).map_err(|why| Error::invalid(format!("Redis at {}: {why}", node.name)))?;
    // Where this user may not ask, nothing is known and nothing said.
    let no_snapshots =
        matches!(&save, Value::Array(pair) if pair.get(1).and_then(Value::text).is_some_and(|save| save.is_empty()));
    if Info(&info).get("aof_enabled") == Some("0") && no_snapshots {
        tracing::warn!(
            redis = node.name,
            "persistence is off: after a restart of this server all features are rebuilt from state"
        );
    }
    Ok(())
}

fn check(info: &Info<'_>, cluster: bool) -> std::result::Result<(), String> {
    let version = info.get("redis_version").unwrap_or_default();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < OLDEST {
        return Err(format!("its version is {version}, needed is {}.{} or newer", OLDEST.0, OLDEST.1));
    }
    if let Some(policy) = info.get("maxmemory_policy").filter(|&policy| policy != "noeviction") {
        return Err(format!(
            "its maxmemory-policy is {policy}: it would forget features without a word; set noeviction"
        ));
    }
    match (info.get("cluster_enabled"), cluster) {
        (Some("1"), false) => return Err("it is a node of a Cluster; write redis+cluster:// in the URL".into()),
        (Some("0"), true) => return Err("it is no node of a Cluster; write redis:// in the URL".into()),
        _ => {}
    }
    match info.get("role") {
        Some(role) if role != "master" && !cluster => Err("it is a replica; connect to its primary".into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_lose_or_hide_features_are_refused() {
        let good =
            "# Server\r\nredis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\nrole:master\r\ncluster_enabled:0\r\n";
        assert_eq!(check(&Info(good), false), Ok(()));
        let clustered = good.replace("cluster_enabled:0", "cluster_enabled:1");
        assert_eq!(check(&Info(&clustered), true), Ok(()));
        for (info, cluster, wanted) in [
            (good.replace("7.0.15", "5.0.14"), false, "its version is 5.0.14, needed is 6.0 or newer"),
            (good.replace("redis_version", "x"), false, "its version is , needed is 6.0"),
            (good.replace("noeviction", "allkeys-lru"), false, "maxmemory-policy is allkeys-lru"),
            (good.replace("role:master", "role:slave"), false, "it is a replica"),
            (clustered, false, "write redis+cluster://"),
            (good.to_owned(), true, "write redis://"),
        ] {
            let why = check(&Info(&info), cluster).unwrap_err();
            assert!(why.contains(wanted), "{why}");
        }
    }
}
