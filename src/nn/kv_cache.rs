//! One sequence's keys and values: append, view, truncate, fork.
//!
//! Rows lie in chunks that grow as the sequence does, so that a context of 131,072 tokens costs nothing until it is used
//! and growing copies nothing. A fork shares full chunks with its parent and copies one only when it writes to it.

use std::sync::Arc;

use crate::kernels::{CHUNK_ROWS, CacheShape, CacheType, Chunk};

/// Keys and values of one sequence for all layers. `clone` is the fork.
#[derive(Clone, Default)]
pub struct KvCache {
    layers: Vec<Vec<Arc<Chunk>>>,
    kind: CacheType,
    length: usize,
    goal: usize,
}

impl KvCache {
    /// An empty cache for `layers` layers.
    pub fn new(layers: usize, kind: CacheType) -> KvCache {
        KvCache { layers: vec![Vec::new(); layers], kind, length: 0, goal: 0 }
    }

    /// Tokens whose keys and values all layers hold.
    pub fn len(&self) -> usize {
        self.length
    }

    /// How long the sequence was said to become.
    pub fn goal(&self) -> usize {
        self.goal
    }

    /// Says how long the sequence will be when what is fed now is through: a prompt's length before its first chunk. Models
    /// with two sets of rotary frequencies choose by it, so the rows that are here already must not be on the other side of
    /// the border (`border` in the model's shape): such a cache is emptied, and its sequence is read again.
    pub fn set_goal(&mut self, tokens: usize, border: Option<usize>) {
        let is_long = |tokens: usize| border.is_some_and(|border| tokens > border);
        if is_long(tokens) != is_long(self.goal) {
            self.truncate(0);
        }
        self.goal = tokens;
    }

