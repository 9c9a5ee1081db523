//! Matrix products of `f32` rows with dense weights, and the two loops that attention is built from as well.
//!
//! The order of additions is fixed by the shape of a row alone, so that a row has the same bits in every batch, tile,
//! thread and tier:
//!
//! * `Layout::OutIn`: four partial sums per output, over the inputs 0, 4, 8, … then 1, 5, 9, … and so on, the inputs
//!   padded with zeros to a multiple of four; then `(p0 + p1) + (p2 + p3) + bias`.
//! * `Layout::InOut`: one sum over the inputs in sequence, then `+ bias`.
//!
//! The rows of `x` come in panels of a few rows each, laid out in the order in which they are read ([`pack`]). Weights
//! are read as they are stored; where many rows use them, a strip of them is first copied, widened, into a small buffer
//! ([`tiled_rows`]). Splitting over threads is the caller's.
//!
//! The inner loops run over zipped slices and leave by `break` only: an index that could panic would keep the sums in
//! memory instead of registers.

use std::cell::RefCell;

use super::lanes::{Element, Half, LANES, Lanes, interleave};
use super::tiers::prefetch;
use super::{Layout, Matrix, Slice};

/// From so many rows on a strip of weights is copied before it is used: below, the copy costs more than it saves.
/// Measured with 4096 x 4096 and 2304 x 768: a row of [out, in] has to be interleaved in any case.
pub(super) fn tiled_rows(layout: Layout) -> usize {
    match layout {
        Layout::OutIn => DIRECT_ROWS + 1,
        Layout::InOut => 12,
    }
}

/// Rows per panel below `tiled_rows`; they share one reading of weights that are not packed.
pub(super) const DIRECT_ROWS: usize = 4;

thread_local! {
    /// The packed strip of this thread; kept, since a fresh one costs a page fault for every 4 KiB.
    static STRIP: RefCell<Vec<Lanes>> = const { RefCell::new(Vec::new()) };

    /// Widened rows of this thread.
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Rows of `x` in the order in which the inner loops read them.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    /// (panels, inputs / P, height, P), where P is 4 for `Layout::OutIn` and 1 for `Layout::InOut`; filled up with zeros.
    pub(super) data: &'a [f32],
    /// Rows per panel: 1 for a single row, `DIRECT_ROWS`, or the tile height of the tier, which is larger.
    pub(super) height: usize,
}

/// The length of a panel.
pub(super) fn panel_len(inputs: usize, height: usize) -> usize {
    inputs.next_multiple_of(4) * height
}

/// Packs up to `height` rows of `x`, which begin `apart` elements from each other, into a panel.
pub(super) fn pack(layout: Layout, x: &[f32], apart: usize, inputs: usize, height: usize, panel: &mut [f32]) {
    if x.len() < apart * height || !inputs.is_multiple_of(4) {
        panel.fill(0.0);
    }
    for (r, row) in x.chunks(apart).take(height).enumerate() {
        let row = &row[..inputs];
        match layout {
            Layout::OutIn => {
                let steps = panel.as_chunks_mut::<4>().0.iter_mut().skip(r).step_by(height);
                let (full, rest) = row.as_chunks::<4>();
                for (step, (to, x)) in steps.zip(full.iter().map(Some).chain([None])).enumerate() {
                    match x {
                        Some(x) => *to = *x,
                        None if step == full.len() => to[..rest.len()].copy_from_slice(rest),
                        None => {}
                    }
                }
            }
            Layout::InOut => {
                for (to, x) in panel.iter_mut().skip(r).step_by(height).zip(row) {
                    *to = *x;
                }
            }
        }
    }
}

/// Columns `first..` of `x · W + bias`, as many as the rows of `y` are long.
///
/// `VECTORS` and `ROWS` are the tile that a tier's registers hold: `VECTORS * ROWS` sums.
#[inline(always)]
pub(super) fn matmul<H: Half, const VECTORS: usize, const ROWS: usize>(
    w: &Matrix<'_>,
    bias: Option<&[f32]>,
    x: Panels<'_>,
    first: usize,         // column of W that y's column 0 is
    y: &mut [&mut [f32]], // rows of (columns)
) {
    match w.data {
        Slice::F32(data) => by_layout::<f32, VECTORS, ROWS>(data, w, bias, x, first, y),
        Slice::F16(data) => by_layout::<H, VECTORS, ROWS>(H::view(data), w, bias, x, first, y),
        Slice::Bf16(data) => by_layout::<half::bf16, VECTORS, ROWS>(data, w, bias, x, first, y),
    }
}

