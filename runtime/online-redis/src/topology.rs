//! Which server holds what, and exchanges with all of them.
//!
//! A batch is a list of units, each a few commands for one hash slot that are executed together or not at all (one
//! script, or a transaction). The units of a server go to it as one pipeline; servers work at the same time. A unit
//! that its server did not execute (its slot has moved, its script is not known) is sent again.

use crate::fault::{Fault, FaultKind};
use crate::net::Dial;
use crate::pool::{Lease, Node};
use crate::resp::{Commands, Value};
use crate::scripts::SCRIPTS;
use crate::settings::RedisSettings;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The hash slots of a Cluster.
pub(crate) const SLOTS: usize = 16384;

/// Pipelines above this size are written by a thread per server, so that servers need not wait for each other.
const PARALLEL_BYTES: usize = 128 << 10;

/// The pause before a unit is tried again whose slot is on the move.
const MOVING_PAUSE: Duration = Duration::from_millis(5);

/// How often the map of slots is asked for at most, and how long one server may take to give it.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);
const REFRESH_PATIENCE: Duration = Duration::from_millis(300);

/// Commands for several slots.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) commands: Commands,
    units: Vec<Unit>,
}

#[derive(Debug)]
struct Unit {
    slot: u16,
    bytes: Range<usize>,
    replies: usize,
}

impl Batch {
    /// Ends the unit that began after the last one.
    pub(crate) fn end_unit(&mut self, slot: u16, replies: usize) {
        let start = self.units.last().map_or(0, |unit| unit.bytes.end);
        self.units.push(Unit { slot, bytes: start..self.commands.bytes.len(), replies });
    }

    pub(crate) fn len(&self) -> usize {
        self.units.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    fn bytes_of(&self, unit: usize) -> &[u8] {
        &self.commands.bytes[self.units[unit].bytes.clone()]
    }
}

/// Who holds which slots.
struct Map {
    /// By name; exchanges go through them in this order, so that two never wait for each other's connections.
    nodes: Vec<Arc<Node>>,
    /// Per slot the index in `nodes`; empty: the first node holds all.
    slots: Vec<Option<u16>>,
}

impl Map {
    fn node_of(&self, slot: u16) -> Option<usize> {
        match self.slots.is_empty() {
            true => Some(0),
            false => self.slots[usize::from(slot)].map(usize::from),
        }
    }
}

/// The servers.
pub(crate) struct Topology {
    pub(crate) cluster: bool,
    map: ArcSwap<Map>,
    /// The servers named by the settings, by which a Cluster is found.
    seeds: Vec<Arc<Node>>,
    /// When the map was last asked for.
    refreshed: Mutex<Option<Instant>>,
    /// The server that failed last: the map may be of before its replica took over.
    suspect: Mutex<Option<String>>,
    dial: Arc<Dial>,
    connections: u32,
}

/// How a unit's replies are to be read.
enum Verdict {
    Done,
    /// Its slot is elsewhere.
    Moved,
    /// This one time it is elsewhere.
    Ask(String),
    /// It will be soon.
    Later,
    NoScript,
}

impl Topology {
    pub(crate) fn new(settings: &RedisSettings, dial: Dial) -> Self {
        let dial = Arc::new(dial);
        let node = |(host, port): &(String, u16)| Arc::new(Node::new(host, *port, dial.clone(), settings.connections));
        let seeds: Vec<Arc<Node>> = settings.nodes.iter().map(node).collect();
        let slots = if settings.cluster { vec![None; SLOTS] } else { Vec::new() };
        let map = ArcSwap::from_pointee(Map { nodes: seeds.clone(), slots });
        let (cluster, connections) = (settings.cluster, settings.connections);
        Self { cluster, map, seeds, refreshed: Mutex::new(None), suspect: Mutex::new(None), dial, connections }
    }

    /// The servers that hold slots.
    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        self.map.load().nodes.clone()
    }

