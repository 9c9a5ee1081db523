//! How long a template has worked, whatever else the machine does meanwhile: a conversation must not fail because the
//! process was stopped, or because others had the processor.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is left of the time that all renders of one conversation have together.
pub(in crate::text) struct Allowance(AtomicU64); // nanoseconds

impl Allowance {
    pub(in crate::text) fn new(time: Duration) -> Allowance {
        Allowance(AtomicU64::new(time.as_nanos() as u64))
    }
}

/// One render's look at it, by the thread that renders.
pub(super) struct Clock<'a> {
    allowance: &'a Allowance,
    left: Duration,
    begun: Instant,
    /// What the thread had worked before; `None` where the system does not tell, and the wall's clock must do.
    worked: Option<Duration>,
    /// Before this moment nothing can be over.
    look: Cell<Instant>,
}

/// How much longer than its work a render may take: enough for a crowded machine, and an end where the system tells nonsense.
const PATIENCE: u32 = 200;

impl Clock<'_> {
    pub(super) fn start(allowance: &Allowance) -> Clock<'_> {
        let left = Duration::from_nanos(allowance.0.load(Ordering::Relaxed));
        let begun = Instant::now();
        Clock { allowance, left, begun, worked: time_of_thread(), look: Cell::new(begun + left) }
    }

    pub(super) fn is_over(&self) -> bool {
        let now = Instant::now();
        if now < self.look.get() {
            return false;
        }
        let rest = self.left.saturating_sub(self.spent(now));
        self.look.set(now + rest);
        rest.is_zero() || now - self.begun > self.left * PATIENCE
    }

    fn spent(&self, now: Instant) -> Duration {
        match (self.worked, time_of_thread()) {
            (Some(before), Some(worked)) => worked.saturating_sub(before),
            _ => now - self.begun,
        }
    }
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        let left = self.left.saturating_sub(self.spent(Instant::now()));
        self.allowance.0.store(left.as_nanos() as u64, Ordering::Relaxed);
    }
}

/// What this thread has had of processors so far.
fn time_of_thread() -> Option<Duration> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    told.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn who_waits_for_the_processor_spends_nothing_and_who_works_does() {
        let allowance = Allowance::new(Duration::from_millis(60));
        let clock = Clock::start(&allowance);
        std::thread::sleep(Duration::from_millis(120));
        assert!(!clock.is_over(), "it slept and did not work");
        let before = time_of_thread().expect("/proc");
        while !clock.is_over() {
            std::hint::spin_loop();
        }
        let worked = time_of_thread().expect("/proc") - before;
        assert!(worked >= Duration::from_millis(30) && worked < Duration::from_secs(1), "{worked:?}");
        drop(clock);
        assert!(Clock::start(&allowance).is_over(), "the next render has what is left, which is nothing");
    }
}