#[inline(always)]
fn by_layout<E: Element, const VECTORS: usize, const ROWS: usize>(
    data: &[E],
    w: &Matrix<'_>,
    bias: Option<&[f32]>,
    x: Panels<'_>,
    first: usize,
    y: &mut [&mut [f32]],
) {
    let width = y.first().map_or(0, |row| row.len());
    let bias = bias.map(|bias| &bias[first..first + width]);
    match w.layout {
        Layout::OutIn => {
            let data = &data[first * w.inputs..(first + width) * w.inputs];
            match x.height {
                1 => out_in_direct::<E, 1>(data, w.inputs, bias, x.data, y),
                DIRECT_ROWS => out_in_direct::<E, DIRECT_ROWS>(data, w.inputs, bias, x.data, y),
                _ => out_in_tiled::<E, VECTORS, ROWS>(data, w.inputs, bias, x.data, y),
            }
        }
        Layout::InOut => {
            let data = &data[first..];
            match x.height {
                1 => in_out_row(data, w.outputs, bias, &x.data[..w.inputs], y[0]),
                DIRECT_ROWS => {
                    let done = in_out_direct::<E, 4, DIRECT_ROWS>(data, w, 0, bias, x.data, y);
                    let done = in_out_direct::<E, 1, DIRECT_ROWS>(data, w, done, bias, x.data, y);
                    in_out_tail::<E, DIRECT_ROWS>(data, w, done, bias, x.data, y);
                }
                _ => {
                    let done = in_out_tiled::<E, VECTORS, ROWS>(data, w, 0, bias, x.data, y);
                    let done = in_out_tiled::<E, 1, ROWS>(data, w, done, bias, x.data, y);
                    in_out_tail::<E, ROWS>(data, w, done, bias, x.data, y);
                }
            }
        }
    }
}

/// [out, in] for a few rows: eight weight rows at a time, straight from where they lie.
#[inline(always)]
fn out_in_direct<E: Element, const ROWS: usize>(
    data: &[E], // (columns, inputs)
    inputs: usize,
    bias: Option<&[f32]>,
    x: &[f32],
    y: &mut [&mut [f32]],
) {
    let width = y.first().map_or(0, |row| row.len());
    let mut buffer = [[Lanes::ZERO; 2]; 64];
    for column in (0..width).step_by(8) {
        let row = |i: usize| weight_row(data, inputs, column + i);
        let rows = [[row(0), row(1), row(2), row(3)], [row(4), row(5), row(6), row(7)]];
        for (panel, y) in x.chunks_exact(panel_len(inputs, ROWS)).zip(y.chunks_mut(ROWS)) {
            store_quads(&dots(rows, 8 * inputs, steps_of::<4, ROWS>(panel), &mut buffer), column, bias, y);
        }
    }
}

/// [out, in] for many rows: the weight rows of a tile are packed once and used for all panels.
#[inline(always)]
fn out_in_tiled<E: Element, const VECTORS: usize, const ROWS: usize>(
    data: &[E], // (columns, inputs)
    inputs: usize,
    bias: Option<&[f32]>,
    x: &[f32],
    y: &mut [&mut [f32]],
) {
    let width = y.first().map_or(0, |row| row.len());
    let mut buffer = take_strip(inputs.div_ceil(4) * VECTORS);
    let packed = buffer[..inputs.div_ceil(4) * VECTORS].as_chunks_mut::<VECTORS>().0;
    for column in (0..width).step_by(4 * VECTORS) {
        for vector in 0..VECTORS {
            let row = |i: usize| weight_row(data, inputs, column + 4 * vector + i);
            pack_interleaved([row(0), row(1), row(2), row(3)], 4 * inputs, vector, packed);
        }
        for (panel, y) in x.chunks_exact(panel_len(inputs, ROWS)).zip(y.chunks_mut(ROWS)) {
            let sums = tile::<4, VECTORS, ROWS>([[Lanes::ZERO; VECTORS]; ROWS], packed, steps_of(panel));
            store_quads(&sums, column, bias, y);
        }
    }
    STRIP.set(buffer);
}

