//! Random numbers as a function of (seed, sequence, step): Philox 4x32-10.
//!
//! Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3". There is no state to share or to advance, so what
//! one sequence draws cannot depend on its neighbours in the batch, on threads, or on how often a draft was rejected.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Four random words for one counter under one key.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// The draws of one sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random {
    seed: u64,
    sequence: u32,
}

impl Random {
    pub(super) fn new(seed: u64, sequence: usize) -> Random {
        Random { seed, sequence: sequence as u32 }
    }

    /// Uniform in [0, 1) with 53 bits: the `draw`-th number of this sequence's `step`-th token.
    pub(super) fn uniform(&self, step: usize, draw: usize) -> f64 {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let words = philox([step as u32, draw as u32, self.sequence, 0], key);
        let bits = (u64::from(words[0]) << 32 | u64::from(words[1])) >> 11;
        bits as f64 / (1u64 << 53) as f64
    }
}

/// A seed for a request that names none.
pub(super) fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // The standard library keys its hash maps from the system's randomness; 32 bits are easier to type again.
    RandomState::new().build_hasher().finish() & 0xFFFF_FFFF
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_published_test_vectors() {
        // Random123 1.09, kat_vectors, lines "philox4x32 10".
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox(pi, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn sequences_steps_and_draws_differ() {
        let random = Random::new(42, 0);
        let all = [
            random.uniform(0, 0),
            random.uniform(1, 0),
            random.uniform(0, 1),
            Random::new(42, 1).uniform(0, 0),
            Random::new(43, 0).uniform(0, 0),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!((0.0..1.0).contains(a));
            assert!(all[..i].iter().all(|b| a != b), "{all:?}");
        }
    }
}
