//! Causal attention of query tokens over cached keys and values, with the softmax inside and grouped heads.
//!
//! A query row is one head of one token; the rows of a key-value head share the reading of its cache. No masks: what a
//! token sees is a range of rows. The order of all additions is fixed by the numbers of the rows that a token sees, so
//! the bits depend neither on threads nor on how the prompt was cut nor on the rows computed beside it:
//!
//! * A score is one chain over the elements of a head, with the query multiplied by `scale * log2(e)` beforehand.
//! * Where scores have a cap, each finished one is bent by itself.
//! * Biases that grow with the distance are added to a finished score, rounded once.
//! * Keys are taken 64 at a time, a tile. Before a tile's weights `2^(score - max)` count, what was summed up so far is
//!   scaled to the largest score up to there. Sums of values are one chain over the keys; the sum of the weights is kept
//!   in 16 lanes, key j in lane j mod 16, that are added up at the end.
//! * Every [`SECTION`] keys the sums start anew, and the sections are merged in sequence. So threads can share one
//!   sequence by sections.
//!
//! The inner loops run over zipped slices and fixed sizes: an index that could panic would keep the sums in memory instead
//! of registers.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use super::cache::{Aligned, CHUNK_ROWS, CacheShape, Chunk, Head, HeadMut, KEY_VECTORS};
use super::heads::{Attend, Heads, Tilt, bound};
use super::lanes::{Half, LANES, Lanes};
use super::math::exp2_below_zero;
use super::tiers::prefetch;
use super::{INLINE_WORK, Kernels, PIECES_PER_THREAD, Pool};

/// Keys whose sums are merged at a time; 256 of a head of 64 are 128 KB, some microseconds of reading.
const SECTION: usize = 4 * CHUNK_ROWS;

/// Query rows that are computed together use a tile of keys as long as it is in the nearest cache.
const UNIT_ROWS: usize = 24;

/// Rows whose sums are in registers at the same time, where there are so many.
const ROWS: usize = 6;

/// Tokens of one sequence.
#[derive(Debug)]
pub struct Sequence<'a> {
    /// The layer's chunks of its cache, with room for these tokens.
    pub chunks: &'a mut [Arc<Chunk>],
    /// Their rows in `qkv`.
    pub tokens: Range<usize>,
    /// So many of them, the last ones, attend; the others leave their keys and values in the cache and nothing else.
    pub attending: usize,
    /// The first token's position.
    pub position: usize,
}

impl Sequence<'_> {
    /// The first token that attends.
    fn first(&self) -> usize {
        self.tokens.end - self.attending
    }
}

/// A tier's kernel: what the layer does, `qkv`, and a piece of the work.
pub(super) type AttendFn = fn(&Attend<'_>, &[f32], Work<'_>);

/// A piece of work.
pub(super) enum Work<'a> {
    /// One head's keys and values into a chunk.
    Append(Append<'a>),
    /// All rows of units, one after the other.
    Units(Vec<(Unit<'a>, Vec<&'a mut [f32]>)>),
    /// The sums of one section.
    Section { unit: Unit<'a>, section: usize, sums: &'a mut [f32] },
    /// Sums of a unit's sections become its rows.
    Merge { sums: &'a [f32], out: Vec<&'a mut [f32]> },
}

/// Rows of one head for one chunk.
pub(super) struct Append<'a> {
    head: HeadMut<'a>,
    kv_head: usize,
    row: usize,
    tokens: Range<usize>, // rows of qkv
    position: usize,
}

/// Some tokens of a sequence and one key-value head.
pub(super) struct Unit<'a> {
    /// Chunks that nobody writes to.
    chunks: &'a [Arc<Chunk>],
    /// Chunks behind them which the unit's own rows go to first: a single token's row is written by the thread that
    /// reads it next.
    open: [Option<Append<'a>>; 2],
    kv_head: usize,
    shape: CacheShape,
    tokens: Range<usize>, // rows of qkv
    position: usize,
}

impl Unit<'_> {
    /// The rows of the cache that a token sees, by its number in the unit.
    fn seen(&self, layer: &Attend<'_>, token: usize) -> Range<usize> {
        let end = self.position + token + 1;
        layer.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// The sections that any of its tokens sees.
    fn sections(&self, layer: &Attend<'_>) -> Range<usize> {
        let last = self.seen(layer, self.tokens.len() - 1);
        self.seen(layer, 0).start / SECTION..last.end.div_ceil(SECTION)
    }

    /// About its multiplications.
    fn work(&self, layer: &Attend<'_>) -> usize {
        let seen = self.position + self.tokens.len() - self.seen(layer, 0).start;
        2 * seen * self.tokens.len() * layer.group() * layer.heads.head_dim
    }

    /// The unit's head of a chunk.
    fn head(&self, tile: usize) -> Option<Head<'_>> {
        match self.chunks.get(tile) {
            Some(chunk) => Some(chunk.head(self.kv_head)),
            None => self.open.iter().flatten().find(|open| open.tile() == tile).map(|open| open.head.view()),
        }
    }

    /// The first head that it reads.
    fn first_head(&self, layer: &Attend<'_>) -> Option<Head<'_>> {
        self.head(self.seen(layer, 0).start / CHUNK_ROWS)
    }
}