/// A row of (columns, inputs); past the end the last one again, whose results are not stored.
#[inline(always)]
fn weight_row<E>(data: &[E], inputs: usize, column: usize) -> &[E] {
    &data[(column * inputs).min(data.len() - inputs)..][..inputs]
}

/// [in, out] for one row: the weights stream by once, eight inputs at a time, while `y` stays in the L1 cache.
#[inline(always)]
fn in_out_row<E: Element>(data: &[E], outputs: usize, bias: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
    /// Columns whose widened weights, eight rows of them, fill half of a 48 KiB L1 cache.
    const BLOCK: usize = 768;
    y.fill(0.0);
    let (blocks, rest) = x.as_chunks::<8>();
    // Weights that are not f32 are widened into the L1 cache first, a block of columns at a time.
    let mut buffer = WIDE.take();
    buffer.resize(8 * BLOCK, 0.0);
    for (block, x) in blocks.iter().enumerate() {
        for (columns, y) in y.chunks_mut(BLOCK).enumerate() {
            let mut rows: [&[f32]; 8] = [&[]; 8];
            let buffers = buffer.chunks_exact_mut(BLOCK);
            for (i, (row, buffer)) in rows.iter_mut().zip(buffers).enumerate() {
                let weights = &data[(8 * block + i) * outputs + BLOCK * columns..][..y.len()];
                *row = E::widen_into(weights, 8 * outputs, buffer);
            }
            stream_eight(rows, x, y);
        }
    }
    WIDE.set(buffer);
    for (i, x) in rest.iter().enumerate() {
        for (y, w) in y.iter_mut().zip(&data[(8 * blocks.len() + i) * outputs..]) {
            *y = w.widen().mul_add(*x, *y);
        }
    }
    if let Some(bias) = bias {
        for (y, bias) in y.iter_mut().zip(bias) {
            *y += bias;
        }
    }
}

/// `y += x[0] * rows[0]`, then `x[1] * rows[1]`, and so on. One element at a time, which is what the compiler turns
/// into vectors best here.
#[inline(always)]
fn stream_eight(rows: [&[f32]; 8], x: &[f32; 8], y: &mut [f32]) {
    let [a, b, c, d, e, f, g, h] = rows;
    let rows = a.iter().zip(b).zip(c).zip(d).zip(e).zip(f).zip(g).zip(h);
    for (y, (((((((a, b), c), d), e), f), g), h)) in y.iter_mut().zip(rows) {
        let mut sum = *y;
        sum = a.mul_add(x[0], sum);
        sum = b.mul_add(x[1], sum);
        sum = c.mul_add(x[2], sum);
        sum = d.mul_add(x[3], sum);
        sum = e.mul_add(x[4], sum);
        sum = f.mul_add(x[5], sum);
        sum = g.mul_add(x[6], sum);
        sum = h.mul_add(x[7], sum);
        *y = sum;
    }
}

/// [in, out] for a few rows: strips of `VECTORS` vectors from column `done` on; returns the first column that was left.
#[inline(always)]
fn in_out_direct<E: Element, const VECTORS: usize, const ROWS: usize>(
    data: &[E], // from the first column on
    w: &Matrix<'_>,
    done: usize,
    bias: Option<&[f32]>,
    x: &[f32],
    y: &mut [&mut [f32]],
) -> usize {
    let width = y.first().map_or(0, |row| row.len());
    let mut column = done;
    while column + VECTORS * LANES <= width {
        for (panel, y) in x.chunks_exact(panel_len(w.inputs, ROWS)).zip(y.chunks_mut(ROWS)) {
            let panel = &steps_of::<1, ROWS>(panel)[..w.inputs];
            let sums = strip([[Lanes::ZERO; VECTORS]; ROWS], &data[column..], w.outputs, panel);
            store_lanes(&sums, column, bias, y);
        }
        column += VECTORS * LANES;
    }
    column
}