    /// Asks any server of a Cluster who holds what; false = that was done just now, or is being done.
    pub(crate) fn refresh(&self, deadline: Instant) -> Result<bool, Fault> {
        // Whoever waits for another call's refresh would wait by that call's deadline.
        let Ok(mut refreshed) = self.refreshed.try_lock() else { return Ok(false) };
        if !self.cluster || refreshed.is_some_and(|at| at.elapsed() < REFRESH_PAUSE) {
            return Ok(false);
        }
        let known = self.map.load_full();
        let mut last = Fault::other("no node of the Cluster is known");
        let suspect = self.suspect().take();
        let mut nodes: Vec<&Arc<Node>> = known.nodes.iter().chain(&self.seeds).collect();
        nodes.sort_by_key(|node| suspect.as_ref() == Some(&node.name));
        for node in nodes {
            let deadline = deadline.min(Instant::now() + REFRESH_PATIENCE);
            let asked = (|| {
                let mut lease = node.take(deadline)?;
                let reply = lease.connection()?.ask(&[b"CLUSTER", b"SLOTS"], deadline)?;
                lease.keep();
                self.read_slots(&known, node, &reply)
            })();
            match asked {
                Ok(map) => {
                    self.map.store(Arc::new(map));
                    *refreshed = Some(Instant::now());
                    return Ok(true);
                }
                Err(fault) => last = fault,
            }
        }
        *refreshed = Some(Instant::now());
        Err(last)
    }

    fn suspect(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.suspect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_slots(&self, known: &Map, asked: &Node, reply: &Value) -> Result<Map, Fault> {
        let bad = || Fault::other("CLUSTER SLOTS was not understood").at(&asked.name);
        let ranges = match reply {
            Value::Array(ranges) => ranges,
            Value::Error(text) if text.contains("cluster support disabled") => {
                let why = "it is no node of a Cluster; write redis:// in the URL";
                return Err(Fault::refused(why.into()).at(&asked.name));
            }
            Value::Error(text) => return Err(Fault::server(text).at(&asked.name)),
            _ => return Err(bad()),
        };
        let mut by_name: BTreeMap<String, Arc<Node>> = BTreeMap::new();
        let mut owned: Vec<(String, usize, usize)> = Vec::with_capacity(ranges.len());
        for range in ranges {
            let Value::Array(range) = range else { return Err(bad()) };
            let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = range.as_slice() else {
                return Err(bad());
            };
            let [host, Value::Int(port), ..] = primary.as_slice() else { return Err(bad()) };
            // A node that does not know its own address is where it was asked.
            let host = host.text().filter(|host| !host.is_empty()).unwrap_or_else(|| asked.host.as_str().into());
            let port = u16::try_from(*port).map_err(|_| bad())?;
            let (first, last) = (*first as usize, *last as usize);
            if first > last || last >= SLOTS {
                return Err(bad());
            }
            let node = self.node(known, &host, port);
            owned.push((node.name.clone(), first, last));
            by_name.insert(node.name.clone(), node);
        }
        let indices: BTreeMap<&String, u16> = by_name.keys().zip(0..).collect();
        let mut slots = vec![None; SLOTS];
        for (name, first, last) in owned {
            slots[first..=last].fill(indices.get(&name).copied());
        }
        Ok(Map { nodes: by_name.into_values().collect(), slots })
    }

    fn node(&self, known: &Map, host: &str, port: u16) -> Arc<Node> {
        let same = |node: &&Arc<Node>| node.host == host && node.port == port;
        let found = known.nodes.iter().chain(&self.seeds).find(same).cloned();
        found.unwrap_or_else(|| Arc::new(Node::new(host, port, self.dial.clone(), self.connections)))
    }

    /// Sends all units and returns their replies, in order. `again`: units may be sent a second time after a
    /// connection broke, though they may have been executed. After an error some may have been, of each all or
    /// nothing.
    pub(crate) fn run(&self, batch: &Batch, deadline: Instant, again: bool) -> Result<Vec<Vec<Value>>, Fault> {
        let mut results: Vec<Option<Vec<Value>>> = (0..batch.len()).map(|_| None).collect();
        let mut pending: Vec<usize> = (0..batch.len()).collect();
        let mut asks: BTreeMap<usize, String> = BTreeMap::new();
        let mut may_break = again;
        if self.cluster && self.suspect().is_some() {
            // A call that met a silent server has no time left to ask another one who took its place: this one has.
            self.refresh(deadline).ok();
        }
        while !pending.is_empty() {
            let map = self.map.load_full();
            let mut groups: BTreeMap<String, Group<'_>> = BTreeMap::new();
            let mut homeless = false;
            for &unit in &pending {
                let (node, asking) = match asks.get(&unit).and_then(|address| split_address(address)) {
                    Some((host, port)) => (Some(self.node(&map, host, port)), true),
                    None => (map.node_of(batch.units[unit].slot).map(|index| map.nodes[index].clone()), false),
                };
                match node {
                    Some(node) => {
                        let group = groups.entry(node.name.clone()).or_insert_with(|| Group::new(node, batch));
                        group.units.push((unit, asking));
                    }
                    None => homeless = true,
                }
            }
            asks.clear();
            let mut groups: Vec<Group<'_>> = groups.into_values().collect();
            exchange(&mut groups, deadline);
            let mut verdicts: Vec<(usize, Verdict)> = Vec::new();
            let mut broken: Option<Fault> = None;
            for group in groups {
                let Group { node, units, outcome, reused, .. } = group;
                match outcome {
                    Ok(replies) => {
                        for ((unit, _), replies) in units.into_iter().zip(replies) {
                            let verdict = verdict(&replies);
                            if let Verdict::NoScript = verdict {
                                load_scripts(&node, deadline)?;
                            }
                            match (verdict, error_of(&replies)) {
                                (Verdict::Done, Some(fault)) => {
                                    if fault.ends_connection() {
                                        node.renew();
                                    }
                                    broken = Some(fault.at(&node.name));
                                }
                                (Verdict::Done, None) => results[unit] = Some(replies),
                                (other, _) => verdicts.push((unit, other)),
                            }
                        }
                    }
                    Err(fault) => {
                        if fault.ends_connection() {
                            node.renew();
                        }
                        if self.cluster {
                            *self.suspect() = Some(node.name.clone());
                        }
                        // A broken connection that was used before says nothing of the server as it is now.
                        let stale = fault.kind == FaultKind::Broken && (reused || self.cluster);
                        if may_break && stale {
                            verdicts.extend(units.into_iter().map(|(unit, _)| (unit, Verdict::Moved)));
                        } else {
                            broken = Some(fault);
                        }
                    }
                }
            }
            if let Some(fault) = broken {
                return Err(fault);
            }
            if verdicts.is_empty() && !homeless {
                break;
            }
            if Instant::now() >= deadline {
                return Err(Fault::timed_out());
            }
            may_break = false;
            let (mut refresh, mut wait) = (homeless, false);
            for (unit, verdict) in &verdicts {
                match verdict {
                    Verdict::Ask(address) => drop(asks.insert(*unit, address.clone())),
                    Verdict::Moved => refresh = true,
                    Verdict::Later => (refresh, wait) = (true, true),
                    Verdict::Done | Verdict::NoScript => {}
                }
            }
            if refresh {
                wait |= !self.refresh(deadline)? || homeless;
            }
            if wait {
                let left = deadline.saturating_duration_since(Instant::now());
                std::thread::sleep(MOVING_PAUSE.min(left));
            }
            pending = (0..batch.len()).filter(|&unit| results[unit].is_none()).collect();
        }
        results.into_iter().map(|replies| replies.ok_or_else(|| Fault::other("a unit without a reply"))).collect()
    }
}

/// The units for one server.
struct Group<'a> {
    node: Arc<Node>,
    batch: &'a Batch,
    /// The unit, and whether it has to be announced with ASKING.
    units: Vec<(usize, bool)>,
    outcome: Result<Vec<Vec<Value>>, Fault>,
    reused: bool,
}

