//! Byte-pair encoding: of all neighbours that have a merge the one that was learned first is merged, the leftmost among
//! equals, until none is left.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Words up to this length look for their best merge one by one; longer ones, such as whole texts without spaces, keep a heap.
const SHORT: usize = 48;

/// No merge.
const NEVER: u32 = u32::MAX;

/// What two neighbours become, and how early that was learned.
pub(super) struct Merges {
    /// Where the merges of each left token begin, and where the last end.
    starts: Vec<u32>,
    /// By left token, then by right token.
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    right: u32,
    rank: u32,
    merged: u32,
}

impl Merges {
    /// From (left, right, merged), first learned first; of two for the same pair the first counts. All are tokens of a
    /// vocabulary of `size`.
    pub(super) fn new(size: usize, merges: &[(u32, u32, u32)]) -> Merges {
        let mut starts = vec![0u32; size + 1];
        for (left, _, _) in merges {
            starts[*left as usize + 1] += 1;
        }
        for left in 0..size {
            starts[left + 1] += starts[left];
        }
        let mut next = starts.clone();
        let mut entries = vec![Entry { right: 0, rank: NEVER, merged: 0 }; merges.len()];
        for (rank, (left, right, merged)) in merges.iter().enumerate() {
            let place = &mut next[*left as usize];
            entries[*place as usize] = Entry { right: *right, rank: rank as u32, merged: *merged };
            *place += 1;
        }
        for left in 0..size {
            entries[starts[left] as usize..starts[left + 1] as usize].sort_unstable_by_key(|e| (e.right, e.rank));
        }
        Merges { starts, entries }
    }

    /// Whether two merges are of the same pair.
    pub(super) fn has_a_pair_twice(&self) -> bool {
        let of_left = |range: &[u32]| &self.entries[range[0] as usize..range[1] as usize];
        self.starts.windows(2).map(of_left).any(|entries| entries.windows(2).any(|two| two[0].right == two[1].right))
    }

    fn of(&self, left: u32, right: u32) -> Option<Entry> {
        let range = self.starts[left as usize] as usize..self.starts[left as usize + 1] as usize;
        let entries = &self.entries[range];
        let place = entries.partition_point(|entry| entry.right < right);
        entries.get(place).copied().filter(|entry| entry.right == right)
    }

    fn rank(&self, left: u32, right: u32) -> u32 {
        self.of(left, right).map_or(NEVER, |entry| entry.rank)
    }

    /// Merges the tokens of one word.
    pub(super) fn apply(&self, word: &mut Vec<u32>) {
        if word.len() <= SHORT { self.apply_one_by_one(word) } else { self.apply_with_heap(word) }
    }

    fn apply_one_by_one(&self, word: &mut Vec<u32>) {
        let mut ranks = [NEVER; SHORT];
        for (rank, pair) in ranks.iter_mut().zip(word.windows(2)) {
            *rank = self.rank(pair[0], pair[1]);
        }
        while word.len() > 1 {
            let pairs = word.len() - 1;
            let (place, rank) = (0..pairs).map(|i| (i, ranks[i])).min_by_key(|(_, rank)| *rank).expect("a pair");
            if rank == NEVER {
                return;
            }
            let Some(entry) = self.of(word[place], word[place + 1]) else { return };
            word[place] = entry.merged;
            word.remove(place + 1);
            ranks.copy_within(place + 1..pairs, place);
            ranks[pairs - 1] = NEVER;
            if place > 0 {
                ranks[place - 1] = self.rank(word[place - 1], word[place]);
            }
            if place + 1 < word.len() {
                ranks[place] = self.rank(word[place], word[place + 1]);
            }
        }
    }

    fn apply_with_heap(&self, word: &mut Vec<u32>) {
        const GONE: u32 = u32::MAX;
        let length = word.len();
        let mut next: Vec<u32> = (1..=length as u32).collect();
        let mut previous: Vec<u32> = (0..length as u32).map(|place| place.wrapping_sub(1)).collect();
        let candidate = |word: &[u32], left: usize, right: usize| {
            let rank = self.rank(word[left], word[right]);
            (rank != NEVER).then_some(Reverse((rank, left as u32)))
        };
        let pairs: Vec<_> = (1..length).filter_map(|right| candidate(word, right - 1, right)).collect();
        let mut heap = BinaryHeap::from(pairs);
        while let Some(Reverse((rank, left))) = heap.pop() {
            let left = left as usize;
            let right = next[left] as usize;
            if word[left] == GONE || right >= length {
                continue;
            }
            // What stands there now may be another pair than the one that was put into the heap.
            let Some(entry) = self.of(word[left], word[right]).filter(|entry| entry.rank == rank) else { continue };
            word[left] = entry.merged;
            word[right] = GONE;
            next[left] = next[right];
            if let Some(before) = previous.get_mut(next[left] as usize) {
                *before = left as u32;
                heap.extend(candidate(word, left, next[left] as usize));
            }
            if previous[left] != u32::MAX {
                heap.extend(candidate(word, previous[left] as usize, left));
            }
        }
        word.retain(|token| *token != GONE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Merges by the definition: the best pair, everywhere it could be looked for anew.
    fn by_definition(merges: &[(u32, u32, u32)], word: &[u32]) -> Vec<u32> {
        let mut word = word.to_vec();
        loop {
            let best = word.windows(2).enumerate().filter_map(|(place, pair)| {
                let rank = merges.iter().position(|(left, right, _)| [*left, *right] == pair)?;
                Some((rank, place))
            });
            let Some((rank, place)) = best.min() else { return word };
            word.splice(place..place + 2, [merges[rank].2]);
        }
    }

    #[test]
    fn short_and_long_words_are_merged_by_the_definition() {
        // Tokens 0..4 are letters, the others merges of what was before, some pairs twice.
        let mut state = 1u64;
        let mut random = |n: u32| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) % u64::from(n)) as u32
        };
        for round in 0..200 {
            let merges: Vec<(u32, u32, u32)> = (4..40).map(|id| (random(id), random(id), id)).collect();
            let built = Merges::new(40, &merges);
            for length in [0, 1, 2, 3, 5, 20, SHORT as u32 - 1, SHORT as u32, SHORT as u32 + 1, 120] {
                let word: Vec<u32> = (0..length).map(|_| random(4)).collect();
                let expected = by_definition(&merges, &word);
                for apply in [Merges::apply, Merges::apply_with_heap] {
                    let mut found = word.clone();
                    apply(&built, &mut found);
                    assert_eq!(found, expected, "round {round}, {word:?}");
                }
            }
        }
    }
}