/// [in, out] for many rows: the strip is packed once, since rows that lie a multiple of 4 KiB apart fall into the same
/// few places of the L1 cache.
#[inline(always)]
fn in_out_tiled<E: Element, const VECTORS: usize, const ROWS: usize>(
    data: &[E],
    w: &Matrix<'_>,
    done: usize,
    bias: Option<&[f32]>,
    x: &[f32],
    y: &mut [&mut [f32]],
) -> usize {
    let width = y.first().map_or(0, |row| row.len());
    let mut column = done;
    let mut buffer = take_strip(w.inputs * VECTORS);
    let packed = buffer[..w.inputs * VECTORS].as_chunks_mut::<VECTORS>().0;
    while column + VECTORS * LANES <= width {
        for (packed, row) in packed.iter_mut().zip(data[column..].chunks(w.outputs)) {
            for (packed, weights) in packed.iter_mut().zip(row.as_chunks::<LANES>().0) {
                *packed = Lanes::load(weights);
            }
        }
        for (panel, y) in x.chunks_exact(panel_len(w.inputs, ROWS)).zip(y.chunks_mut(ROWS)) {
            let sums = tile::<1, VECTORS, ROWS>([[Lanes::ZERO; VECTORS]; ROWS], packed, steps_of(panel));
            store_lanes(&sums, column, bias, y);
        }
        column += VECTORS * LANES;
    }
    STRIP.set(buffer);
    column
}

/// The last columns, fewer than a vector: one sum at a time.
#[inline(always)]
fn in_out_tail<E: Element, const ROWS: usize>(
    data: &[E],
    w: &Matrix<'_>,
    done: usize,
    bias: Option<&[f32]>,
    x: &[f32],
    y: &mut [&mut [f32]],
) {
    for (panel, y) in x.chunks_exact(panel_len(w.inputs, ROWS)).zip(y.chunks_mut(ROWS)) {
        for (r, y) in y.iter_mut().enumerate() {
            for column in done..y.len() {
                let mut sum = 0.0;
                for (w, x) in data[column..].iter().step_by(w.outputs).zip(steps_of::<1, ROWS>(panel)) {
                    sum = w.widen().mul_add(x[r][0], sum);
                }
                y[column] = sum + bias.map_or(0.0, |bias| bias[column]);
            }
        }
    }
}

/// A panel as its steps of `P` inputs of every row.
#[inline(always)]
pub(super) fn steps_of<const P: usize, const ROWS: usize>(panel: &[f32]) -> &[[[f32; P]; ROWS]] {
    panel.as_chunks::<P>().0.as_chunks::<ROWS>().0
}

/// `sums + x · strip`, where row k of the strip is `weights[k * stride..]`, each sum over k in sequence.
#[inline(always)]
pub(super) fn strip<E: Element, const VECTORS: usize, const ROWS: usize>(
    mut sums: [[Lanes; VECTORS]; ROWS],
    weights: &[E],
    stride: usize,
    x: &[[[f32; 1]; ROWS]],
) -> [[Lanes; VECTORS]; ROWS] {
    for (weights, x) in weights.chunks(stride).zip(x) {
        // Never ends here: the caller has asserted that all rows are there.
        let Some(weights) = weights.as_chunks::<LANES>().0.first_chunk::<VECTORS>() else { break };
        let mut lanes = [Lanes::ZERO; VECTORS];
        for v in 0..VECTORS {
            lanes[v] = Lanes::load(&weights[v]);
        }
        for r in 0..ROWS {
            let x = Lanes::repeat(&x[r]);
            for v in 0..VECTORS {
                sums[r][v] = lanes[v].mul_add(x, sums[r][v]);
            }
        }
    }
    sums
}

/// The same for a packed strip, whose step s holds the weights of the inputs `P * s..P * (s + 1)`: with `P` = 1 a lane
/// is an output, with `P` = 4 four neighbouring lanes are the four partial sums of one.
#[inline(always)]
fn tile<const P: usize, const VECTORS: usize, const ROWS: usize>(
    mut sums: [[Lanes; VECTORS]; ROWS],
    packed: &[[Lanes; VECTORS]],
    x: &[[[f32; P]; ROWS]],
) -> [[Lanes; VECTORS]; ROWS] {
    for (weights, x) in packed.iter().zip(x) {
        for r in 0..ROWS {
            let x = Lanes::repeat(&x[r]);
            for v in 0..VECTORS {
                sums[r][v] = weights[v].mul_add(x, sums[r][v]);
            }
        }
    }
    sums
}

/// Where `dots` interleaves its weights: 64 steps of two vectors are 8 KiB, a small part of the L1 cache.
pub(super) type Interleaved = [[Lanes; 2]; 64];

