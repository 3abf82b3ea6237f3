//! Redis's wire format: commands as they are sent, replies as they are read.

use std::borrow::Cow;
use std::io;

/// The longest string and array believed; a longer one means that the other side does not speak this protocol.
const LONGEST_STRING: usize = 512 << 20;
const LONGEST_ARRAY: usize = 64 << 20;

/// How deep arrays may lie in each other.
const DEEPEST: usize = 8;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Nil,
    /// `OK`, `QUEUED`, …
    Simple(Cow<'static, str>),
    /// An error of the server, which begins with its code.
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Array(Vec<Value>),
}

impl Value {
    /// The text of a simple or bulk string.
    pub(crate) fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Value::Simple(text) => Some(Cow::Borrowed(text)),
            Value::Bulk(bytes) => Some(String::from_utf8_lossy(bytes)),
            _ => None,
        }
    }
}

/// Commands, packed one after the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commands {
    pub(crate) bytes: Vec<u8>,
}

impl Commands {
    /// A whole command.
    pub(crate) fn command(&mut self, args: &[&[u8]]) {
        self.begin(args.len());
        args.iter().for_each(|arg| self.arg(arg));
    }

    /// Begins a command of so many arguments, its name included.
    pub(crate) fn begin(&mut self, args: usize) {
        self.line(b'*', args);
    }

    /// The next argument.
    pub(crate) fn arg(&mut self, arg: &[u8]) {
        self.line(b'$', arg.len());
        self.bytes.extend_from_slice(arg);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// The next argument, in decimal.
    pub(crate) fn number(&mut self, number: impl itoa::Integer) {
        self.arg(itoa::Buffer::new().format(number).as_bytes());
    }

    fn line(&mut self, kind: u8, length: usize) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }
}

/// What replies are read from: a buffer that can be asked for more.
pub(crate) trait More {
    /// Writes at least a byte to the beginning of `space` and returns how many, or fails.
    fn more(&mut self, space: &mut [u8]) -> io::Result<usize>;
}

/// Bytes that have arrived and are not read yet.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    /// What has arrived, and space for more: kept as it is from reply to reply, so that it is zeroed once.
    buffer: Vec<u8>,
    filled: usize,
    at: usize,
}

/// Bytes asked of the network at a time, at least.
const SPACE: usize = 32 << 10;

impl Incoming {
    /// Whether nothing is left to read.
    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.filled
    }

    /// Gives back memory beyond `kept` bytes.
    pub(crate) fn give_back(&mut self, kept: usize) {
        if self.is_empty() && self.buffer.len() > kept {
            *self = Self::default();
        }
    }

    /// Reads the next reply.
    pub(crate) fn value(&mut self, from: &mut impl More) -> io::Result<Value> {
        if self.is_empty() {
            self.at = 0;
            self.filled = 0;
        }
        self.value_within(from, DEEPEST)
    }

    fn value_within(&mut self, from: &mut impl More, depth: usize) -> io::Result<Value> {
        let (start, end) = self.line(from)?;
        let Some((&kind, text)) = self.buffer[start..end].split_first() else { return Err(strange("an empty line")) };
        match kind {
            b'+' => Ok(Value::Simple(match text {
                b"OK" => Cow::Borrowed("OK"),
                b"QUEUED" => Cow::Borrowed("QUEUED"),
                other => Cow::Owned(String::from_utf8_lossy(other).into_owned()),
            })),
            b'-' => Ok(Value::Error(String::from_utf8_lossy(text).into_owned())),
            b':' => number(text).map(Value::Int).ok_or_else(|| strange("a damaged number")),
            b'$' => {
                let Some(length) = length(text, LONGEST_STRING)? else { return Ok(Value::Nil) };
                self.need(from, length + 2)?;
                let bytes = self.buffer[self.at..self.at + length].to_vec();
                self.at += length + 2;
                Ok(Value::Bulk(bytes))
            }
            b'*' => {
                let Some(length) = length(text, LONGEST_ARRAY)? else { return Ok(Value::Nil) };
                if depth == 0 {
                    return Err(strange("arrays in arrays without end"));
                }
                // No more than has arrived can be meant yet: each value is at least three bytes.
                let mut values = Vec::with_capacity(length.min(self.filled / 3 + 16));
                for _ in 0..length {
                    values.push(self.value_within(from, depth - 1)?);
                }
                Ok(Value::Array(values))
            }
            other => Err(strange(&format!("a reply that begins with byte {other}"))),
        }
    }

    /// The next line without its end.
    fn line(&mut self, from: &mut impl More) -> io::Result<(usize, usize)> {
        let mut searched = self.at;
        loop {
            if let Some(found) = memchr::memchr(b'\n', &self.buffer[searched..self.filled]) {
                let (start, end) = (self.at, searched + found);
                if end == start || self.buffer[end - 1] != b'\r' {
                    return Err(strange("a line without its end"));
                }
                self.at = end + 1;
                return Ok((start, end - 1));
            }
            searched = self.filled;
            self.fill(from)?;
        }
    }

    fn fill(&mut self, from: &mut impl More) -> io::Result<()> {
        if self.buffer.len() - self.filled < SPACE {
            self.buffer.resize((2 * self.buffer.len()).max(2 * SPACE), 0);
        }
        self.filled += from.more(&mut self.buffer[self.filled..])?;
        Ok(())
    }

    fn need(&mut self, from: &mut impl More, bytes: usize) -> io::Result<()> {
        while self.filled - self.at < bytes {
            self.fill(from)?;
        }
        Ok(())
    }
}

fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("this is no Redis: {what}"))
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A length; `None` = -1.
fn length(text: &[u8], longest: usize) -> io::Result<Option<usize>> {
    match number(text) {
        Some(-1) => Ok(None),
        Some(length) if (0..=longest as i64).contains(&length) => Ok(Some(length as usize)),
        _ => Err(strange("a damaged length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives out bytes a few at a time.
    struct Trickle<'a> {
        bytes: &'a [u8],
        step: usize,
    }

    impl More for Trickle<'_> {
        fn more(&mut self, space: &mut [u8]) -> io::Result<usize> {
            if self.bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (now, later) = self.bytes.split_at(self.step.clamp(1, self.bytes.len()));
            space[..now.len()].copy_from_slice(now);
            self.bytes = later;
            Ok(now.len())
        }
    }

    fn write(value: &Value, out: &mut Vec<u8>) {
        match value {
            Value::Nil => out.extend_from_slice(b"$-1\r\n"),
            Value::Simple(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Value::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
            Value::Int(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Value::Bulk(bytes) => {
                out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Value::Array(values) => {
                out.extend_from_slice(format!("*{}\r\n", values.len()).as_bytes());
                values.iter().for_each(|value| write(value, out));
            }
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            Just(Value::Simple("OK".into())),
            "[ -~]{0,9}".prop_map(|text| Value::Simple(text.into())),
            "[ -~]{0,9}".prop_map(Value::Error),
            any::<i64>().prop_map(Value::Int),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bulk),
        ];
        leaf.prop_recursive(3, 30, 6, |inner| prop::collection::vec(inner, 0..6).prop_map(Value::Array))
    }

    proptest! {
        #[test]
        fn replies_are_read_however_they_arrive(values in prop::collection::vec(any_value(), 1..5), step in 1usize..50) {
            let mut bytes = Vec::new();
            values.iter().for_each(|value| write(value, &mut bytes));
            let mut from = Trickle { bytes: &bytes, step };
            let mut incoming = Incoming::default();
            for value in &values {
                prop_assert_eq!(&incoming.value(&mut from).unwrap(), value);
            }
            prop_assert!(incoming.is_empty() && from.bytes.is_empty());
        }

        #[test]
        fn other_bytes_are_an_error_and_no_panic(bytes in prop::collection::vec(
            prop_oneof![Just(b'*'), Just(b'$'), Just(b':'), Just(b'\r'), Just(b'\n'), Just(b'9'), Just(b'-'), any::<u8>()],
            0..60,
        )) {
            let mut from = Trickle { bytes: &bytes, step: 7 };
            let mut incoming = Incoming::default();
            while incoming.value(&mut from).is_ok() {}
        }
    }

    #[test]
    fn commands_are_packed() {
        let mut commands = Commands::default();
        commands.command(&[b"GET", b"a\r\nb"]);
        commands.begin(2);
        commands.arg(b"X");
        commands.number(-12i64);
        assert_eq!(commands.bytes, b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n*2\r\n$1\r\nX\r\n$3\r\n-12\r\n");
    }
}
