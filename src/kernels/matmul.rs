//! Matrix products of `f32` rows with dense weights, and the two loops that attention is built from as well.
//!
//! The order of additions is fixed by the shape of a row alone, so that a row has the same bits in every batch, tile,
//! thread and tier:
//!
//! * `Layout::OutIn`: four partial sums per output, over the inputs 0, 4, 8, … then 1, 5, 9, … and so on, the inputs
//!   padded with zeros to a multiple of four; then `(p0 + p1) + (p2 + p3)`.
//! * `Layout::InOut`: one sum over the inputs in sequence.
//!
//! With `bf16` weights x is rounded to `bf16` ([`round`]) and pairs of neighbouring inputs take the place of single ones:
//! each adds its second product to the sum, rounds, then its first. That is what the instruction `vdpbf16ps` does, so
//! that the tier which has it is twice as fast with the same bits; the others go through the inputs in that order
//! ([`Element::in_order`], [`stored_row`]). One difference remains: the instruction makes zeros of numbers below
//! 2^-126 on the way.
//!
//! The rows of `x` come in panels of a few rows each, laid out in the order in which they are read ([`pack`]). Weights
//! are read as they are stored; where many rows use them, a strip of them is first copied, widened, into a small buffer
//! ([`tiled_rows`]). Splitting over threads is the caller's.
//!
//! The inner loops run over zipped slices and leave by `break` only: an index that could panic would keep the sums in
//! memory instead of registers.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use super::lanes::{Element, Half, LANES, Lanes, interleave};
use super::product::{Out, Panels};
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

    /// One row of sums of this thread.
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };

    /// Widened rows of this thread.
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Rows per panel: 1 for a single row, `DIRECT_ROWS`, or `ROWS`, the tile height of the tier, which is larger.
pub(super) fn panel_rows<const ROWS: usize>(w: &Matrix<'_>, rows: usize) -> usize {
    match rows {
        1 => 1,
        _ if rows >= tiled_rows(w.layout) => ROWS,
        _ => DIRECT_ROWS,
    }
}

/// Bytes of a panel.
pub(super) fn panel_bytes(w: &Matrix<'_>, panel_rows: usize) -> usize {
    (panel_len(padded_inputs(w), panel_rows) * size_of::<f32>()).next_multiple_of(64)
}

/// The inputs that a row of a panel has: with `bf16` whole pairs, and whole fours of them for `Layout::OutIn`.
fn padded_inputs(w: &Matrix<'_>) -> usize {
    match (w.data, w.layout) {
        (Slice::Bf16(_), Layout::OutIn) => w.inputs.next_multiple_of(8),
        (Slice::Bf16(_), Layout::InOut) => w.inputs.next_multiple_of(2),
        _ => w.inputs,
    }
}

/// The nearest number that `bf16` has, to even where two are as near. Numbers below 2^-56 become zero, so that products with
/// weights from 2^-70 on are numbers that every CPU computes with at full precision.
#[inline(always)]
pub(super) fn round(x: f32) -> bf16 {
    /// The bits of 2^-56.
    const LEAST: u32 = (127 - 56) << 23;
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let nearest = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16;
    let quiet = (bits >> 16) | 0x40; // NaN, which must not round to infinity
    let some = if magnitude > 0x7f80_0000 { quiet } else { nearest };
    bf16::from_bits(if magnitude < LEAST { 0 } else { some as u16 })
}

/// Where the weights of input `i` lie if pairs are gone through second input first.
#[inline(always)]
fn stored_row<E: Element>(i: usize) -> usize {
    if E::PAIRS { i ^ 1 } else { i }
}

/// Rows as a panel of (inputs / P, panel_rows, P), where P is 4 for `Layout::OutIn` and 1 for `Layout::InOut`.
#[inline(always)]
pub(super) fn prepare(w: &Matrix<'_>, panel_rows: usize, x: &[f32], to: &mut [u8]) {
    let inputs = padded_inputs(w);
    let panel = &mut bytemuck::cast_slice_mut(to)[..panel_len(inputs, panel_rows)];
    let Slice::Bf16(_) = w.data else {
        return pack(w.layout, x, inputs, inputs, panel_rows, panel);
    };
    let mut rounded = WIDE.take();
    rounded.clear();
    rounded.resize(x.len() / w.inputs * inputs, 0.0);
    for (to, x) in rounded.chunks_exact_mut(inputs).zip(x.chunks_exact(w.inputs)) {
        match w.layout {
            Layout::OutIn => {
                for (to, x) in to.as_chunks_mut::<8>().0.iter_mut().zip(x.chunks(8)) {
                    for (i, x) in x.iter().enumerate() {
                        to[((i % 2) ^ 1) * 4 + i / 2] = round(*x).widen();
                    }
                }
            }
            Layout::InOut => {
                for (i, x) in x.iter().enumerate() {
                    to[i ^ 1] = round(*x).widen();
                }
            }
        }
    }
    pack(w.layout, &rounded, inputs, inputs, panel_rows, panel);
    WIDE.set(rounded);
}

