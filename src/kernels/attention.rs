//! Attention of query tokens over cached keys and values, with the softmax inside and grouped heads.
//!
//! One unit of work is one token and one key-value head: `group` query heads that read the same rows. Built from the two
//! loops of `matmul.rs`: the scores are row dots with the keys, the output is a strip of the values, summed over the rows
//! in sequence. So the bits depend on the rows that are seen and not on the chunks that they are kept in.
//! No masks: what a token may see is its span.

use std::cell::RefCell;
use std::ops::Range;

use super::lanes::{LANES, Lanes};
use super::math::exp;
use super::matmul::{dots, pack, panel_len, steps_of, strip};
use super::{Heads, Layout, Span};

thread_local! {
    /// Kept between calls, since long ones cost page faults for every token.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    query: Vec<f32>,   // (head_dim / 4, ROWS, 4)
    scores: Vec<f32>,  // (ROWS, seen)
    weights: Vec<f32>, // (seen, ROWS)
}

/// Units `first..` of all units of the batch, as many as `out` holds.
#[inline(always)]
pub(super) fn attend(heads: &Heads, spans: &[Span<'_>], q: &[f32], first: usize, out: &mut [f32]) {
    let Heads { n_heads, n_kv_heads, head_dim, .. } = *heads;
    let group = n_heads / n_kv_heads;
    let unit = group * head_dim;
    let token = n_heads * head_dim;
    let q = &q[first * unit..];
    let mut scratch = SCRATCH.take();
    let mut done = 0; // units
    while done * unit < out.len() {
        let spans = &spans[(first + done) / n_kv_heads..];
        let kv_head = (first + done) % n_kv_heads;
        let (q, out) = (&q[done * unit..], &mut out[done * unit..]);
        // Four tokens of one sequence share the reading of its cache, otherwise four heads do.
        if let Some(spans) = spans.first_chunk::<4>()
            && kv_head == 0
            && out.len() >= 4 * token
            && spans[1..].iter().all(|span| span.same_cache(&spans[0]))
        {
            for head in 0..n_heads {
                let at = head * head_dim;
                let spans = spans.each_ref();
                attend_rows::<4>(heads, spans, head / group, &q[at..], token, &mut scratch, &mut out[at..]);
            }
            done += 4 * n_kv_heads;
            continue;
        }
        let mut head = 0;
        while head < group {
            let at = head * head_dim;
            if group - head >= 4 {
                let spans = [&spans[0]; 4];
                attend_rows::<4>(heads, spans, kv_head, &q[at..], head_dim, &mut scratch, &mut out[at..]);
                head += 4;
            } else {
                let spans = [&spans[0]];
                attend_rows::<1>(heads, spans, kv_head, &q[at..], head_dim, &mut scratch, &mut out[at..]);
                head += 1;
            }
        }
        done += 1;
    }
    SCRATCH.set(scratch);
}

/// Query rows that lie `apart` elements from each other, over one key-value head of one cache, of which each sees a part
/// that begins at the same row.
#[inline(always)]
fn attend_rows<const ROWS: usize>(
    heads: &Heads,
    spans: [&Span<'_>; ROWS],
    kv_head: usize,
    q: &[f32],
    apart: usize,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let dim = heads.head_dim;
    let stride = heads.n_kv_heads * dim;
    let mut longest = spans[0];
    let mut shared = spans[0].end;
    for span in spans {
        longest = if span.end > longest.end { span } else { longest };
        shared = shared.min(span.end);
    }
    let start = longest.start;
    let seen = longest.end - start;
    let query = sized(&mut scratch.query, panel_len(dim, ROWS));
    let scores = sized(&mut scratch.scores, ROWS * seen);
    let weights = sized(&mut scratch.weights, ROWS * (shared - start));

    pack(Layout::OutIn, q, apart, dim, ROWS, query);
    let mut interleaved = [[Lanes::ZERO; 2]; 64];
    for (chunk, from, to) in longest.chunks(start, longest.end) {
        let before = chunk * longest.chunk_rows + from - start;
        let keys = longest.keys[chunk];
        // Eight keys at a time; past the end the last one again, whose scores are not stored.
        for row in (from..to).step_by(8) {
            let key = |i: usize| &keys[(row + i).min(to - 1) * stride + kv_head * dim..][..dim];
            let keys = [[key(0), key(1), key(2), key(3)], [key(4), key(5), key(6), key(7)]];
            let sums = dots(keys, 8 * stride, steps_of::<4, ROWS>(query), &mut interleaved);
            for r in 0..ROWS {
                let [a, b] = [sums[r][0].quad_sums(), sums[r][1].quad_sums()];
                let store = &mut scores[r * seen + before + row - from..][..8.min(to - row)];
                for (score, sum) in store.iter_mut().zip(a.into_iter().chain(b)) {
                    *score = sum * heads.scale;
                }
            }
        }
    }

    let mut totals = [0.0; ROWS];
    for r in 0..ROWS {
        let scores = &mut scores[r * seen..][..spans[r].end - start];
        totals[r] = exponentials(scores);
        for (weight, score) in weights.iter_mut().skip(r).step_by(ROWS).zip(scores) {
            *weight = *score;
        }
        out[r * apart..][..dim].fill(0.0);
    }

    // What all rows see, then what each sees beyond.
    weigh::<ROWS>(heads, longest, kv_head, start..shared, steps_of(weights), out, apart);
    for r in 0..ROWS {
        let weights = &scores[r * seen..][shared - start..spans[r].end - start];
        let out = &mut out[r * apart..];
        weigh::<1>(heads, longest, kv_head, shared..spans[r].end, steps_of(weights), out, apart);
        for out in &mut out[..dim] {
            *out /= totals[r];
        }
    }
}

impl Span<'_> {
    /// Whether `other` looks into the same cache, from the same row on.
    fn same_cache(&self, other: &Span<'_>) -> bool {
        std::ptr::eq(self.keys, other.keys)
            && std::ptr::eq(self.values, other.values)
            && self.chunk_rows == other.chunk_rows
            && self.start == other.start
    }

    /// Every chunk that holds rows of `start..end`, with the first and the end of those rows inside the chunk.
    #[inline(always)]
    fn chunks(&self, start: usize, end: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let rows = self.chunk_rows;
        (start / rows..end.div_ceil(rows)).map(move |chunk| {
            let origin = chunk * rows;
            (chunk, start.max(origin) - origin, end.min(origin + rows) - origin)
        })
    }
}

/// Adds the values of some rows of the cache to the rows of `out`, each times its weight.
#[inline(always)]
fn weigh<const ROWS: usize>(
    heads: &Heads,
    span: &Span<'_>,
    kv_head: usize,
    rows: Range<usize>,
    weights: &[[[f32; 1]; ROWS]], // one step per row
    out: &mut [f32],
    apart: usize,
) {
    if rows.is_empty() {
        return;
    }
    let dim = heads.head_dim;
    let stride = heads.n_kv_heads * dim;
    for (chunk, from, to) in span.chunks(rows.start, rows.end) {
        let before = chunk * span.chunk_rows + from - rows.start;
        let values = &span.values[chunk][from * stride + kv_head * dim..];
        let weights = &weights[before..][..to - from];
        let done = weigh_strips::<4, ROWS>(values, stride, weights, dim, 0, out, apart);
        let done = weigh_strips::<1, ROWS>(values, stride, weights, dim, done, out, apart);
        for column in done..dim {
            for r in 0..ROWS {
                let sum = &mut out[r * apart + column];
                for (value, weight) in values[column..].iter().step_by(stride).zip(weights) {
                    *sum = value.mul_add(weight[r][0], *sum);
                }
            }
        }
    }
}

/// The whole strips of `VECTORS` vectors from column `done` on; returns the first column that was left.
#[inline(always)]
fn weigh_strips<const VECTORS: usize, const ROWS: usize>(
    values: &[f32],
    stride: usize,
    weights: &[[[f32; 1]; ROWS]],
    dim: usize,
    done: usize,
    out: &mut [f32],
    apart: usize,
) -> usize {
    let mut column = done;
    while column + VECTORS * LANES <= dim {
        let mut sums = [[Lanes::ZERO; VECTORS]; ROWS];
        for r in 0..ROWS {
            for v in 0..VECTORS {
                sums[r][v] = Lanes::load(&out[r * apart + column..].as_chunks::<LANES>().0[v]);
            }
        }
        let sums = strip(sums, &values[column..], stride, weights);
        for r in 0..ROWS {
            for v in 0..VECTORS {
                out[r * apart + column..].as_chunks_mut::<LANES>().0[v] = sums[r][v].0;
            }
        }
        column += VECTORS * LANES;
    }
    column
}

/// The first `len` numbers of a buffer that grows as needed.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Replaces the scores by `exp(score - largest)` and returns their sum: lane i adds up i, i + 16, …, then the lanes.
#[inline(always)]
fn exponentials(scores: &mut [f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            largest[i] = if chunk[i] > largest[i] { chunk[i] } else { largest[i] };
        }
    }
    let mut max = f32::NEG_INFINITY;
    for &score in largest.iter().chain(rest) {
        max = if score > max { score } else { max };
    }
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    let mut total = Lanes::ZERO;
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp(chunk[i] - max);
        }
        total = total.add(Lanes(*chunk));
    }
    for (total, score) in total.0.iter_mut().zip(rest) {
        *score = exp(*score - max);
        *total += *score;
    }
    total.sum()
}
