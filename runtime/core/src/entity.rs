//! Entities: kinds of things (user, item) and the canonical bytes of a key.

use crate::column::Column;

/// A kind of thing and the fields that identify one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityDef {
    /// The entity's name, e.g. `user`.
    pub name: String,
    /// The key's fields in order, e.g. `["user_id"]`; composite keys have several.
    pub key: Vec<String>,
}

/// The canonical bytes of an entity key.
///
/// A key of one field is that field's bytes; of several, each field's length as a `u32` (big-endian)
/// and its bytes, in the declared order. Equal keys have equal bytes, and only they do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityKey(Box<[u8]>);

impl EntityKey {
    /// The key of these field values.
    pub fn from_parts<P: AsRef<[u8]>>(parts: &[P]) -> Self {
        let mut bytes = Vec::new();
        write_parts(parts.iter().map(AsRef::as_ref), parts.len(), &mut bytes);
        Self(bytes.into_boxed_slice())
    }

    /// Takes canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The field values of a key of `fields` fields; `None` if the bytes are not such a key.
    pub fn parts(&self, fields: usize) -> Option<Vec<&[u8]>> {
        if fields == 1 {
            return Some(vec![&self.0]);
        }
        let mut rest: &[u8] = &self.0;
        let mut parts = Vec::with_capacity(fields);
        for _ in 0..fields {
            let (len, tail) = rest.split_first_chunk::<4>()?;
            let (part, tail) = tail.split_at_checked(u32::from_be_bytes(*len) as usize)?;
            parts.push(part);
            rest = tail;
        }
        rest.is_empty().then_some(parts)
    }
}

fn write_parts<'a>(parts: impl Iterator<Item = &'a [u8]>, count: usize, out: &mut Vec<u8>) {
    for part in parts {
        if count > 1 {
            out.extend_from_slice(&(part.len() as u32).to_be_bytes());
        }
        out.extend_from_slice(part);
    }
}

/// Writes the canonical key of a row into `out` (cleared first); false if a field is null.
///
/// `columns` are the key's fields in order, each of strings.
pub fn key_of_row(columns: &[&Column], row: usize, out: &mut Vec<u8>) -> bool {
    out.clear();
    if columns.iter().any(|column| !column.is_valid(row)) {
        return false;
    }
    write_parts(columns.iter().filter_map(|column| column.str_bytes(row)), columns.len(), out);
    true
}

/// The canonical key of a row, which lies in its column or else in `out`; `None` if a field is null.
///
/// `columns` are the key's fields in order, each of strings.
pub fn key_of<'a>(columns: &[&'a Column], row: usize, out: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    match columns {
        [column] => column.str_bytes(row),
        _ => key_of_row(columns, row, out).then_some(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composite_keys_do_not_collide() {
        let ab_c = EntityKey::from_parts(&["ab", "c"]);
        let a_bc = EntityKey::from_parts(&["a", "bc"]);
        assert_ne!(ab_c, a_bc);
        assert_eq!(ab_c.parts(2).unwrap(), vec![&b"ab"[..], b"c"]);
        assert_eq!(EntityKey::from_parts(&["u1"]).as_bytes(), b"u1");
        assert!(EntityKey::from_bytes(b"\0\0\0\x09x").parts(2).is_none());
    }
}
