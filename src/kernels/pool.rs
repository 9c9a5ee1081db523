//! The one thread pool that all kernels share.
//!
//! It owns the threads and hands out pieces of work; it knows nothing of what is computed. One per engine, sized to the
//! cores that the process may really use.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

/// Threads that kernels split their work over. With one thread nothing is started and everything runs on the caller.
#[derive(Debug)]
pub struct Pool {
    threads: usize,
    workers: Option<rayon::ThreadPool>,
    /// Buffers between two uses; fresh memory would cost a page fault for every 4 KiB of every call.
    buffers: Mutex<Vec<Vec<f32>>>,
}

impl Pool {
    /// A pool of `threads`; by default as many as the CPU affinity and the cgroup quota of the process allow.
    ///
    /// # Errors
    ///
    /// When the system refuses to start a thread.
    pub fn new(threads: Option<NonZeroUsize>) -> Result<Pool, rayon::ThreadPoolBuildError> {
        let threads = threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let workers = if threads == 1 {
            None
        } else {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
            Some(builder.thread_name(|i| format!("kernels-{i}")).build()?)
        };
        Ok(Pool { threads, workers, buffers: Mutex::default() })
    }

    /// How many threads work at the same time.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` on a thread of the pool. A caller with many kernel calls to make, such as the forward pass of a model,
    /// wraps them in one `run`: each then starts without handing over between threads.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.workers {
            Some(workers) => workers.install(work),
            None => work(),
        }
    }

    /// `f` of every item, in order, on all threads.
    pub fn map<A: Sync, B: Send>(&self, items: &[A], f: impl Fn(&A) -> B + Send + Sync) -> Vec<B> {
        match &self.workers {
            Some(workers) if items.len() > 1 => workers.install(|| items.par_iter().map(f).collect()),
            _ => items.iter().map(f).collect(),
        }
    }

    /// Calls `f` once for every piece, on all threads, and returns when all are done.
    pub fn for_each<T: Send>(&self, pieces: Vec<T>, f: impl Fn(T) + Send + Sync) {
        match &self.workers {
            Some(workers) if pieces.len() > 1 => {
                workers.install(|| pieces.into_par_iter().with_max_len(1).for_each(f));
            }
            _ => pieces.into_iter().for_each(f),
        }
    }

    /// A buffer of at least `len` numbers, whatever they are, to be given back after use.
    pub(super) fn take_buffer(&self, len: usize) -> Vec<f32> {
        let mut buffer = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        buffer
    }

    pub(super) fn give_back(&self, buffer: Vec<f32>) {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}
