//! The one thread pool that all kernels share.
//!
//! It owns the threads and hands out numbered pieces of work; it knows nothing of what is computed. The caller of
//! [`Pool::run`] works along, pieces are taken from counters, and only threads that did take one are waited for: a thread
//! that the system runs elsewhere holds nobody up. Between two calls threads spin briefly, since the next layer follows
//! within microseconds, then they sleep. Who finds the pool busy, because another engine or a piece of work itself uses it,
//! does the work alone.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread looks for the next call before it sleeps. Between two layers lie some 5 µs and between two tokens
/// some 100 µs; to wake a thread takes about as long as the spin that it saves.
const SPIN: Duration = Duration::from_micros(200);

/// The same where there are more threads than cores, and a spinning thread takes time from one that works.
const SPIN_CROWDED: Duration = Duration::from_micros(5);

/// Looks between two looks at the clock, and how long the caller waits for the last pieces before it lets others run.
const LOOKS: u32 = 64;

/// Threads that kernels split their work over. With one thread nothing is started and everything runs on the caller.
pub struct Pool {
    threads: usize,
    shared: Option<Arc<Shared>>,
    workers: Vec<JoinHandle<()>>,
    /// Buffers between two uses; fresh memory would cost a page fault for every 4 KiB of every call.
    buffers: Mutex<Vec<Buffer>>,
}

/// What caller and workers agree on.
struct Shared {
    /// The number of the call, in the upper half; whether it takes workers in, `OPEN`; how many are inside.
    state: AtomicU64,
    /// The call. Written by the holder of `caller` while the state is closed with nobody inside, read by those inside.
    job: UnsafeCell<Job>,
    /// The next piece.
    next: AtomicUsize,
    /// Held for the length of a call.
    caller: Mutex<()>,
    /// What a worker's piece panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    asleep: Mutex<()>,
    wake: Condvar,
    quit: AtomicBool,
    spin: Duration,
}

#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    pieces: usize,
}

// SAFETY: `job` is the only member that is not `Sync` by itself. It is written only by the thread that holds `caller` while
// no worker is inside (see `call`), and read only by workers that entered after it was published; the closure behind the
// pointer is `Sync` and outlives the call, because `call` returns only when nobody is inside.
unsafe impl Sync for Shared {}
// SAFETY: see `Sync`.
unsafe impl Send for Shared {}

const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
const CALL: u64 = 1 << 32;

impl Pool {
    /// A pool of `threads`; by default as many as the CPU affinity and the cgroup quota of the process allow.
    ///
    /// # Errors
    ///
    /// When the system refuses to start a thread.
    pub fn new(threads: Option<NonZeroUsize>) -> std::io::Result<Pool> {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = threads.map_or(cores, NonZeroUsize::get);
        let mut pool = Pool { threads, shared: None, workers: Vec::new(), buffers: Mutex::default() };
        if threads > 1 {
            fn nothing(_: usize) {}
            let shared = Arc::new(Shared {
                state: AtomicU64::new(0),
                job: UnsafeCell::new(Job { work: &nothing, pieces: 0 }),
                next: AtomicUsize::new(0),
                caller: Mutex::new(()),
                panic: Mutex::new(None),
                sleepers: AtomicUsize::new(0),
                asleep: Mutex::new(()),
                wake: Condvar::new(),
                quit: AtomicBool::new(false),
                spin: if threads > cores { SPIN_CROWDED } else { SPIN },
            });
            pool.shared = Some(Arc::clone(&shared));
            for i in 1..threads {
                let shared = Arc::clone(&shared);
                let worker = std::thread::Builder::new().name(format!("kernels-{i}")).spawn(move || shared.work());
                pool.workers.push(worker?);
            }
        }
        Ok(pool)
    }

    /// The pool of so many threads that the whole process shares, started when the first engine asks for it.
    ///
    /// # Errors
    ///
    /// When the system refuses to start a thread.
    pub fn shared(threads: Option<NonZeroUsize>) -> std::io::Result<Arc<Pool>> {
        static POOLS: Mutex<Option<HashMap<usize, Weak<Pool>>>> = Mutex::new(None);
        let wanted = threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        let pools = pools.get_or_insert_default();
        if let Some(pool) = pools.get(&wanted).and_then(Weak::upgrade) {
            return Ok(pool);
        }
        let pool = Arc::new(Pool::new(NonZeroUsize::new(wanted))?);
        pools.insert(wanted, Arc::downgrade(&pool));
        Ok(pool)
    }