/// Whole vectors and tiles: 64 columns are four vectors of Conv1D, 16 are a tile of the other layout.
pub(super) fn column_unit(w: &Matrix<'_>, _rows: usize) -> usize {
    if w.layout == Layout::InOut { 64 } else { 16 }
}

/// The length of a panel in numbers.
pub(super) fn panel_len(inputs: usize, height: usize) -> usize {
    inputs.next_multiple_of(4) * height
}

/// Packs up to `height` rows of `x`, which begin `apart` elements from each other, into a panel.
#[inline(always)]
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

/// Some columns of `x · W`.
///
/// `VECTORS` and `ROWS` are the tile that a tier's registers hold: `VECTORS * ROWS` sums.
#[inline(always)]
pub(super) fn matmul<H: Half, const VECTORS: usize, const ROWS: usize>(
    w: &Matrix<'_>,
    x: Panels<'_>,
    columns: Range<usize>,
    out: &Out<'_>,
) {
    match w.data {
        Slice::F32(data) => by_layout::<f32, VECTORS, ROWS>(data, w, x, columns, out),
        Slice::F16(data) => by_layout::<H, VECTORS, ROWS>(H::view(data), w, x, columns, out),
        Slice::Bf16(data) => by_layout::<bf16, VECTORS, ROWS>(data, w, x, columns, out),
        Slice::Blocks(..) => unreachable!("the family of quantised weights multiplies these"),
    }
}

/// The same for one kind of weights.
#[inline(always)]
pub(super) fn by_layout<E: Element, const VECTORS: usize, const ROWS: usize>(
    data: &[E],
    w: &Matrix<'_>,
    x: Panels<'_>,
    columns: Range<usize>,
    out: &Out<'_>,
) {
    let y = &Place { out, columns: columns.clone(), rows: x.rows };
    let panels: &[f32] = bytemuck::cast_slice(x.data);
    let x = Rows {
        data: panels,
        apart: x.panel_bytes / size_of::<f32>(),
        len: panel_len(padded_inputs(w), x.panel_rows),
        height: x.panel_rows,
    };
    match w.layout {
        Layout::OutIn => {
            let data = &data[columns.start * w.inputs..columns.end * w.inputs];
            match x.height {
                1 => out_in_direct::<E, 1>(data, w.inputs, x, y),
                DIRECT_ROWS => out_in_direct::<E, DIRECT_ROWS>(data, w.inputs, x, y),
                _ => out_in_tiled::<E, VECTORS, ROWS>(data, w.inputs, x, y),
            }
        }
        Layout::InOut => {
            let data = &data[columns.start..];
            match x.height {
                1 => in_out_row(data, w, &x.data[..padded_inputs(w)], y),
                DIRECT_ROWS if E::PAIRS => {
                    let done = in_out_tiled::<E, VECTORS, DIRECT_ROWS>(data, w, 0, x, y);
                    in_out_tail::<E, DIRECT_ROWS>(data, w, done, x, y);
                }
                DIRECT_ROWS => {
                    let done = in_out_direct::<E, 4, DIRECT_ROWS>(data, w, 0, x, y);
                    let done = in_out_direct::<E, 1, DIRECT_ROWS>(data, w, done, x, y);
                    in_out_tail::<E, DIRECT_ROWS>(data, w, done, x, y);
                }
                _ => {
                    let done = in_out_tiled::<E, VECTORS, ROWS>(data, w, 0, x, y);
                    let done = in_out_tiled::<E, 1, ROWS>(data, w, done, x, y);
                    in_out_tail::<E, ROWS>(data, w, done, x, y);
                }
            }
        }
    }
}

/// Panels as numbers.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    /// From panel to panel.
    apart: usize,
    /// Of a panel.
    len: usize,
    /// Rows of a panel.
    height: usize,
}

impl<'a> Rows<'a> {
    /// Every panel with the number of its first row.
    #[inline(always)]
    fn panels(self) -> impl Iterator<Item = (usize, &'a [f32])> {
        self.data.chunks_exact(self.apart).enumerate().map(move |(i, panel)| (i * self.height, &panel[..self.len]))
    }
}