impl Append<'_> {
    fn tile(&self) -> usize {
        self.position / CHUNK_ROWS
    }
}

impl Attend<'_> {
    /// Numbers in the sums of a row: see [`Sums`].
    fn sums_len(&self) -> usize {
        (2 + self.heads.head_dim.div_ceil(LANES)) * LANES
    }

    fn check_chunk(&self, chunk: &Chunk, first: CacheShape) {
        let expected = CacheShape { n_kv_heads: self.heads.n_kv_heads, head_dim: self.heads.head_dim, ..first };
        assert_eq!(chunk.shape(), expected, "shape of a chunk");
    }

    /// The units that a sequence's tokens make with each head.
    fn blocks(&self, sequence: &Sequence<'_>) -> usize {
        sequence.attending.div_ceil(self.unit_tokens())
    }

    /// Whether all of a sequence's rows are one unit's, which stores them.
    fn stores_itself(&self, sequence: &Sequence<'_>) -> bool {
        sequence.attending == sequence.tokens.len() && self.blocks(sequence) == 1
    }

    /// The tokens that make up a unit: whole tiles of rows, and no more than a chunk has.
    fn unit_tokens(&self) -> usize {
        let group = self.group();
        let least = UNIT_ROWS.div_ceil(group);
        (least..least + ROWS).find(|tokens| (tokens * group).is_multiple_of(ROWS)).unwrap_or(least)
    }
}

/// Of each chunk that tokens go to the first row there, the tokens, and the first one's position.
fn places(sequence: &Sequence<'_>) -> impl Iterator<Item = (usize, Range<usize>, usize)> + use<> {
    let (first, start) = (sequence.position, sequence.tokens.start);
    let end = first + sequence.tokens.len();
    (first / CHUNK_ROWS..end.div_ceil(CHUNK_ROWS)).map(move |chunk| {
        let rows = first.max(chunk * CHUNK_ROWS)..end.min((chunk + 1) * CHUNK_ROWS);
        (rows.start % CHUNK_ROWS, start + rows.start - first..start + rows.end - first, rows.start)
    })
}

