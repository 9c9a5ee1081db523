//! Attention of query tokens over cached keys and values, with the softmax inside and grouped heads.
//!
//! One unit of work is one token and one key-value head: `group` query heads that read the same rows. Built from the two
//! loops of `matmul.rs`: the scores are row dots with the keys, the output is a strip of the values, summed over the rows
//! in sequence. So the bits depend on the rows that are seen and not on the chunks that they are kept in.
//! No masks: what a token may see is its span.

use std::cell::RefCell;

use super::lanes::{LANES, Lanes};
use super::math::exp;
use super::matmul::{dots, pack, panel_len, steps_of, strip};
use super::{Heads, Layout, Span};

thread_local! {
    /// Queries and scores of up to four heads over one span; kept, since long ones cost page faults for every token.
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
    let len = heads.n_heads / heads.n_kv_heads * heads.head_dim;
    let mut scratch = SCRATCH.take();
    for (i, out) in out.chunks_exact_mut(len).enumerate() {
        let span = &spans[(first + i) / heads.n_kv_heads];
        let kv_head = (first + i) % heads.n_kv_heads;
        let mut q = &q[(first + i) * len..][..len]; // (group, head_dim)
        let mut out = out;
        while !q.is_empty() {
            let rows = if q.len() >= 4 * heads.head_dim { 4 } else { 1 };
            let (q_now, q_later) = q.split_at(rows * heads.head_dim);
            let (out_now, out_later) = out.split_at_mut(rows * heads.head_dim);
            if rows == 4 {
                attend_heads::<4>(heads, span, kv_head, q_now, &mut scratch, out_now);
            } else {
                attend_heads::<1>(heads, span, kv_head, q_now, &mut scratch, out_now);
            }
            (q, out) = (q_later, out_later);
        }
    }
    SCRATCH.set(scratch);
}

/// `ROWS` query heads of one token over one key-value head.
#[inline(always)]
fn attend_heads<const ROWS: usize>(
    heads: &Heads,
    span: &Span<'_>,
    kv_head: usize,
    q: &[f32], // (ROWS, head_dim)
    scratch: &mut Scratch,
    out: &mut [f32], // (ROWS, head_dim)
) {
    let dim = heads.head_dim;
    let stride = heads.n_kv_heads * dim;
    let seen = span.end - span.start;
    let chunks = span.start / span.chunk_rows..span.end.div_ceil(span.chunk_rows);
    // The rows of a chunk that are seen, and how many were seen before them.
    let rows_in = |chunk: usize| {
        let origin = chunk * span.chunk_rows;
        let from = span.start.max(origin);
        let to = span.end.min(origin + span.chunk_rows);
        (from - origin, to - origin, from - span.start)
    };
    let query = sized(&mut scratch.query, panel_len(dim, ROWS));
    let scores = sized(&mut scratch.scores, ROWS * seen);
    let weights = sized(&mut scratch.weights, ROWS * seen);

    pack(Layout::OutIn, q, dim, ROWS, query);
    let mut interleaved = [[Lanes::ZERO; 2]; 64];
    for chunk in chunks.clone() {
        let (from, to, before) = rows_in(chunk);
        let keys = span.keys[chunk];
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
        let scores = &mut scores[r * seen..][..seen];
        totals[r] = exponentials(scores);
        for (weight, score) in weights.iter_mut().skip(r).step_by(ROWS).zip(scores) {
            *weight = *score;
        }
    }

    out.fill(0.0);
    for chunk in chunks {
        let (from, to, before) = rows_in(chunk);
        let values = &span.values[chunk][from * stride + kv_head * dim..];
        let weights = &steps_of::<1, ROWS>(weights)[before..][..to - from];
        let done = weigh::<4, ROWS>(values, stride, weights, dim, 0, out);
        let done = weigh::<1, ROWS>(values, stride, weights, dim, done, out);
        for column in done..dim {
            for r in 0..ROWS {
                let sum = &mut out[r * dim + column];
                for (value, weight) in values[column..].iter().step_by(stride).zip(weights) {
                    *sum = value.mul_add(weight[r][0], *sum);
                }
            }
        }
    }
    for (out, total) in out.chunks_exact_mut(dim).zip(totals) {
        for out in out {
            *out /= total;
        }
    }
}

/// Adds the weighted values of one chunk to whole strips of `out`; returns the first column that was left.
#[inline(always)]
fn weigh<const VECTORS: usize, const ROWS: usize>(
    values: &[f32],
    stride: usize,
    weights: &[[[f32; 1]; ROWS]],
    dim: usize,
    done: usize,
    out: &mut [f32], // (ROWS, dim)
) -> usize {
    let mut column = done;
    while column + VECTORS * LANES <= dim {
        let mut sums = [[Lanes::ZERO; VECTORS]; ROWS];
        for r in 0..ROWS {
            for v in 0..VECTORS {
                sums[r][v] = Lanes::load(&out[r * dim + column..].as_chunks::<LANES>().0[v]);
            }
        }
        let sums = strip(sums, &values[column..], stride, weights);
        for r in 0..ROWS {
            for v in 0..VECTORS {
                out[r * dim + column..].as_chunks_mut::<LANES>().0[v] = sums[r][v].0;
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
