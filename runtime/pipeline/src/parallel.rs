//! Work in threads.

mod ahead;

pub use ahead::Ahead;

use crate::{Error, Result};
use std::sync::Mutex;

/// Runs `work` for each task, threads taking the next one as they get free; the results in the tasks' order.
pub fn in_threads<I, T>(threads: usize, tasks: I, work: impl Fn(I::Item) -> T + Sync) -> Result<Vec<T>>
where
    I: IntoIterator<IntoIter: ExactSizeIterator + Send>,
    T: Send,
{
    let tasks = tasks.into_iter();
    let count = tasks.len();
    if threads <= 1 || count <= 1 {
        return Ok(tasks.map(work).collect());
    }
    let queue = Mutex::new(tasks.enumerate());
    let run = || -> Result<Vec<(usize, T)>> {
        let mut done = Vec::new();
        loop {
            let next = queue.lock().map_err(|_| Error::internal("a worker thread panicked"))?.next();
            match next {
                Some((index, task)) => done.push((index, work(task))),
                None => return Ok(done),
            }
        }
    };
    let all: Vec<Result<Vec<(usize, T)>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(count)).map(|_| scope.spawn(run)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err(Error::internal("a worker thread panicked"))))
            .collect()
    });
    let mut results = Vec::with_capacity(count);
    for part in all {
        results.extend(part?);
    }
    results.sort_by_key(|&(index, _)| index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// The number of threads to use for a setting of 0 = all cores.
pub fn thread_count(setting: usize) -> usize {
    match setting {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}