impl Kernels {
    /// Stores the keys and values of all tokens in their caches, then attention of every token that attends over what its
    /// sequence's cache holds up to its own row.
    ///
    /// `qkv` is (tokens, queries | keys | values) and `out` (attending tokens, n_heads * head_dim). The sequences hold all
    /// tokens in sequence. A chunk that is shared is copied before it is written to.
    ///
    /// # Panics
    ///
    /// When lengths do not fit.
    pub fn attend(
        &self,
        pool: &Pool,
        layer: &Attend<'_>,
        sequences: &mut [Sequence<'_>],
        qkv: &[f32],
        out: &mut [f32],
    ) {
        layer.check(qkv);
        let Heads { n_heads, n_kv_heads, head_dim, .. } = layer.heads;
        let tokens = qkv.len() / layer.width();
        let attending: usize = sequences.iter().map(|sequence| sequence.attending).sum();
        assert_eq!(out.len(), attending * n_heads * head_dim, "length of the output with {attending} tokens");
        let mut next = 0;
        for sequence in sequences.iter() {
            assert_eq!(sequence.tokens.start, next, "first token of a sequence");
            next = sequence.tokens.end;
            assert!(sequence.attending <= sequence.tokens.len(), "{} of {:?}", sequence.attending, sequence.tokens);
            let rows = sequence.position + sequence.tokens.len();
            assert!(sequence.chunks.len() >= rows.div_ceil(CHUNK_ROWS), "chunks for {rows} rows");
            sequence.chunks.iter().for_each(|chunk| layer.check_chunk(chunk, sequence.chunks[0].shape()));
        }
        assert_eq!(next, tokens, "tokens of all sequences");
        self.append(pool, layer, sequences, qkv);

        let (mut units, mut work) = (Vec::new(), 0);
        let mut rest = out;
        for sequence in sequences.iter_mut().filter(|sequence| sequence.attending > 0) {
            let blocks = layer.blocks(sequence);
            let own =
                if layer.stores_itself(sequence) { sequence.position / CHUNK_ROWS } else { sequence.chunks.len() };
            let (places, attending) = (places(sequence), sequence.first());
            let shape = sequence.chunks[0].shape();
            let (chunks, open) = sequence.chunks.split_at_mut(own);
            let chunks = &*chunks;
            for block in 0..blocks {
                let first = attending + block * layer.unit_tokens();
                let tokens = first..sequence.tokens.end.min(first + layer.unit_tokens());
                let at = units.len();
                let position = sequence.position + first - sequence.tokens.start;
                for kv_head in 0..n_kv_heads {
                    let unit = Unit { chunks, open: [None, None], kv_head, shape, tokens: tokens.clone(), position };
                    work += unit.work(layer);
                    units.push((unit, Vec::with_capacity(tokens.len())));
                }
                let (part, later) = rest.split_at_mut(tokens.len() * n_heads * head_dim);
                rest = later;
                for token in part.chunks_exact_mut(n_heads * head_dim) {
                    for (unit, out) in units[at..].iter_mut().zip(token.chunks_exact_mut(layer.group() * head_dim)) {
                        unit.1.push(out);
                    }
                }
            }
            let at = units.len() - n_kv_heads;
            for (i, (chunk, (row, tokens, position))) in open.iter_mut().zip(places).enumerate() {
                for (kv_head, head) in Arc::make_mut(chunk).heads_mut().enumerate() {
                    let append = Append { head, kv_head, row, tokens: tokens.clone(), position };
                    units[at + kv_head].0.open[i] = Some(append);
                }
            }
        }

        let sections = |unit: &Unit<'_>| unit.sections(layer).len();
        let most = units.iter().map(|(unit, _)| sections(unit)).max().unwrap_or(0);
        if work < INLINE_WORK || pool.threads() == 1 || most <= 1 || units.len() >= SHARED_UNITS * pool.threads() {
            // The longest first, so that the last ones are short.
            units.sort_by_key(|(unit, _)| std::cmp::Reverse(unit.work(layer)));
            // Single tokens of neighbouring heads together: each asks for the next one's keys and values.
            let together = units.len().div_ceil(PIECES_PER_THREAD * pool.threads());
            let mut pieces: Vec<Vec<_>> = Vec::new();
            for unit in units {
                match pieces.last_mut() {
                    Some(piece) if piece.len() < together && unit.0.tokens.len() == 1 => piece.push(unit),
                    _ => pieces.push(vec![unit]),
                }
            }
            return self.run_all(pool, work, layer, qkv, pieces.into_iter().map(Work::Units).collect());
        }
        let len = |unit: &Unit<'_>| unit.tokens.len() * layer.group() * layer.sums_len();
        let mut buffer = vec![0.0; units.iter().map(|(unit, _)| sections(unit) * len(unit)).sum()];
        let (mut pieces, mut merges) = (Vec::new(), Vec::new());
        let mut rest = buffer.as_mut_slice();
        for (mut unit, out) in units {
            merges.push((sections(&unit) * len(&unit), out));
            for section in unit.sections(layer) {
                let (sums, later) = rest.split_at_mut(len(&unit));
                rest = later;
                let mut open = [None, None];
                for (open, all) in open.iter_mut().zip(&mut unit.open) {
                    *open = all.take_if(|append| append.position / SECTION == section);
                }
                let unit = Unit { tokens: unit.tokens.clone(), open, ..unit };
                pieces.push(Work::Section { unit, section, sums });
            }
        }
        self.run_all(pool, work, layer, qkv, pieces);
        let (mut rest, mut pieces) = (buffer.as_slice(), Vec::with_capacity(merges.len()));
        for (len, out) in merges {
            let (sums, later) = rest.split_at(len);
            rest = later;
            pieces.push(Work::Merge { sums, out });
        }
        self.run_all(pool, buffer.len(), layer, qkv, pieces);
    }

    /// Stores the rows of the sequences that are not one unit each: several units read the same rows.
    fn append(&self, pool: &Pool, layer: &Attend<'_>, sequences: &mut [Sequence<'_>], qkv: &[f32]) {
        let (mut pieces, mut rows) = (Vec::new(), 0);
        for sequence in sequences.iter_mut().filter(|sequence| !sequence.tokens.is_empty()) {
            if layer.stores_itself(sequence) {
                continue;
            }
            rows += sequence.tokens.len();
            let places = places(sequence);
            let first = sequence.position / CHUNK_ROWS;
            for (chunk, (row, tokens, position)) in sequence.chunks[first..].iter_mut().zip(places) {
                for (kv_head, head) in Arc::make_mut(chunk).heads_mut().enumerate() {
                    pieces.push(Work::Append(Append { head, kv_head, row, tokens: tokens.clone(), position }));
                }
            }
        }
        // A number that is stored costs as much as some sixteen multiplications.
        let work = 32 * rows * layer.heads.n_kv_heads * layer.heads.head_dim;
        self.run_all(pool, work, layer, qkv, pieces);
    }

    fn run_all(&self, pool: &Pool, work: usize, layer: &Attend<'_>, qkv: &[f32], pieces: Vec<Work<'_>>) {
        if work < INLINE_WORK {
            return pieces.into_iter().for_each(|piece| (self.attend)(layer, qkv, piece));
        }
        pool.for_each(pieces, |piece| (self.attend)(layer, qkv, piece));
    }
}

/// With so many units per thread sequences are not cut into sections.
const SHARED_UNITS: usize = 4;

