//! Reading ahead.

use plumb_pipeline::parallel::thread_count;
use plumb_pipeline::{Error, Result};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// How many are kept ready; one more is being made.
const READY: usize = 1;

/// Makes what comes next before it is asked for.
pub(crate) enum Ahead<T> {
    /// When it is asked for: there is one thread.
    Not(Box<dyn FnMut() -> Result<Option<T>> + Send>),
    /// In a thread of its own, which ends when nobody takes any more.
    InThread(Receiver<Result<Option<T>>>),
}

impl<T> std::fmt::Debug for Ahead<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Ahead::Not(_) => "Ahead::Not",
            Ahead::InThread(_) => "Ahead::InThread",
        })
    }
}

impl<T: Send + 'static> Ahead<T> {
    /// Gives what `make` makes up to its first `None` or error, with so many threads at work (0 = one per core).
    pub(crate) fn new(threads: usize, mut make: impl FnMut() -> Result<Option<T>> + Send + 'static) -> Self {
        if thread_count(threads) <= 1 {
            return Ahead::Not(Box::new(make));
        }
        let (to, from) = sync_channel(READY);
        thread::spawn(move || {
            loop {
                let made = make();
                let is_last = !matches!(made, Ok(Some(_)));
                if to.send(made).is_err() || is_last {
                    return;
                }
            }
        });
        Ahead::InThread(from)
    }

    /// The next; `None` at the end. Not asked again after that, or after an error.
    pub(crate) fn next(&mut self) -> Result<Option<T>> {
        match self {
            Ahead::Not(make) => make(),
            Ahead::InThread(made) => made.recv().map_err(|_| Error::internal("a thread that read ahead panicked"))?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_comes_in_its_order_up_to_the_first_error() {
        for threads in [1, 2] {
            let mut numbers = 0..5;
            let mut ahead = Ahead::new(threads, move || Ok(numbers.next()));
            let given: Vec<i32> = std::iter::from_fn(|| ahead.next().unwrap()).collect();
            assert_eq!(given, [0, 1, 2, 3, 4]);
            let mut calls = 0;
            let mut failing = Ahead::new(threads, move || {
                calls += 1;
                if calls < 3 { Ok(Some(calls)) } else { Err(Error::invalid("the third is bad")) }
            });
            assert_eq!((failing.next().unwrap(), failing.next().unwrap()), (Some(1), Some(2)));
            assert!(failing.next().unwrap_err().to_string().contains("the third is bad"));
        }
    }

    #[test]
    fn a_thread_that_panics_is_an_error() {
        let mut ahead: Ahead<()> = Ahead::new(2, || panic!("on purpose"));
        assert!(ahead.next().unwrap_err().to_string().contains("panicked"));
    }
}
