//! Keys, fields and marks.

use plumb_core::plan::StateId;
use plumb_pipeline::port::OnlineField;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

/// Entities longer than this are stored under their digest.
const LONGEST_ENTITY: usize = 1024;

/// Keys of one namespace and source.
#[derive(Debug)]
pub(crate) struct Keys {
    /// `plumb:<namespace>:{`
    start: Vec<u8>,
    pub(crate) buckets: u32,
}

impl Keys {
    pub(crate) fn new(namespace: &str, buckets: u32) -> Self {
        Self { start: format!("plumb:{namespace}:{{").into_bytes(), buckets }
    }

    /// The bucket of an entity.
    pub(crate) fn bucket(&self, key: &[u8]) -> u32 {
        (xxh3_64(key) % u64::from(self.buckets)) as u32
    }

    /// The key of one entity of a state: `plumb:<ns>:{<entity>/<bucket>}:<source>:<state id>:<key>`.
    pub(crate) fn entity(
        &self,
        out: &mut Vec<u8>,
        entity: &str,
        bucket: u32,
        source: &str,
        state_id: StateId,
        key: &[u8],
    ) {
        out.clear();
        out.extend_from_slice(&self.start);
        push_tag(out, entity, bucket);
        out.extend_from_slice(b"}:");
        out.extend_from_slice(source.as_bytes());
        out.push(b':');
        push_hex(out, state_id);
        if key.len() <= LONGEST_ENTITY {
            out.push(b':');
            out.extend_from_slice(key);
        } else {
            out.push(b'#');
            out.extend_from_slice(&Sha256::digest(key));
        }
    }

    /// The hash of a tag's marks: `plumb:<ns>:{<tag>}:_at`.
    pub(crate) fn tag_marks(&self, tag: &[u8]) -> Vec<u8> {
        [&self.start, tag, b"}:_at"].concat()
    }

    /// The hash of a source's positions, which are the marks of its partitions as wholes.
    pub(crate) fn positions(&self, source: &str) -> Vec<u8> {
        [self.start.as_slice(), POSITIONS_TAG, b"}:", source.as_bytes()].concat()
    }

    /// Where the number of buckets is kept.
    pub(crate) fn layout(&self) -> Vec<u8> {
        [self.start.as_slice(), POSITIONS_TAG, b"}:_layout"].concat()
    }

    /// A pattern that every entity of a source matches, and some others.
    pub(crate) fn pattern(&self, source: &str, state_id: Option<StateId>) -> Vec<u8> {
        let mut pattern = [self.start.as_slice(), b"*}:", source.as_bytes(), b":"].concat();
        if let Some(state_id) = state_id {
            push_hex(&mut pattern, state_id);
        }
        pattern.push(b'*');
        pattern
    }

    /// The tag of a key if that is an entity of a source (and state).
    pub(crate) fn tag_of<'a>(&self, key: &'a [u8], source: &str, state_id: Option<StateId>) -> Option<&'a [u8]> {
        let rest = key.strip_prefix(self.start.as_slice())?;
        let end = memchr::memchr(b'}', rest)?;
        let (tag, rest) = rest.split_at(end);
        let rest = rest.strip_prefix(b"}:")?.strip_prefix(source.as_bytes())?.strip_prefix(b":")?;
        if let Some(state_id) = state_id {
            let mut id = Vec::with_capacity(16);
            push_hex(&mut id, state_id);
            rest.strip_prefix(id.as_slice())?;
        }
        Some(tag)
    }
}

/// The tag of what belongs to no entity.
pub(crate) const POSITIONS_TAG: &[u8] = b"_positions/0";

/// The tag of a bucket: `<entity>/<bucket>`.
pub(crate) fn tag(entity: &str, bucket: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(entity.len() + 4);
    push_tag(&mut out, entity, bucket);
    out
}

fn push_tag(out: &mut Vec<u8>, entity: &str, bucket: u32) {
    out.extend_from_slice(entity.as_bytes());
    out.push(b'/');
    out.extend_from_slice(itoa::Buffer::new().format(bucket).as_bytes());
}

