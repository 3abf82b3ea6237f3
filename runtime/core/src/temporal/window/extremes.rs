//! The least and greatest values in a window.

use super::{Frame, Span};
use crate::accumulator::extreme::End;
use crate::column::Column;
use crate::view::SlotType;

/// The least or greatest value of a frame. It cannot be taken away again, so the elements are in two runs: of the older
/// one it is known what the extreme is from each element on, of the newer one what it is of all. Once the older run has
/// left, what is there becomes the older one, element by element from the newest on; so each is looked at twice.
#[derive(Debug)]
pub(in crate::temporal) struct ExtremeWindow {
    pub(in crate::temporal) frame: usize,
    pub(in crate::temporal) end: End,
    pub(in crate::temporal) column: usize,
    slot_type: SlotType,
    /// The key's values as numbers of which the greatest is the extreme; those of the older run have been replaced by the
    /// greatest from there on.
    numbers: Vec<i64>,
}

impl ExtremeWindow {
    pub(in crate::temporal) fn new(frame: usize, end: End, slot_type: SlotType, column: usize) -> Self {
        Self { frame, end, column, slot_type, numbers: Vec::new() }
    }

    pub(in crate::temporal) fn answer(&mut self, frame: &Frame, words: &[u64], column: &mut Column) {
        let is_float = self.slot_type == SlotType::F64;
        let number = |word: u64| if is_float { total_order(word.cast_signed()) } else { word.cast_signed() };
        self.numbers.clear();
        match self.end {
            End::Greatest => self.numbers.extend(words.iter().map(|&word| number(word))),
            End::Least => self.numbers.extend(words.iter().map(|&word| !number(word))),
        }
        let end = self.end;
        slide_greatest(&mut self.numbers, frame, |greatest| match greatest {
            None => column.push_null(),
            Some(greatest) => {
                let number = if end == End::Least { !greatest } else { greatest };
                match is_float {
                    true => column.push_f64(f64::from_bits(total_order(number).cast_unsigned())),
                    false => column.push_i64(number),
                }
            }
        });
    }
}

/// Gives the greatest number of each span; see [`ExtremeWindow`] for what becomes of the numbers.
fn slide_greatest(numbers: &mut [i64], frame: &Frame, mut give: impl FnMut(Option<i64>)) {
    // The newer run, and its greatest number.
    let (mut from, mut end, mut newer) = (0, 0, i64::MIN);
    for &span in &frame.spans {
        let Span { low, high } = span;
        if low >= from {
            let mut greatest = i64::MIN;
            for number in numbers[span.range()].iter_mut().rev() {
                greatest = greatest.max(*number);
                *number = greatest;
            }
            (from, newer) = (high, i64::MIN);
        } else {
            newer = numbers[end as usize..high as usize].iter().fold(newer, |newer, &number| newer.max(number));
        }
        end = high;
        give(match span.count() {
            0 => None,
            _ => Some(newer.max(numbers[low as usize])),
        });
    }
}

/// From a float's bits to a number that rises with it in the total order, and back: as `f64::total_cmp` does, of a negative
/// one all bits but the sign are turned round.
fn total_order(bits: i64) -> i64 {
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}
