//! Finds partitions that no member of the group has, and has them shared anew.
//!
//! A member that gives partitions up joins the group again, which is how they reach their next owner. One that is killed
//! in between and comes back under its name (`group.instance.id`) is given its former partitions without a rebalance
//! (KIP-345): what it had given up then belongs to nobody, for as long as nobody comes or goes, and no error says so.

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How often a member looks. It acts when it has found the same twice: between two rebalances all is well soon.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How long a broker may take to say something.
const ANSWER: Duration = Duration::from_secs(1);

/// What a member found when it looked.
#[derive(Debug)]
pub(crate) struct Watch {
    looked: Instant,
    found: BTreeSet<i32>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { looked: Instant::now(), found: BTreeSet::new() }
    }

    /// Looks, if it is time to, and joins the group anew if that is to be done by this member.
    pub(crate) fn turn<C: ConsumerContext>(&mut self, consumer: &BaseConsumer<C>, group: &str, topic: &str) {
        if self.looked.elapsed() < LOOK_INTERVAL {
            return;
        }
        self.looked = Instant::now();
        let found = orphans(consumer, group, topic).unwrap_or_else(|error| {
            tracing::debug!(%error, group, "cannot ask who has which partitions");
            BTreeSet::new()
        });
        let before = std::mem::replace(&mut self.found, found);
        let both: Vec<i32> = self.found.intersection(&before).copied().collect();
        if both.is_empty() {
            return;
        }
        tracing::warn!(group, partitions = ?both, "partitions belong to no member, joining the group anew to have them shared");
        self.found.clear();
        // That leaves the group even under a name of its own, for which the others share all partitions anew.
        consumer.unsubscribe();
        if let Err(error) = consumer.subscribe(&[topic]) {
            tracing::error!(%error, group, "cannot join the group anew");
        }
    }
}

/// The partitions that nobody has, if it is for this member to do something about it: for one of those who have the
/// least, and so lose the least.
fn orphans<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    topic: &str,
) -> Result<BTreeSet<i32>, KafkaError> {
    let own = consumer.assignment()?.elements_for_topic(topic).len();
    let groups = consumer.fetch_group_list(Some(group), ANSWER)?;
    let found = groups.groups().iter().find(|found| found.name() == group && found.state() == "Stable");
    let Some(found) = found else { return Ok(BTreeSet::new()) };
    let assigned = found.members().iter().map(|member| assigned(member.assignment().unwrap_or_default(), topic));
    let Some(assigned) = assigned.collect::<Option<Vec<BTreeSet<i32>>>>() else {
        tracing::debug!(group, "members say what they have in a way that is not known here");
        return Ok(BTreeSet::new());
    };
    if assigned.iter().any(|partitions| partitions.len() < own) {
        return Ok(BTreeSet::new());
    }
    let taken: BTreeSet<i32> = assigned.into_iter().flatten().collect();
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let partitions =
        metadata.topics().iter().filter(|found| found.name() == topic).flat_map(|found| found.partitions());
    Ok(partitions.map(|partition| partition.id()).filter(|partition| !taken.contains(partition)).collect())
}

/// The partitions of a topic in a member's assignment; `None` if it is not the consumer protocol's
/// (`ConsumerProtocolAssignment` of Kafka: version, topics with their partitions, the assignor's own).
fn assigned(bytes: &[u8], topic: &str) -> Option<BTreeSet<i32>> {
    let mut partitions = BTreeSet::new();
    // One that was given nothing yet.
    if bytes.is_empty() {
        return Some(partitions);
    }
    let mut rest = bytes;
    let _version = i16::from_be_bytes(take(&mut rest)?);
    for _ in 0..i32::from_be_bytes(take(&mut rest)?) {
        let len = usize::try_from(i16::from_be_bytes(take(&mut rest)?)).ok()?;
        let (name, after) = rest.split_at_checked(len)?;
        rest = after;
        for _ in 0..i32::from_be_bytes(take(&mut rest)?) {
            let partition = i32::from_be_bytes(take(&mut rest)?);
            if name == topic.as_bytes() {
                partitions.insert(partition);
            }
        }
    }
    Some(partitions)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read_as_kafka_writes_it() {
        let mut bytes = vec![0, 1, 0, 0, 0, 2];
        for (name, partitions) in [("other", vec![7]), ("topic", vec![0, 300])] {
            bytes.extend((name.len() as i16).to_be_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend((partitions.len() as i32).to_be_bytes());
            partitions.iter().for_each(|partition: &i32| bytes.extend(partition.to_be_bytes()));
        }
        let end = bytes.len();
        bytes.extend([0xff; 4]);
        assert_eq!(assigned(&bytes, "topic"), Some(BTreeSet::from([0, 300])));
        assert_eq!(assigned(&bytes, "none"), Some(BTreeSet::new()));
        assert_eq!(assigned(&[], "topic"), Some(BTreeSet::new()));
        for cut in 1..end {
            assert_eq!(assigned(&bytes[..cut], "topic"), None, "{cut}");
        }
    }
}