fn push_hex(out: &mut Vec<u8>, state_id: StateId) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in state_id.0 {
        out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// A partition's field: `h<partition>` or `t<partition>:<start>`.
pub(crate) fn push_field(out: &mut Vec<u8>, partition: u32, field: OnlineField) {
    let mut number = itoa::Buffer::new();
    match field {
        OnlineField::Header => {
            out.push(b'h');
            out.extend_from_slice(number.format(partition).as_bytes());
        }
        OnlineField::Tile(start_us) => {
            out.push(b't');
            out.extend_from_slice(number.format(partition).as_bytes());
            out.push(b':');
            out.extend_from_slice(number.format(start_us).as_bytes());
        }
    }
}

/// Up to where a tag or a partition is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A position.
    At(u64),
    /// None: this many parts of a rebuild are written. 0 means that nothing is there.
    Building(u64),
}

impl Place {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix('-') {
            Some(parts) => parts.parse().ok().map(Place::Building),
            None => text.parse().ok().map(Place::At),
        }
    }

    pub(crate) fn position(self) -> Option<u64> {
        match self {
            Place::At(position) => Some(position),
            Place::Building(_) => None,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::At(position) => write!(f, "{position}"),
            Place::Building(parts) => write!(f, "-{parts}"),
        }
    }
}

/// The place of a mark, `<generation> <place>`.
pub(crate) fn place_of(mark: &[u8]) -> Option<Place> {
    let text = std::str::from_utf8(mark).ok()?;
    Place::parse(text.split_once(' ')?.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_entity() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(prop_oneof![Just(b':'), Just(b'}'), Just(b'#'), any::<u8>()], 0..12),
            (1020usize..1030).prop_map(|len| vec![b'x'; len]),
        ]
    }

    fn full(keys: &Keys, (name, source, state, key): &(String, String, [u8; 8], Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        keys.entity(&mut out, name, keys.bucket(key), source, StateId(*state), key);
        out
    }

    proptest! {
        #[test]
        fn no_two_entities_share_a_key_and_each_is_found_by_its_source(
            a in ("[a-z_]{1,3}", "[a-z_]{1,3}", any::<[u8; 8]>(), any_entity()),
            b in ("[a-z_]{1,3}", "[a-z_]{1,3}", any::<[u8; 8]>(), any_entity()),
        ) {
            let keys = Keys::new("default", 256);
            let (key_a, key_b) = (full(&keys, &a), full(&keys, &b));
            prop_assert_eq!(a == b, key_a == key_b);
            let wanted = tag(&a.0, keys.bucket(&a.3));
            prop_assert_eq!(keys.tag_of(&key_a, &a.1, Some(StateId(a.2))), Some(wanted.as_slice()));
            prop_assert_eq!(keys.tag_of(&key_b, &a.1, None).is_some(), a.1 == b.1);
        }

        #[test]
        fn places_are_read_as_written(position in any::<u64>(), building in any::<bool>()) {
            let place = if building { Place::Building(position) } else { Place::At(position) };
            prop_assert_eq!(place_of(format!("7 {place}").as_bytes()), Some(place));
        }
    }

    #[test]
    fn keys_look_as_documented() {
        let keys = Keys::new("shop", 256);
        let mut out = Vec::new();
        keys.entity(&mut out, "user", 7, "default", StateId(*b"\x01\x23\x45\x67\x89\xab\xcd\xef"), b"u1");
        assert_eq!(out, b"plumb:shop:{user/7}:default:0123456789abcdef:u1");
        assert_eq!(keys.tag_marks(b"user/7"), b"plumb:shop:{user/7}:_at");
        assert_eq!(keys.positions("default"), b"plumb:shop:{_positions/0}:default");
        let mut field = Vec::new();
        push_field(&mut field, 12, OnlineField::Tile(-60));
        push_field(&mut field, 3, OnlineField::Header);
        assert_eq!(field, b"t12:-60h3");
        // Its place in the layout must not change: stores are full of it.
        assert_eq!(keys.bucket(b"u1"), 241);
        assert_eq!((place_of(b"7"), place_of(b"7 x"), place_of(b"\xff 1")), (None, None, None));
    }
}