/// The partial sums of rows of `x` with two groups of four weight rows, straight from where they lie. The rows that are
/// wanted next lie `ahead` elements on.
#[inline(always)]
pub(super) fn dots<E: Element, const ROWS: usize>(
    weights: [[&[E]; 4]; 2],
    ahead: usize,
    x: &[[[f32; 4]; ROWS]],
    buffer: &mut Interleaved,
) -> [[Lanes; 2]; ROWS] {
    let [[a, b, c, d], [e, f, g, h]] = weights;
    let mut sums = [[Lanes::ZERO; 2]; ROWS];
    let mut from = 0;
    for x in x.chunks(buffer.len()) {
        let to = a.len().min(from + 4 * x.len());
        let packed = &mut buffer[..x.len()];
        pack_interleaved([&a[from..to], &b[from..to], &c[from..to], &d[from..to]], ahead, 0, packed);
        pack_interleaved([&e[from..to], &f[from..to], &g[from..to], &h[from..to]], ahead, 1, packed);
        sums = tile(sums, packed, x);
        from = to;
    }
    sums
}

/// Packs four weight rows as vector `vector` of every step, the last inputs padded with zeros. Fetches what lies `ahead`
/// elements on: so many streams at once are more than the CPU's own prefetching follows.
#[inline(always)]
fn pack_interleaved<E: Element, const VECTORS: usize>(
    rows: [&[E]; 4],
    ahead: usize,
    vector: usize,
    packed: &mut [[Lanes; VECTORS]],
) {
    let [a, b, c, d] = rows;
    let (a, b, c, d) = (a.as_chunks(), b.as_chunks(), c.as_chunks(), d.as_chunks());
    let (blocks, last) = packed.split_at_mut(4 * a.0.len());
    let rows_zipped = a.0.iter().zip(b.0).zip(c.0).zip(d.0);
    for (block, (((a, b), c), d)) in blocks.as_chunks_mut::<4>().0.iter_mut().zip(rows_zipped) {
        for row in [a, b, c, d] {
            prefetch(row, ahead);
        }
        let steps = interleave([Lanes::load(a), Lanes::load(b), Lanes::load(c), Lanes::load(d)]);
        for s in 0..4 {
            block[s][vector] = steps[s];
        }
    }
    if !last.is_empty() {
        let rest = [padded(a.1), padded(b.1), padded(c.1), padded(d.1)];
        for (packed, step) in last.iter_mut().zip(interleave(rest)) {
            packed[vector] = step;
        }
    }
}

/// The last few of a row, widened, with zeros behind them.
#[inline(always)]
fn padded<E: Element>(rest: &[E]) -> Lanes {
    let mut out = Lanes::ZERO;
    for (out, from) in out.0.iter_mut().zip(rest) {
        *out = from.widen();
    }
    out
}

/// Adds up the four partial sums of each output and stores those that exist.
#[inline(always)]
fn store_quads<const VECTORS: usize, const ROWS: usize>(
    sums: &[[Lanes; VECTORS]; ROWS],
    column: usize,
    bias: Option<&[f32]>,
    y: &mut [&mut [f32]],
) {
    for (sums, y) in sums.iter().zip(y) {
        for (v, lanes) in sums.iter().enumerate() {
            let quads = lanes.quad_sums();
            let column = column + 4 * v;
            for i in 0..4.min(y.len().saturating_sub(column)) {
                y[column + i] = quads[i] + bias.map_or(0.0, |bias| bias[column + i]);
            }
        }
    }
}

/// Stores sums whose lanes are outputs.
#[inline(always)]
fn store_lanes<const VECTORS: usize, const ROWS: usize>(
    sums: &[[Lanes; VECTORS]; ROWS],
    column: usize,
    bias: Option<&[f32]>,
    y: &mut [&mut [f32]],
) {
    for (sums, y) in sums.iter().zip(y) {
        let y = &mut y[column..column + VECTORS * LANES];
        for (v, y) in y.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let bias = bias.map_or(Lanes::ZERO, |bias| Lanes::load(&bias[column..].as_chunks::<LANES>().0[v]));
            *y = sums[v].add(bias).0;
        }
    }
}

/// This thread's buffer, at least `len` vectors of it. Taken and put back rather than borrowed in a closure, which would
/// not be compiled with the tier's instructions.
fn take_strip(len: usize) -> Vec<Lanes> {
    let mut strip = STRIP.take();
    if strip.len() < len {
        strip.resize(len, Lanes::ZERO);
    }
    strip
}
