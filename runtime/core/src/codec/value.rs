//! How single values, records and accumulators are written.

use super::wire::{Reader, put_bytes, put_i64, put_u64};
use crate::accumulator::distinct::{Distinct, LeastHashes, LeastValues};
use crate::accumulator::exact_sum::ExactSum;
use crate::accumulator::last::Last;
use crate::accumulator::moments::Moments;
use crate::accumulator::quantile::Sketch;
use crate::accumulator::sessions::{Session, Sessions};
use crate::accumulator::value_counts::ValueCounts;
use crate::accumulator::{Accumulator, cap, gap_us};
use crate::column::Strings;
use crate::plan::{AccumulatorDef, AccumulatorKind, Plan};
use crate::time::{MINUTE_US, SECOND_US};
use crate::view::SlotType;
use crate::{Error, Result};

/// Times inside a tile are written in the largest of these units (µs) that divides them all.
const UNITS_US: [u64; 4] = [1, 1_000, SECOND_US as u64, MINUTE_US as u64];

/// The largest magnitude of a float written as hundredths.
const HUNDREDTHS_MAX: f64 = 9_007_199_254_740_992.0;

/// A float as hundredths, if that gives the same bits back: most prices.
fn hundredths(value: f64) -> Option<i64> {
    let scaled = (value * 100.0).round();
    if scaled.is_nan() || scaled.abs() > HUNDREDTHS_MAX {
        return None;
    }
    // By way of the integer, which has no minus zero.
    let count = scaled as i64;
    ((count as f64 / 100.0).to_bits() == value.to_bits()).then_some(count)
}