thread_local! {
    /// Kept between calls, since fresh memory costs a page fault for every 4 KiB.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    row: Aligned<f32>,  // (head_dim)
    keys: Aligned<f32>, // sixteen, (LANES, vectors, LANES), twice
    seen: Vec<(usize, usize)>,
    tilts: Vec<Tilt>,      // (rows), or none
    query: Aligned<f32>,   // of every group of rows (head_dim / 64, rows, 64)
    weights: Aligned<f32>, // (rows, 64)
    factors: Aligned<f32>, // (rows)
    section: Aligned<f32>, // (rows, sums)
    whole: Aligned<f32>,   // (rows, sums)
    wide: Aligned<f32>,    // keys or values of a tile
}

/// One piece. `VECTORS` times [`ROWS`] sums fit into a tier's registers.
#[inline(always)]
pub(super) fn attend<H: Half, const VECTORS: usize>(layer: &Attend<'_>, qkv: &[f32], work: Work<'_>) {
    let mut scratch = SCRATCH.take();
    match work {
        Work::Append(mut to) => append(layer, qkv, &mut to, &mut scratch),
        Work::Units(mut units) => {
            let mut rest = units.as_mut_slice();
            while let Some(((unit, out), later)) = rest.split_first_mut() {
                let after = later.first().and_then(|(next, _)| next.first_head(layer));
                whole_unit::<H, VECTORS>(layer, qkv, unit, after, out, &mut scratch);
                rest = later;
            }
        }
        Work::Section { mut unit, section, sums } => {
            prepare(layer, qkv, &mut unit, &mut scratch);
            sum_section::<H, VECTORS>(layer, &unit, section, None, sums, &mut scratch);
        }
        Work::Merge { sums, mut out } => {
            let len = out.len() * layer.group() * layer.sums_len();
            let whole = sized(&mut scratch.whole, len);
            let (first, others) = sums.split_at(len);
            whole.copy_from_slice(first);
            for sums in others.chunks_exact(len) {
                merge(layer, sums, whole);
            }
            finish(layer, whole, &mut out);
        }
    }
    SCRATCH.set(scratch);
}

/// All rows of a unit. What comes `after` it is wanted next.
#[inline(always)]
fn whole_unit<H: Half, const VECTORS: usize>(
    layer: &Attend<'_>,
    qkv: &[f32],
    unit: &mut Unit<'_>,
    after: Option<Head<'_>>,
    out: &mut [&mut [f32]],
    scratch: &mut Scratch,
) {
    prepare(layer, qkv, unit, scratch);
    let len = unit.tokens.len() * layer.group() * layer.sums_len();
    let mut section_sums = std::mem::take(&mut scratch.section);
    let mut whole = std::mem::take(&mut scratch.whole);
    let sums = sized(&mut section_sums, len);
    let whole_sums = sized(&mut whole, len);
    let sections = unit.sections(layer);
    let after =
        |section| if section + 1 < sections.end { unit.head((section + 1) * SECTION / CHUNK_ROWS) } else { after };
    sum_section::<H, VECTORS>(layer, unit, sections.start, after(sections.start), whole_sums, scratch);
    for section in sections.clone().skip(1) {
        sum_section::<H, VECTORS>(layer, unit, section, after(section), sums, scratch);
        merge(layer, sums, whole_sums);
    }
    finish(layer, whole_sums, out);
    (scratch.section, scratch.whole) = (section_sums, whole);
}

/// The first `len` numbers of a buffer that grows as needed.
#[inline(always)]
fn sized(buffer: &mut Aligned<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        *buffer = Aligned::zeros(len);
    }
    &mut buffer[..len]
}

/// Keys, normalised and turned, and values of one head.
#[inline(always)]
fn append(layer: &Attend<'_>, qkv: &[f32], to: &mut Append<'_>, scratch: &mut Scratch) {
    let head_dim = layer.heads.head_dim;
    let norm = layer.norms.map(|norms| norms.key.of_head(to.kv_head, head_dim));
    let (key_at, value_at) = (layer.key(to.kv_head), layer.value(to.kv_head));
    let stride = head_dim.next_multiple_of(LANES);
    let keys = sized(&mut scratch.keys, 2 * LANES * stride);
    let (keys, columns) = keys.split_at_mut(LANES * stride);
    let columns = columns.as_chunks_mut::<LANES>().0;
    let mut done = 0;
    while done < to.tokens.len() {
        // Sixteen keys at a time are transposed in registers; single ones are written element by element.
        let row = to.row + done;
        let count = if row.is_multiple_of(LANES) && to.tokens.len() - done >= LANES { LANES } else { 1 };
        for i in 0..count {
            let token = &qkv[(to.tokens.start + done + i) * layer.width()..][..layer.width()];
            let key = &mut keys[i * stride..][..head_dim];
            layer.settle(norm, to.position + done + i, &token[key_at..][..head_dim], key);
            let value = &token[value_at..][..head_dim];
            if count == 1 {
                to.head.store(row, key, value);
            } else {
                to.head.store_value(row + i, value);
            }
        }
        if count > 1 {
            for (block, columns) in columns.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                for i in 0..LANES {
                    columns[i] = keys[i * stride..].as_chunks::<LANES>().0[block];
                }
                transpose(columns);
            }
            to.head.store_keys(row, &columns[..head_dim]);
        }
        done += count;
    }
}

