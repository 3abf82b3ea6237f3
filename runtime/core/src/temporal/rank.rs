//! Ranks among all entities: one sweep over the hop instants, with a Fenwick tree over the entities' counts.

use super::history::{NO_KEY, presence};
use crate::contribution::Contributions;
use crate::plan::{GlobalDef, Plan};
use crate::view::SlotType;

/// One global distribution's contributions: which key, in which hop bucket; of all entities, also those
/// no label asks for.
#[derive(Debug)]
pub struct RankHistory {
    slots: Vec<SlotType>,
    global: GlobalDef,
    /// (hop bucket = time / hop, key id)
    counted: Vec<(i64, u32)>,
    /// When each of `counted` became known, µs, if that is kept.
    known_us: Option<Vec<i64>>,
    masks: Vec<u64>,
}

/// When contributions count, in no order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turns {
    /// When each comes into the window, and its key.
    pub comes: Vec<(i64, u32)>,
    /// When each goes, where it is kept when events became known; else it goes [`RankHistory::width_us`] later.
    pub goes: Option<Vec<(i64, u32)>>,
}

impl RankHistory {
    /// An empty history of the plan's distribution `global`.
    pub fn new(plan: &Plan, global: usize) -> Self {
        let (slots, global) = (plan.slots.clone(), plan.globals[global].clone());
        Self { slots, global, counted: Vec::new(), known_us: None, masks: Vec::new() }
    }

    /// Keeps when events became known too: at T only those count that were known before it.
    pub fn keeping_known(mut self) -> Self {
        self.known_us = Some(Vec::new());
        self
    }

    /// Takes everything out of memory.
    pub fn take(&mut self) -> Turns {
        let hop_us = self.global.hop_us;
        let end_us = |bucket: i64| bucket.saturating_add(1).saturating_mul(hop_us);
        let counted = std::mem::take(&mut self.counted);
        let Some(known_us) = &mut self.known_us else {
            let comes = counted.into_iter().map(|(bucket, key)| (end_us(bucket), key));
            return Turns { comes: comes.collect(), goes: None };
        };
        let known_us = std::mem::take(known_us);
        let (mut comes, mut goes) = (Vec::new(), Vec::new());
        for ((bucket, key), known_us) in counted.into_iter().zip(known_us) {
            let end_us = end_us(bucket);
            let (come_us, go_us) =
                (end_us.max(known_us.saturating_add(1)), end_us.saturating_add(self.global.width_us));
            if come_us < go_us {
                comes.push((come_us, key));
                goes.push((go_us, key));
            }
        }
        Turns { comes, goes: Some(goes) }
    }

    /// For how long a contribution that was known at once counts, µs.
    pub fn width_us(&self) -> i64 {
        self.global.width_us
    }

    /// About how many bytes it takes up.
    pub fn bytes(&self) -> usize {
        self.counted.len() * size_of::<(i64, u32)>()
            + self.known_us.as_ref().map_or(0, |known_us| known_us.len() * size_of::<i64>())
    }

    /// Adds what `extract` returned for a batch of events with these keys ([`NO_KEY`] = a null key) and times.
    pub fn push(&mut self, keys: &[u32], times_us: &[i64], contributions: &Contributions) {
        self.push_known(keys, times_us, times_us, contributions);
    }

    /// As [`push`](Self::push), of events that became known at `known_us`.
    pub fn push_known(&mut self, keys: &[u32], times_us: &[i64], known_us: &[i64], contributions: &Contributions) {
        presence(&self.slots, contributions, &mut self.masks);
        for (&event, &mask) in contributions.rows.iter().zip(&self.masks) {
            let key = keys[event as usize];
            if mask >> self.global.slot & 1 == 1 && key != NO_KEY {
                self.counted.push((times_us[event as usize].div_euclid(self.global.hop_us), key));
                if let Some(all) = &mut self.known_us {
                    all.push(known_us[event as usize]);
                }
            }
        }
    }
}

/// The relative rank of each label's key at its time; 0.0 for [`NO_KEY`].
///
/// `parts` are the histories of one distribution, `keys` is above every key id in them and in the labels.
pub fn ranks(parts: &[RankHistory], keys: usize, label_keys: &[u32], label_times_us: &[i64]) -> Vec<f64> {
    let mut ranks = vec![0.0; label_keys.len()];
    let Some(GlobalDef { width_us, hop_us, .. }) = parts.first().map(|part| part.global.clone()) else { return ranks };
    // A window [B − W, B) covers the buckets [B/hop − W/hop, B/hop): its width is a multiple of the hop.
    let (width, end_of) = (width_us / hop_us, |time_us: i64| time_us.div_euclid(hop_us));
    let mut order: Vec<u32> = (0..label_keys.len() as u32).filter(|&l| label_keys[l as usize] != NO_KEY).collect();
    order.sort_unstable_by_key(|&label| label_times_us[label as usize]);
    let (Some(&oldest), Some(&newest)) = (order.first(), order.last()) else { return ranks };
    if parts.iter().any(|part| part.known_us.is_some()) {
        let instants = order.iter().map(|&label| (label as usize, label_times_us[label as usize]));
        as_known(parts, keys, instants, |label, standings| ranks[label] = standings.rank(label_keys[label]));
        return ranks;
    }
    let reach = end_of(label_times_us[oldest as usize]).saturating_sub(width)..end_of(label_times_us[newest as usize]);
    let mut counted: Vec<(i64, u32)> =
        parts.iter().flat_map(|part| &part.counted).filter(|(bucket, _)| reach.contains(bucket)).copied().collect();
    // Stable: it finds the runs that the workers' shares are.
    counted.sort_by_key(|&(bucket, _)| bucket);

    let mut standings = Standings::new(keys);
    let (mut low, mut high) = (0, 0);
    for label in order {
        let end = end_of(label_times_us[label as usize]);
        let start = end.saturating_sub(width);
        while low < high && counted[low].0 < start {
            standings.remove(counted[low].1);
            low += 1;
        }
        if low == high {
            // Nothing is counted: go straight to the window instead of moving everything between through it.
            low += counted[low..].partition_point(|&(bucket, _)| bucket < start);
            high = low;
        }
        while high < counted.len() && counted[high].0 < end {
            standings.add(counted[high].1);
            high += 1;
        }
        ranks[label as usize] = standings.rank(label_keys[label as usize]);
    }
    ranks
}

