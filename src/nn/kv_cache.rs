//! One sequence's keys and values: append, view, truncate, fork.
//!
//! Rows lie in chunks that grow as the sequence does, so that a context of 131,072 tokens costs nothing until it is used
//! and growing copies nothing. A fork shares full chunks with its parent and copies one only when it writes to it.

use std::sync::Arc;

/// Rows of a chunk. 64 rows of a 768-wide model are 192 KB: large enough that a chunk border costs nothing beside the
/// rows in it, small enough that a fork's one copied chunk and a short prompt's one half-empty chunk do not matter.
pub(super) const CHUNK_ROWS: usize = 64;

/// Keys and values of one sequence for all layers. `clone` is the fork.
#[derive(Clone)]
pub struct KvCache {
    layers: Vec<Layer>,
    /// Numbers in one row of keys: n_kv_heads · head_dim.
    width: usize,
    length: usize,
}

#[derive(Clone, Default)]
struct Layer {
    keys: Vec<Arc<[f32]>>,
    values: Vec<Arc<[f32]>>,
}

impl KvCache {
    /// An empty cache for `layers` layers with rows of `width` numbers.
    pub fn new(layers: usize, width: usize) -> KvCache {
        KvCache { layers: vec![Layer::default(); layers], width, length: 0 }
    }

    /// Tokens whose keys and values all layers hold.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Forgets all tokens from `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        let chunks = self.length.div_ceil(CHUNK_ROWS);
        for layer in &mut self.layers {
            layer.keys.truncate(chunks);
            layer.values.truncate(chunks);
        }
    }

    /// Writes the rows that follow the first `len()` ones. The length grows only with [`KvCache::advance`], when every
    /// layer has its rows; a forward pass that failed half-way leaves the cache as it was.
    pub(super) fn write(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let (start, width) = (self.length, self.width);
        let layer = &mut self.layers[layer];
        write_rows(&mut layer.keys, start, width, keys);
        write_rows(&mut layer.values, start, width, values);
    }

    pub(super) fn advance(&mut self, rows: usize) {
        self.length += rows;
    }

    /// The chunks of one layer: keys and values, each (CHUNK_ROWS, width).
    pub(super) fn chunks(&self, layer: usize) -> (Vec<&[f32]>, Vec<&[f32]>) {
        let layer = &self.layers[layer];
        (layer.keys.iter().map(|chunk| &**chunk).collect(), layer.values.iter().map(|chunk| &**chunk).collect())
    }
}

fn write_rows(chunks: &mut Vec<Arc<[f32]>>, mut row: usize, width: usize, mut rows: &[f32]) {
    while !rows.is_empty() {
        let (chunk, first) = (row / CHUNK_ROWS, row % CHUNK_ROWS);
        if chunk == chunks.len() {
            chunks.push(vec![0.0; CHUNK_ROWS * width].into());
        }
        let count = (CHUNK_ROWS - first).min(rows.len() / width);
        let (now, later) = rows.split_at(count * width);
        let target = Arc::make_mut(&mut chunks[chunk]);
        target[first * width..(first + count) * width].copy_from_slice(now);
        rows = later;
        row += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of two numbers that tell their position.
    fn rows(range: std::ops::Range<usize>) -> Vec<f32> {
        range.flat_map(|i| [i as f32, -(i as f32)]).collect()
    }

    fn append(cache: &mut KvCache, range: std::ops::Range<usize>) {
        let (keys, count) = (rows(range.clone()), range.len());
        cache.write(0, &keys, &keys);
        cache.advance(count);
    }

    fn contents(cache: &KvCache) -> Vec<f32> {
        let (keys, values) = cache.chunks(0);
        assert_eq!(keys, values);
        keys.concat()[..cache.len() * 2].to_vec()
    }

    #[test]
    fn rows_appended_in_any_pieces_read_back_in_order() {
        for piece in [1, 7, 63, 64, 65, 200] {
            let mut cache = KvCache::new(1, 2);
            let mut at = 0;
            while at < 200 {
                let end = (at + piece).min(200);
                append(&mut cache, at..end);
                at = end;
            }
            assert_eq!(contents(&cache), rows(0..200), "pieces of {piece}");
        }
    }

    #[test]
    fn a_fork_and_its_parent_do_not_see_each_other() {
        let mut parent = KvCache::new(1, 2);
        append(&mut parent, 0..100);
        let mut fork = parent.clone();
        fork.truncate(90);
        append(&mut fork, 500..510);
        append(&mut parent, 100..130);
        assert_eq!(contents(&parent), rows(0..130));
        assert_eq!(contents(&fork), [rows(0..90), rows(500..510)].concat());
    }

    #[test]
    fn truncating_frees_chunks_and_never_grows() {
        let mut cache = KvCache::new(1, 2);
        append(&mut cache, 0..130);
        cache.truncate(500);
        assert_eq!(cache.len(), 130);
        cache.truncate(64);
        assert_eq!((cache.len(), cache.chunks(0).0.len()), (64, 1));
        cache.truncate(0);
        assert_eq!((cache.len(), cache.chunks(0).0.len()), (0, 0));
    }
}