/// Rows become columns: four times, the upper half of the rows is dealt between the lower half like cards, which turns the
/// eight bits of a number's place, (row, column), by one.
#[inline(always)]
fn transpose(rows: &mut [[f32; LANES]; LANES]) {
    for _ in 0..LANES.ilog2() {
        let mut dealt = [[0.0; LANES]; LANES];
        for i in 0..LANES / 2 {
            for j in 0..LANES / 2 {
                dealt[2 * i][2 * j] = rows[i][j];
                dealt[2 * i][2 * j + 1] = rows[i + LANES / 2][j];
                dealt[2 * i + 1][2 * j] = rows[i][j + LANES / 2];
                dealt[2 * i + 1][2 * j + 1] = rows[i + LANES / 2][j + LANES / 2];
            }
        }
        *rows = dealt;
    }
}

/// A block of 64 elements of a query, or a row of weights over a tile.
type Coefficients = [f32; CHUNK_ROWS];

/// How `rows` are cut into groups whose sums fit into registers.
#[inline(always)]
fn groups(rows: usize) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let size = match rows - at {
            0 => return None,
            ROWS.. => ROWS,
            left => 1 << left.ilog2(), // 4, 2 or 1
        };
        at += size;
        Some(at - size..at)
    })
}

/// The unit's own rows into the cache, and its queries, scaled, in the order in which they are read.
#[inline(always)]
fn prepare(layer: &Attend<'_>, qkv: &[f32], unit: &mut Unit<'_>, scratch: &mut Scratch) {
    for open in unit.open.iter_mut().flatten() {
        append(layer, qkv, open, scratch);
    }
    let Heads { head_dim, scale, .. } = layer.heads;
    let group = layer.group();
    let rows = unit.tokens.len() * group;
    let blocks = head_dim.div_ceil(CHUNK_ROWS);
    let query = sized(&mut scratch.query, rows * blocks * CHUNK_ROWS).as_chunks_mut::<CHUNK_ROWS>().0;
    let head = sized(&mut scratch.row, head_dim);
    let factor = scale * std::f32::consts::LOG2_E;
    for members in groups(rows) {
        let first = members.start * blocks;
        let size = members.len();
        for row in members.clone() {
            let (token, of) = (row / group, unit.kv_head * group + row % group);
            let from = (unit.tokens.start + token) * layer.width() + layer.query(of);
            let norm = layer.norms.map(|norms| norms.query.of_head(of, head_dim));
            layer.settle(norm, unit.position + token, &qkv[from..][..head_dim], head);
            for (block, from) in head.chunks(CHUNK_ROWS).enumerate() {
                let to = &mut query[first + block * size + row - members.start];
                for (to, from) in to.iter_mut().zip(from) {
                    *to = from * factor;
                }
            }
        }
    }
}

/// A row's sums, in vectors: the largest score and whether there is any; the weights; the weighted values.
struct Sums;

impl Sums {
    const MAX: usize = 0;
    const ANY: usize = 1;
    const TOTAL: usize = LANES;
    const VALUES: usize = 2 * LANES;
}

