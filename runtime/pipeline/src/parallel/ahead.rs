//! Making ahead.

use super::thread_count;
use crate::{Error, Result};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

/// Makes what comes next before it is asked for.
pub struct Ahead<T> {
    made: Made<T>,
    /// The end came, or an error.
    ended: bool,
}

enum Made<T> {
    /// When it is asked for: there is one thread.
    WhenAsked(Box<dyn FnMut() -> Result<Option<T>> + Send>),
    /// In a thread of its own, which ends when nobody takes any more.
    InThread(Maker<T>),
}

/// The thread that makes.
struct Maker<T> {
    /// Gone first where nobody takes any more, which the thread notices.
    made: Option<Receiver<Result<Option<T>>>>,
    thread: Option<JoinHandle<()>>,
}

impl<T> std::fmt::Debug for Ahead<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.made {
            Made::WhenAsked(_) => "Ahead(when asked)",
            Made::InThread(_) => "Ahead(in a thread)",
        })
    }
}

impl<T: Send + 'static> Ahead<T> {
    /// Gives what `make` makes up to its first `None` or error, with so many threads at work (0 = one per core). At most
    /// `ready` are kept; one more is being made.
    pub fn new(threads: usize, ready: usize, mut make: impl FnMut() -> Result<Option<T>> + Send + 'static) -> Self {
        if thread_count(threads) <= 1 {
            return Self { made: Made::WhenAsked(Box::new(make)), ended: false };
        }
        let (to, from) = sync_channel(ready);
        let thread = thread::spawn(move || {
            loop {
                let made = make();
                let is_last = !matches!(made, Ok(Some(_)));
                if to.send(made).is_err() || is_last {
                    return;
                }
            }
        });
        Self { made: Made::InThread(Maker { made: Some(from), thread: Some(thread) }), ended: false }
    }
}

/// Up to the end or the first error.
impl<T: Send + 'static> Iterator for Ahead<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        if self.ended {
            return None;
        }
        let next = match &mut self.made {
            Made::WhenAsked(make) => make(),
            Made::InThread(Maker { made, .. }) => made
                .as_ref()
                .and_then(|made| made.recv().ok())
                .unwrap_or_else(|| Err(Error::internal("a thread that made ahead panicked"))),
        };
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

impl<T> Drop for Maker<T> {
    fn drop(&mut self) {
        self.made = None;
        // What it holds is let go of now. Who asked it was told of a panic.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn all_comes_in_its_order_up_to_the_first_error() {
        for threads in [1, 2] {
            let mut numbers = 0..5;
            let ahead = Ahead::new(threads, 1, move || Ok(numbers.next()));
            assert_eq!(ahead.map(Result::unwrap).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
            let mut calls = 0;
            let mut failing = Ahead::new(threads, 1, move || {
                calls += 1;
                if calls < 3 { Ok(Some(calls)) } else { Err(Error::invalid("the third is bad")) }
            });
            assert_eq!((failing.next().unwrap().unwrap(), failing.next().unwrap().unwrap()), (1, 2));
            assert!(failing.next().unwrap().unwrap_err().to_string().contains("the third is bad"));
            assert!(failing.next().is_none());
        }
    }

    #[test]
    fn a_thread_that_panics_is_an_error() {
        let mut ahead: Ahead<()> = Ahead::new(2, 1, || panic!("on purpose"));
        assert!(ahead.next().unwrap().unwrap_err().to_string().contains("panicked"));
        assert!(ahead.next().is_none());
    }

    #[test]
    fn what_the_thread_holds_is_gone_once_nobody_takes_any_more() {
        let held = Arc::new(());
        let its = held.clone();
        let mut ahead = Ahead::new(2, 3, move || Ok(Some(Arc::strong_count(&its))));
        assert_eq!(ahead.next().unwrap().unwrap(), 2);
        drop(ahead);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