    /// How many threads work at the same time.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `work` once for each number below `pieces`, on all threads, and returns when all are done.
    pub fn run(&self, pieces: usize, work: impl Fn(usize) + Sync) {
        match &self.shared {
            Some(shared) if pieces > 1 => match shared.caller.try_lock() {
                Ok(_caller) => shared.call(pieces, &work),
                Err(std::sync::TryLockError::Poisoned(poisoned)) => {
                    let _caller = poisoned.into_inner();
                    shared.call(pieces, &work);
                }
                Err(std::sync::TryLockError::WouldBlock) => (0..pieces).for_each(work),
            },
            _ => (0..pieces).for_each(work),
        }
    }

    /// The same, where pieces that are neighbours read neighbouring memory: each thread goes through a stretch of its own from
    /// its beginning, and who is done helps others from their ends. To begin at a new place of the memory takes as long as
    /// some 200 KB of reading on.
    pub fn run_in_stretches(&self, pieces: usize, work: impl Fn(usize) + Sync) {
        let threads = self.threads.min(pieces);
        let border = |thread: usize| pieces * thread / threads.max(1);
        let stretches: Vec<Stretch> = (0..threads).map(|t| Stretch::new(border(t)..border(t + 1))).collect();
        self.run(threads, |own| {
            std::iter::from_fn(|| stretches[own].first()).for_each(&work);
            for other in 1..threads {
                std::iter::from_fn(|| stretches[(own + other) % threads].last()).for_each(&work);
            }
        });
    }

    /// `f` of every item, in order, on all threads.
    pub fn map<A: Sync, B: Send>(&self, items: &[A], f: impl Fn(&A) -> B + Sync) -> Vec<B> {
        let mut results: Vec<B> = Vec::with_capacity(items.len());
        let piece = items.len().div_ceil(8 * self.threads).max(1);
        let slots: Vec<_> = items.chunks(piece).zip(results.spare_capacity_mut().chunks_mut(piece)).collect();
        self.for_each(slots, |(items, slots): (&[A], &mut [MaybeUninit<B>])| {
            for (item, slot) in items.iter().zip(slots) {
                slot.write(f(item));
            }
        });
        // SAFETY: `for_each` returned, so each piece wrote all its slots, which are the first `items.len()` together. Where
        // a piece panics this is not reached, and what was written is leaked.
        unsafe { results.set_len(items.len()) };
        results
    }

    /// Calls `f` once for every piece, on all threads, and returns when all are done.
    pub fn for_each<T: Send>(&self, pieces: Vec<T>, f: impl Fn(T) + Sync) {
        let slots: Vec<Mutex<Option<T>>> = pieces.into_iter().map(|piece| Mutex::new(Some(piece))).collect();
        self.run(slots.len(), |i| {
            if let Some(piece) = slots[i].lock().unwrap_or_else(PoisonError::into_inner).take() {
                f(piece);
            }
        });
    }

    /// A buffer of at least `bytes`, whatever is in them, to be given back after use.
    pub(super) fn take_buffer(&self, bytes: usize) -> Buffer {
        let mut buffer = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let lines = bytes.div_ceil(size_of::<Line>());
        if buffer.0.len() < lines {
            buffer.0.resize(lines, Line([0; 64]));
        }
        buffer
    }

