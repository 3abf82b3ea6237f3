//! What slides along one key's sorted contributions: the bounds of windows, and in modules of their own what is made of
//! the contributions in them.
//!
//! Each structure answers all instants of a key at once, its columns being appended to instant by instant: what it works on
//! stays near, and where a window has not moved since the instant before, the value before is given again.

mod extremes;
mod numbers;
mod ordered;
mod sessions;
mod values;

pub(super) use extremes::ExtremeWindow;
pub(super) use numbers::{MomentsWindow, OfMoments, OfSum, SumWindow};
pub(super) use ordered::{OfOrdered, Order, OrderedWindow, Places};
pub(super) use sessions::{OfSessions, Sessions};
pub(super) use values::{OfValues, ValuesWindow};

use crate::column::{Column, Values};
use crate::temporal::totals::Totals;
use crate::view::WindowSpec;

/// One key's contributions to one slot, rising in time; `words` is empty for slots whose values nobody reads.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) times_us: Vec<i64>,
    pub(super) words: Vec<u64>,
    pub(super) totals: Totals,
    /// How many of the first elements are seen at each of the key's instants.
    seen: Vec<u32>,
}

impl Series {
    /// Finds what is seen at the instants, which rise.
    pub(super) fn see(&mut self, instants: &[Instant]) {
        self.seen.clear();
        self.seen.reserve(instants.len());
        let mut seen = 0;
        for instant in instants {
            seen = gallop(&self.times_us, seen, instant.until_us);
            // A slice of keys holds less than 2^32 values.
            self.seen.push(seen as u32);
        }
    }
}

/// An instant at which a key is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instant {
    pub(super) as_of_us: i64,
    /// Only what is before it is seen, whatever the windows.
    pub(super) until_us: i64,
    /// One of its labels.
    pub(super) label: u32,
}

/// The elements `low..high` of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) low: u32,
    pub(super) high: u32,
}

impl Span {
    pub(super) fn count(self) -> usize {
        (self.high - self.low) as usize
    }

    fn range(self) -> std::ops::Range<usize> {
        self.low as usize..self.high as usize
    }
}

/// Which elements of a series a window holds at each of a key's instants; neither end ever goes back.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) slot: usize,
    pub(super) window: WindowSpec,
    pub(super) spans: Vec<Span>,
}

impl Frame {
    pub(super) fn new(slot: usize, window: WindowSpec) -> Self {
        Self { slot, window, spans: Vec::new() }
    }

    /// Finds the spans of all instants, which rise and for which the series knows what is seen.
    pub(super) fn walk(&mut self, series: &Series, instants: &[Instant]) {
        let times_us = series.times_us.as_slice();
        self.spans.clear();
        self.spans.reserve(instants.len());
        let (mut low, mut high) = (0, 0);
        // Most windows end at the instant.
        let ends_before = matches!(self.window, WindowSpec::Hopping { .. });
        for (instant, &seen) in instants.iter().zip(&series.seen) {
            let (start_us, end_us) = self.window.bounds(instant.as_of_us);
            low = gallop(times_us, low, start_us);
            let end = if ends_before {
                high = gallop(times_us, high, end_us);
                high.min(seen as usize)
            } else {
                seen as usize
            };
            // What was not known yet may lie before the start.
            self.spans.push(Span { low: low as u32, high: end.max(low) as u32 });
        }
    }

    /// From the first element of all spans to the last.
    pub(super) fn reach(&self) -> Span {
        let (first, last) = (self.spans.first(), self.spans.last());
        Span { low: first.map_or(0, |span| span.low), high: last.map_or(0, |span| span.high) }
    }
}

/// The first index at or after `from` whose time is not before `bound_us`.
fn gallop(times_us: &[i64], from: usize, bound_us: i64) -> usize {
    gallop_while(times_us, from, |&time_us| time_us < bound_us)
}

/// The first index at or after `from` whose item is not `before`, as the first items are. The next few are looked at one
/// after the other; then steps double, then halve, so the cost is logarithmic in the distance and a walk over all of them
/// stays linear.
#[inline]
pub(super) fn gallop_while<T>(items: &[T], from: usize, before: impl Fn(&T) -> bool) -> usize {
    const NEAR: usize = 8;
    let mut low = from;
    let near = items.len().min(from + NEAR);
    while low < near {
        if !before(&items[low]) {
            return low;
        }
        low += 1;
    }
    let mut step = 1;
    while low + step <= items.len() && before(&items[low + step - 1]) {
        low += step;
        step *= 2;
    }
    let high = (low + step - 1).min(items.len());
    low + items[low..high].partition_point(before)
}

/// How to get from the elements held to those of a span.
enum Step {
    /// Take away `.0`, add `.1`.
    Slide(std::ops::Range<usize>, std::ops::Range<usize>),
    /// Forget everything, add these.
    Afresh(std::ops::Range<usize>),
}

/// The cheapest step from a span to a later one.
fn step(from: Span, to: Span) -> Step {
    let sliding = (to.low - from.low) as usize + (to.high - from.high) as usize;
    if sliding < to.count() {
        Step::Slide(from.low as usize..to.low as usize, from.high as usize..to.high as usize)
    } else {
        Step::Afresh(to.range())
    }
}

/// A column and what it is to hold.
#[derive(Debug)]
pub(super) struct Asked<A> {
    pub(super) column: usize,
    pub(super) what: A,
}

/// Appends a value for each span, `of` being asked for it unless it is the span before; of nothing there is none.
fn give_f64(frame: &Frame, column: &mut Column, mut of: impl FnMut(Span) -> Option<f64>) {
    let (mut before, mut value) = (Span::default(), None);
    for &span in &frame.spans {
        if span != before {
            (before, value) = (span, of(span));
        }
        push_f64(column, value);
    }
}

pub(super) fn push_f64(column: &mut Column, value: Option<f64>) {
    match value {
        Some(value) => column.push_f64(value),
        None => column.push_null(),
    }
}

pub(super) fn push_list<'a>(column: &mut Column, elements: impl Iterator<Item = &'a [u8]>) {
    if let Values::List { offsets, child } = &mut column.values
        && let Values::Utf8(strings) | Values::Bytes(strings) = &mut child.values
    {
        // Elements are never null.
        elements.for_each(|element| strings.push(element));
        offsets.push(u32::try_from(strings.len()).expect("a column holds less than 2^32 elements"));
    }
    column.mark_valid();
}