fn put_f64(out: &mut Vec<u8>, value: f64) {
    match hundredths(value) {
        Some(count) => put_u64(out, super::wire::zigzag(count) << 1),
        None => {
            out.push(1);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

fn read_f64(reader: &mut Reader<'_>) -> Result<f64> {
    let head = reader.u64()?;
    if head % 2 == 0 {
        let value = super::wire::unzigzag(head >> 1) as f64 / 100.0;
        return match hundredths(value) {
            Some(count) if super::wire::zigzag(count) << 1 == head => Ok(value),
            _ => Err(Error::codec("a float's hundredths are out of range")),
        };
    }
    let bytes = reader.take(8)?.first_chunk::<8>().copied().expect("eight bytes were taken");
    let value = f64::from_le_bytes(bytes);
    if head != 1 || !value.is_finite() || hundredths(value).is_some() {
        return Err(Error::codec("a float is not in its shortest form, or not finite"));
    }
    Ok(value)
}

fn put_value(out: &mut Vec<u8>, slot: SlotType, word: u64) {
    match slot {
        SlotType::Mark => {}
        SlotType::I64 | SlotType::Timestamp => put_i64(out, word as i64),
        SlotType::F64 => put_f64(out, f64::from_bits(word)),
        SlotType::Bool | SlotType::Utf8 => put_u64(out, word),
    }
}

fn read_value(reader: &mut Reader<'_>, slot: SlotType, strings: usize) -> Result<u64> {
    match slot {
        SlotType::Mark => Ok(0),
        SlotType::I64 | SlotType::Timestamp => Ok(reader.i64()? as u64),
        SlotType::F64 => Ok(read_f64(reader)?.to_bits()),
        SlotType::Bool => match reader.u64()? {
            word @ (0 | 1) => Ok(word),
            word => Err(Error::codec(format!("a truth value is {word}"))),
        },
        SlotType::Utf8 => read_code(reader, strings),
    }
}

fn read_code(reader: &mut Reader<'_>, strings: usize) -> Result<u64> {
    match reader.u64()? {
        code if code < strings as u64 => Ok(code),
        code => Err(Error::codec(format!("string {code} of {strings}"))),
    }
}

fn read_id(reader: &mut Reader<'_>, strings: usize) -> Result<u32> {
    match reader.u64()? {
        id if id <= strings as u64 => Ok(id as u32),
        id => Err(Error::codec(format!("event id {id} of {strings}"))),
    }
}

/// Writes a dictionary, its strings in rising byte order.
pub(super) fn put_strings<'a>(out: &mut Vec<u8>, strings: impl ExactSizeIterator<Item = &'a [u8]>) {
    put_u64(out, strings.len() as u64);
    for string in strings {
        put_bytes(out, string);
    }
}

pub(super) fn read_strings(reader: &mut Reader<'_>) -> Result<Strings> {
    let mut strings = Strings::new();
    for index in 0..reader.count(1)? {
        let string = reader.bytes()?;
        if index > 0 && strings.get(index - 1) >= string {
            return Err(Error::codec("a dictionary is not in rising order"));
        }
        strings.push(string);
    }
    Ok(strings)
}

/// Writes records in canonical order, with canonical codes: four times their number plus the time unit, then each.
pub(super) fn put_records(out: &mut Vec<u8>, plan: &Plan, words: &[u64]) {
    let layout = &plan.layout;
    let unit = (1..UNITS_US.len())
        .take_while(|&unit| layout.records(words).all(|record| layout.offset_us(record).is_multiple_of(UNITS_US[unit])))
        .count();
    put_u64(out, ((words.len() / layout.width) as u64) << 2 | unit as u64);
    let mut previous = 0;
    for record in layout.records(words) {
        let offset = layout.offset_us(record) / UNITS_US[unit];
        put_u64(out, offset - previous);
        previous = offset;
        let mask = layout.mask(record);
        put_u64(out, mask);
        if layout.id.is_some() {
            put_u64(out, u64::from(layout.id(record)));
        }
        for (slot, word) in layout.values.iter().enumerate() {
            if let Some(word) = *word
                && mask >> slot & 1 == 1
            {
                put_value(out, layout.types[slot], record[word]);
            }
        }
    }
}

/// Reads records: `head` is the number with the time unit.
pub(super) fn read_records(reader: &mut Reader<'_>, plan: &Plan, head: u64, strings: usize) -> Result<Vec<u64>> {
    let layout = &plan.layout;
    let (count, unit_us) = (head >> 2, UNITS_US[(head & 3) as usize]);
    if count > (reader.remaining() / 2) as u64 {
        return Err(Error::codec(format!(
            "{count} contributions are announced, {} bytes are left",
            reader.remaining()
        )));
    }
    let mut words = vec![0; count as usize * layout.width];
    let mut offset = 0u64;
    let known = if layout.types.len() == 64 { u64::MAX } else { (1 << layout.types.len()) - 1 };
    for record in words.chunks_exact_mut(layout.width) {
        offset = reader.u64()?.checked_mul(unit_us).and_then(|step| offset.checked_add(step)).unwrap_or(u64::MAX);
        if offset >= plan.tile_us as u64 {
            return Err(Error::codec("a contribution lies outside its tile"));
        }
        let mask = reader.u64()?;
        if mask == 0 || mask & !known != 0 {
            return Err(Error::codec(format!("a contribution to slots {mask:#x}")));
        }
        layout.set_head(record, offset, mask);
        if let Some(word) = layout.id {
            record[word] = u64::from(read_id(reader, strings)?);
        }
        for (slot, word) in layout.values.iter().enumerate() {
            if let Some(word) = *word
                && mask >> slot & 1 == 1
            {
                record[word] = read_value(reader, layout.types[slot], strings)?;
            }
        }
    }
    Ok(words)
}

/// Writes an accumulator; its times are relative to `origin_us`, its codes are canonical.
pub(super) fn put_accumulator(out: &mut Vec<u8>, def: &AccumulatorDef, held: &Accumulator, origin_us: i64) {
    let put_time = |out: &mut Vec<u8>, time_us: i64| put_i64(out, time_us.wrapping_sub(origin_us));
    match held {
        Accumulator::Count(count) => put_u64(out, *count),
        Accumulator::Sum { sum, count } => {
            put_u64(out, *count);
            sum.encode(out);
        }
        Accumulator::ValueCounts(counts) => put_block(out, |out| {
            for &(code, count) in &counts.0 {
                put_u64(out, u64::from(code));
                put_u64(out, count);
            }
        }),
        Accumulator::Last(last) => {
            out.push(u8::from(last.is_some()));
            if let Some(last) = last {
                put_time(out, last.time_us);
                put_u64(out, u64::from(last.id));
                put_value(out, def.slot_type, last.word);
            }
        }
        Accumulator::LastTime(time) => {
            out.push(u8::from(time.is_some()));
            if let Some(time_us) = time {
                put_time(out, *time_us);
            }
        }
        Accumulator::Sessions(sessions) => put_block(out, |out| {
            let mut previous = origin_us;
            for session in &sessions.0 {
                put_i64(out, session.start_us.wrapping_sub(previous));
                put_u64(out, session.end_us.wrapping_sub(session.start_us) as u64);
                put_u64(out, session.count);
                previous = session.end_us;
            }
        }),
        Accumulator::Extreme(value) => {
            out.push(u8::from(value.is_some()));
            if let Some(word) = value {
                put_value(out, def.slot_type, *word);
            }
        }
        Accumulator::Moments(moments) => moments.encode(out),
        Accumulator::Quantile(sketch) => put_block(out, |out| {
            let mut previous = 0;
            for &(bucket, count) in sketch.as_slice() {
                put_i64(out, i64::from(bucket) - previous);
                put_u64(out, count);
                previous = i64::from(bucket);
            }
        }),
        Accumulator::Distinct(values) => put_block(out, |out| put_codes(out, values.0.iter().copied())),
        Accumulator::LeastValues(values) => put_block(out, |out| put_codes(out, values.0.iter().copied())),
        Accumulator::LeastHashes(hashes) => put_block(out, |out| {
            hashes.0.iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
        }),
    }
}

/// Writes rising codes as the steps from one to the next.
fn put_codes(out: &mut Vec<u8>, codes: impl Iterator<Item = u32>) {
    let mut previous = 0;
    for code in codes {
        put_u64(out, u64::from(code - previous));
        previous = code;
    }
}

/// Reads a block of rising codes.
fn read_codes(reader: &mut Reader<'_>, strings: usize) -> Result<Vec<u32>> {
    let mut block = Reader::new(reader.bytes()?);
    let mut codes: Vec<u32> = Vec::with_capacity(block.remaining());
    while block.remaining() > 0 {
        let step = block.u64()?;
        let code = codes.last().map_or(0, |&last| u64::from(last)).saturating_add(step);
        if code >= strings as u64 || (step == 0 && !codes.is_empty()) {
            return Err(Error::codec(format!("a set of strings does not rise below {strings}")));
        }
        codes.push(code as u32);
    }
    Ok(codes)
}

/// Writes what `write` writes with its length before it, so that a reader may step over it.
fn put_block(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut block = Vec::new();
    write(&mut block);
    put_bytes(out, &block);
}

/// Reads an accumulator that [`put_accumulator`] wrote.
pub(super) fn read_accumulator(
    reader: &mut Reader<'_>,
    def: &AccumulatorDef,
    origin_us: i64,
    strings: usize,
) -> Result<Accumulator> {
    let read_time = |reader: &mut Reader<'_>| Ok::<_, Error>(origin_us.wrapping_add(reader.i64()?));
    Ok(match def.kind {
        AccumulatorKind::Count => Accumulator::Count(reader.u64()?),
        AccumulatorKind::Sum => {
            let count = reader.u64()?;
            Accumulator::Sum { sum: ExactSum::read(reader)?, count }
        }
        AccumulatorKind::ValueCounts => {
            let mut block = Reader::new(reader.bytes()?);
            let mut counts: Vec<(u32, u64)> = Vec::with_capacity(block.remaining() / 2);
            while block.remaining() > 0 {
                let code = read_code(&mut block, strings)? as u32;
                if counts.last().is_some_and(|&(before, _)| before >= code) {
                    return Err(Error::codec("counted values are not in rising order"));
                }
                counts.push((code, block.u64()?));
            }
            Accumulator::ValueCounts(ValueCounts(counts))
        }
        AccumulatorKind::Last => Accumulator::Last(match read_flag(reader)? {
            true => {
                let time_us = read_time(reader)?;
                let id = read_id(reader, strings)?;
                Some(Last { time_us, id, word: read_value(reader, def.slot_type, strings)? })
            }
            false => None,
        }),
        AccumulatorKind::LastTime => Accumulator::LastTime(match read_flag(reader)? {
            true => Some(read_time(reader)?),
            false => None,
        }),
        AccumulatorKind::Sessions { .. } => Accumulator::Sessions(read_sessions(reader, def, origin_us)?),
        AccumulatorKind::Min | AccumulatorKind::Max => Accumulator::Extreme(match read_flag(reader)? {
            true => Some(read_value(reader, def.slot_type, strings)?),
            false => None,
        }),
        AccumulatorKind::Moments => Accumulator::Moments(Box::new(Moments::read(reader)?)),
        AccumulatorKind::Quantile => Accumulator::Quantile(read_sketch(reader)?),
        AccumulatorKind::Distinct => Accumulator::Distinct(Distinct(read_codes(reader, strings)?)),
        AccumulatorKind::LeastValues { .. } => {
            let codes = read_codes(reader, strings)?;
            if codes.len() > cap(def) {
                return Err(Error::codec(format!("{} values in a set of {}", codes.len(), cap(def))));
            }
            Accumulator::LeastValues(LeastValues(codes))
        }
        AccumulatorKind::LeastHashes { .. } => Accumulator::LeastHashes(read_hashes(reader, cap(def))?),
    })
}

/// Steps over an accumulator that is a block, and reads any other, which is as quick.
pub(super) fn skip_accumulator(
    reader: &mut Reader<'_>,
    def: &AccumulatorDef,
    origin_us: i64,
    strings: usize,
) -> Result<Accumulator> {
    match def.kind {
        AccumulatorKind::ValueCounts
        | AccumulatorKind::Sessions { .. }
        | AccumulatorKind::Quantile
        | AccumulatorKind::Distinct
        | AccumulatorKind::LeastValues { .. }
        | AccumulatorKind::LeastHashes { .. } => {
            reader.bytes()?;
            Ok(Accumulator::identity(def.kind))
        }
        _ => read_accumulator(reader, def, origin_us, strings),
    }
}

fn read_sessions(reader: &mut Reader<'_>, def: &AccumulatorDef, origin_us: i64) -> Result<Sessions> {
    let mut sessions: Vec<Session> = Vec::new();
    let mut block = Reader::new(reader.bytes()?);
    let mut previous = origin_us;
    while block.remaining() > 0 {
        let start_us = previous.wrapping_add(block.i64()?);
        let end_us = start_us.wrapping_add(block.u64()? as i64);
        let apart = i128::from(start_us) - i128::from(previous) > i128::from(gap_us(def));
        if end_us < start_us || (!sessions.is_empty() && !apart) {
            return Err(Error::codec("sessions are not apart and in rising order"));
        }
        sessions.push(Session { start_us, end_us, count: block.u64()? });
        previous = end_us;
    }
    Ok(Sessions(sessions))
}

fn read_sketch(reader: &mut Reader<'_>) -> Result<Sketch> {
    let mut block = Reader::new(reader.bytes()?);
    let mut counts: Vec<(i32, u64)> = Vec::with_capacity(block.remaining() / 2);
    while block.remaining() > 0 {
        let previous = counts.last().map_or(0, |&(bucket, _)| i64::from(bucket));
        let bucket = block.i64()?.checked_add(previous).and_then(|bucket| i32::try_from(bucket).ok());
        let count = block.u64()?;
        match bucket {
            Some(bucket) if count > 0 && (counts.is_empty() || i64::from(bucket) > previous) => {
                counts.push((bucket, count));
            }
            _ => return Err(Error::codec("buckets are not in rising order, or empty")),
        }
    }
    Ok(ValueCounts(counts))
}

fn read_hashes(reader: &mut Reader<'_>, k: usize) -> Result<LeastHashes> {
    let bytes = reader.bytes()?;
    let (hashes, rest) = bytes.as_chunks::<8>();
    let hashes: Vec<u64> = hashes.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    if !rest.is_empty() || hashes.len() > k + 1 || !hashes.is_sorted_by(|left, right| left < right) {
        return Err(Error::codec("hashes are not in rising order, or too many"));
    }
    Ok(LeastHashes(hashes))
}

pub(super) fn read_flag(reader: &mut Reader<'_>) -> Result<bool> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        flag => Err(Error::codec(format!("a flag is {flag}"))),
    }
}