    pub(super) fn give_back(&self, buffer: Buffer) {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.quit.store(true, Ordering::SeqCst);
            drop(shared.asleep.lock());
            shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches what its pieces panic with and ends by `quit` only.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Shared {
    /// One call, by the thread that holds `caller`.
    fn call(&self, pieces: usize, work: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime is changed. The pointer is used by workers that are inside, and this function does not
        // return, not even by a panic, before it has closed the call and found nobody inside.
        let work: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        // SAFETY: the previous call has ended, so that the state is closed with nobody inside, and this thread holds `caller`.
        unsafe { *self.job.get() = Job { work, pieces } };
        self.next.store(0, Ordering::Relaxed);
        let state = self.state.load(Ordering::Relaxed);
        self.state.store((state & !(OPEN | INSIDE)).wrapping_add(CALL) | OPEN, Ordering::Release);
        // Either this sees a sleeper, or the sleeper, which counts itself before it looks at the state, sees the call.
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            drop(self.asleep.lock());
            self.wake.notify_all();
        }
        // SAFETY: the closure is the caller's and alive.
        let own = catch_unwind(AssertUnwindSafe(|| self.take_pieces(unsafe { &*work }, pieces)));
        if own.is_err() {
            self.next.store(pieces, Ordering::Relaxed); // nobody begins another one
        }
        self.state.fetch_and(!OPEN, Ordering::Relaxed);
        let mut looks = 0;
        while self.state.load(Ordering::Acquire) & INSIDE > 0 {
            looks += 1;
            if looks < 16 * LOOKS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let theirs = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    fn take_pieces(&self, work: &(dyn Fn(usize) + Sync), pieces: usize) {
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                return;
            }
            work(piece);
        }
    }

    /// A worker's life.
    fn work(&self) {
        let mut last = 0;
        while let Some(call) = self.wait(last) {
            last = call;
            // SAFETY: `wait` has counted this thread as inside, so the job stays as it was published and its closure alive.
            let (work, pieces) = unsafe {
                let job = *self.job.get();
                (&*job.work, job.pieces)
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_pieces(work, pieces))) {
                self.next.store(pieces, Ordering::Relaxed);
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a call other than `last` and enters it; `None` when the pool ends.
    fn wait(&self, last: u64) -> Option<u64> {
        let mut since: Option<Instant> = None;
        let mut looks = 0;
        loop {
            if let Some(call) = self.enter(last) {
                return Some(call);
            }
            if self.quit.load(Ordering::Relaxed) {
                return None;
            }
            std::hint::spin_loop();
            looks += 1;
            if looks % LOOKS == 0 && since.get_or_insert_with(Instant::now).elapsed() > self.spin {
                self.sleep(last);
                since = None;
            }
        }
    }

    /// Enters the call that is open, if it is not `last`.
    fn enter(&self, last: u64) -> Option<u64> {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & OPEN != 0 && state / CALL != last {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(state / CALL),
                Err(now) => state = now,
            }
        }
        None
    }

    fn sleep(&self, last: u64) {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let mut asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let state = self.state.load(Ordering::Relaxed);
            if (state & OPEN != 0 && state / CALL != last) || self.quit.load(Ordering::SeqCst) {
                break;
            }
            asleep = self.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
        }
        drop(asleep);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Pieces that nobody has begun, in a cache line of their own: where they begin, and in the upper half where they end.
#[repr(align(64))]
struct Stretch(AtomicU64);

impl Stretch {
    fn new(pieces: Range<usize>) -> Stretch {
        Stretch(AtomicU64::new(Stretch::packed(pieces)))
    }

    fn packed(pieces: Range<usize>) -> u64 {
        let half = |n: usize| u64::from(u32::try_from(n).expect("fewer than 2^32 pieces"));
        half(pieces.end) << 32 | half(pieces.start)
    }

    fn first(&self) -> Option<usize> {
        self.take(|left| left.next())
    }

    fn last(&self) -> Option<usize> {
        self.take(|left| left.next_back())
    }

    fn take(&self, one: impl Fn(&mut Range<usize>) -> Option<usize>) -> Option<usize> {
        let mut taken = None;
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
            let mut left = (packed & u64::from(u32::MAX)) as usize..(packed >> 32) as usize;
            taken = one(&mut left);
            taken.map(|_| Stretch::packed(left))
        });
        taken
    }
}

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Memory that begins at a cache line.
#[derive(Default)]
pub(super) struct Buffer(Vec<Line>);

impl Buffer {
    /// All of it.
    pub(super) fn all(&self) -> &[u8] {
        // SAFETY: `Line` is 64 initialised bytes without padding, and bytes need no alignment.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast::<u8>(), size_of_val(&self.0[..])) }
    }

    /// Its first `bytes`.
    pub(super) fn bytes(&mut self, bytes: usize) -> &mut [u8] {
        // SAFETY: `Line` is 64 initialised bytes without padding, and bytes need no alignment.
        let all = unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<u8>(), size_of_val(&self.0[..])) };
        &mut all[..bytes]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn pool(threads: usize) -> Pool {
        Pool::new(NonZeroUsize::new(threads)).expect("threads start")
    }

