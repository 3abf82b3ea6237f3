//! What a view's state knows of its source partition as a whole: the newest event time, under a reserved key.

use super::{Field, FieldWrite};
use crate::codec::VERSION;
use crate::codec::read_start;
use crate::codec::wire::{Reader, put_i64};
use crate::entity::EntityKey;
use crate::{Error, Result};

/// What reserved keys begin with. A key of one field is UTF-8, which has no such bytes; one of several fields
/// begins with a length, and no record holds a field of 4 GiB. So no entity can have a reserved key.
pub(crate) const RESERVED: &[u8] = b"\xff\xff\xff\xff";

/// The reserved key whose header holds the partition's newest event time.
pub fn partition_key() -> EntityKey {
    EntityKey::from_bytes(&[RESERVED, b"partition"].concat())
}

/// The write of the newest event time.
pub(super) fn write(newest_us: i64) -> FieldWrite {
    let mut value = vec![VERSION];
    put_i64(&mut value, newest_us);
    FieldWrite { key: partition_key(), field: Field::Header, value: Some(value) }
}

/// Reads the newest event time.
pub(super) fn decode(value: Option<&[u8]>) -> Result<i64> {
    let value = value.ok_or_else(|| Error::codec("the partition's header is missing"))?;
    let mut reader = Reader::new(value);
    read_start(&mut reader)?;
    let newest_us = reader.i64()?;
    reader.finish()?;
    Ok(newest_us)
}