impl<'a> Group<'a> {
    fn new(node: Arc<Node>, batch: &'a Batch) -> Self {
        Self { node, batch, units: Vec::new(), outcome: Err(Fault::other("not asked")), reused: false }
    }

    fn bytes(&self) -> usize {
        self.units.iter().map(|&(unit, _)| self.batch.bytes_of(unit).len()).sum()
    }

    fn send(&self, lease: &mut Lease<'_>, deadline: Instant) -> Result<(), Fault> {
        let connection = lease.connection()?;
        let in_order = self.units.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0);
        if in_order && self.units.iter().all(|&(_, asking)| !asking) {
            let (Some(first), Some(last)) = (self.units.first(), self.units.last()) else { return Ok(()) };
            let (start, end) = (self.batch.units[first.0].bytes.start, self.batch.units[last.0].bytes.end);
            return connection.send(&self.batch.commands.bytes[start..end], deadline);
        }
        let mut own = Commands { bytes: Vec::with_capacity(self.bytes() + 32) };
        for &(unit, asking) in &self.units {
            if asking {
                own.command(&[b"ASKING"]);
            }
            own.bytes.extend_from_slice(self.batch.bytes_of(unit));
        }
        connection.send(&own.bytes, deadline)
    }

    fn receive(&self, mut lease: Lease<'_>, deadline: Instant) -> Result<Vec<Vec<Value>>, Fault> {
        let connection = lease.connection()?;
        let mut all = Vec::with_capacity(self.units.len());
        for &(unit, asking) in &self.units {
            if asking {
                connection.receive(deadline)?;
            }
            let replies = self.batch.units[unit].replies;
            all.push((0..replies).map(|_| connection.receive(deadline)).collect::<Result<_, _>>()?);
        }
        lease.keep();
        Ok(all)
    }
}

