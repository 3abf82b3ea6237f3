//! Values without an order: how many are distinct, which come most often.

use super::{Asked, Frame, Span, Step, push_list, step};
use crate::column::Column;
use crate::temporal::history::Texts;

/// What is asked of values without an order.
#[derive(Debug, Clone, Copy)]
pub(in crate::temporal) enum OfValues {
    Top(usize),
    Distinct,
}

/// How often each value occurs in a frame, by dictionary code.
#[derive(Debug)]
pub(in crate::temporal) struct ValuesWindow {
    pub(in crate::temporal) frame: usize,
    pub(in crate::temporal) asked: Vec<Asked<OfValues>>,
    /// Per code its count and its place in `present`.
    counts: Vec<(u32, u32)>,
    /// The codes with a count above 0.
    present: Vec<u32>,
}

impl ValuesWindow {
    pub(in crate::temporal) fn new(frame: usize, codes: usize) -> Self {
        Self { frame, asked: Vec::new(), counts: vec![(0, 0); codes], present: Vec::new() }
    }

    pub(in crate::temporal) fn answer(&mut self, frame: &Frame, words: &[u64], texts: &Texts, columns: &mut [Column]) {
        self.clear();
        let (mut held, mut top) = (Span::default(), Vec::new());
        for &span in &frame.spans {
            match step(held, span) {
                Step::Slide(gone, come) => {
                    words[gone].iter().for_each(|&code| self.remove(code as u32));
                    words[come].iter().for_each(|&code| self.add(code as u32));
                }
                Step::Afresh(all) => {
                    self.clear();
                    words[all].iter().for_each(|&code| self.add(code as u32));
                }
            }
            held = span;
            for asked in &self.asked {
                let column = &mut columns[asked.column];
                match asked.what {
                    OfValues::Distinct => column.push_i64(self.present.len() as i64),
                    OfValues::Top(k) => {
                        self.top(k, texts, &mut top);
                        push_list(column, top.iter().map(|&code| texts.get(code)));
                    }
                }
            }
        }
    }

    fn clear(&mut self) {
        for code in self.present.drain(..) {
            self.counts[code as usize].0 = 0;
        }
    }

    fn add(&mut self, code: u32) {
        let (count, place) = &mut self.counts[code as usize];
        if *count == 0 {
            *place = self.present.len() as u32;
            self.present.push(code);
        }
        *count += 1;
    }

    fn remove(&mut self, code: u32) {
        let (count, place) = &mut self.counts[code as usize];
        *count -= 1;
        if *count == 0 {
            let place = *place as usize;
            self.present.swap_remove(place);
            if let Some(&moved) = self.present.get(place) {
                self.counts[moved as usize].1 = place as u32;
            }
        }
    }

    /// The up to `k` codes that occur most, most first, ties by the value's bytes.
    fn top(&self, k: usize, texts: &Texts, top: &mut Vec<u32>) {
        top.clear();
        let before = |a: u32, b: u32| {
            let (count_a, count_b) = (self.counts[a as usize].0, self.counts[b as usize].0);
            count_a > count_b || (count_a == count_b && texts.get(a) < texts.get(b))
        };
        for &code in &self.present {
            let place = top.partition_point(|&better| before(better, code));
            if place < k {
                top.truncate(k - 1);
                top.insert(place, code);
            }
        }
    }
}