    #[test]
    fn every_piece_runs_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = pool(threads);
            for pieces in (0..20).chain([1000]) {
                let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
                pool.run(pieces, |i| _ = counts[i].fetch_add(1, Ordering::Relaxed));
                pool.run_in_stretches(pieces, |i| _ = counts[i].fetch_add(2, Ordering::Relaxed));
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 3), "{threads} {pieces}");
            }
        }
    }

    /// The caller alone, as where the system lets no other thread run, goes through its own stretch and then takes the others'
    /// from their ends.
    #[test]
    fn neighbours_follow_each_other_and_help_comes_from_the_end() {
        let pool = pool(3);
        let order = Mutex::new(Vec::new());
        // Inside a call the pool is busy, so that the one inside is worked off alone.
        pool.run(2, |outer| {
            if outer == 0 {
                pool.run_in_stretches(10, |piece| order.lock().expect("nobody panics").push(piece));
            }
        });
        assert_eq!(order.into_inner().expect("nobody panics"), [0, 1, 2, 5, 4, 3, 9, 8, 7, 6]);
    }

    #[test]
    fn thousands_of_calls_after_each_other_and_after_sleep_do_all_their_work() {
        let pool = pool(3);
        let total = AtomicUsize::new(0);
        for call in 0..if cfg!(miri) { 20 } else { 5000 } {
            pool.run(7, |i| _ = total.fetch_add(i + 1, Ordering::Relaxed));
            assert_eq!(total.load(Ordering::Relaxed), (call + 1) * 28);
            if call % 500 == 0 {
                std::thread::sleep(Duration::from_millis(1)); // the workers sleep
            }
        }
    }

    #[test]
    fn work_inside_work_and_calls_from_several_threads_end() {
        let pool = pool(2);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.run(4, |_| pool.run(3, |_| _ = total.fetch_add(1, Ordering::Relaxed)));
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 4 * 50 * 12);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = pool(3);
        for bad in 0..6 {
            let caught = catch_unwind(AssertUnwindSafe(|| pool.run(6, |i| assert_ne!(i, bad, "piece {bad}"))));
            assert!(caught.is_err());
            let fails = |i| assert_ne!(i, bad, "piece {bad}");
            assert!(catch_unwind(AssertUnwindSafe(|| pool.run_in_stretches(6, fails))).is_err());
            let total = AtomicUsize::new(0);
            pool.run(6, |i| _ = total.fetch_add(i, Ordering::Relaxed));
            assert_eq!(total.load(Ordering::Relaxed), 15);
        }
    }

    #[test]
    fn map_keeps_the_order() {
        let items: Vec<usize> = (0..1003).collect();
        assert_eq!(pool(3).map(&items, |i| i.to_string())[1002], "1002");
        assert_eq!(pool(3).map(&items, |i| i * 2), items.iter().map(|i| i * 2).collect::<Vec<_>>());
        assert!(pool(2).map(&[0u8; 0], |_| 1).is_empty());
    }

    #[test]
    fn engines_share_the_threads() {
        let one = Pool::shared(NonZeroUsize::new(2)).expect("threads start");
        let two = Pool::shared(NonZeroUsize::new(2)).expect("threads start");
        assert!(Arc::ptr_eq(&one, &two));
    }

    #[test]
    fn threads_sleep_when_there_is_nothing_to_do() {
        let pool = pool(3);
        pool.run(3, |_| ());
        let shared = pool.shared.as_ref().expect("three threads");
        for _ in 0..60_000 {
            if shared.sleepers.load(Ordering::SeqCst) == 2 {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("{} of 2 threads sleep", shared.sleepers.load(Ordering::SeqCst));
    }

    #[test]
    fn a_sleeper_hears_of_every_call() {
        // Each piece waits for the others, so that a thread that misses the call is missed. The pauses between calls last
        // from nothing to well after a thread has gone to sleep, in steps that no spin is a multiple of.
        for threads in [2, 3] {
            let pool = pool(threads);
            let spin = pool.shared.as_ref().expect("several threads").spin;
            let calls = if cfg!(miri) { 20 } else { 1500 };
            for call in 0..calls {
                let pause = spin * (call % 97) / 60;
                let since = Instant::now();
                while since.elapsed() < pause {
                    std::hint::spin_loop();
                }
                let arrived = AtomicUsize::new(0);
                pool.run(threads, |_| {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    let since = Instant::now();
                    while arrived.load(Ordering::SeqCst) < threads {
                        assert!(
                            since.elapsed() < Duration::from_secs(120),
                            "call {call}: a thread of {threads} is missing"
                        );
                        std::thread::yield_now();
                    }
                });
            }
        }
    }

    #[test]
    fn results_are_seen_by_the_caller_whatever_else_happens() {
        // Plain memory, written by pieces and read by the caller, between panics, nested calls and other callers.
        let rounds = if cfg!(miri) { 5 } else { 300 };
        for threads in [2, 3, 8] {
            let pool = pool(threads);
            std::thread::scope(|scope| {
                for caller in 0..3 {
                    let pool = &pool;
                    scope.spawn(move || {
                        for round in 0..rounds {
                            let len = 1 + (round * 7 + caller) % 40;
                            let mut all = vec![0; len];
                            pool.for_each(all.chunks_mut(3).enumerate().collect(), |(i, part)| {
                                for (j, x) in part.iter_mut().enumerate() {
                                    *x = round + 3 * i + j;
                                }
                            });
                            assert!(all.iter().enumerate().all(|(i, x)| *x == round + i));
                            if round % 50 == 49 {
                                let run = AssertUnwindSafe(|| pool.run(5, |i| assert_ne!(i, round % 5, "on purpose")));
                                assert!(catch_unwind(run).is_err());
                            }
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn a_pool_may_end_while_its_threads_work_spin_or_sleep() {
        for round in 0..if cfg!(miri) { 3 } else { 100 } {
            let pool = pool(3);
            if round % 3 > 0 {
                pool.run(3, |_| ());
            }
            if round % 3 > 1 {
                std::thread::sleep(Duration::from_micros(20 * round));
            }
            drop(pool);
        }
    }
}
