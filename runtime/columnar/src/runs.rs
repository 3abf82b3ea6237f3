//! Small numbers as Parquet packs them: runs and packed groups mixed
//! (<https://parquet.apache.org/docs/file-format/data-pages/encodings/#RLE>).

/// Appends numbers of `width` bits: eight or more alike as a run, what lies between in packed groups of eight.
pub(crate) fn put_runs(numbers: &[u32], width: u8, out: &mut Vec<u8>) {
    let is_alike = |group: &[u32]| group.iter().all(|number| *number == group[0]);
    let mut rest = numbers;
    while !rest.is_empty() {
        let packed = rest.chunks(8).position(is_alike).map_or(rest.len(), |groups| 8 * groups);
        let (pack, after) = rest.split_at(packed);
        if !pack.is_empty() {
            put_varint(pack.len().div_ceil(8) << 1 | 1, out);
            put_packed(pack, width, out);
        }
        let Some(&first) = after.first() else { break };
        let alike = after.iter().take_while(|number| **number == first).count();
        put_run(first, alike, width, out);
        rest = &after[alike..];
    }
}

/// Appends a number of `width` bits that comes `times` times.
pub(crate) fn put_run(number: u32, times: usize, width: u8, out: &mut Vec<u8>) {
    put_varint(times << 1, out);
    out.extend(&number.to_le_bytes()[..usize::from(width).div_ceil(8)]);
}

/// Packs numbers bit by bit, the lowest first, and fills up the last group of eight with zeros.
fn put_packed(numbers: &[u32], width: u8, out: &mut Vec<u8>) {
    let end = out.len() + numbers.len().div_ceil(8) * usize::from(width);
    out.reserve(end - out.len());
    let (mut waiting, mut bits) = (0u64, 0);
    for &number in numbers {
        waiting |= u64::from(number) << bits;
        bits += u32::from(width);
        if bits >= 32 {
            out.extend((waiting as u32).to_le_bytes());
            waiting >>= 32;
            bits -= 32;
        }
    }
    out.extend(&waiting.to_le_bytes()[..bits.div_ceil(8) as usize]);
    out.resize(end, 0);
}

/// Seven bits in each byte, the lowest first, the eighth set on all but the last.
pub(crate) fn put_varint(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_as_the_specification_has_them() {
        let put = |numbers: &[u32], width| {
            let mut out = Vec::new();
            put_runs(numbers, width, &mut out);
            out
        };
        // Its example of packing.
        assert_eq!(put(&[0, 1, 2, 3, 4, 5, 6, 7], 3), [1 << 1 | 1, 0x88, 0xc6, 0xfa]);
        // The last group is filled up; a run is as long as it goes on; numbers without bits take none.
        assert_eq!(put(&[1, 2], 17), [[3].as_slice(), &[1, 0, 4, 0], &[0; 13]].concat());
        assert_eq!(put(&[7; 100], 9), [200, 1, 7, 0]);
        assert_eq!(put(&[[5; 8].as_slice(), &[5, 6]].concat(), 3), [9 << 1, 5, 1 << 1, 6]);
        assert_eq!(put(&[0; 3], 0), [6]);
        assert!(put(&[], 3).is_empty());
    }
}
