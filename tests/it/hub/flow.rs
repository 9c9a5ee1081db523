//! How fast bodies go out.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of the longest body that is no file of weights: a look at one's header.
const A_LOOK: u64 = 64 << 10;

pub struct Flow {
    /// Bytes per second of all bodies together; 0 is no limit.
    rate: AtomicU64,
    /// Bytes of weights that may still go out; `u64::MAX` is no limit.
    left: AtomicU64,
    next_slot: Mutex<Instant>,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow { rate: AtomicU64::new(0), left: AtomicU64::new(u64::MAX), next_slot: Mutex::new(Instant::now()) }
    }
}

impl Flow {
    pub fn bandwidth(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    pub fn stall_after(&self, bytes: u64) {
        self.left.store(bytes, Ordering::Relaxed);
    }

    pub fn is_stalled(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    pub fn go_on(&self) {
        self.left.store(u64::MAX, Ordering::Relaxed);
    }

    pub fn is_limited(&self) -> bool {
        self.rate.load(Ordering::Relaxed) > 0 || self.left.load(Ordering::Relaxed) < u64::MAX
    }

    /// Waits until so many more bytes of a body of this length may go out, or until all is over.
    pub fn wait_for_room(&self, bytes: usize, body: u64, over: &AtomicBool) {
        let take = |left: u64| match left {
            0 => None,
            u64::MAX => Some(left),
            _ => Some(left.saturating_sub(bytes as u64)),
        };
        let goes = || self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        while body > A_LOOK && !goes() && !over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let mut next = self.next_slot.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = (*next).max(Instant::now());
        *next = slot + Duration::from_secs_f64(bytes as f64 / rate as f64);
        drop(next);
        std::thread::sleep(slot.saturating_duration_since(Instant::now()));
    }
}