/// Goes to each instant of the labels, which rise, with the standings of what was known before it: a contribution comes
/// when its hop is complete and it is known, and goes with its hop.
fn as_known(
    parts: &[RankHistory],
    keys: usize,
    labels: impl Iterator<Item = (usize, i64)>,
    mut at: impl FnMut(usize, &Standings),
) {
    let Some(GlobalDef { width_us, hop_us, .. }) = parts.first().map(|part| part.global.clone()) else { return };
    let (mut comes, mut goes) = (Vec::new(), Vec::new());
    for part in parts {
        for (&(bucket, key), &known_us) in part.counted.iter().zip(part.known_us.iter().flatten()) {
            let end_us = bucket.saturating_add(1).saturating_mul(hop_us);
            let (come_us, go_us) = (end_us.max(known_us.saturating_add(1)), end_us.saturating_add(width_us));
            if come_us < go_us {
                comes.push((come_us, key));
                goes.push((go_us, key));
            }
        }
    }
    let mut standings = Standings::new(keys);
    comes.sort_unstable();
    goes.sort_unstable();
    let (mut come, mut go) = (comes.into_iter().peekable(), goes.into_iter().peekable());
    for (label, time_us) in labels {
        // What came and went since the label before comes first, so that it can go.
        while let Some((_, key)) = come.next_if(|&(come_us, _)| come_us <= time_us) {
            standings.add(key);
        }
        while let Some((_, key)) = go.next_if(|&(go_us, _)| go_us <= time_us) {
            standings.remove(key);
        }
        at(label, &standings);
    }
}

/// How many contributions each entity has in the window, and how many entities have how many.
#[derive(Debug)]
pub struct Standings {
    counts: Vec<u32>,
    /// Entity counts by number of contributions, which are 1 and up; their number is a power of 2.
    by_count: Vec<u32>,
    /// Their Fenwick tree.
    tree: Vec<u32>,
    entities: u32,
}

impl Standings {
    /// Of entities numbered below `keys`, none of which has any contribution.
    pub fn new(keys: usize) -> Self {
        Self { counts: vec![0; keys], by_count: vec![0; 2], tree: vec![0; 2], entities: 0 }
    }

    /// An entity gets one more.
    pub fn add(&mut self, key: u32) {
        let count = self.counts[key as usize];
        if count as usize + 1 >= self.tree.len() {
            self.grow();
        }
        self.shift(count, -1);
        self.shift(count + 1, 1);
        self.counts[key as usize] = count + 1;
    }

    /// An entity that has some has one less.
    pub fn remove(&mut self, key: u32) {
        let count = self.counts[key as usize];
        self.shift(count, -1);
        self.shift(count - 1, 1);
        self.counts[key as usize] = count - 1;
    }

    fn shift(&mut self, count: u32, by: i32) {
        if count == 0 {
            return;
        }
        self.entities = self.entities.wrapping_add_signed(by);
        self.by_count[count as usize] = self.by_count[count as usize].wrapping_add_signed(by);
        let mut at = count as usize;
        while at < self.tree.len() {
            self.tree[at] = self.tree[at].wrapping_add_signed(by);
            at += at & at.wrapping_neg();
        }
    }

    /// Makes room for twice as many contributions of one entity.
    fn grow(&mut self) {
        self.by_count.resize(2 * self.by_count.len(), 0);
        self.tree.clear();
        self.tree.extend_from_slice(&self.by_count);
        for at in 1..self.tree.len() {
            let above = at + (at & at.wrapping_neg());
            if above < self.tree.len() {
                self.tree[above] += self.tree[at];
            }
        }
    }

    /// The share of the other entities in the window that have fewer; 0 without any contribution, 1 alone.
    pub fn rank(&self, key: u32) -> f64 {
        let count = self.counts[key as usize];
        match (count, self.entities) {
            (0, _) => 0.0,
            (_, 1) => 1.0,
            (_, entities) => {
                let (mut at, mut fewer) = (count as usize - 1, 0u32);
                while at > 0 {
                    fewer += self.tree[at];
                    at &= at - 1;
                }
                f64::from(fewer) / f64::from(entities - 1)
            }
        }
    }
}
