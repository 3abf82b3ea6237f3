//! A reader beside a running job.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Looks at something again and again in a thread of its own, and fails as soon as a look does.
#[derive(Debug)]
pub struct Onlooker {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Onlooker {
    /// Begins; `look` says whether there was anything to see, and waits for `pause` before the next look so that the job
    /// has the machine too.
    pub fn start(pause: Duration, mut look: impl FnMut() -> bool + Send + 'static) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let own = ended.clone();
        let look = move || {
            let mut looks = 0;
            while !own.load(Ordering::Relaxed) {
                looks += usize::from(look());
                std::thread::sleep(pause);
            }
            looks
        };
        Self { ended, thread: Some(std::thread::spawn(look)) }
    }

    /// Fails if it has seen what must not be.
    #[track_caller]
    pub fn must_live(&self) {
        assert!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "an onlooker has seen something");
    }

    /// Ends it; gives how often there was something to see.
    pub fn end(mut self) -> usize {
        self.ended.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it runs");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Onlooker {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