/// The sums of one section for all rows of a unit. What comes `after` it is wanted next.
#[inline(always)]
fn sum_section<H: Half, const VECTORS: usize>(
    layer: &Attend<'_>,
    unit: &Unit<'_>,
    section: usize,
    after: Option<Head<'_>>,
    sums: &mut [f32],
    scratch: &mut Scratch,
) {
    let len = layer.sums_len();
    let group = layer.group();
    let rows = unit.tokens.len() * group;
    for sums in sums.chunks_exact_mut(len) {
        sums.fill(0.0);
        sums[Sums::MAX] = f32::NEG_INFINITY;
    }
    let head_dim = layer.heads.head_dim;
    let blocks = head_dim.div_ceil(CHUNK_ROWS);
    let query = scratch.query.as_chunks::<CHUNK_ROWS>().0;
    sized(&mut scratch.weights, rows * CHUNK_ROWS);
    let weights = scratch.weights.as_chunks_mut::<CHUNK_ROWS>().0;
    let factors = sized(&mut scratch.factors, rows);
    let (first, last) = (unit.seen(layer, 0).start, unit.seen(layer, unit.tokens.len() - 1).end);
    let first = first.max(section * SECTION);
    let last = last.min((section + 1) * SECTION);
    let shape = unit.shape;
    let wide = sized(&mut scratch.wide, shape.wide_len());
    scratch.seen.resize(rows, (0, 0));
    scratch.tilts.clear();
    if let Some(alibi) = &layer.alibi {
        let heads = |row: usize| unit.kv_head * group + row % group;
        scratch.tilts.extend((0..rows).map(|row| alibi.tilt(heads(row), unit.position + row / group)));
    }
    let tiles = first / CHUNK_ROWS..last.div_ceil(CHUNK_ROWS);
    for tile in tiles.clone() {
        let origin = tile * CHUNK_ROWS;
        let within = |row: usize| row.clamp(origin, origin + CHUNK_ROWS) - origin;
        for (token, seen_by) in scratch.seen.chunks_exact_mut(group).enumerate() {
            let seen = unit.seen(layer, token);
            seen_by.fill((within(seen.start), within(seen.end)));
        }
        let seen = scratch.seen.as_slice();
        let Some(head) = unit.head(tile) else { unreachable!("the cache has chunk {tile}") };
        let next = if tile + 1 < tiles.end { unit.head(tile + 1) } else { after };
        let ahead = head.ahead(&shape, next);
        let (from, to) = (within(first), within(last));

        let keys = head.keys::<H>(&shape, from / LANES..to.div_ceil(LANES), next, wide);
        for members in groups(rows) {
            let query = &query[members.start * blocks..members.end * blocks];
            let sums = &mut sums[members.start * len..members.end * len];
            let (size, ahead) = (members.len(), if members.start == 0 { ahead.0 } else { 0 });
            let tilts = (origin, scratch.tilts.get(members.clone()).unwrap_or_default());
            let rows = (&seen[members.clone()], &mut weights[members.clone()], &mut factors[members]);
            match size {
                ROWS => weigh_keys::<VECTORS, ROWS>((tilts, layer.cap), keys, ahead, query, rows, sums),
                4 => weigh_keys::<VECTORS, 4>((tilts, layer.cap), keys, ahead, query, rows, sums),
                2 => weigh_keys::<VECTORS, 2>((tilts, layer.cap), keys, ahead, query, rows, sums),
                _ => weigh_keys::<VECTORS, 1>((tilts, layer.cap), keys, ahead, query, rows, sums),
            }
        }

        let values = head.values::<H>(&shape, from..to, next, wide);
        for members in groups(rows) {
            let sums = &mut sums[members.start * len..members.end * len];
            let ahead = if members.start == 0 { ahead.1 } else { 0 };
            let values = Values { data: values, first: from, vectors: shape.vectors(), ahead };
            let size = members.len();
            let rows = (&seen[members.clone()], &weights[members.clone()], &factors[members]);
            match size {
                ROWS => add_values::<VECTORS, ROWS>(values, rows, sums),
                4 => add_values::<VECTORS, 4>(values, rows, sums),
                2 => add_values::<VECTORS, 2>(values, rows, sums),
                _ => add_values::<VECTORS, 1>(values, rows, sums),
            }
        }
    }
}

/// Scores of a group of rows over a tile, and the weights that they become.
#[inline(always)]
fn weigh_keys<const VECTORS: usize, const ROWS: usize>(
    // The tile's first key, and (ROWS) or none; the cap of scores.
    (tilts, cap): ((usize, &[Tilt]), Option<f32>),
    keys: &[[[f32; LANES]; KEY_VECTORS]], // (head_dim)
    ahead: usize,
    query: &[Coefficients], // (head_dim / 64, ROWS)
    rows: (&[(usize, usize)], &mut [Coefficients], &mut [f32]),
    sums: &mut [f32],
) {
    let (Some(seen), Some(weights), Some(factors)) =
        (rows.0.first_chunk::<ROWS>(), rows.1.first_chunk_mut::<ROWS>(), rows.2.first_chunk_mut::<ROWS>())
    else {
        return;
    };
    let query = query.as_chunks::<ROWS>().0;
    let (mut from, mut to) = (CHUNK_ROWS, 0);
    for &(start, end) in seen {
        if start < end {
            (from, to) = (from.min(start), to.max(end));
        }
    }
    let mut column = from / LANES;
    let columns = to.div_ceil(LANES);
    while column < columns {
        if VECTORS > 1 && columns - column >= VECTORS {
            let scores = scores::<VECTORS, ROWS>(keys, ahead, column, query);
            for r in 0..ROWS {
                for v in 0..VECTORS {
                    weights[r].as_chunks_mut::<LANES>().0[column + v] = scores[r][v].0;
                }
            }
            column += VECTORS;
        } else {
            let scores = scores::<1, ROWS>(keys, ahead, column, query);
            for r in 0..ROWS {
                weights[r].as_chunks_mut::<LANES>().0[column] = scores[r][0].0;
            }
            column += 1;
        }
    }
    for r in 0..ROWS {
        let (start, end) = seen[r];
        let own = start / LANES..end.div_ceil(LANES);
        if let (Some(cap), true) = (cap, start < end) {
            bound(&mut weights[r].as_chunks_mut().0[own.clone()], cap);
        }
        if let (Some(tilt), true) = (tilts.1.get(r), start < end) {
            tilt.add(tilts.0 + own.start * LANES, &mut weights[r].as_chunks_mut().0[own]);
        }
    }
    *factors = if from < to { soften(weights, seen, from / LANES..columns, sums) } else { [1.0; ROWS] };
}

