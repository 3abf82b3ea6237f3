//! A reader beside a running job.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Looks at something again and again in a thread of its own, which ends once a look fails or this is dropped.
#[derive(Debug)]
pub struct Onlooker {
    /// Its end is the thread's.
    end: Sender<()>,
    thread: JoinHandle<usize>,
}

impl Onlooker {
    /// Begins; `look` says whether there was anything to see. The next look comes after `pause`, so that the job has the
    /// machine too.
    pub fn start(pause: Duration, mut look: impl FnMut() -> bool + Send + 'static) -> Self {
        let (end, ended) = channel();
        let look = move || {
            let mut looks = 0;
            loop {
                looks += usize::from(look());
                if ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return looks;
                }
            }
        };
        Self { end, thread: std::thread::spawn(look) }
    }

    /// Fails if it has seen what must not be.
    #[track_caller]
    pub fn must_live(&self) {
        assert!(!self.thread.is_finished(), "an onlooker has seen something");
    }

    /// Ends it; gives how often there was something to see.
    pub fn end(self) -> usize {
        drop(self.end);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