    /// Forgets all tokens from `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        for chunks in &mut self.layers {
            chunks.truncate(self.length.div_ceil(CHUNK_ROWS));
        }
    }

    /// What keys and values are stored as.
    pub fn kind(&self) -> CacheType {
        self.kind
    }

    /// The chunks of each layer.
    pub fn layers(&self) -> &[Vec<Arc<Chunk>>] {
        &self.layers
    }

    /// A cache of `length` tokens out of the chunks of each layer, as [`KvCache::layers`] gave them, and with the goal that it
    /// had.
    pub fn from_layers(layers: Vec<Vec<Arc<Chunk>>>, kind: CacheType, length: usize, goal: usize) -> KvCache {
        KvCache { layers, kind, length, goal }
    }

    /// Whether another cache holds the same bits for a token that both have.
    pub fn has_same_row(&self, other: &KvCache, row: usize) -> bool {
        let bits = |cache: &KvCache, layer: usize| {
            let (keys, values) = cache.layers[layer].get(row / CHUNK_ROWS)?.read(row % CHUNK_ROWS);
            Some(keys.into_iter().chain(values).map(f32::to_bits).collect::<Vec<u32>>())
        };
        self.layers.len() == other.layers.len()
            && (0..self.layers.len()).all(|layer| bits(self, layer) == bits(other, layer))
    }

    /// The chunks of one layer, with room for `rows` rows of `n_kv_heads` heads behind the first `len()` ones. The length
    /// grows only with [`KvCache::advance`], when every layer has its rows; a forward pass that failed half-way leaves the
    /// cache as it was.
    pub(super) fn chunks_for(
        &mut self,
        layer: usize,
        n_kv_heads: usize,
        head_dim: usize,
        rows: usize,
    ) -> &mut [Arc<Chunk>] {
        let shape = CacheShape { kind: self.kind, n_kv_heads, head_dim };
        let chunks = &mut self.layers[layer];
        if chunks.first().is_some_and(|chunk| chunk.shape() != shape) {
            // Of another model, out of a file. Whoever read it compares a row with a computed one, and these will differ.
            chunks.iter_mut().for_each(|chunk| *chunk = Arc::new(Chunk::new(shape)));
        }
        while chunks.len() < (self.length + rows).div_ceil(CHUNK_ROWS) {
            chunks.push(Arc::new(Chunk::new(shape)));
        }
        chunks
    }

    /// Stores rows that are complete, each (n_kv_heads · head_dim), behind the first `len()` ones.
    pub(super) fn write(&mut self, layer: usize, heads: (usize, usize), keys: &[f32], values: &[f32]) {
        let (mut row, width) = (self.length, heads.0 * heads.1);
        let chunks = self.chunks_for(layer, heads.0, heads.1, keys.len() / width);
        for (key, value) in keys.chunks_exact(width).zip(values.chunks_exact(width)) {
            Arc::make_mut(&mut chunks[row / CHUNK_ROWS]).write(row % CHUNK_ROWS, key, value);
            row += 1;
        }
    }

    pub(super) fn advance(&mut self, rows: usize) {
        self.length += rows;
    }

    /// The first `rows` rows of one layer, keys and values, each (rows, n_kv_heads · head_dim).
    pub(super) fn read(&self, layer: usize, rows: usize) -> (Vec<f32>, Vec<f32>) {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for row in 0..rows {
            let (key, value) = self.layers[layer][row / CHUNK_ROWS].read(row % CHUNK_ROWS);
            keys.extend(key);
            values.extend(value);
        }
        (keys, values)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    /// Rows of two numbers that tell their position.
    fn rows(range: Range<usize>) -> Vec<f32> {
        range.flat_map(|i| [i as f32, -(i as f32)]).collect()
    }

    fn append(cache: &mut KvCache, range: Range<usize>) {
        let (rows, count) = (rows(range.clone()), range.len());
        cache.write(0, (2, 1), &rows, &rows);
        cache.advance(count);
    }

    fn contents(cache: &KvCache) -> Vec<f32> {
        let (keys, values) = cache.read(0, cache.len());
        assert_eq!(keys, values);
        keys
    }

    /// An empty cache of every type; the numbers of these tests are exact in half precision.
    fn caches() -> impl Iterator<Item = KvCache> {
        [CacheType::F32, CacheType::F16].into_iter().map(|kind| KvCache::new(1, kind))
    }

    #[test]
    fn rows_appended_in_any_pieces_read_back_in_order() {
        for piece in [1, 7, 15, 16, 63, 64, 65, 200] {
            for mut cache in caches() {
                let mut at = 0;
                while at < 200 {
                    let end = (at + piece).min(200);
                    append(&mut cache, at..end);
                    at = end;
                }
                assert_eq!(contents(&cache), rows(0..200), "pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_fork_and_its_parent_do_not_see_each_other() {
        for mut parent in caches() {
            append(&mut parent, 0..100);
            let mut fork = parent.clone();
            fork.truncate(90);
            append(&mut fork, 500..510);
            append(&mut parent, 100..130);
            assert_eq!(contents(&parent), rows(0..130));
            assert_eq!(contents(&fork), [rows(0..90), rows(500..510)].concat());
        }
    }

    #[test]
    fn a_fork_shares_full_chunks() {
        let mut parent = KvCache::new(1, CacheType::F32);
        append(&mut parent, 0..100);
        let mut fork = parent.clone();
        append(&mut fork, 100..101);
        let same: Vec<bool> = parent.layers[0].iter().zip(&fork.layers[0]).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        assert_eq!(same, [true, false]);
    }

    #[test]
    fn rows_written_after_a_truncation_take_the_place_of_the_old_ones() {
        for mut cache in caches() {
            append(&mut cache, 0..150);
            for (length, next) in [(149, 300..301), (137, 310..340), (70, 350..352), (3, 400..600), (128, 700..701)] {
                let kept = contents(&cache)[..2 * length].to_vec();
                cache.truncate(length);
                append(&mut cache, next.clone());
                assert_eq!(contents(&cache), [kept, rows(next)].concat(), "after {length}");
            }
        }
    }

    #[test]
    fn truncating_frees_chunks_and_never_grows() {
        let mut cache = KvCache::new(1, CacheType::F32);
        append(&mut cache, 0..130);
        cache.truncate(500);
        assert_eq!(cache.len(), 130);
        cache.truncate(64);
        assert_eq!((cache.len(), cache.layers[0].len()), (64, 1));
        cache.truncate(0);
        assert_eq!((cache.len(), cache.layers[0].len()), (0, 0));
    }

    #[test]
    fn a_pass_that_failed_leaves_no_rows() {
        let mut cache = KvCache::new(1, CacheType::F32);
        append(&mut cache, 0..10);
        cache.write(0, (2, 1), &rows(500..600), &rows(500..600));
        append(&mut cache, 10..12);
        assert_eq!(contents(&cache), rows(0..12));
    }
}