/// `VECTORS` vectors of scores from vector `first` on: one chain over the elements of a head. What lies `ahead` elements on
/// is wanted next.
#[inline(always)]
fn scores<const VECTORS: usize, const ROWS: usize>(
    keys: &[[[f32; LANES]; KEY_VECTORS]],
    ahead: usize,
    first: usize,
    query: &[[Coefficients; ROWS]],
) -> [[Lanes; VECTORS]; ROWS] {
    let mut sums = [[Lanes::ZERO; VECTORS]; ROWS];
    let first = if VECTORS == KEY_VECTORS { 0 } else { first };
    for (keys, query) in keys.chunks(CHUNK_ROWS).zip(query) {
        for (i, key) in keys.iter().enumerate() {
            // All at once: the compiler reads the query anew behind each of them.
            let Some(key) = key.get(first..).and_then(|key| key.first_chunk::<VECTORS>()) else { break };
            for key in key {
                prefetch(key, ahead);
            }
            for v in 0..VECTORS {
                let key = Lanes::load(&key[v]);
                for r in 0..ROWS {
                    sums[r][v] = key.mul_add(Lanes([query[r][i % CHUNK_ROWS]; LANES]), sums[r][v]);
                }
            }
        }
    }
    sums
}

/// Turns scores into weights, against the largest score of a row so far, and adds them up; what was summed up before has to
/// be multiplied by the result. All rows at once, a step after the other, so that none waits for its own last step.
#[inline(always)]
fn soften<const ROWS: usize>(
    scores: &mut [Coefficients; ROWS],
    seen: &[(usize, usize); ROWS],
    columns: Range<usize>, // vectors that any row sees
    sums: &mut [f32],
) -> [f32; ROWS] {
    const { assert!(ROWS <= LANES) };
    let len = sums.len() / ROWS;
    let (mut before, mut max) = ([0.0; LANES], [0.0; LANES]);
    for r in 0..ROWS {
        let (start, end) = seen[r];
        let vectors = &mut scores[r].as_chunks_mut::<LANES>().0[columns.clone()];
        if start > columns.start * LANES || end < columns.end * LANES {
            for (v, scores) in vectors.iter_mut().enumerate() {
                let key = (columns.start + v) * LANES;
                for i in 0..LANES {
                    let inside = key + i >= start && key + i < end;
                    scores[i] = if inside { scores[i] } else { f32::NEG_INFINITY };
                }
            }
        }
        let mut largest = [f32::NEG_INFINITY; LANES];
        for scores in vectors.iter() {
            for i in 0..LANES {
                largest[i] = if scores[i] > largest[i] { scores[i] } else { largest[i] };
            }
        }
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                largest[i] = if largest[i + half] > largest[i] { largest[i + half] } else { largest[i] };
            }
            half /= 2;
        }
        before[r] = sums[r * len + Sums::MAX];
        max[r] = if largest[0] > before[r] { largest[0] } else { before[r] };
        sums[r * len + Sums::MAX] = max[r];
        if start < end {
            sums[r * len + Sums::ANY] = 1.0;
        }
    }
    let mut factors = [0.0; LANES];
    for i in 0..LANES {
        // A row that has seen nothing yet weighs nothing, whatever that is measured against.
        max[i] = if max[i] == f32::NEG_INFINITY { 0.0 } else { max[i] };
        factors[i] = exp2_below_zero(before[i] - max[i]);
    }
    for r in 0..ROWS {
        let total: &mut [f32; LANES] = &mut sums[r * len + Sums::TOTAL..].as_chunks_mut().0[0];
        let mut sum = *total;
        for i in 0..LANES {
            sum[i] *= factors[r];
        }
        for scores in &mut scores[r].as_chunks_mut::<LANES>().0[columns.clone()] {
            for i in 0..LANES {
                scores[i] = exp2_below_zero(scores[i] - max[r]);
                sum[i] += scores[i];
            }
        }
        *total = sum;
    }
    std::array::from_fn(|r| factors[r])
}

/// Rows of values, from row `first` of the tile on. What lies `ahead` elements on is wanted next.
#[derive(Clone, Copy)]
struct Values<'a> {
    data: &'a [[f32; LANES]], // (rows, vectors)
    first: usize,
    vectors: usize,
    ahead: usize,
}

