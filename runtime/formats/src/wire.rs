//! The bytes of a record: what is in front of it, and reading it piece by piece.

/// The first byte of a record whose schema is in a registry.
const MAGIC: u8 = 0;

/// Why bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// They end too early.
    Short,
    /// A number has more than 64 bits.
    Long,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Broken::Short => "the record ends early",
            Broken::Long => "a number has more than 64 bits",
        })
    }
}

impl From<Broken> for String {
    fn from(broken: Broken) -> Self {
        broken.to_string()
    }
}

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, count: u64) -> Result<&'a [u8], Broken> {
        let count = usize::try_from(count).map_err(|_| Broken::Short)?;
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Broken::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Broken::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// Seven bits a byte, least significant first.
    pub(crate) fn varint(&mut self) -> Result<u64, Broken> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return if shift == 63 && byte > 1 { Err(Broken::Long) } else { Ok(value) };
            }
        }
        Err(Broken::Long)
    }

    /// A varint of small magnitude whatever its sign.
    pub(crate) fn zigzag(&mut self) -> Result<i64, Broken> {
        self.varint().map(unzigzag)
    }
}

pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The schema a record was written with, and the record.
pub(crate) fn split_schema(bytes: &[u8]) -> Result<(u32, Input<'_>), String> {
    match bytes.split_first_chunk::<5>() {
        Some(([MAGIC, id @ ..], rest)) => Ok((u32::from_be_bytes(*id), Input(rest))),
        Some(([first, ..], _)) => Err(format!("no registry record: it begins with byte {first}, not with {MAGIC}")),
        None => Err(format!("no registry record: {} bytes, a schema id alone takes 5", bytes.len())),
    }
}

/// Which message of a Protobuf file a record is: the index of a top-level message, of a message in it, and so on.
pub(crate) fn message_path(input: &mut Input<'_>) -> Result<Vec<usize>, String> {
    let bad = || "no registry record: its message index cannot be read".to_owned();
    let mut index = || input.zigzag().ok().and_then(|index| usize::try_from(index).ok()).ok_or_else(bad);
    match index()? {
        // The usual case, the first message, is written as one zero.
        0 => Ok(vec![0]),
        count if count <= 64 => (0..count).map(|_| index()).collect(),
        _ => Err(bad()),
    }
}
