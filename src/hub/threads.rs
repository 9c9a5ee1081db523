//! The same work on several threads, and what becomes of a panic in one of them.

use std::panic::resume_unwind;
use std::thread;

/// Calls `work` on so many threads and returns when all of them are done. Where one panics, as it may in a callback of the
/// program, the caller goes on with that panic and not with one that only says that there was one.
pub(super) fn on_threads(threads: usize, work: impl Fn() + Sync) {
    let panic = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        ended.into_iter().find_map(Result::err)
    });
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_panic_goes_on_as_it_was_when_the_others_are_done() {
        let (first, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            on_threads(3, || {
                assert!(first.fetch_add(1, Ordering::SeqCst) > 0, "the callback's own trouble");
                done.fetch_add(1, Ordering::SeqCst);
            });
        }));
        let panic = ended.expect_err("a panic");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"the callback's own trouble"));
        assert_eq!(done.into_inner(), 2);
    }
}