/// The columns of a piece, counted from its first one.
struct Place<'a> {
    out: &'a Out<'a>,
    columns: Range<usize>,
    rows: usize,
}

impl Place<'_> {
    #[inline(always)]
    fn width(&self) -> usize {
        self.columns.len()
    }
}

/// [out, in] for a few rows: eight weight rows at a time, straight from where they lie.
#[inline(always)]
fn out_in_direct<E: Element, const ROWS: usize>(
    data: &[E], // (columns, inputs)
    inputs: usize,
    x: Rows<'_>,
    y: &Place<'_>,
) {
    let width = y.width();
    let mut buffer = [[Lanes::ZERO; 2]; 64];
    for column in (0..width).step_by(8) {
        let weights = |i: usize| weight_row(data, inputs, column + i);
        let rows = [[weights(0), weights(1), weights(2), weights(3)], [weights(4), weights(5), weights(6), weights(7)]];
        for (row, panel) in x.panels() {
            store_quads(&dots(rows, 8 * inputs, steps_of::<4, ROWS>(panel), &mut buffer), row, column, y);
        }
    }
}

/// [out, in] for many rows: the weight rows of a tile are packed once and used for all panels.
#[inline(always)]
fn out_in_tiled<E: Element, const VECTORS: usize, const ROWS: usize>(
    data: &[E], // (columns, inputs)
    inputs: usize,
    x: Rows<'_>,
    y: &Place<'_>,
) {
    let width = y.width();
    let steps = if E::PAIRS { inputs.div_ceil(8) * 2 } else { inputs.div_ceil(4) };
    let mut buffer = take_strip(steps * VECTORS);
    let packed = buffer[..steps * VECTORS].as_chunks_mut::<VECTORS>().0;
    for column in (0..width).step_by(4 * VECTORS) {
        for vector in 0..VECTORS {
            let row = |i: usize| weight_row(data, inputs, column + 4 * vector + i);
            pack_interleaved([row(0), row(1), row(2), row(3)], 4 * inputs, vector, packed);
        }
        for (row, panel) in x.panels() {
            let sums = tile::<4, VECTORS, ROWS>([[Lanes::ZERO; VECTORS]; ROWS], packed, steps_of(panel));
            store_quads(&sums, row, column, y);
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
fn in_out_row<E: Element>(data: &[E], w: &Matrix<'_>, x: &[f32], place: &Place<'_>) {
    /// Columns whose widened weights, eight rows of them, fill half of a 48 KiB L1 cache.
    const BLOCK: usize = 768;
    let mut sums = SUMS.take();
    sums.clear();
    sums.resize(place.width(), 0.0);
    let y = &mut sums[..];
    let outputs = w.outputs;
    let (blocks, rest) = x.split_at(w.inputs / 8 * 8);
    let blocks = blocks.as_chunks::<8>().0;
    // Weights that are not f32 are widened into the L1 cache first, a block of columns at a time.
    let mut buffer = WIDE.take();
    buffer.resize(8 * BLOCK, 0.0);
    for (block, x) in blocks.iter().enumerate() {
        for (columns, y) in y.chunks_mut(BLOCK).enumerate() {
            let mut rows: [&[f32]; 8] = [&[]; 8];
            let buffers = buffer.chunks_exact_mut(BLOCK);
            for (i, (row, buffer)) in rows.iter_mut().zip(buffers).enumerate() {
                let weights = &data[(8 * block + stored_row::<E>(i)) * outputs + BLOCK * columns..][..y.len()];
                *row = E::widen_into(weights, 8 * outputs, buffer);
            }
            stream_eight(rows, x, y);
        }
    }
    WIDE.set(buffer);
    for (i, x) in rest.iter().enumerate() {
        let row = 8 * blocks.len() + stored_row::<E>(i);
        if row < w.inputs {
            for (y, w) in y.iter_mut().zip(&data[row * outputs..]) {
                *y = w.widen().mul_add(*x, *y);
            }
        } else {
            y.iter_mut().for_each(|y| *y += 0.0); // the other half of the last pair
        }
    }
    let (chunks, last) = y.as_chunks::<LANES>();
    for (i, chunk) in chunks.iter().enumerate() {
        place.out.store_lanes(0, place.columns.start + i * LANES, &Lanes(*chunk));
    }
    for (i, sum) in last.iter().enumerate() {
        place.out.store(0, place.columns.start + chunks.len() * LANES + i, *sum);
    }
    SUMS.set(sums);
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
    x: Rows<'_>,
    y: &Place<'_>,
) -> usize {
    let width = y.width();
    let mut column = done;
    while column + VECTORS * LANES <= width {
        for (row, panel) in x.panels() {
            let panel = &steps_of::<1, ROWS>(panel)[..w.inputs];
            let sums = strip([[Lanes::ZERO; VECTORS]; ROWS], &data[column..], w.outputs, panel);
            store_lanes(&sums, row, column, y);
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
    x: Rows<'_>,
    y: &Place<'_>,
) -> usize {
    let width = y.width();
    let mut column = done;
    let inputs = padded_inputs(w);
    let mut buffer = take_strip(inputs * VECTORS);
    let packed = buffer[..inputs * VECTORS].as_chunks_mut::<VECTORS>().0;
    while column + VECTORS * LANES <= width {
        for (i, packed) in packed.iter_mut().enumerate() {
            let row = stored_row::<E>(i);
            if row >= w.inputs {
                *packed = [Lanes::ZERO; VECTORS];
                continue;
            }
            for (packed, weights) in packed.iter_mut().zip(data[row * w.outputs + column..].as_chunks::<LANES>().0) {
                *packed = Lanes::load(weights);
            }
        }
        for (row, panel) in x.panels() {
            let sums = tile::<1, VECTORS, ROWS>([[Lanes::ZERO; VECTORS]; ROWS], packed, steps_of(panel));
            store_lanes(&sums, row, column, y);
        }
        column += VECTORS * LANES;
    }
    STRIP.set(buffer);
    column
}

/// The last columns, fewer than a vector: one sum at a time.
#[inline(always)]
fn in_out_tail<E: Element, const ROWS: usize>(data: &[E], w: &Matrix<'_>, done: usize, x: Rows<'_>, y: &Place<'_>) {
    for (row, panel) in x.panels() {
        for r in 0..ROWS.min(y.rows - row) {
            for column in done..y.width() {
                let mut sum = 0.0f32;
                for (i, x) in steps_of::<1, ROWS>(panel).iter().take(padded_inputs(w)).enumerate() {
                    let at = stored_row::<E>(i) * w.outputs + column;
                    sum = data.get(at).map_or(0.0, |w| w.widen()).mul_add(x[r][0], sum);
                }
                y.out.store(row + r, y.columns.start + column, sum);
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
        let steps = interleave([E::in_order(a), E::in_order(b), E::in_order(c), E::in_order(d)]);
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
    let mut all = [E::ZERO; LANES];
    all[..rest.len()].copy_from_slice(rest);
    E::in_order(&all)
}

/// Adds up the four partial sums of each output and stores those that exist.
#[inline(always)]
fn store_quads<const VECTORS: usize, const ROWS: usize>(
    sums: &[[Lanes; VECTORS]; ROWS],
    row: usize,
    column: usize,
    y: &Place<'_>,
) {
    for (r, sums) in sums.iter().enumerate().take(y.rows - row) {
        for (v, lanes) in sums.iter().enumerate() {
            let column = column + 4 * v;
            for (i, sum) in lanes.quad_sums().into_iter().enumerate().take(y.width().saturating_sub(column)) {
                y.out.store(row + r, y.columns.start + column + i, sum);
            }
        }
    }
}

/// Stores sums whose lanes are outputs.
#[inline(always)]
fn store_lanes<const VECTORS: usize, const ROWS: usize>(
    sums: &[[Lanes; VECTORS]; ROWS],
    row: usize,
    column: usize,
    y: &Place<'_>,
) {
    for (r, sums) in sums.iter().enumerate().take(y.rows - row) {
        for (v, sums) in sums.iter().enumerate() {
            y.out.store_lanes(row + r, y.columns.start + column + v * LANES, sums);
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use half::f16;

    use super::super::{Before, Part, Pool, available};
    use super::*;

    /// A repeatable stream of numbers of all magnitudes from 2^-12 to 2^12.
    fn numbers(seed: u32, len: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        (0..len).map(|_| (next() as i32 as f32 / (1u32 << 31) as f32) * ((next() % 25) as f32 - 12.0).exp2()).collect()
    }

    /// One output as the head of this file says it is added up.
    fn in_documented_order(w: &Matrix<'_>, output: usize, x: &[f32]) -> f32 {
        let weight = |input: usize| {
            let at = match w.layout {
                Layout::OutIn => output * w.inputs + input,
                Layout::InOut => input * w.outputs + output,
            };
            match w.data {
                Slice::F32(data) => data[at],
                Slice::F16(data) => data[at].to_f32(),
                Slice::Bf16(data) => data[at].to_f32(),
                Slice::Blocks(..) => unreachable!(),
            }
        };
        let pairs = matches!(w.data, Slice::Bf16(_));
        let depth = if pairs { 2 } else { 1 };
        let chains = if w.layout == Layout::OutIn { 4 } else { 1 };
        let mut sums = [0.0f32; 4];
        for step in 0..w.inputs.next_multiple_of(depth * chains) / depth {
            for input in (step * depth..(step + 1) * depth).rev() {
                let (w, x) = if input < w.inputs { (weight(input), x[input]) } else { (0.0, 0.0) };
                let x = if !pairs || x.abs() >= 2f32.powi(-56) { x } else { 0.0 };
                let x = if pairs { bf16::from_f32(x).to_f32() } else { x };
                sums[step % chains] = w.mul_add(x, sums[step % chains]);
            }
        }
        if chains == 1 { sums[0] } else { (sums[0] + sums[1]) + (sums[2] + sums[3]) }
    }

    fn check(layout: Layout, rows: usize, inputs: usize, outputs: usize) {
        let w = numbers((rows * 31 + inputs * 17 + outputs) as u32, inputs * outputs);
        let w16: Vec<f16> = w.iter().map(|w| f16::from_f32(*w)).collect();
        let wb: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
        let mut x = numbers((rows + inputs + outputs) as u32, rows * inputs);
        for (i, x) in x.iter_mut().enumerate().filter(|(i, _)| i % 13 == 5) {
            *x *= 2f32.powi(-50 - (i % 10) as i32); // some are below what `round` keeps
        }
        for data in [Slice::F32(&w), Slice::F16(&w16), Slice::Bf16(&wb)] {
            let matrix = Matrix { data, layout, inputs, outputs };
            let expected: Vec<u32> = (0..rows * outputs)
                .map(|i| in_documented_order(&matrix, i % outputs, &x[i / outputs * inputs..][..inputs]).to_bits())
                .collect();
            for threads in [1, 2] {
                let pool = Pool::new(NonZeroUsize::new(threads)).expect("threads start");
                for kernels in available() {
                    let y = kernels.linear(&pool, &[Part { matrix, bias: None }], Before::Nothing, &x, None);
                    for (i, (y, expected)) in y.iter().zip(&expected).enumerate() {
                        let (row, column) = (i / outputs, i % outputs);
                        assert!(
                            y.to_bits() == *expected,
                            "{} {layout:?} {rows} x {inputs} x {outputs}, {threads} threads, row {row} column {column} of \
                             {}: {y} instead of {}",
                            kernels.name(),
                            match data {
                                Slice::F32(_) => "f32",
                                Slice::F16(_) => "f16",
                                _ => "bf16",
                            },
                            f32::from_bits(*expected)
                        );
                    }
                }
            }
        }
    }

    /// Sizes around every edge: vectors, tiles, panels, strips, groups of eight inputs.
    #[test]
    fn every_tier_adds_up_in_the_documented_order() {
        for layout in [Layout::OutIn, Layout::InOut] {
            for n in 1..=40 {
                check(layout, 1, n, 41 - n);
                check(layout, 1 + n % 9, 77 - n, n);
                check(layout, n, 3 + n % 11, 30 + n % 7);
            }
            for rows in [1, 2, 3, 4, 5, 8, 9, 13, 25] {
                check(layout, rows, 64, 96);
                check(layout, rows, 71, 131);
            }
            // Longer than a packed strip.
            check(layout, 9, 4100, 5);
            check(layout, 10, 8211, 19);
            check(layout, 13, 2049, 33);
            // Enough work for two threads.
            check(layout, 1, 333, 1003);
            check(layout, 8, 130, 515);
            check(layout, 40, 130, 259);
        }
    }

    #[test]
    fn activations_are_rounded_to_the_nearest_bf16() {
        let check = |bits: u32| {
            let x = f32::from_bits(bits);
            let expected = if x.abs() < 2f32.powi(-56) { bf16::ZERO } else { bf16::from_f32(x) };
            let same = if x.is_nan() { round(x).is_nan() } else { round(x).to_bits() == expected.to_bits() };
            assert!(same, "{x:e} ({bits:#x}) became {}, expected {expected}", round(x));
        };
        for upper in 0..=u32::from(u16::MAX) {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                check(upper << 16 | lower);
            }
        }
    }
}
