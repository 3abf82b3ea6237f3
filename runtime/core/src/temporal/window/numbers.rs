//! Sums and moments of the numbers in a window.

use super::{Asked, Frame, Series, Span, Step, give_f64, push_f64, step};
use crate::accumulator::exact_sum::ExactSum;
use crate::accumulator::moments::Moments;
use crate::column::Column;
use crate::view::SlotType;

/// What is asked of a sum.
#[derive(Debug, Clone, Copy)]
pub(in crate::temporal) enum OfSum {
    Sum,
    Mean,
}

/// The exact sum of a frame's values.
#[derive(Debug)]
pub(in crate::temporal) struct SumWindow {
    pub(in crate::temporal) frame: usize,
    pub(in crate::temporal) asked: Vec<Asked<OfSum>>,
    slot_type: SlotType,
}

impl SumWindow {
    pub(in crate::temporal) fn new(frame: usize, slot_type: SlotType) -> Self {
        Self { frame, asked: Vec::new(), slot_type }
    }

    pub(in crate::temporal) fn answer(&self, frame: &Frame, series: &Series, columns: &mut [Column]) {
        if series.totals.has_sums() {
            return self.give(frame, columns, |span| series.totals.sum(span).round());
        }
        let (mut held, mut sum) = (Span::default(), ExactSum::new());
        self.give(frame, columns, |span| {
            match step(held, span) {
                Step::Slide(gone, come) => {
                    self.take(&mut sum, &series.words[gone], true);
                    self.take(&mut sum, &series.words[come], false);
                }
                Step::Afresh(all) => {
                    sum = ExactSum::new();
                    self.take(&mut sum, &series.words[all], false);
                }
            }
            held = span;
            sum.round()
        });
    }

    /// Gives the values at each span, `sum_of` being asked for its sum unless it is the span before.
    fn give(&self, frame: &Frame, columns: &mut [Column], mut sum_of: impl FnMut(Span) -> Option<f64>) {
        let (mut before, mut sum) = (Span::default(), Some(0.0));
        for &span in &frame.spans {
            if span != before {
                (before, sum) = (span, sum_of(span));
            }
            for asked in &self.asked {
                push_f64(
                    &mut columns[asked.column],
                    match asked.what {
                        OfSum::Sum => sum,
                        OfSum::Mean => sum.filter(|_| span.count() > 0).map(|sum| sum / span.count() as f64),
                    },
                );
            }
        }
    }

    fn take(&self, sum: &mut ExactSum, words: &[u64], away: bool) {
        match (self.slot_type == SlotType::I64, away) {
            (true, false) => words.iter().for_each(|word| sum.add_i64(word.cast_signed())),
            (true, true) => words.iter().for_each(|word| sum.sub_i64(word.cast_signed())),
            (false, false) => words.iter().for_each(|&word| sum.add(f64::from_bits(word))),
            (false, true) => words.iter().for_each(|&word| sum.sub(f64::from_bits(word))),
        }
    }
}

/// What is asked of moments.
#[derive(Debug, Clone, Copy)]
pub(in crate::temporal) enum OfMoments {
    Variance,
    StdDev,
}

/// Count, sum and sum of squares of a frame's values.
#[derive(Debug)]
pub(in crate::temporal) struct MomentsWindow {
    pub(in crate::temporal) frame: usize,
    pub(in crate::temporal) asked: Vec<Asked<OfMoments>>,
    slot_type: SlotType,
}

impl MomentsWindow {
    pub(in crate::temporal) fn new(frame: usize, slot_type: SlotType) -> Self {
        Self { frame, asked: Vec::new(), slot_type }
    }

    pub(in crate::temporal) fn answer(&self, frame: &Frame, series: &Series, columns: &mut [Column]) {
        let of_moments = |what: OfMoments, moments: &Moments| match what {
            OfMoments::Variance => moments.variance(),
            OfMoments::StdDev => moments.stddev(),
        };
        for asked in &self.asked {
            let column = &mut columns[asked.column];
            if series.totals.has_squares() {
                give_f64(frame, column, |span| of_moments(asked.what, &series.totals.moments(span)));
                continue;
            }
            let (mut held, mut moments) = (Span::default(), Moments::new());
            let (words, slot_type) = (&series.words, self.slot_type);
            give_f64(frame, column, |span| {
                match step(held, span) {
                    Step::Slide(gone, come) => {
                        words[gone].iter().for_each(|&word| moments.sub_word(slot_type, word));
                        words[come].iter().for_each(|&word| moments.add_word(slot_type, word));
                    }
                    Step::Afresh(all) => {
                        moments = Moments::new();
                        words[all].iter().for_each(|&word| moments.add_word(slot_type, word));
                    }
                }
                held = span;
                of_moments(asked.what, &moments)
            });
        }
    }
}