/// Adds the values of a tile to the sums of a group of rows, each times its weight.
#[inline(always)]
fn add_values<const VECTORS: usize, const ROWS: usize>(
    values: Values<'_>,
    rows: (&[(usize, usize)], &[Coefficients], &[f32]),
    sums: &mut [f32],
) {
    let (Some(seen), Some(weights), Some(factors)) =
        (rows.0.first_chunk::<ROWS>(), rows.1.first_chunk::<ROWS>(), rows.2.first_chunk::<ROWS>())
    else {
        return;
    };
    let (mut from, mut to) = (0, CHUNK_ROWS);
    for &(start, end) in seen {
        (from, to) = (from.max(start), to.min(end));
    }
    // What all rows see between what single ones see: each sum is a chain over the keys in sequence.
    let len = sums.len() / ROWS;
    let mut factors = *factors;
    if from >= to {
        (from, to) = (CHUNK_ROWS, CHUNK_ROWS);
    }
    for r in 0..ROWS {
        let (start, end) = (seen[r].0, seen[r].1.min(from));
        if start < end {
            let sums = &mut sums[r * len..][..len];
            add_rows::<VECTORS, 1>(values, &[weights[r]], start..end, &[factors[r]], sums);
            factors[r] = 1.0;
        }
    }
    if from < to {
        add_rows::<VECTORS, ROWS>(values, weights, from..to, &factors, sums);
        for r in 0..ROWS {
            let (start, end) = (to, seen[r].1);
            if start < end {
                add_rows::<VECTORS, 1>(values, &[weights[r]], start..end, &[1.0], &mut sums[r * len..][..len]);
            }
        }
    }
}

/// Adds rows of values to `ROWS` sums, which are multiplied by their factors before.
#[inline(always)]
fn add_rows<const VECTORS: usize, const ROWS: usize>(
    values: Values<'_>,
    weights: &[Coefficients; ROWS],
    rows: Range<usize>,
    factors: &[f32; ROWS],
    sums: &mut [f32],
) {
    let mut column = 0;
    while column < values.vectors {
        if VECTORS > 1 && values.vectors - column >= VECTORS {
            add_columns::<VECTORS, ROWS>(values, column, weights, rows.clone(), factors, sums);
            column += VECTORS;
        } else {
            add_columns::<1, ROWS>(values, column, weights, rows.clone(), factors, sums);
            column += 1;
        }
    }
}

#[inline(always)]
fn add_columns<const VECTORS: usize, const ROWS: usize>(
    values: Values<'_>,
    column: usize,
    weights: &[Coefficients; ROWS],
    rows: Range<usize>,
    factors: &[f32; ROWS],
    sums: &mut [f32],
) {
    let len = sums.len() / ROWS;
    let at = |r: usize| r * len + Sums::VALUES + column * LANES;
    let mut lanes = [[Lanes::ZERO; VECTORS]; ROWS];
    for r in 0..ROWS {
        for v in 0..VECTORS {
            lanes[r][v] = Lanes::load(&sums[at(r)..].as_chunks().0[v]);
            for i in 0..LANES {
                lanes[r][v].0[i] *= factors[r];
            }
        }
    }
    let data = &values.data[(rows.start - values.first) * values.vectors + column..];
    for (row, value) in rows.zip(data.chunks(values.vectors)) {
        let Some(value) = value.first_chunk::<VECTORS>() else { break };
        for value in value {
            prefetch(value, values.ahead);
        }
        for v in 0..VECTORS {
            let value = Lanes::load(&value[v]);
            for r in 0..ROWS {
                lanes[r][v] = value.mul_add(Lanes([weights[r][row % CHUNK_ROWS]; LANES]), lanes[r][v]);
            }
        }
    }
    for r in 0..ROWS {
        for v in 0..VECTORS {
            sums[at(r)..].as_chunks_mut().0[v] = lanes[r][v].0;
        }
    }
}

/// Adds a section's sums to those of the sections before it.
#[inline(always)]
fn merge(layer: &Attend<'_>, sums: &[f32], whole: &mut [f32]) {
    let len = layer.sums_len();
    for (sums, whole) in sums.chunks_exact(len).zip(whole.chunks_exact_mut(len)) {
        if sums[Sums::ANY] == 0.0 {
            continue;
        }
        if whole[Sums::ANY] == 0.0 {
            whole.copy_from_slice(sums);
            continue;
        }
        let (here, before) = (sums[Sums::MAX], whole[Sums::MAX]);
        let max = if here > before { here } else { before };
        let (here, before) = (exp2_below_zero(here - max), exp2_below_zero(before - max));
        whole[Sums::MAX] = max;
        for (whole, sum) in whole[Sums::TOTAL..].iter_mut().zip(&sums[Sums::TOTAL..]) {
            *whole = sum.mul_add(here, *whole * before);
        }
    }
}

/// Weighted means from sums: the unit's rows.
#[inline(always)]
fn finish(layer: &Attend<'_>, whole: &[f32], out: &mut [&mut [f32]]) {
    let heads = out.iter_mut().flat_map(|token| token.chunks_exact_mut(layer.heads.head_dim));
    for (whole, out) in whole.chunks_exact(layer.sums_len()).zip(heads) {
        let total = Lanes::load(&whole[Sums::TOTAL..].as_chunks().0[0]).sum();
        for (out, sum) in out.iter_mut().zip(&whole[Sums::VALUES..]) {
            *out = sum / total;
        }
    }
}