/// Sends every group and reads its replies.
fn exchange(groups: &mut [Group<'_>], deadline: Instant) {
    let whole = |group: &mut Group<'_>| {
        let node = group.node.clone();
        let mut reused = false;
        group.outcome = (|| {
            let mut lease = node.take(deadline)?;
            reused = lease.reused;
            group.send(&mut lease, deadline).map_err(|fault| fault.at(&node.name))?;
            group.receive(lease, deadline).map_err(|fault| fault.at(&node.name))
        })();
        group.reused = reused;
    };
    match groups {
        [one] => whole(one),
        many if many.iter().map(Group::bytes).sum::<usize>() > PARALLEL_BYTES => {
            let whole = &whole;
            std::thread::scope(|scope| many.iter_mut().for_each(|group| drop(scope.spawn(move || whole(group)))));
        }
        many => {
            let nodes: Vec<Arc<Node>> = many.iter().map(|group| group.node.clone()).collect();
            let mut leases = Vec::with_capacity(many.len());
            for (group, node) in many.iter_mut().zip(&nodes) {
                let sent = node.take(deadline).and_then(|mut lease| {
                    group.reused = lease.reused;
                    group.send(&mut lease, deadline).map_err(|fault| fault.at(&node.name))?;
                    Ok(lease)
                });
                leases.push(sent);
            }
            for ((group, node), lease) in many.iter_mut().zip(&nodes).zip(leases) {
                let received =
                    lease.and_then(|lease| group.receive(lease, deadline).map_err(|fault| fault.at(&node.name)));
                group.outcome = received;
            }
        }
    }
}

fn verdict(replies: &[Value]) -> Verdict {
    // A transaction with a refused command ends in EXECABORT; the command's own error says why.
    for reply in replies {
        let Value::Error(text) = reply else { continue };
        let mut words = text.split(' ');
        match words.next().unwrap_or_default() {
            "MOVED" => return Verdict::Moved,
            "ASK" => return Verdict::Ask(words.nth(1).unwrap_or_default().to_owned()),
            "TRYAGAIN" | "CLUSTERDOWN" => return Verdict::Later,
            "NOSCRIPT" => return Verdict::NoScript,
            _ => {}
        }
    }
    Verdict::Done
}

/// The first error among replies that were not sent elsewhere.
fn error_of(replies: &[Value]) -> Option<Fault> {
    replies.iter().find_map(|reply| match reply {
        Value::Error(text) => Some(Fault::server(text)),
        _ => None,
    })
}

fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

/// Makes a server know all scripts.
pub(crate) fn load_scripts(node: &Node, deadline: Instant) -> Result<Vec<String>, Fault> {
    let mut lease = node.take(deadline)?;
    let mut digests = Vec::with_capacity(SCRIPTS.len());
    for script in SCRIPTS {
        let reply = lease.connection()?.ask(&[b"SCRIPT", b"LOAD", script.as_bytes()], deadline);
        match reply.map_err(|fault| fault.at(&node.name))? {
            Value::Bulk(digest) => digests.push(String::from_utf8_lossy(&digest).into_owned()),
            Value::Error(text) => {
                return Err(Fault::server(&format!("it does not take scripts: {text}")).at(&node.name));
            }
            _ => return Err(Fault::other("SCRIPT LOAD was not understood").at(&node.name)),
        }
    }
    lease.keep();
    Ok(digests)
}

/// The hash slot of a key's tag (what is between its braces).
pub(crate) fn slot_of(tag: &[u8]) -> u16 {
    let mut crc: u16 = 0;
    for &byte in tag {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 };
        }
    }
    crc % SLOTS as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // From the Cluster specification, and asked of a server.
        assert_eq!(slot_of(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12182);
    }

    #[test]
    fn what_was_not_executed_is_told_from_what_was() {
        let error = |text: &str| Value::Error(text.into());
        assert!(matches!(verdict(&[Value::Int(1)]), Verdict::Done));
        assert!(matches!(verdict(&[error("MOVED 3999 127.0.0.1:6381")]), Verdict::Moved));
        assert!(matches!(verdict(&[error("ASK 3999 h:6381")]), Verdict::Ask(address) if address == "h:6381"));
        let aborted = [Value::Simple("OK".into()), error("TRYAGAIN x"), error("EXECABORT Transaction discarded")];
        assert!(matches!(verdict(&aborted), Verdict::Later));
        assert!(matches!(verdict(&[error("NOSCRIPT No matching script")]), Verdict::NoScript));
        assert!(matches!(verdict(&[error("OOM command not allowed")]), Verdict::Done));
        assert_eq!(split_address("::1:6379"), Some(("::1", 6379)));
    }
}
