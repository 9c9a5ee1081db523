//! Memory is refused with numbers, before the machine has to make room by swapping or by reading weights again and again.
//!
//! Weights are counted before the first of them is touched, caches before they grow. What may be used is what the system
//! says is free at that moment, or what the user allows. Weights that lie in a mapped file count as free for the system, since it
//! may drop them and read them again; for a text that needs them at every token they are not.

use crate::error::{Error, Result};
use crate::memory::Memory;

/// Caches are granted so many bytes at a time, so that the system is not asked at every token.
const GRANT: u64 = 64 << 20;

/// Refuses weights of so many bytes where they may not take them; `hint` is told how many they may take.
pub(super) fn check_weights(limit: Option<u64>, bytes: u64, hint: impl FnOnce(u64) -> String) -> Result<()> {
    match limit.or_else(|| Memory::now().available) {
        Some(most) if bytes > most => {
            let problem = format!("the weights take {}, and {}", shown(bytes), may_be_used(limit, most));
            Err(Error::memory(problem, hint(most)))
        }
        _ => Ok(()),
    }
}

/// What a loaded model leaves of the memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// What the user allows for weights and caches.
    limit: Option<u64>,
    /// All weights.
    weights: u64,
    /// What of them lies in files.
    mapped: u64,
}

impl Room {
    pub(super) fn new(limit: Option<u64>, weights: usize, mapped: usize) -> Room {
        Room { limit, weights: weights as u64, mapped: mapped as u64 }
    }

    /// What caches may take beside `held`, what they have.
    fn left(&self, held: u64) -> Option<u64> {
        match self.limit {
            Some(limit) => Some(limit.saturating_sub(self.weights).saturating_sub(held)),
            None => Some(Memory::now().available?.saturating_sub(self.mapped)),
        }
    }
}

/// What the caches of a generation were granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    room: Room,
    /// Bytes of keys and values for a token.
    per_token: u64,
    tokens: u64,
    granted: u64,
}

impl Grant {
    pub(super) fn new(room: Room, per_token: usize) -> Grant {
        Grant { room, per_token: per_token as u64, tokens: 0, granted: 0 }
    }

    /// Room for the keys and values of so many tokens, of which some may never come.
    pub(super) fn check(&self, tokens: usize) -> Result<()> {
        let needed = self.per_token.saturating_mul(tokens as u64);
        match self.room.left(0) {
            Some(left) if needed > left => Err(self.refused(tokens as u64, needed, left)),
            _ => Ok(()),
        }
    }

    /// The next forward pass stores keys and values of so many tokens more.
    pub(super) fn take(&mut self, tokens: usize) -> Result<()> {
        let (all, held) = (self.tokens + tokens as u64, self.granted);
        let needed = self.per_token.saturating_mul(all);
        if needed > held {
            let more = needed - held;
            let Some(left) = self.room.left(held) else { return Ok(()) };
            if more > left {
                return Err(self.refused(all, needed, held.saturating_add(left)));
            }
            self.granted = held + more.max(GRANT.min(left));
        }
        self.tokens = all;
        Ok(())
    }

    fn refused(&self, tokens: u64, needed: u64, left: u64) -> Error {
        let problem = format!(
            "the keys and values of {tokens} tokens take {}, and {} beside {} of weights",
            shown(needed),
            may_be_used(self.room.limit, left),
            shown(self.room.weights)
        );
        Error::memory(problem, "ask for fewer tokens or texts, or keep them smaller with `--kv f16` or `--kv q8_0`")
    }
}

fn may_be_used(limit: Option<u64>, bytes: u64) -> String {
    match limit {
        Some(_) => format!("`max_memory` leaves {}", shown(bytes)),
        None => format!("{} may be used here", shown(bytes)),
    }
}

/// `14.5 GB`, `3.2 MB`, `0.1 KB`
pub(super) fn shown(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1_000_000 => (1e3, "KB"),
        1_000_000..1_000_000_000 => (1e6, "MB"),
        _ => (1e9, "GB"),
    };
    format!("{:.1} {name}", bytes as f64 / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(limit: u64) -> Grant {
        Grant::new(Room::new(Some(limit), 1000, 0), 10)
    }

    #[test]
    fn caches_get_what_the_weights_leave_and_no_more() {
        let grown = |limit: u64, step: usize| {
            let mut grant = grant(limit);
            let passes = (0..10_000).take_while(|_| grant.take(step).is_ok()).count();
            passes * step
        };
        for step in [1, 3, 7] {
            assert_eq!(grown(2000, step), 100 / step * step, "steps of {step}");
        }
        assert_eq!(grown(1009, 1), 0);
        assert_eq!(grown(0, 1), 0);
        // In several grants.
        assert_eq!(grown(1000 + 3 * GRANT, 1 << 20), (3 * GRANT / 10) as usize >> 20 << 20);
    }

    #[test]
    fn what_is_asked_for_is_refused_at_once() {
        assert!(grant(2000).check(100).is_ok());
        let error = grant(2000).check(101).unwrap_err();
        let expected =
            "the keys and values of 101 tokens take 1.0 KB, and `max_memory` leaves 1.0 KB beside 1.0 KB of weights";
        assert_eq!(error.to_string(), expected);
        assert!(grant(2000).check(usize::MAX).is_err());
    }

    /// Nobody has an exabyte; everybody has a token's.
    #[test]
    fn the_systems_word_counts_where_the_user_has_none() {
        if Memory::now().available.is_none() {
            return;
        }
        let mut grant = Grant::new(Room::new(None, 1000, 1000), 1 << 20);
        assert!(grant.check(1 << 40).is_err());
        assert!(grant.take(1).is_ok());
        assert!(grant.take(1 << 40).is_err());
        assert!(Grant::new(Room::new(None, usize::MAX, usize::MAX), 1).take(1).is_err(), "mapped weights are not free");
    }
}
